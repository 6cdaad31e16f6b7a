"""One message for all that a step changes: else kernel, server and page handle one for every output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anywidget
import ipywidgets as widgets

Changes = dict[str, dict[str, Any]]
_CHANGES: ContextVar[Changes | None] = ContextVar("changes", default=None)


@contextmanager
def gathered() -> Iterator[Changes]:
    """Collect what changes meanwhile of widgets that can wait: their new state, by the names of their models."""
    changes: Changes = {}
    outer = _CHANGES.set(changes)
    try:
        yield changes
    finally:
        _CHANGES.reset(outer)


class _Waiting(widgets.Widget):  # type: ignore[misc]  # no types there
    """A widget whose changes are collected where somebody does, and sent at once elsewhere."""

    def send_state(self, key: Any = None) -> None:
        """Send what has changed, or leave it to the one who collects."""
        changes = _CHANGES.get()
        if changes is None:
            super().send_state(key)
        else:
            changes.setdefault(self.model_id, {}).update(self.get_state(key))


class Html(_Waiting, widgets.HTML):  # type: ignore[misc]
    """A place for HTML."""


class AnyWidget(_Waiting, anywidget.AnyWidget):
    """A widget with a script of its own."""
