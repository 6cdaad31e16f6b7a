"""Voilà, with what our pages need beside: plotly.js, a third of its size on the way, and lessons without MathJax."""

from __future__ import annotations

from typing import Any

from tornado.web import RequestHandler
from voila.app import Voila
from voila.exporter import VoilaMarkdownRenderer

from memscape.views import script
from memscape.views.formulas import alone, mathml


class Memscape(Voila):  # type: ignore[misc]
    """Voilà as memscape starts it; options and files of settings have the names that they have for Voilà."""

    name = "voila"

    def init_handlers(self) -> list[Any]:
        """Return what answers to which address."""
        return [(f"{self.server_url.rstrip('/')}/voila/plotly.js", Script), *super().init_handlers()]


class Script(RequestHandler):
    """Gives plotly.js to a browser; all of them unpack it."""

    def get(self) -> None:
        """Answer, or say that what the browser has is still the same."""
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Content-Encoding", "gzip")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.write(script.packed())


class Lesson(VoilaMarkdownRenderer):  # type: ignore[misc]
    """The text of a notebook as HTML; what is LaTeX in it, as JupyterLab reads it, is MathML on a page.

    Not for: LaTeX that latex2mathml does not know; a test goes through the formulas of all notebooks.
    """

    def block_math(self, body: str) -> str:
        """Return a formula on a line of its own."""
        return alone(body)

    def inline_math(self, body: str) -> str:
        """Return a formula within a line."""
        return mathml(body)
