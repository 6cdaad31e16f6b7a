"""Two scenarios held against each other, and the edge between what fits and what does not over any two inputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from memscape.breakdown import Breakdown, Quantity
from memscape.catalog import Accelerator
from memscape.memory.timeline import memory
from memscape.model import Model
from memscape.parallelism import DEGREES, Layout, pipeline_degrees, tensor_degrees
from memscape.problem import Problem, one_of
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

MOST_DEGREE = 64
MOST_STAGES = 32
# into how many parts a step of the search for the edge is cut: for all columns of a map, and for one number alone
PARTS, PARTS_ALONE = 64, 2048
# the quantities that a map goes over, and the range of each
RANGES = {
    "prompt_tokens": (128, 1 << 20),
    "sequence_tokens": (128, 1 << 20),
    "sequences": (1, 1 << 10),
    "micro_batch": (1, 1 << 10),
}


@dataclass(frozen=True)
class Scenario:
    """A model, what is asked of it, how it is spread, and what the busiest device then holds."""

    model: Model
    asked: Inference | Training
    layout: Layout
    held: Breakdown = field(compare=False)  # follows from the others

    @classmethod
    def of(cls, model: Model, asked: Inference | Training, layout: Layout) -> Scenario:
        """Work out what is held."""
        return cls(model, asked, layout, memory(model, asked, layout))

    def now(self, name: str) -> int:
        """Return the value of a quantity or a degree."""
        return int(getattr(self.layout if name in DEGREES else self.asked, name))


def changes(before: Scenario, after: Scenario) -> dict[str, Quantity]:
    """Return by how many bytes each phase grows from one scenario to another, below 0 where it shrinks.

    Their sum is the difference of the totals.
    """
    old, new = before.held.by("phase"), after.held.by("phase")
    return {phase: new.get(phase, 0) - old.get(phase, 0) for phase in (*old, *(new.keys() - old.keys()))}


def steps(scenario: Scenario, name: str, points: int) -> Array:
    """Return the values of one axis of a map: legal degrees, or whole numbers in equal ratios with the present one."""
    import numpy

    model = scenario.model
    if name == "tensor":
        return numpy.array(tensor_degrees(model, MOST_DEGREE), dtype="float64")
    if name == "pipeline":
        legal = set(pipeline_degrees(model))
        powers = {2**power for power in range(MOST_STAGES.bit_length())}
        return numpy.array(sorted(legal & (powers | {scenario.now(name)})), dtype="float64")
    if name == "context" and (model.has_encoder or not model.causal):
        return numpy.ones(1)
    if name in DEGREES:
        return 2.0 ** numpy.arange(MOST_DEGREE.bit_length())
    if name not in RANGES:
        raise Problem(f'a map has no axis "{name[:40]}"; use {one_of([*RANGES, *DEGREES])}')
    low, high = RANGES[name]
    if name.endswith("tokens") and model.positions:
        high = model.max_tokens
    values = numpy.geomspace(low, high, points).round()
    return numpy.unique(numpy.append(values, float(scenario.now(name))))


@dataclass(frozen=True)
class Surface:
    """The bytes of the busiest device over two inputs, a row for each value of `up`, a column for each of `across`.

    `edge` is, for each column, the largest value of a quantity that fits (0: none), or the smallest degree that does.
    """

    across: tuple[str, Array]
    up: tuple[str, Array]
    totals: Array
    edge: Array
    room: int

    def most(self, value: float) -> int:
        """Return the edge at one value of `across`."""
        return int(self.edge[int(abs(self.across[1] - value).argmin())])


def surface(scenario: Scenario, card: Accelerator, across: str, up: str, points: tuple[int, int] = (48, 32)) -> Surface:
    """Work out the memory of the busiest device over two inputs of a scenario, and the edge of what fits.

    `across` and `up` are quantities of the workload or degrees of the layout; all else stays as in the scenario.
    Raises: Problem where both are the same, and for a combination that cannot be.
    """
    if across == up:
        raise Problem("both axes of the map are the same input; choose two that differ")
    columns, rows = steps(scenario, across, points[0]), steps(scenario, up, points[1])
    held = _totals(scenario, card, {across: columns[None, :], up: rows[:, None]})
    if up in DEGREES:
        fits = held <= card.usable_bytes
        edge = fits.any(axis=0) * rows[fits.argmax(axis=0)]
    else:
        edge = _edge(scenario, card, {across: columns}, (up, int(rows[-1])))
    return Surface((across, columns), (up, rows), held, edge, card.usable_bytes)


def _totals(scenario: Scenario, card: Accelerator, axes: dict[str, Array]) -> Array:
    """The bytes of every point; the degree is an array, so that totals alone are worked out, not every term."""
    import numpy

    degrees = {name: values for name, values in axes.items() if name in DEGREES}
    spread: dict[str, Any] = {"tensor": numpy.array([[float(scenario.layout.tensor)]])} | degrees
    sizes: dict[str, Any] = {name: values for name, values in axes.items() if name not in DEGREES}
    asked = replace(scenario.asked, **sizes)
    total: Array = memory(scenario.model, asked, replace(scenario.layout, **spread), card).total
    return total


def most(scenario: Scenario, card: Accelerator, quantity: str) -> int:
    """Return the largest value of a quantity that fits, up to the end of its range; 0 where not even 1 does."""
    last = int(steps(scenario, quantity, 2)[-1])
    one: dict[str, Any] = {quantity: 1}
    return _most(replace(scenario, asked=replace(scenario.asked, **one)), card, quantity, last)


@lru_cache(maxsize=64)
def _most(scenario: Scenario, card: Accelerator, quantity: str, last: int) -> int:
    """The same for each value that the quantity has now: a slider that moves it need not ask anew."""
    return int(_edge(scenario, card, {}, (quantity, last))[0])


def _edge(scenario: Scenario, card: Accelerator, columns: dict[str, Array], up: tuple[str, int]) -> Array:
    """The largest whole number that fits, for all columns at once: the range that is left is cut until it is one."""
    import numpy

    fixed = {name: values[:, None] for name, values in columns.items()}
    found = numpy.zeros(max([1, *(len(values) for values in columns.values())]))
    quantity, last = up
    parts = PARTS if columns else PARTS_ALONE
    left = last + 1
    while left > 1:
        left = -(-left // parts)
        tried = found[:, None] + left * numpy.arange(1.0, parts + 1)
        held = _totals(scenario, card, {**fixed, quantity: numpy.minimum(tried, last)})
        fits = (held <= card.usable_bytes) & (tried <= last)
        found = found + left * numpy.logical_and.accumulate(fits, axis=1).sum(axis=1)
    return found
