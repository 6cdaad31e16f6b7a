"""Grids of what-ifs: every combination of some inputs in one table, and which input matters most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from memscape.memory.timeline import memory
from memscape.memory.training_states import most_tokens
from memscape.model import Model
from memscape.parallelism import DEGREES, Layout
from memscape.problem import Problem, one_of
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    import pandas

QUANTITIES = (
    *("sequences", "prompt_tokens", "output_tokens", "reserved_tokens"),
    *("micro_batch", "sequence_tokens", "target_tokens", "global_batch"),
    *DEGREES,
)

LENGTHS = ("sequence_tokens", "target_tokens")


def sweep(
    model: Model, workload: Inference | Training, layout: Layout | None = None, **axes: Sequence[Any]
) -> pandas.DataFrame:
    """Return the memory of the busiest device for every combination of values, one row each: the axes and `bytes`.

    An axis is a field of the workload or of the layout: `sequence_tokens=[2048, 4096]`, `tensor=[1, 2, 4, 8]`,
    `weights=["bf16", "fp8"]`. Numbers are worked out all at once, words one after the other.
    Raises: Problem for a field that neither has, an empty axis, and any combination that cannot be.
    """
    import numpy
    import pandas

    layout = layout or Layout()
    _check(workload, layout, axes)
    numbers = {name: numpy.asarray(values) for name, values in axes.items() if name in QUANTITIES}
    words = {name: values for name, values in axes.items() if name not in QUANTITIES}
    grid = dict(zip(numbers, numpy.meshgrid(*numbers.values(), indexing="ij"), strict=True)) if numbers else {}
    frames = []
    for chosen in product(*words.values()):
        settings = dict(zip(words, chosen, strict=True))
        total = _total(model, workload, layout, grid, settings)
        columns = settings | {name: values.ravel() for name, values in grid.items()}
        rows = pandas.DataFrame(columns, index=range(numpy.size(total)))
        rows["bytes"] = numpy.ravel(total)
        frames.append(rows)
    return pandas.concat(frames, ignore_index=True)[[*axes, "bytes"]]


def _check(workload: Inference | Training, layout: Layout, axes: Mapping[str, Sequence[Any]]) -> None:
    known = [each.name for each in (*fields(workload), *fields(layout))]
    if not axes:
        raise Problem("a sweep needs at least one axis; give one, as in sequence_tokens=[2048, 4096]")
    for name, values in axes.items():
        if name not in known:
            raise Problem(f'a sweep has no axis "{name[:40]}"; use {one_of(known, 40)}')
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) == 0:
            raise Problem(f"the axis {name} is {str(values)[:40]!r}; list its values, as in {name}=[...]")


def _total(
    model: Model,
    workload: Inference | Training,
    layout: Layout,
    grid: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Any:
    degrees = {each.name for each in fields(layout)}
    given = {**grid, **settings}
    spread = replace(layout, **{name: value for name, value in given.items() if name in degrees})
    asked = replace(workload, **{name: value for name, value in given.items() if name not in degrees})
    return memory(model, asked, spread).total


def sensitivity(
    model: Model, workload: Inference | Training, layout: Layout | None = None, percent: int = 10
) -> pandas.DataFrame:
    """Return by how much memory changes when each number of the workload is lowered and raised by some percent.

    One row per input, the one that matters most first: `input`, `value`, `lower`, `higher` (bytes at the changed
    value), `swing` (bytes between the two), `share` of the whole. An input that is left open has no row; a
    training length is raised no further than the positions that the model has learned.
    """
    import pandas

    rows = []
    whole = memory(model, workload, layout).total
    for name in QUANTITIES:
        value = getattr(workload, name, None)
        if type(value) is not int or value < 1 or name == "global_batch":
            continue
        step = max(1, value * percent // 100)
        ends = [_at(model, workload, layout, name, max(1, value + sign * step)) for sign in (-1, 1)]
        rows.append(
            {"input": name, "value": value, "lower": ends[0], "higher": ends[1], "swing": abs(ends[1] - ends[0])}
        )
    frame = pandas.DataFrame(rows, columns=["input", "value", "lower", "higher", "swing"])
    frame["share"] = frame["swing"] / whole
    return frame.sort_values("swing", ascending=False, ignore_index=True)


def _at(model: Model, workload: Inference | Training, layout: Layout | None, name: str, value: int) -> int:
    if name in LENGTHS:
        value = min(value, most_tokens(model) or value)
    changes: dict[str, Any] = {name: value}
    batch = getattr(workload, "global_batch", None)
    if name == "micro_batch" and batch is not None:
        changes["global_batch"] = max(1, batch // value) * value
    return int(memory(model, replace(workload, **changes), layout).total)
