"""A page opened without a browser: what its controls hold, its outputs show and its files say."""

from __future__ import annotations

import inspect
import os

from memscape.views import controls, pages
from memscape.views.charts import Chart


class Opened:
    """A page with the address it was opened by: its controls by name, its outputs, and what stands beside them."""

    def __init__(self, name, query=""):
        given, original, before = {}, controls.page, os.environ.get("QUERY_STRING")
        names = inspect.signature(original)

        def noted(*arguments, **named):
            given.update(names.bind(*arguments, **named).arguments)
            return original(*arguments, **named)

        try:
            controls.page, os.environ["QUERY_STRING"] = noted, query
            parts = list(_parts(getattr(pages, name)()))
        finally:
            controls.page = original
            os.environ.pop("QUERY_STRING")
            if before is not None:
                os.environ["QUERY_STRING"] = before
        self.fields = {field.name: field for field in given["fields"]}
        self.calculate, self.outputs = given["calculate"], given["outputs"]
        self.exports = given.get("exports") or {}
        self.results = list(self.outputs.values())
        (self.state,) = [each for each in parts if isinstance(each, controls.Page)]
        (self.said,) = [each for each in parts if "said" in each._dom_classes]

    @property
    def answer(self):
        return self.outputs["answer"].value

    @property
    def charts(self):
        return [each for each in self.results if isinstance(each, Chart)]

    @property
    def seen(self):
        return self.calculate(**{name: field.value for name, field in self.fields.items()})

    def set(self, **values):
        for name, value in values.items():
            self.fields[name].widget.value = value


def _parts(widget):
    """Yield a widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _parts(child)
