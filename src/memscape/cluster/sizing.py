"""Rules that turn bytes into servers (`data/sizing_rules.csv`), and the lines of a bill that they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term
from memscape.catalog import Accelerator
from memscape.hardware import Instance, Node
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import chosen
from memscape.workload import Inference, Training


@dataclass(frozen=True)
class Rule:
    """A rule of thumb with its spread: what practice, a vendor or physics says, and how far to trust it."""

    name: str
    applies_to: str
    low: Quantity
    likely: Quantity
    high: Quantity
    unit: str
    basis: str
    source: str
    trust: str


@dataclass(frozen=True)
class Line:
    """One line of the bill: an amount that opens into named factors, and its reason in words."""

    name: str
    group: str
    amount: Breakdown
    rule: str


@dataclass(frozen=True)
class Server:
    """What the devices stand in: a reference server, a cloud instance, or neither: a server by rule."""

    name: str
    devices: int
    node: Node | None = None
    instance: Instance | None = None


@dataclass(frozen=True)
class Setting:
    """What all lines are worked out from."""

    model: Model
    workload: Inference | Training
    accelerator: Accelerator
    layout: Layout
    server: Server
    nodes: int

    @property
    def kind(self) -> str:
        """The workload in a word, as rules name it."""
        return "training" if isinstance(self.workload, Training) else "inference"

    @property
    def installed(self) -> int:
        """The devices of all nodes, used or not."""
        return self.nodes * self.server.devices

    @property
    def fabric_gbps(self) -> float | None:
        """The rate that joins a node with others, where a chosen server's is known."""
        known = self.server.node or self.server.instance
        return (known.fabric_gbps or None) if known else None


def rule(name: str, kind: str = "") -> Rule:
    """Return the first rule of a name that applies to a workload, an architecture or a choice."""
    return next(each for each in choices(name) if each.applies_to in kind)


@cache
def choices(name: str) -> tuple[Rule, ...]:
    """Return the rules of a name, in file order."""
    return tuple(_rule(row) for row in tables.rows("sizing_rules") if row["name"] == name)


def choice(name: str, kind: str) -> Rule:
    """Return the rule that a reader chose; an unknown choice is refused with the nearest ones."""
    known = {each.applies_to: each for each in choices(name)}
    return known[chosen(name, kind, known)]


def _rule(row: tables.Row) -> Rule:
    low, likely, high = (_plain(tables.number("sizing_rules", row, column)) for column in ("low", "likely", "high"))
    return Rule(
        row["name"], row["applies_to"], low, likely, high, row["unit"], row["basis"], row["source"], row["trust"]
    )


def _plain(value: float | None) -> Quantity:
    return int(value) if value is not None and value.is_integer() else value


def ruled(name: str, factors: Mapping[str, Quantity], factor: str, by: Rule, of: Breakdown | None = None) -> Term:
    """Return a term with a rule as its last factor: the likely amount, and the spread that the rule has.

    `of`: an amount that one of the factors is the likely value of; its spread is taken along.
    """
    rest = Term(name, factors).amount
    low, high = (1.0, 1.0) if of is None else (of.low / of.total, of.high / of.total)
    span = (rest * by.low, rest * by.high) if of is None else (rest * low * by.low, rest * high * by.high)
    return Term(name, {**factors, factor: by.likely}, "", "cluster", by.source, span)


def follows(name: str, of: Breakdown | Term, factors: Mapping[str, Quantity], source: str, factor: str) -> Term:
    """Return a term that is another amount times some factors, with the spread of that amount."""
    amount = of.total if isinstance(of, Breakdown) else of.amount
    times = Term(name, factors).amount
    return Term(name, {factor: amount, **factors}, "", "cluster", source, (of.low * times, of.high * times))


def line(name: str, group: str, unit: str, *terms: Term, why: str) -> Line:
    """Return a line of one unit."""
    return Line(name, group, Breakdown(unit, terms, (why,)), why)
