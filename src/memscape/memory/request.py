"""The course of a request on one device, by the engine that serves it: load, prefill, decode."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from memscape import tables
from memscape.breakdown import Breakdown, Term, ceil_div
from memscape.catalog import Accelerator
from memscape.memory.activations import activations, decode_activations
from memscape.memory.engines import vllm_runtime
from memscape.memory.kv_cache import cut_off, kv_cache
from memscape.memory.llama_cpp import device_memory_llama_cpp
from memscape.memory.pool import cache_in_blocks
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem
from memscape.units import MIB
from memscape.workload import Inference

MOMENTS = ("load", "prefill", "decode")
Moments = dict[tuple[int, str], Breakdown]


def request_moments(
    model: Model,
    inference: Inference,
    whole: Model,
    layout: Layout,
    accelerator: Accelerator | None = None,
) -> Moments:
    """Return everything alive on one device at load, prefill and decode, keyed (1, moment).

    `model` and `inference` are what one device of `layout` has of `whole`. "generic", which reserves its cache,
    holds all of it while a new prompt is read; "transformers" lets the cache grow, so its prefill holds the prompts
    only, those tokens too that a local layer will drop (`cut_off`). "vllm" reserves what its start-up profile found,
    and whole blocks for the sequences asked; "llama.cpp" reserves all it will need when it loads. Runtime terms are
    what others measured, with their spread.
    Sources: those of the parts
    """
    if inference.engine == "vllm":
        moments = _vllm(model, inference, whole, layout, accelerator)
    elif inference.engine == "llama.cpp":
        moments = _llama_cpp(model, inference, layout)
    else:
        moments = _plain(model, inference, layout)
    return {(1, moment): alive for moment, alive in moments.items()}


def _plain(model: Model, inference: Inference, layout: Layout) -> dict[str, Breakdown]:
    loaded = weights(model, inference.weights, inference.kept)
    prompt_only = replace(inference, output_tokens=inference.output_tokens * 0)
    growing = inference.engine == "transformers" and not model.has_encoder
    held = kv_cache(model, inference)
    read = kv_cache(model, prompt_only) + cut_off(model, prompt_only) if growing else held
    moments = {"load": loaded, "prefill": loaded + read + activations(model, inference)}
    if model.causal:
        moments["decode"] = loaded + held + decode_activations(model, inference)
    return {moment: alive + _runtime(alive, layout) for moment, alive in moments.items()}


def _vllm(
    model: Model, inference: Inference, whole: Model, layout: Layout, accelerator: Accelerator | None
) -> dict[str, Breakdown]:
    """The peak of the start-up profile stays set aside, so that reading and writing hold the same."""
    loaded = weights(model, inference.weights, inference.kept)
    runtime = vllm_runtime(model, inference, layout, whole, accelerator)
    reads = model.has_encoder or not model.causal
    cache = kv_cache(model, inference) if reads else cache_in_blocks(model, inference, accelerator)
    serving = loaded + cache + runtime
    moments = {"load": loaded + runtime.only(phase="runtime"), "prefill": serving}
    return moments | ({"decode": serving} if model.causal else {})


def _llama_cpp(model: Model, inference: Inference, layout: Layout) -> dict[str, Breakdown]:
    if layout.tensor * layout.context * layout.expert * layout.pipeline > 1:
        raise Problem('llama.cpp is counted on one device; use data in place of other degrees, or engine "vllm"')
    held = device_memory_llama_cpp(model, inference)
    return dict.fromkeys(MOMENTS, held)


def _runtime(alive: Breakdown, layout: Layout) -> Breakdown:
    """What the driver, the libraries and the allocator take, as others measured it."""
    used = alive.only(phase="activations").total
    fixed = (term for term in _fixed() if not term.name.startswith("NCCL") or layout.devices > 1)
    shares = (_share(row, used) for row in tables.rows("runtime") if row["unit"] == "percent of activations")
    return Breakdown("bytes", (*fixed, *shares))


@cache
def _fixed() -> tuple[Term, ...]:
    return tuple(_constant(row) for row in tables.rows("runtime") if row["unit"] == "MiB")


def _constant(row: tables.Row) -> Term:
    low, likely, high = tables.spread(row)
    factors = {"mebibytes": likely, "bytes_per_mebibyte": MIB}
    return Term(row["name"], factors, "other", "runtime", row["source"], (low * MIB, high * MIB))


def _share(row: tables.Row, used: int) -> Term:
    percent = ceil_div(used, 100)
    low, likely, high = tables.spread(row)
    factors = {"percent": likely, "one_percent_of_activations": percent}
    return Term(row["name"], factors, "other", "runtime", row["source"], (low * percent, high * percent))
