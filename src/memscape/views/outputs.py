"""What a page shows of a result: places for HTML and for charts, all in one widget, which is told what changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from memscape.views import address, script
from memscape.views.looks import looks, made

# one style sheet for cards and tables: Voilà links it, a notebook gets it with the widget
STYLE_SHEET = Path(__file__).parents[1] / "dashboard/share/jupyter/voila/templates/memscape/static/cards.css"
HEADLINES = ("scenario", "answer")
SCRIPTS = ("boxes.js", "pictures.js", "results.js", "page.js")


class Html:
    """A place for HTML; `style` names its classes, "answer" is the headline; what `waits` is worked out later."""

    def __init__(self, style: str) -> None:
        """Take the names of its classes."""
        self.style, self.value, self.waits = style, "", False

    def state(self) -> dict[str, Any]:
        """Return what the page is to show."""
        return {"kind": "html", "style": self.style, "value": self.value, "waits": self.waits}


class Chart:
    """A place for a chart.

    `spec` is a plotly figure as a dict, of a kind that boxes.js draws, which `layout.meta` names; a colour may be a
    variable of the page, as "var(--part-weights)". `alt` says in words what the chart shows. plotly makes a picture of
    it when one is asked for: its script, which the `plotly` package ships, comes from the page where Voilà serves it,
    else from this kernel, once.
    """

    def __init__(self, height: int) -> None:
        """Take the height in pixels."""
        self.style, self.height = "chart", height
        self.spec: dict[str, Any] = {}
        self.alt = ""

    def state(self) -> dict[str, Any]:
        """Return what the page is to show."""
        return {"kind": "chart", "style": self.style, "height": self.height, "spec": self.spec, "alt": self.alt}


Output = Html | Chart


class Headline(widgets.HTML):  # type: ignore[misc]  # no types there
    """What is read first: a stock widget, which is shown before there is a script of ours. The page tells of it."""

    def send_state(self, key: Any = None) -> None:
        """Leave it to the page to tell the words."""
        if key != "value":
            super().send_state(key)

    def tell(self) -> None:
        """Say what it is, also to a front end that is only now being made."""
        super().send_state("value")


class Page(anywidget.AnyWidget):
    """The column of results, and what is not seen of a page: its address, the parts that are open, its files.

    A front end gets the whole state when it opens the page, then messages with what has changed: a widget for each
    output would be a message, a model and a view for each.
    """

    _esm = "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in SCRIPTS)
    shown: Any = traitlets.Dict().tag(sync=True, to_json=lambda _, page: page.now())
    opened: Any = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, outputs: Mapping[str, Output], files: Sequence[str], hand_out: Callable[[str], str]) -> None:
        """Take the outputs and the files by name, and what hands one out by its name and returns why it could not."""
        self.outputs, self.files, self.hand_out = outputs, files, hand_out
        self.query, self.said = "", ""
        self.headlines = {name: made(Headline) for name in HEADLINES if name in outputs}
        self.told = self._state()
        if not address.served():  # a second sheet would cost every frame
            self._css = STYLE_SHEET.read_text(encoding="utf-8")
        super().__init__(**looks(Page), _dom_classes=["rest"])
        self.on_msg(self._asked)

    def now(self) -> dict[str, Any]:
        """Return all that a front end is to show."""
        models = {name: headline.model_id for name, headline in self.headlines.items()}
        return {**self._state(), "files": self.files, "headlines": models}

    def tell(self) -> None:
        """Say what has changed since this was said last."""
        before, self.told = self.told, self._state()
        changes = _changed(before, self.told)
        if "outputs" in changes:
            moved = _changed(before["outputs"], changes["outputs"])
            changes["outputs"] = {name: _changed(before["outputs"][name], state) for name, state in moved.items()}
        if changes:
            self._head()
            self.send({"type": "changes", **changes})

    def tell_all(self) -> None:
        """Say all, also to a front end that is only now being made."""
        self.told = self._state()
        self._head()
        for headline in self.headlines.values():
            headline.tell()
        self.send_state("shown")

    def download(self, name: str, text: str, kind: str = "text/plain") -> None:
        """Hand the reader a file; the browser makes it, the server keeps nothing."""
        self.send({"type": "download", "name": name, "text": text, "kind": kind})

    def _state(self) -> dict[str, Any]:
        outputs = {name: output.state() for name, output in self.outputs.items()}
        return {"outputs": outputs, "query": self.query, "said": self.said}

    def _head(self) -> None:
        for name, headline in self.headlines.items():
            headline.value = self.told["outputs"][name]["value"]

    def _asked(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Hand out a file, or plotly.js to a page that has none; a name that is none of ours is not answered."""
        if content == "plotly.js":
            self.send({"type": "plotly.js"}, [script.packed()])
        name = content.get("name") if type(content) is dict else None
        if type(name) is str and name in self.files:
            self.said = self.hand_out(name)
            self.tell()


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in after.items() if value != before[name]}
