"""A page opened without a browser: what its controls hold, its outputs show and its files say."""

from __future__ import annotations

import os

from memscape.views import loop, pages
from memscape.views.outputs import Chart, Page


class Opened:
    """A page with the address it was opened by: its controls by name, its outputs, and what stands beside them."""

    def __init__(self, name, query=""):
        loops, original, before = [], loop.Loop, os.environ.get("QUERY_STRING")

        def noted(*arguments):
            loops.append(original(*arguments))
            return loops[-1]

        try:
            loop.Loop, os.environ["QUERY_STRING"] = noted, query
            parts = list(_parts(getattr(pages, name)()))
        finally:
            loop.Loop = original
            os.environ.pop("QUERY_STRING")
            if before is not None:
                os.environ["QUERY_STRING"] = before
        (found,) = loops
        self.fields = {field.name: field for field in found.fields}
        self.calculate, self.outputs, self.exports = found.calculate, found.outputs, found.exports
        self.results = list(self.outputs.values())
        (self.state,) = [each for each in parts if isinstance(each, Page)]
        (self.said,) = [each for each in parts if "said" in each._dom_classes]

    @property
    def answer(self):
        return self.outputs["answer"].value

    @property
    def charts(self):
        return [each for each in self.results if isinstance(each, Chart)]

    @property
    def seen(self):
        return self.calculate(**{name: field.value for name, field in self.fields.items() if field.passed})

    def set(self, **values):
        for name, value in values.items():
            self.fields[name].widget.value = value


def _parts(widget):
    """Yield a widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _parts(child)
