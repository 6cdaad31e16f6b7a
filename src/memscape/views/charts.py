"""Chart: a plotly figure, given as a dict, drawn by the page and handed out as a picture by plotly.js."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import traitlets

from memscape.views import script
from memscape.views.looks import looks
from memscape.views.together import AnyWidget


class Chart(AnyWidget):
    """A chart that redraws when `spec` changes.

    `spec` is a plotly figure as a dict, of a kind that boxes.js draws, which `layout.meta` names; a colour may be a
    variable of the page, as "var(--part-weights)". `alt` says in words what the chart shows. plotly makes a picture of
    it when one is asked for: its script, which the `plotly` package ships, comes from the page where Voilà serves it,
    else from this kernel, once.
    """

    _esm = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("boxes.js", "chart.js"))
    spec = traitlets.Dict().tag(sync=True)
    alt = traitlets.Unicode("").tag(sync=True)
    height = traitlets.Int(320).tag(sync=True)

    def __init__(self, **values: Any) -> None:
        """Take the traits, and answer a page that has no plotly.js."""
        super().__init__(**looks(Chart), **values)
        self.add_class("chart")
        self.on_msg(self._answer)

    def _answer(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Send plotly.js, packed, to a page that asks for it."""
        if content == "plotly.js":
            self.send({"type": "plotly.js"}, [script.packed()])
