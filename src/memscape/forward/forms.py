"""The heights of a traced step as linear forms, so that a grid of a million workloads is a few matrix products.

Every size in a trace is a whole number or a quantity of the workload. So a height is Σ coefficient · monomial, with the
same coefficients for all workloads of a case, and a peak is the highest of a handful of such forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from memscape.breakdown import Quantity, ceil_div
from memscape.forward.recipes import recipe_of, stages
from memscape.forward.tape import BYTES, Block
from memscape.forward.trace import BACKWARD, FORWARD, Case, Trace
from memscape.model import LayerKind, Model
from memscape.workload import Training

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

PROBES = {
    "micro_batch": (2, 3, 5, 7, 11),
    "sequence_tokens": (33, 64, 500, 700, 1000),
    "target_tokens": (1, 9, 77, 300, 512),
}
# how a size follows from a quantity of the workload: as it is, one more, whole multiples, a device's share
RULES: tuple[Callable[[Quantity, int], Quantity], ...] = (
    lambda value, _: value,
    lambda value, _: value + 1,
    lambda value, _: 16 * ceil_div(value, 16),
    lambda value, _: 32 * ceil_div(value, 32),
    ceil_div,
)
Name = tuple[str, int]  # a quantity of the workload, and the rule by which a size follows from it
Monomial = tuple[Name, ...]


@dataclass(frozen=True)
class Forms:
    """What a micro-batch holds in one case: the highest forms of each direction, and what is kept."""

    monomials: tuple[Monomial, ...]
    rows: Mapping[str, Array]
    over: int

    def highest(self, direction: str, quantities: Mapping[str, Array]) -> Array:
        """Return the highest of the forms of a direction (or "kept") for each element of a grid."""
        found: Array = (self.rows[direction] @ self._basis(quantities)).max(axis=0)
        return found

    def _basis(self, quantities: Mapping[str, Array]) -> Array:
        import numpy

        found = numpy.ones((len(self.monomials), len(quantities["micro_batch"])))
        known = {name: RULES[name[1]](quantities[name[0]], self.over) for each in self.monomials for name in each}
        for row, names in zip(found, self.monomials, strict=True):
            for name in names:
                row *= known[name]
        return found


def setting(training: Training) -> Training:
    """Return a training without the quantities of a grid: what decides its trace beside the case."""
    targets = None if training.target_tokens is None else 1
    return replace(training, micro_batch=1, sequence_tokens=1, target_tokens=targets, global_batch=None)


@lru_cache(maxsize=512)
def forms(model: Model, training: Training, case: Case) -> Forms:
    """Return the linear forms of a model in one case; `training` is what `setting` leaves of it."""
    import numpy

    probed = _probed(_shallow(model), training, case)
    step = copy(probed.step)
    step.order = _order(step, model)
    kept = numpy.zeros((1, probed.sizes.shape[1]))
    for _, index, count, _ in step.kept_blocks():
        kept += count * probed.sizes[index]
    rows = {way: _largest(_heights(step, probed, way)) for way in (FORWARD, BACKWARD)}
    return Forms(probed.monomials, rows | {"kept": kept}, case.tokens_over)


@dataclass(frozen=True)
class _Probed:
    """A trace of a few workloads at once, and the form of each of its blocks: a row of coefficients."""

    step: Trace
    monomials: tuple[Monomial, ...]
    sizes: Array
    curves: dict[tuple[object, ...], tuple[Array, Array]] = field(default_factory=dict)


@lru_cache(maxsize=128)
def _probed(model: Model, training: Training, case: Case) -> _Probed:
    import numpy

    probes = {name: numpy.array(values, dtype="float64") for name, values in PROBES.items()}
    targets = None if training.target_tokens is None else probes["target_tokens"]
    asked = replace(training, sequence_tokens=probes["sequence_tokens"], target_tokens=targets)
    step = Trace(model, replace(asked, micro_batch=1 if case.single else probes["micro_batch"]), case)
    known: dict[int, Name] = {}
    forms = [_form(block, probes, case.tokens_over, known) for block in step.tape.blocks]
    monomials = tuple(dict.fromkeys(names for names, _ in forms))
    sizes = numpy.zeros((len(forms), len(monomials)))
    for row, (names, number) in zip(sizes, forms, strict=True):
        row[monomials.index(names)] = number
    return _Probed(step, monomials, sizes)


def _form(block: Block, probes: Mapping[str, Array], over: int, known: dict[int, Name]) -> tuple[Monomial, int]:
    number, names = BYTES[block.dtype], []
    for size in block.sizes.values():
        if hasattr(size, "shape"):
            if id(size) not in known:
                known[id(size)] = _name(size, probes, over)
            names.append(known[id(size)])
        else:
            number *= size
    return tuple(sorted(names)), number


def _name(size: Array, probes: Mapping[str, Array], over: int) -> Name:
    """Which quantity a size is, by which rule: the one that gives its values at all probes."""
    return next(
        (name, place)
        for name, probe in probes.items()
        for place, rule in enumerate(RULES)
        if (rule(probe, over) == size).all()
    )


def _shallow(model: Model) -> Model:
    """A model with the same stages, each of a few layers: the trace of one runs alike layers once."""
    if recipe_of(model).stages:
        return model
    kinds: list[LayerKind] = []
    place = 0
    for stage in stages(model):
        kinds += model.layer_kinds[place : place + min(3, stage.count)]
        place += stage.count
    return replace(model, layers=len(kinds), layer_kinds=tuple(kinds))


def _order(step: Trace, model: Model) -> list[tuple[str, int]]:
    """The stages of a trace with the layers of the whole model."""
    first, *layers, last = step.order
    counts = [stage.count for stage in stages(model)]
    if len(counts) < len(layers):  # the first layer stands apart
        counts = [1, counts[0] - 1, *counts[1:]]
    return [first, *((name, count) for (name, _), count in zip(layers, counts, strict=True)), last]


def _heights(step: Trace, probed: _Probed, direction: str) -> Array:
    """The form of every height that can be the highest of a direction."""
    import numpy

    live = numpy.zeros(probed.sizes.shape[1])
    for way in (FORWARD,) if direction == BACKWARD else ():
        for name, count in step.order:
            live = live + count * _curve(step, probed, name, way)[0]
    found = [live[None]]
    for name, count in step.order if direction == FORWARD else step.order[::-1]:
        net, top = _curve(step, probed, name, direction)
        found += [live + repeat * net + top for repeat in {0, count - 1}]
        live = live + count * net
    return numpy.concatenate(found)


def _curve(step: Trace, probed: _Probed, name: str, direction: str) -> tuple[Array, Array]:
    """What one run of a stage adds, and its highest forms above its start; copies of weights go with all layers."""
    import numpy

    copies = any(block.role == "copy" for block in step.tape.blocks)
    key = name, direction, tuple(step.order) if copies else ()
    if key not in probed.curves:
        first, last = step.spans[name].events[direction]
        rows = numpy.zeros((last - first + 1, probed.sizes.shape[1]))
        for row, each in zip(rows[1:], step.tape.events[first:last], strict=True):
            row += probed.sizes[each] if each >= 0 else -step.times(~each, name) * probed.sizes[~each]
        rows = rows.cumsum(axis=0)
        # a height is a top only where a block is freed next
        tops = [place for place in range(last - first) if step.tape.events[first + place] < 0]
        probed.curves[key] = rows[-1], _largest(rows[[*tops, last - first]])
    return probed.curves[key]


def _largest(rows: Array) -> Array:
    """Leave out the forms that another one is never below, since no quantity is negative."""
    import numpy

    rows = rows[numpy.argsort(-rows.sum(axis=1))]
    kept: list[Array] = []
    for row in rows:
        if not any((other >= row).all() for other in kept):
            kept.append(row)
    return numpy.array(kept)
