"""A page opened without a browser: what its controls hold and its outputs show."""

from __future__ import annotations

from memscape.views import controls


class Opened:
    """A page with the address it was opened by: its controls by name, its outputs, and what it says."""

    def __init__(self, monkeypatch, page, query=""):
        monkeypatch.setenv("QUERY_STRING", query)
        given, original = [], controls.page
        monkeypatch.setattr(controls, "page", lambda *arguments: given.extend(arguments) or original(*arguments))
        root = page()
        self.fields = {field.name: field for field in given[0]}
        self.calculate, self.outputs = given[1], given[3]
        self.exports = given[5] if len(given) > 5 else {}
        boxes = root.children[1].children
        self.said = next(each for each in boxes[0].children if "said" in each._dom_classes)

    @property
    def seen(self):
        return self.calculate(**{name: field.value for name, field in self.fields.items()})
