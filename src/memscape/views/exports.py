"""What is not seen of a page, and the files that it hands out: a button for each, its text made when it is pressed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

Exports = Mapping[str, Callable[[Any], str]]
KINDS = {"csv": "text/csv", "json": "application/json"}
WORDS = "<h2>Take it along</h2><p>These files hold what is shown now, each number with its unit.</p>"
# one style sheet for cards and tables: Voilà links it, a notebook gets it with the widget
STYLE_SHEET = Path(__file__).parents[1] / "dashboard/share/jupyter/voila/templates/memscape/static/cards.css"


class Page(anywidget.AnyWidget):
    """What is not seen of a page: its address, the parts that are open, the files it hands over, its look."""

    _esm = Path(__file__).with_name("page.js")
    _css = STYLE_SHEET
    query = traitlets.Unicode("").tag(sync=True)

    def download(self, name: str, text: str, kind: str = "text/plain") -> None:
        """Hand the reader a file; the browser makes it, the server keeps nothing."""
        self.send({"type": "download", "name": name, "text": text, "kind": kind})


def buttons(exports: Exports, hand_out: Callable[[str], None]) -> Any:
    """Return a card with a button for each file, which calls `hand_out` with its name; None without files."""
    if not exports:
        return None
    row = widgets.Box([_button(name, hand_out) for name in exports])
    row.add_class("exports")
    card = widgets.VBox([widgets.HTML(WORDS), row])
    card.add_class("card")
    return card


def kind_of(name: str) -> str:
    """Return the media type of a file, by the end of its name."""
    return KINDS.get(name.rpartition(".")[2], "text/plain")


def _button(name: str, hand_out: Callable[[str], None]) -> Any:
    button = widgets.Button(description=f"Download {name}", tooltip="")
    button.on_click(partial(_pressed, hand_out, name))
    return button


def _pressed(hand_out: Callable[[str], None], name: str, _button: Any) -> None:
    hand_out(name)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; the unit of a column belongs into its head. Numbers keep every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
