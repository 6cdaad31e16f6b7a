"""Memory over time, and its highest moment: the answer to "how much memory does it need?"."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memscape.breakdown import Breakdown, Quantity, Term
from memscape.catalog import Accelerator, as_accelerator
from memscape.memory.grid import grid_totals, has_degrees, is_large
from memscape.memory.llama_cpp import host_memory_llama_cpp
from memscape.memory.offload import offloaded
from memscape.memory.request import request_moments
from memscape.memory.step import busiest, device_of, highest, highest_moments, training_timeline
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, check, of_engine, shard_model, shard_workload
from memscape.problem import Problem
from memscape.units import amount
from memscape.workload import Inference, Training


def timeline(
    model: Model, workload: Inference | Training, layout: Layout | None = None
) -> dict[tuple[int, str], Breakdown]:
    """Return everything alive at each moment, keyed (step, moment), on the busiest device of a layout.

    For training see `training_timeline`, for serving `request_moments`.
    """
    layout = one_layout(layout)
    check(model, layout, workload)
    if isinstance(workload, Training):
        return training_timeline(model, workload, layout, busiest(model, workload, layout))
    stages = {stage: stage_moments(model, workload, layout, stage) for stage in busy_stages(model, layout)}
    return max(stages.values(), key=highest)


def stage_moments(
    model: Model,
    workload: Inference | Training,
    layout: Layout,
    stage: int,
    accelerator: Accelerator | None = None,
) -> dict[tuple[int, str], Breakdown]:
    """Return the moments of one stage, one of which is its highest."""
    if isinstance(workload, Training):
        return highest_moments(model, workload, layout, stage)
    if layout == Layout():
        return request_moments(model, workload, model, layout, accelerator)
    share = shard_workload(workload, layout)
    assert isinstance(share, Inference)
    shard = shard_model(model, of_engine(layout, workload), stage)
    return request_moments(shard, share, model, layout, accelerator)


def memory(
    model: Model,
    workload: Inference | Training,
    layout: Layout | None = None,
    accelerator: Accelerator | str | None = None,
) -> Breakdown:
    """Return everything that the busiest device must hold at its highest moment; `notes` says which one that is.

    The phases of serving are weights, kv_cache, activations and runtime; those of training are weights, gradients,
    optimizer_states, activations and buffers, as the program allocates them, without a runtime. `total` takes the
    likely value of each measured term, `low` and `high` its spread. Array input is answered element by element; where a
    degree of the layout is an array, or for more than 4,096 points, by its total alone. With an accelerator, `notes`
    also says what it has left, and an engine's defaults are those for that card.
    """
    layout, card = layout or Layout(), as_accelerator(accelerator)
    if not isinstance(layout, Layout):
        raise Problem(f"layout is {str(layout)[:40]}; give a Layout, as in Layout(tensor=2)")
    if has_degrees(layout) or is_large(workload):
        totals = grid_totals(model, workload, layout, partial(request_moments, accelerator=card))
        total = Term("everything at its highest moment", {"bytes": totals})
        return Breakdown("bytes", (total,), ("each element on its busiest device, at its own highest moment",))
    check(model, layout, workload)
    moments = {
        (stage, step, moment): alive
        for stage in busy_stages(model, layout)
        for (step, moment), alive in stage_moments(model, workload, layout, stage, card).items()
    }
    if any(hasattr(alive.total, "shape") for alive in moments.values()):
        return highest_of_each(tuple(moments.values()))
    (stage, step, moment), peak = max(moments.items(), key=lambda item: float(item[1].total))
    of_step = f" of step {step}" if isinstance(workload, Training) else ""
    of_stage = f" on stage {stage + 1} of {layout.pipeline}" if layout.pipeline > 1 else ""
    whole = ("ZeRO shares nothing while a model serves",) if isinstance(workload, Inference) and layout.zero else ()
    notes = (f"the highest moment is {moment}{of_step}{of_stage}", *whole, *peak.notes)
    return left_of(replace(peak, notes=notes), card)


def each_stage(
    model: Model, workload: Inference | Training, layout: Layout, accelerator: Accelerator | str | None = None
) -> tuple[Breakdown, ...]:
    """Return what one device of each pipeline stage holds at its own highest moment, the first stage first."""
    check(model, one_layout(layout), workload)
    card = as_accelerator(accelerator)
    moments = (stage_moments(model, workload, layout, stage, card) for stage in range(layout.pipeline))
    return tuple(max(each.values(), key=lambda alive: float(alive.total)) for each in moments)


def one_layout(layout: Layout | None) -> Layout:
    """Return a layout, or the single device; a grid of layouts is refused."""
    layout = layout or Layout()
    if not isinstance(layout, Layout) or has_degrees(layout):
        raise Problem("a grid of layouts is answered by memory() alone; ask layout by layout here, with a Layout")
    return layout


def left_of(peak: Breakdown, accelerator: Accelerator | None) -> Breakdown:
    """Note what is left of an accelerator, or by how much it is too small."""
    if accelerator is None:
        return peak
    left = accelerator.usable_bytes - peak.total
    what = f"leaves {amount(left)}" if left >= 0 else f"is {amount(-left)} too much"
    note = f"of {amount(accelerator.usable_bytes)} usable on {accelerator.name} this {what}"
    return replace(peak, notes=(*peak.notes, note))


def host_memory(
    model: Model, workload: Inference | Training, layout: Layout | None = None, where: str = "cpu"
) -> Breakdown:
    """Count what one device keeps off itself, in its host's RAM ("cpu") or on NVMe disks ("nvme").

    For training see `offloaded`; of the engines that serve, llama.cpp leaves layers to the host. Times the devices of a
    host it is what the host must have for them. The stage is the one with most of it.
    """
    layout = one_layout(layout)
    if where not in ("cpu", "nvme"):
        raise Problem(f'where is {str(where)[:20]!r}; use "cpu" for RAM or "nvme" for disks')
    check(model, layout, workload)
    if isinstance(workload, Inference):
        there = workload.engine == "llama.cpp" and where == "cpu"
        return host_memory_llama_cpp(model, workload) if there else Breakdown("bytes")
    devices = [device_of(model, workload, layout, stage) for stage in busy_stages(model, layout)]
    kept = [offloaded(each.model, each.training, layout, each.states, where) for each in devices]
    return max(kept, key=lambda each: float(each.total))


def highest_of_each(moments: tuple[Breakdown, ...]) -> Breakdown:
    """Join the moments; a factor of 0 or 1 says for which elements of the grid each is the highest."""
    import numpy

    highest = numpy.argmax(numpy.broadcast_arrays(*(alive.total for alive in moments)), axis=0)
    joined = Breakdown("bytes", notes=("each element at its own highest moment",))
    for place, alive in enumerate(moments):
        share = (highest == place).astype("float64")
        if share.any():
            joined += replace(alive, terms=tuple(_where(term, share) for term in alive))
    return joined


def _where(term: Term, share: Quantity) -> Term:
    spread = None if term.spread is None else (term.low * share, term.high * share)
    here = term.factors.get("at_its_highest", 1) * share
    return replace(term, factors={**term.factors, "at_its_highest": here}, spread=spread)
