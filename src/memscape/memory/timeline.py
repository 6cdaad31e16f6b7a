"""Memory over time, and its highest moment: the answer to "how much memory does it need?"."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, ceil_div
from memscape.memory.activations import activations, decode_activations
from memscape.memory.kv_cache import kv_cache
from memscape.memory.step import highest_moments, training_timeline
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.units import MIB
from memscape.workload import Inference, Training

MOMENTS = ("load", "prefill", "decode")


def timeline(model: Model, workload: Inference | Training) -> dict[tuple[int, str], Breakdown]:
    """Return everything alive at each moment, keyed (step, moment); for training see `training_timeline`.

    Serving has load, prefill and decode. An engine that reserves its cache ("generic") holds all of it while a new
    prompt is read; transformers lets the cache grow, so its prefill holds the prompts only. Runtime terms are what
    others measured, with their spread.
    """
    return training_timeline(model, workload) if isinstance(workload, Training) else _serving(model, workload)


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


def memory(model: Model, workload: Inference | Training) -> Breakdown:
    """Return everything that one device must hold at its highest moment; `notes` says which moment that is.

    The phases of serving are weights, kv_cache, activations and runtime; those of training are weights, gradients,
    optimizer_states, activations and buffers, as the program allocates them, without a runtime. `total` takes the
    likely value of each measured term, `low` and `high` its spread. Array input is answered element by element.
    """
    moments = highest_moments(model, workload) if isinstance(workload, Training) else _serving(model, workload)
    if any(hasattr(alive.total, "shape") for alive in moments.values()):
        return highest_of_each(tuple(moments.values()))
    (step, moment), peak = max(moments.items(), key=lambda item: float(item[1].total))
    of_step = f" of step {step}" if isinstance(workload, Training) else ""
    return replace(peak, notes=(f"the highest moment is {moment}{of_step}", *peak.notes))


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
