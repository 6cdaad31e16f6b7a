"""Formulas as MathML, which browsers draw themselves: no script, no fonts to load, nothing to wait for."""

from __future__ import annotations

from functools import lru_cache

from latex2mathml.converter import convert


@lru_cache(maxsize=1024)
def mathml(latex: str) -> str:
    """Return a formula in LaTeX as MathML, to stand in a line of words."""
    return str(convert(latex))


@lru_cache(maxsize=1024)
def alone(latex: str, words: str = "") -> str:
    """Return a formula on a line of its own, after words of HTML; where there is no room, the line scrolls."""
    box = "class='formula' tabindex='0' role='group' aria-label='formula'"
    return f"<div {box}>{words}{convert(latex, display='block')}</div>"
