"""Lines that open into more; on a page, what is behind one is made and sent when a reader opens it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape

_open: ContextVar[Container[str] | None] = ContextVar("open", default=None)


@contextmanager
def sent_for(parts: Container[str]) -> Iterator[None]:
    """Fill these parts alone, as long as this lasts; elsewhere, as in a notebook's own cells, every part is filled."""
    token = _open.set(parts)
    try:
        yield
    finally:
        _open.reset(token)


def fold(part: str, line: str, inner: Callable[[], str], opened: bool = False) -> str:
    """Return a line of HTML that opens into what `inner` makes; `part` is its name on the page."""
    parts = _open.get()
    filled = inner() if parts is None or opened or part in parts else ""
    return (
        f"<details data-part='{escape(part)}'{' open' if opened else ''}><summary class='row'>{line}</summary>"
        f"{filled}</details>"
    )
