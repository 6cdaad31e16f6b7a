"""Kept tensors as HTML: their shapes in the letters of the glossary, their bytes, why they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from memscape import tables, units
from memscape.breakdown import Breakdown, Quantity, Term
from memscape.views.text import Html, amount, simple_table, symbol_html

BYTES = "bytes_per_element"
UNNAMED = "numbers"  # a tensor of a few numbers: how many says more than a letter


def by_layer(layers: Mapping[tuple[str, Quantity], Breakdown]) -> Html:
    """Return kept tensors as tables, one for each kind of layer: shape, type, bytes, why each is kept."""
    shown = []
    for (name, count), kept in layers.items():
        rows = [
            (escape(name_of(term)), shape(term), term.dtype, units.exact(term.amount), escape(term.because))
            for term in kept
        ]
        body = simple_table(("Tensor", "Shape", "Type", "Bytes", "Why it is kept"), rows, "tensors")
        shown.append(f"<h3>{_layer_title(name, count)}: {amount(kept.total, kept.unit)}</h3>{body}")
    return Html("".join(shown))


def _layer_title(name: str, count: Quantity) -> str:
    if not name:
        return "Once for the whole model"
    words = name.replace("_", " ")
    return escape(f"Each of the {count:,} {words}" if count > 1 else f"The one {words.removesuffix('s')}")


def name_of(term: Term) -> str:
    """Return the name of a tensor, with the part that makes it where it has one."""
    return term.name.removeprefix(": ")


def shape(term: Term) -> str:
    """Return the sizes of a tensor in the letters of the glossary; a plain number shows itself."""
    sizes = {name: size for name, size in term.factors.items() if name != BYTES}
    known = tables.by_key("symbols").keys() - {UNNAMED}
    return " × ".join(symbol_html(name) if name in known else units.exact(size) for name, size in sizes.items())


def letters(breakdown: Breakdown) -> Html:
    """Return the letters of a breakdown's shapes with their numbers here and their meaning."""
    glossary = tables.by_key("symbols")
    known = glossary.keys() - {UNNAMED, BYTES}
    used = {name: size for term in breakdown for name, size in term.factors.items() if name in known}
    rows = [(symbol_html(name), units.exact(size), escape(glossary[name]["meaning"])) for name, size in used.items()]
    return simple_table(("Letter", "Here", "Meaning"), rows, "symbols")


def largest(breakdown: Breakdown) -> str:
    """Return the largest term in words: its name, its shape and type where it is a tensor, its amount."""
    term = max(breakdown, key=lambda term: float(term.amount))
    what = f", {shape(term)} in {term.dtype}" if term.dtype else ""
    return f"{escape(name_of(term))}{what}, {units.amount(term.amount)}"
