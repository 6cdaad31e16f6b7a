"""Formulas as MathML, which browsers draw themselves: no script, no fonts to load, nothing to wait for."""

from __future__ import annotations

from functools import lru_cache

from latex2mathml.converter import convert


@lru_cache(maxsize=1024)
def mathml(latex: str, alone: bool = False) -> str:
    """Return a formula in LaTeX as MathML; `alone` is for one on a line of its own."""
    return str(convert(latex, display="block" if alone else "inline"))
