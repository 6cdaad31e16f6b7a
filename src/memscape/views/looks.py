"""Widgets that share what they look like.

A widget of its own brings a style and a layout, each an object more that is sent to the page and made there. Ours look
as the style sheet says, so one of each serves all widgets.
"""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import traitlets

_SHARED: dict[type, Any] = {}


def made(kind: type, **values: Any) -> Any:
    """Return a widget of a kind, with the traits that are given."""
    return kind(**looks(kind), **values)


def looks(kind: Any) -> dict[str, Any]:
    """Return the style and the layout that all widgets of a kind share."""
    return {name: _shared(kind.class_traits()[name].klass) for name in ("layout", "style") if hasattr(kind, name)}


def show(widget: Any, shown: bool) -> None:
    """Show a widget, or not: what is not shown shares a layout too."""
    widget.layout = _shared(widgets.Layout if shown else _Gone)


class _Gone(widgets.Layout):  # type: ignore[misc]  # no types there
    """The layout of what is not shown."""

    display = traitlets.Unicode("none", allow_none=True).tag(sync=True)


def _shared(kind: type) -> Any:
    """The one style or layout of a kind; a new one where all widgets have been closed."""
    if kind not in _SHARED or _SHARED[kind].comm is None:
        width = {"description_width": "initial"} if hasattr(kind, "description_width") else {}
        _SHARED[kind] = kind(**width)
    return _SHARED[kind]
