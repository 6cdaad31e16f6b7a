"""Totals over a grid of layouts and workloads: alike shards are worked out once, their workloads all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product as combinations
from typing import TYPE_CHECKING, Any

from memscape.breakdown import Breakdown, ceil_div
from memscape.forward.forms import forms, setting
from memscape.forward.trace import BACKWARD, FORWARD, Case
from memscape.memory.buffers import passing_buffers, reduce_buffers
from memscape.memory.offload import on_device
from memscape.memory.step import Device
from memscape.memory.training_states import check
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, check_context, filling, of_engine, shard_model
from memscape.parallelism import check as check_layout
from memscape.problem import Problem
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]

Quantities = dict[str, "Array"]
Serve = Callable[[Model, Inference, Model, Layout], Mapping[tuple[int, str], Breakdown]]
DEGREES = ("tensor", "pipeline", "data", "context", "expert", "interleave")
TRAINING = ("micro_batch", "sequence_tokens", "target_tokens", "global_batch")
INFERENCE = ("sequences", "prompt_tokens", "output_tokens", "reserved_tokens")
AT_ONCE = 1 << 16
# from so many points on a grid answers with totals, not with terms
LARGE = 4096
LARGEST_DEGREE = 1 << 20


def has_degrees(layout: Layout) -> bool:
    """Whether a degree of the layout is an array."""
    return any(hasattr(getattr(layout, name), "shape") for name in DEGREES)


def is_large(workload: Inference | Training) -> bool:
    """Whether a workload has so many points that their terms would not be looked at one by one."""
    names = TRAINING if isinstance(workload, Training) else INFERENCE
    return any(getattr(getattr(workload, name), "size", 1) > LARGE for name in names)


def grid_totals(model: Model, workload: Inference | Training, layout: Layout, serve: Serve) -> Array:
    """Return the bytes of the busiest device for every element of a grid; degrees and quantities are broadcast.

    The same formulas as for one layout: points that share tensor, pipeline and expert degrees share a shard of the
    model, whose heights are worked out once. `serve` gives the moments of an inference. float64, exact below 2**53.
    Raises: Problem for a layout that the model cannot be split by, naming it.
    """
    import numpy

    names = DEGREES + (TRAINING if isinstance(workload, Training) else INFERENCE)
    given = {name: getattr(layout if name in DEGREES else workload, name) for name in names}
    values = {name: numpy.asarray(value, dtype="float64") for name, value in given.items() if value is not None}
    shape = _shape(values)
    points = {
        name: numpy.broadcast_to(value, shape).ravel() if value.size > 1 else value for name, value in values.items()
    }
    check_context(layout, workload)
    if isinstance(workload, Training):
        check(model, workload)
        evaluate: Callable[..., Array] = _training
    else:
        evaluate = _inference(serve)
    totals = numpy.zeros(shape).ravel()
    for index in _alike(totals.size, [key for key in _apart(layout, points) if key.size > 1]):
        here = {
            name: each[index] if each.size > 1 else numpy.broadcast_to(each.ravel(), index.size)
            for name, each in points.items()
        }
        totals[index] = _of_group(model, workload, layout, here, evaluate)
    return totals.reshape(shape)


def _shape(values: Mapping[str, Array]) -> tuple[int, ...]:
    """The shape of the grid; arrays that do not go together are named."""
    import numpy

    try:
        return numpy.broadcast_shapes(*(value.shape for value in values.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in values.items() if value.size > 1)
        raise Problem(f"the arrays do not go together: {shapes}; give them one shape, or axes of their own") from None


def _apart(layout: Layout, points: Quantities) -> list[Array]:
    """The degrees by which points fall into groups: those that decide the shard, and what shares gradients."""
    import numpy

    keys = [points[name] for name in ("tensor", "pipeline", "expert", "interleave")]
    if "sequences" in points:  # a device that serves alone has no communication library
        keys.append(numpy.minimum(points["data"] * points["context"], 2))
    return [*keys, points["data"], points["context"]] if layout.zero > 1 or (points["expert"] > 1).any() else keys


def _alike(count: int, keys: list[Array]) -> Iterator[Array]:
    """The places of the points of each group, a limited number at once."""
    import numpy

    code = numpy.zeros(count, dtype="int64")
    for key in keys:
        if key.max() > LARGEST_DEGREE:
            raise Problem(f"a degree is {key.max():,.0f}; use at most {LARGEST_DEGREE:,}")
        whole = key.astype("int64")
        known = numpy.zeros(int(whole.max()) + 1, dtype="int64")
        known[whole] = 1
        code = code * int(known.sum()) + (known.cumsum() - 1)[whole]
    small = code.astype("uint16") if code.max() < AT_ONCE else code
    order = numpy.argsort(small, kind="stable")
    ends = numpy.flatnonzero(numpy.diff(code[order])) + 1
    for group in numpy.split(order, ends):
        yield from numpy.array_split(group, ceil_div(len(group), AT_ONCE))


def _of_group(
    model: Model, workload: Inference | Training, layout: Layout, here: Quantities, evaluate: Callable[..., Array]
) -> Array:
    """The totals of points that share a shard: the highest of the stages that can be the busiest."""
    import numpy

    degrees: dict[str, Any] = {name: int(here[name][0]) for name in DEGREES}
    one = replace(layout, **degrees)
    check_layout(model, one)
    if isinstance(workload, Training):
        _check_work(here)
    found = [evaluate(model, workload, one, stage, here) for stage in busy_stages(model, one)]
    totals: Array = numpy.maximum.reduce(found)
    return totals


def _check_work(here: Quantities) -> None:
    if "global_batch" not in here:
        return
    at_once = here["micro_batch"] * here["data"]
    uneven = here["global_batch"] % at_once != 0
    if uneven.any():
        place = int(uneven.argmax())
        raise Problem(
            f"global_batch {here['global_batch'][place]:,.0f} is no multiple of micro_batch × data "
            f"{at_once[place]:,.0f}; use one that is"
        )


def _inference(serve: Serve) -> Callable[..., Array]:
    def evaluate(model: Model, inference: Inference, one: Layout, stage: int, here: Quantities) -> Array:
        import numpy

        over = {name: "data" if name == "sequences" else "context" for name in INFERENCE if name in here}
        share = {name: ceil_div(here[name], here[degree]) for name, degree in over.items()}
        moments = serve(shard_model(model, of_engine(one, inference), stage), replace(inference, **share), model, one)
        totals: Array = numpy.maximum.reduce(numpy.broadcast_arrays(*(each.total for each in moments.values())))
        return totals

    return evaluate


def _training(model: Model, training: Training, one: Layout, stage: int, here: Quantities) -> Array:
    """The highest of forward, backward and update of a later step, on one device of a stage."""
    import numpy

    if one.expert > 1 and one.expert_load_percent != 100:
        raise Problem("a grid takes experts with even load; leave expert_load_percent at 100, or ask layout by layout")
    sharing = not (one.zero > 1 or one.expert > 1)
    copies = here["data"] * here["context"] if one.zero == 1 and sharing else None
    # tokens are divided here, for all points at once
    alone = replace(one, data=int(one.replicas), context=1)
    device, work = Device(model, setting(training), alone, stage), _share(one, here)
    loaded, gradients, states, update = _held(device, copies)
    spread = replace(one, data=here["data"], context=here["context"]) if sharing else one
    loaded = loaded + reduce_buffers(device.model, device.asked, spread).total
    buffers = passing_buffers(device.model, _asked(device.asked, work), spread).total
    passing: Array = numpy.zeros(work["batches"].size)
    for case, index in _cases(model, training, device, work):
        part = {name: each[index] for name, each in work.items()}
        earlier = gradients if case.accumulates or training.implementation == "megatron" else numpy.zeros(1)
        passing[index] = _highest(device, case, part) + (earlier[index] if earlier.size > 1 else earlier)
    totals: Array = numpy.maximum(loaded + states + buffers + passing, loaded + gradients + states + update)
    return totals


def _share(one: Layout, here: Quantities) -> Quantities:
    """What one device computes: its tokens, and the micro-batches of its copy of the model."""
    import numpy

    tokens = [name for name in ("sequence_tokens", "target_tokens") if name in here]
    share = {name: ceil_div(here[name], here["context"]) for name in tokens} | {"micro_batch": here["micro_batch"]}
    if "global_batch" in here:
        return share | {"batches": here["global_batch"] // (here["micro_batch"] * here["data"])}
    return share | {"batches": numpy.full(here["data"].size, float(filling(one)))}


def _asked(training: Training, work: Quantities) -> Training:
    sizes: dict[str, Any] = {name: each for name, each in work.items() if name != "batches"}
    return replace(training, **sizes)


def _held(device: Device, replicas: Array | None) -> tuple[Array, Array, Array, Array]:
    """Weights, gradients, states and the temporaries of the update; shared states once for each number of replicas."""
    import numpy

    known, place = numpy.unique(replicas, return_inverse=True) if replicas is not None else (None, 0)
    if known is not None:
        device = replace(device, layout=replace(device.layout, data=known, context=1))
    here = on_device(device.states, device.layout)
    parts = [here.only(phase=phase).total for phase in ("weights", "gradients", "optimizer_states")]
    parts.append(device.update.total)
    each = [numpy.asarray(part, dtype="float64") + numpy.zeros(1) for part in parts]
    loaded, gradients, states, update = (part[place] if part.size > 1 else part for part in each)
    return loaded, gradients, states, update


def _cases(model: Model, training: Training, device: Device, work: Quantities) -> Iterator[tuple[Case, Array]]:
    """The cases that the points fall into, each with its points."""
    import numpy

    always = training.gradient_precision != training.weights or "accumulates" in device.settings
    window = float(model.window) if model.window else numpy.inf
    asked = work["micro_batch"] == 1, work["sequence_tokens"] >= window, (work["batches"] > 1) | always
    for flags in combinations((False, True), repeat=3):
        there = numpy.logical_and.reduce([each == flag for each, flag in zip(asked, flags, strict=True)])
        if there.any():
            yield Case(*flags)._replace(**device.settings), numpy.flatnonzero(there)


def _highest(device: Device, case: Case, work: Quantities) -> Array:
    """The higher of forward and backward, and the micro-batches that wait beside the running one."""
    import numpy

    if device.asked.implementation == "megatron":
        fused: Array = replace(device, asked=_asked(device.asked, work)).fused(BACKWARD, work["batches"]).total
        return fused
    pieces = device.in_flight(work["batches"])
    flight = [(forms(device.piece(place), device.asked, case), count) for place, count in pieces]
    kept = [each.highest("kept", work) for each, _ in flight]
    waiting = sum(count * size for (_, count), size in zip(flight, kept, strict=True))
    running = [
        numpy.maximum(each.highest(FORWARD, work), each.highest(BACKWARD, work)) - size
        for (each, _), size in zip(flight, kept, strict=True)
    ]
    total: Array = waiting + numpy.maximum.reduce(running)
    return total
