"""Memory over time, and its highest moment: the answer to "how much memory does it need?"."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, ceil_div
from memscape.memory.activations import activations, decode_activations
from memscape.memory.grid import grid_totals, has_degrees
from memscape.memory.kv_cache import kv_cache
from memscape.memory.offload import offloaded
from memscape.memory.step import Device, busiest, highest, highest_moments, training_timeline
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, check, shard_model, shard_workload
from memscape.problem import Problem
from memscape.units import MIB
from memscape.workload import Inference, Training

MOMENTS = ("load", "prefill", "decode")


def timeline(
    model: Model, workload: Inference | Training, layout: Layout | None = None
) -> dict[tuple[int, str], Breakdown]:
    """Return everything alive at each moment, keyed (step, moment), on the busiest device of a layout.

    For training see `training_timeline`.

    Serving has load, prefill and decode. An engine that reserves its cache ("generic") holds all of it while a new
    prompt is read; transformers lets the cache grow, so its prefill holds the prompts only. Runtime terms are what
    others measured, with their spread.
    """
    layout = layout or Layout()
    check(model, layout, workload)
    if isinstance(workload, Training):
        return training_timeline(model, workload, layout, busiest(model, workload, layout))
    stages = {stage: stage_moments(model, workload, layout, stage) for stage in busy_stages(model, layout)}
    return max(stages.values(), key=highest)


def stage_moments(
    model: Model, workload: Inference | Training, layout: Layout, stage: int
) -> dict[tuple[int, str], Breakdown]:
    """The moments of one stage, one of which is its highest."""
    if isinstance(workload, Training):
        return highest_moments(model, workload, layout, stage)
    if layout == Layout():
        return _serving(model, workload)
    share = shard_workload(workload, layout)
    assert isinstance(share, Inference)
    return _serving(shard_model(model, layout, stage), share)


def _serving(model: Model, inference: Inference) -> dict[tuple[int, str], Breakdown]:
    loaded = weights(model, inference.weights, inference.kept)
    prompt_only = replace(inference, output_tokens=inference.output_tokens * 0)
    growing = inference.engine == "transformers" and not model.has_encoder
    prefill, decode = activations(model, inference), decode_activations(model, inference)
    held = kv_cache(model, inference)
    moments = {"load": loaded, "prefill": loaded + (kv_cache(model, prompt_only) if growing else held) + prefill}
    if model.causal:
        moments["decode"] = loaded + held + decode
    return {(1, moment): alive + _runtime(alive) for moment, alive in moments.items()}


def memory(model: Model, workload: Inference | Training, layout: Layout | None = None) -> Breakdown:
    """Return everything that the busiest device must hold at its highest moment; `notes` says which one that is.

    The phases of serving are weights, kv_cache, activations and runtime; those of training are weights, gradients,
    optimizer_states, activations and buffers, as the program allocates them, without a runtime. `total` takes the
    likely value of each measured term, `low` and `high` its spread. Array input is answered element by element.
    """
    layout = layout or Layout()
    if has_degrees(layout):
        totals = Term("everything at its highest moment", {"bytes": grid_totals(model, workload, layout, _serving)})
        return Breakdown("bytes", (totals,), ("each element on its busiest device, at its own highest moment",))
    check(model, layout, workload)
    moments = {
        (stage, step, moment): alive
        for stage in busy_stages(model, layout)
        for (step, moment), alive in stage_moments(model, workload, layout, stage).items()
    }
    if any(hasattr(alive.total, "shape") for alive in moments.values()):
        return highest_of_each(tuple(moments.values()))
    (stage, step, moment), peak = max(moments.items(), key=lambda item: float(item[1].total))
    of_step = f" of step {step}" if isinstance(workload, Training) else ""
    of_stage = f" on stage {stage + 1} of {layout.pipeline}" if layout.pipeline > 1 else ""
    return replace(peak, notes=(f"the highest moment is {moment}{of_step}{of_stage}", *peak.notes))


def host_memory(model: Model, workload: Training, layout: Layout, where: str = "cpu") -> Breakdown:
    """Count what one device keeps off itself, in its host's RAM ("cpu") or on NVMe disks ("nvme"); see `offloaded`.

    Times the devices of a host it is what the host must have for them. The stage is the one with most of it.
    """
    if where not in ("cpu", "nvme"):
        raise Problem(f'where is {str(where)[:20]!r}; use "cpu" for RAM or "nvme" for disks')
    check(model, layout, workload)
    devices = [Device(model, workload, layout, stage) for stage in busy_stages(model, layout)]
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
    return replace(term, factors={**term.factors, "at_its_highest": share}, spread=spread)


def _runtime(alive: Breakdown) -> Breakdown:
    """What the driver, the libraries and the allocator take, as others measured it."""
    rows = tables.rows("runtime")
    used = alive.only(phase="activations").total
    fixed = (_fixed(row) for row in rows if row["unit"] == "MiB")
    shares = (_share(row, used) for row in rows if row["unit"] == "percent of activations")
    return Breakdown("bytes", tuple(chain(fixed, shares)))


def _fixed(row: tables.Row) -> Term:
    low, likely, high = tables.spread(row)
    factors = {"mebibytes": likely, "bytes_per_mebibyte": MIB}
    return Term(row["name"], factors, "other", "runtime", row["source"], (low * MIB, high * MIB))


def _share(row: tables.Row, used: int) -> Term:
    percent = ceil_div(used, 100)
    low, likely, high = tables.spread(row)
    factors = {"percent": likely, "one_percent_of_activations": percent}
    return Term(row["name"], factors, "other", "runtime", row["source"], (low * percent, high * percent))
