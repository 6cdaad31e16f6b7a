"""vLLM: what its start-up takes beside weights and cache, and the pool of cache blocks that is left."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, chosen_by, maximum
from memscape.catalog import Accelerator, precision
from memscape.memory.tensors import Sizes
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.serving import fact
from memscape.units import MIB
from memscape.workload import Inference

FP32 = {"bytes_per_logit": 4}


def vllm_runtime(
    model: Model,
    inference: Inference,
    layout: Layout | None = None,
    whole: Model | None = None,
    accelerator: Accelerator | None = None,
) -> Breakdown:
    """Count what vLLM takes of a device beside weights and cache: the start-up peak, non-torch memory, graphs, context.

    `model` is what one device has, `whole` the model before tensor parallelism, whose vocabulary every device samples
    from. Non-torch memory, graphs and context are measured: terms with a spread, by version and by layout.
    Holds for: the version of `data/engines.csv` (0.19) on H100; older ones by `engine_version`.
    Not for:   FlashInfer's sampler, image encoders (0.04 to 0.2 GiB more), draft models.
    Sources:   vllm_sampler, vllm_experts, llm_d_planner
    """
    peak = startup_peak(model, inference, whole, accelerator)
    return peak + Breakdown("bytes", (_non_torch(inference, layout or Layout()), *_beside(inference)))


def startup_peak(
    model: Model, inference: Inference, whole: Model | None = None, accelerator: Accelerator | None = None
) -> Breakdown:
    """Count the highest point of vLLM's profile run: a full batch is read, then every sequence samples one token.

        sampling:  S·V·(w + 4 + 4 + 4) + programs·V·4 + (T + S)·h·w            [bytes], S = min(sequences, T)
        forward:   T·(c·h + widest)·w, and hidden states and residual for the next stage

    Logits as the model computes them, their fp32 copy, probabilities and exponential noise are one row per sequence
    each; a kernel keeps one row per program. Both points hold the workspaces of the experts, T·e·(max(f, h) +
    max(2f, h))·w, which stay allocated, and the cuBLAS workspace. Stages before the last do not sample.
    Holds for: 16- and 32-bit weights; of a mixture with quantised experts the workspaces are not known and left out.
    Sources:   vllm_sampler, vllm_experts, pytorch_cublas; held against llm_d_planner
    """
    whole = whole or model
    tokens = inference.prefill_tokens or _likely(inference, "tokens in a pass", accelerator)
    passed: Sizes = {"tokens_in_pass": tokens}
    size = {"bytes_per_element": 4 if inference.weights.lower() == "fp32" else precision("bf16").parts[0].bytes}
    held = (*_workspaces(model, inference, passed | size), _cublas())
    forward = Breakdown("bytes", (*_forward(model, inference, passed | size), *held))
    if not model.last_stage or model.head == "none":
        return forward
    most = inference.most_sequences or _likely(inference, "sequences", accelerator)
    rows: Sizes = {"sequences_sampled": min(most, tokens)}
    sampling = Breakdown("bytes", (*_sampling(whole, inference, rows, passed, size), *held))
    return _higher(forward, sampling)


def _likely(inference: Inference, name: str, accelerator: Accelerator | None = None) -> int:
    return int(fact("vllm", name, inference.engine_version, accelerator)["likely"])


def _sampling(model: Model, inference: Inference, rows: Sizes, passed: Sizes, size: Sizes) -> Iterator[Term]:
    row = rows | {"vocab_size": model.vocab_size}
    hidden = {"hidden_size": model.hidden_size}
    yield _activation("hidden states", passed | hidden | size)
    yield _activation("hidden states that are sampled", rows | hidden | size)
    yield _activation("logits", row | size)
    yield _activation("logits in fp32", row | FP32)
    if sort := _likely(inference, "sort of the logits"):
        yield _activation("sort of the logits", row | {"bytes_per_sorted_logit": sort}, "llm_d_planner")
        return
    yield _activation("probabilities", row | FP32)
    yield _activation("exponential noise", row | FP32)
    low, likely, high = (min(each, rows["sequences_sampled"]) for each in _spread(inference, "sampler programs"))
    one = model.vocab_size * FP32["bytes_per_logit"]
    scratch = _activation("scratch of top-k and top-p", {"programs": likely, "vocab_size": model.vocab_size} | FP32)
    yield replace(scratch, spread=(low * one, high * one))


def _forward(model: Model, inference: Inference, sizes: Sizes) -> Iterator[Term]:
    low, likely, high = _spread(inference, "residual copies")
    one = math.prod((model.hidden_size, *sizes.values()))
    residual = _activation("residual stream", {"residual_copies": likely, "hidden_size": model.hidden_size} | sizes)
    yield replace(residual, spread=(low * one, high * one), source="llm_d_planner")
    attention = 2 * (model.heads + model.kv_heads) * model.head_dim
    inner = 3 if model.gated else 2
    dense = model.ffn_size if model.moe_layers < model.layers else 0
    mlp = inner * maximum(dense, model.shared_ffn_size)
    yield _activation("widest operator", {"widest_operator": maximum(attention, mlp)} | sizes)
    if not model.last_stage:
        handed = {"hidden_states_and_residual": 2, "hidden_size": model.hidden_size} | sizes
        yield _activation("hidden states and residual for the next stage", handed)


def _workspaces(model: Model, inference: Inference, sizes: Sizes) -> Iterator[Term]:
    """The two buffers in which the experts compute; they stay allocated from the first pass on."""
    if not model.moe_layers or not precision(inference.weights).plain:
        return
    routed = {"experts_per_token": model.experts_per_token} | sizes
    first = {"widest_of_expert_and_hidden": maximum(model.expert_ffn_size, model.hidden_size)}
    second = {"widest_of_gate_up_and_hidden": maximum(2 * model.expert_ffn_size, model.hidden_size)}
    yield _activation("workspace of the experts' outputs", first | routed, "vllm_experts")
    yield _activation("workspace of the experts' inner values", second | routed, "vllm_experts")


def _activation(name: str, factors: Sizes, source: str = "vllm_sampler") -> Term:
    return Term(name, factors, "other", "activations", source)


def _cublas() -> Term:
    """PyTorch allocates it like a tensor, so the profile counts it."""
    row = tables.by_key("runtime")["library workspace (cuBLAS)"]
    return _mebibytes(row["name"], tables.spread(row), row["source"], "activations")


def _higher(first: Breakdown, second: Breakdown) -> Breakdown:
    """The higher of two moments; for arrays both, with a factor of 0 or 1."""
    ahead = first.total > second.total
    if not hasattr(ahead, "shape"):
        return first if ahead else second
    sides = ((first, ahead.astype("float64")), (second, 1.0 - ahead))
    terms = (
        replace(t, factors={**t.factors, "at_its_highest": here}, spread=None) for side, here in sides for t in side
    )
    return Breakdown("bytes", tuple(terms))


def _spread(inference: Inference, name: str) -> tuple[int, int, int]:
    return tables.spread(fact("vllm", name, inference.engine_version))


def _mebibytes(name: str, spread: tuple[Quantity, ...], source: str, phase: str = "runtime") -> Term:
    low, likely, high = spread
    factors = {"mebibytes": likely, "bytes_per_mebibyte": MIB}
    return Term(name, factors, "other", phase, source, (low * MIB, high * MIB))


def _non_torch(inference: Inference, layout: Layout) -> Term:
    """What NCCL and CUDA's libraries add while the profile runs; it moves with the version."""
    alone, staged, shared = (
        _spread(inference, f"non-torch memory of a {kind}")
        for kind in ("lone device", "pipeline stage", "tensor-parallel device")
    )
    pipelined = (chosen_by(layout.pipeline > 1, *pair) for pair in zip(staged, alone, strict=True))
    spread = tuple(chosen_by(layout.tensor > 1, *pair) for pair in zip(shared, pipelined, strict=True))
    return _mebibytes("non-torch memory", spread, "llm_d_planner")


def _beside(inference: Inference) -> Iterator[Term]:
    if inference.cuda_graphs:
        yield _mebibytes("CUDA graphs", _spread(inference, "CUDA graphs"), "llm_d_planner")
    yield _mebibytes("CUDA context", _spread(inference, "CUDA context"), "llm_d_planner")
