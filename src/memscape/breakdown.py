"""Term and Breakdown: a sum of products whose factors keep their names.

The product that is computed is the product that is printed: a term holds its factors, so its amount, its formula and
its numbers all come from one place. Amounts are exact integers for whole-number input and arrays for array input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from memscape import tables
from memscape.problem import Problem, one_of

if TYPE_CHECKING:
    import pandas

Quantity = Any
"""A whole number, or a numpy array of them for a whole grid at once."""


def ceil_div(value: Quantity, divisor: Quantity) -> Quantity:
    """Return `value / divisor` rounded up, for numbers and arrays."""
    return -(-value // divisor)


def product(factors: Iterable[Quantity]) -> Quantity:
    """Return the product of numbers and arrays; 1 for none."""
    result: Quantity = 1
    for factor in factors:
        result = result * factor
    return result


def minimum(first: Quantity, second: Quantity) -> Quantity:
    """Return the smaller of two quantities, element by element if one of them is an array."""
    return _extreme(first, second, "minimum", min)


def maximum(first: Quantity, second: Quantity) -> Quantity:
    """Return the larger of two quantities, element by element if one of them is an array."""
    return _extreme(first, second, "maximum", max)


def chosen_by(condition: Quantity, first: Quantity, second: Quantity) -> Quantity:
    """Return the first quantity where a condition holds, else the second; element by element for arrays."""
    if hasattr(condition, "shape"):
        import numpy

        return numpy.where(condition, first, second)
    return first if condition else second


def _extreme(first: Quantity, second: Quantity, name: str, scalar: Callable[..., Quantity]) -> Quantity:
    if hasattr(first, "shape") or hasattr(second, "shape"):
        import numpy

        return getattr(numpy, name)(first, second)
    return scalar(first, second)


@dataclass(frozen=True)
class Term:
    """One product of named factors.

    `group` says which part of the model it belongs to (attention, mlp_dense, ...), `phase` why it is held (weights,
    kv_cache, ...), `source` is a key of `data/sources.csv`. A term whose amount others measured, not derived, has a
    `spread`: the lowest and the highest amount they report; the amount itself is then the likely one. A term that is a
    tensor has its `shape` in letters, its `dtype`, and `because`: why it is kept.
    """

    name: str
    factors: Mapping[str, Quantity]
    group: str = ""
    phase: str = ""
    source: str = ""
    spread: tuple[Quantity, Quantity] | None = None
    shape: str = ""
    dtype: str = ""
    because: str = ""

    @cached_property
    def amount(self) -> Quantity:
        """The product of the factors; an exact whole number for whole-number factors."""
        return product(self.factors.values())

    @property
    def low(self) -> Quantity:
        """The lowest amount reported; the amount itself where it is derived."""
        return self.amount if self.spread is None else self.spread[0]

    @property
    def high(self) -> Quantity:
        """The highest amount reported; the amount itself where it is derived."""
        return self.amount if self.spread is None else self.spread[1]

    def of(self, factors: Mapping[str, Quantity], source: str = "") -> Term:
        """Return the same term with other factors, from another source if one is named.

        A search makes so many that `dataclasses.replace`, which asks for every field by its name, is too slow.
        """
        about = (self.group, self.phase, source or self.source, self.spread, self.shape, self.dtype, self.because)
        return Term(self.name, factors, *about)

    @property
    def formula(self) -> str:
        """The names of the factors as LaTeX, in the letters of `data/symbols.csv`."""
        return r" \cdot ".join(latex(name, value) for name, value in self.factors.items())

    @property
    def substituted(self) -> str:
        """The numbers of the factors as text: `2 × 126 × 8 × 128 = 258,048`."""
        from memscape.units import exact

        numbers = " × ".join(exact(value) for value in self.factors.values())
        return f"{numbers} = {exact(self.amount)}"


def latex(name: str, value: Quantity = None) -> str:
    """Return the symbol of a factor; a pure number (no letter in the glossary) shows itself over its name."""
    symbol = tables.by_key("symbols").get(name, {}).get("latex")
    words = name.replace("_", " ")
    if symbol:
        return symbol
    return rf"\underbrace{{{value}}}_{{\text{{{words}}}}}" if isinstance(value, int) else rf"\text{{{words}}}"


@dataclass(frozen=True)
class Breakdown:
    """A sum of terms of one unit. `total`, `by("phase")` and `only(phase="weights")` open it; `+` joins two."""

    unit: str
    terms: tuple[Term, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def total(self) -> Quantity:
        """The sum of all terms; an exact whole number for whole-number input."""
        return _sum(term.amount for term in self.terms)

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys of the sources of the terms, each once."""
        return tuple(self.by("source"))

    @property
    def low(self) -> Quantity:
        """The sum with every measured term at its lowest."""
        return _sum(term.low for term in self.terms)

    @property
    def high(self) -> Quantity:
        """The sum with every measured term at its highest."""
        return _sum(term.high for term in self.terms)

    def by(self, attribute: str) -> dict[str, Quantity]:
        """Return the amount for each value of `attribute` ("group", "phase", "name" or "source"), in term order."""
        if attribute not in ("group", "phase", "name", "source"):
            raise Problem(f'cannot sum by "{attribute}"; use {one_of(("group", "phase", "name", "source"))}')
        sums: dict[str, Quantity] = {}
        for term in self.terms:
            key = getattr(term, attribute)
            sums[key] = sums.get(key, 0) + term.amount
        return sums

    def only(self, **wanted: str) -> Breakdown:
        """Return the terms whose attributes equal `wanted`, as in `only(phase="weights")`; possibly none."""
        if unknown := set(wanted) - {"group", "phase", "name", "source"}:
            raise Problem(f"cannot select by {one_of(unknown)}; use group, phase, name or source")
        kept = self.terms
        for key, value in wanted.items():
            kept = tuple([term for term in kept if getattr(term, key) == value])
        return Breakdown(self.unit, kept, self.notes)

    def __add__(self, other: Breakdown) -> Breakdown:
        """Join two breakdowns of the same unit."""
        if not isinstance(other, Breakdown):
            return NotImplemented
        if other.unit != self.unit:
            raise Problem(f"cannot add {other.unit} to {self.unit}; join breakdowns of the same unit")
        return Breakdown(
            self.unit,
            self.terms + other.terms,
            tuple(dict.fromkeys(self.notes + other.notes)),
        )

    def __iter__(self) -> Iterator[Term]:
        """Go through the terms."""
        return iter(self.terms)

    def to_frame(self) -> pandas.DataFrame:
        """Return the terms as a pandas DataFrame: name, group, phase, amount, low, high, factors, source.

        Terms that are tensors also have tensor, shape, dtype, bytes and kept_because.
        """
        import pandas

        columns = ("name", "group", "phase", "amount", "low", "high", "substituted", "source")
        frame = pandas.DataFrame([[getattr(t, c) for c in columns] for t in self.terms], columns=list(columns))
        if any(term.shape for term in self.terms):
            for column, place in (("shape", "shape"), ("dtype", "dtype"), ("kept_because", "because")):
                frame[column] = [getattr(term, place) for term in self.terms]
            frame["tensor"], frame["bytes"] = frame["name"], frame["amount"]
        return frame

    def _repr_html_(self) -> str:
        from memscape.views import text

        return text.table(self)


def _sum(amounts: Iterable[Quantity]) -> Quantity:
    total: Quantity = 0
    for each in amounts:
        total = total + each
    return total
