"""Mixtures of experts, as transformers runs them on CUDA: all experts in one grouped matrix product."""

from __future__ import annotations

from collections.abc import Callable

from memscape.memory import blocks, dense, latent, rotary, routers
from memscape.memory.blocks import ATTENTION_NORM, MLP_NORM
from memscape.memory.operators import FOR_OTHER, FOR_OWN, FOR_WEIGHT, NEW, SAME
from memscape.memory.passes import Pass
from memscape.memory.routers import PLACES, Routing
from memscape.memory.tape import Parameter, Sizes, Storage, Tensor
from memscape.model import LayerKind

EXPERTS, SHARED, MLP = "experts", "shared experts", "mlp"
Attention = Callable[[Pass, Tensor], tuple[Tensor, Tensor | None]]
Gate = Callable[[Pass, Tensor], Tensor]


# experts


def experts(t: Pass, x: Tensor, routing: Routing, gate: Gate) -> Tensor:
    """Send each token to its experts: rows sorted by expert, two grouped products, rows put back, weighted, added up."""
    t.part = EXPERTS
    pairs = {**x.rows, **routers.chosen(t)}
    by_expert, order = (t.storage(name, pairs, "int64") for name in ("experts, sorted", "order of the rows"))
    rows = gathered(t, x, t.storage("token of each row", pairs, "int64"), pairs, "rows of the experts")
    shares = gathered(t, t.view(routing.weights, {}, rows=pairs), order, pairs, "weights, sorted")
    _counted = t.storage("experts, sorted, in int32", pairs, "int32"), t.storage("rows per expert", _each(t), "int32")
    ends = t.storage("end of each expert's rows", _each(t), "int32")
    both = {"gate_and_up": 2, "expert_ffn_size": t.model.expert_ffn_size}
    bias = _bias(t, "expert gate + expert up bias", both, by_expert, pairs)
    x_dtype, x_rows = x.dtype, x.rows
    result = grouped(t, rows, both, "expert gate + expert up", ends, bias)
    result = gate(t, result)
    bias = _bias(t, "expert down bias", t.hidden, by_expert, pairs)
    result = grouped(t, result, t.hidden, "expert down", ends, bias)
    weighted = t.multiply(result, shares, "weighted rows")
    back = t.storage("order back", pairs, "int64")
    t.storage("numbers of the rows", pairs, "int64")
    weighted = gathered(t, weighted, back, pairs, "weighted rows, token by token")
    total = t.made("sum over the experts of a token", [(t.wider(weighted), SAME)], rows=x_rows)
    return t.cast(total, x_dtype, "output")


def _each(t: Pass) -> Sizes:
    return {"experts": t.model.experts}


def _bias(t: Pass, name: str, columns: Sizes, by_expert: Storage, pairs: Sizes) -> Tensor | None:
    if not t.model.expert_bias:
        return None
    bias = t.parameter(name, {**_each(t), **columns})
    node = t.noted({**pairs, **columns}, bias.dtype, [(bias, NEW)], [(by_expert, PLACES)])
    return Tensor(t.storage(f"{name} of each row", {**pairs, **columns}, bias.dtype), pairs, columns, bias.dtype, node)


def gathered(t: Pass, x: Tensor, index: Storage, rows: Sizes, name: str) -> Tensor:
    """Copy rows in the order of an index, which is kept."""
    return t.made(name, [(x, NEW)], [(index, PLACES)], rows=rows, layout="rows")


def grouped(t: Pass, x: Tensor, columns: Sizes, name: str, ends: Storage, bias: Tensor | None) -> Tensor:
    """Multiply each expert's rows by its matrix; a bias is added in place. Autocast does not know this product."""
    weight = t.parameter(f"{name} weight", {**_each(t), **x.columns, **columns})
    x = t.cast(x, weight.dtype, f"{name} input")
    kept = [(x.storage, FOR_WEIGHT)] if weight.trained else []
    kept.append((ends, "which rows belong to which expert"))
    result = t.made(name, [(x, NEW), (weight, NEW)], kept, columns=columns)
    if bias is not None:
        result.node = t.noted(result.sizes, result.dtype, [(result, SAME), (bias, SAME)])
    return result


def gated(t: Pass, x: Tensor) -> Tensor:
    """The activated gate times up; both are views of one tensor."""
    gate, up = t.split(x, _inner(t), _inner(t))
    return t.multiply(blocks.activated(t, gate), up, "gated")


def clamped(t: Pass, x: Tensor) -> Tensor:
    """gpt-oss: gate and up alternate and are clamped; gate · sigmoid(alpha · gate) · (up + 1)."""
    gate, up = t.stretch(x, _inner(t)), t.stretch(x, _inner(t))
    gate, up = t.function(gate, "clamped gate"), t.function(up, "clamped up")
    glu = t.multiply(gate, t.function(t.scaled(gate, "scaled gate"), "sigmoid", keep="result"), "activated gate")
    return t.multiply(t.scaled(up, "up + 1"), glu, "gated")


def _inner(t: Pass) -> Sizes:
    return {"expert_ffn_size": t.model.expert_ffn_size}


def shared(t: Pass, x: Tensor) -> Tensor:
    """The experts that every token uses: one dense MLP."""
    t.part = SHARED
    return blocks.mlp(t, x, {"shared_ffn_size": t.model.shared_ffn_size})


def jittered(t: Pass, x: Tensor, view: bool = False) -> Tensor:
    """Multiply by random numbers near one, in place: they are kept; through a view, backward copies what it changes."""
    noise = t.storage("noise", x.sizes, x.dtype)
    node = t.noted(x.sizes, x.dtype, [(x, NEW)], [(noise, FOR_OTHER)], scratch=2 if view else 0)
    return Tensor(x.storage, x.rows, x.columns, x.dtype, node, x.layout)


# one mixture in place of an MLP


def mixtral_mixture(t: Pass, x: Tensor) -> Tensor:
    """Router and experts."""
    t.part = EXPERTS
    if "router_jitter_noise" in t.model.traits:
        x = jittered(t, x)
    routing = routers.softmax_router(t, x)
    return experts(t, x, routing, gated)


def qwen2_mixture(t: Pass, x: Tensor) -> Tensor:
    """Experts beside a shared one that a gate of its own weighs."""
    beside = shared(t, x)
    routing = routers.softmax_router(t, x)
    output = experts(t, x, routing, gated)
    t.part = "router"
    gate = t.function(t.linear(x, {"outputs": 1}, "shared expert output gate"), "gate of the shared expert", "result")
    beside = t.multiply(gate, beside, "weighted shared expert")
    return t.add(output, beside, "output")


def deepseek_mixture(t: Pass, x: Tensor) -> Tensor:
    """Router and experts in fp32, and shared experts."""
    residual = x
    router = routers.grouped_router if t.model.family == "deepseek_v2" else routers.sigmoid_router
    routing = router(t, x)
    x = experts(t, x, routing, gated)
    return t.add(x, shared(t, residual), "output")


def gpt_oss_mixture(t: Pass, x: Tensor) -> Tensor:
    """Experts with biases and a clamped gate."""
    routing = routers.late_softmax_router(t, x)
    return experts(t, x, routing, clamped)


def phimoe_mixture(t: Pass, x: Tensor) -> Tensor:
    """Experts drawn at random; the input is jittered here and again by the router."""
    t.part = EXPERTS
    if "input_jitter_noise" in t.model.traits:
        x = jittered(t, jittered(t, x), view=True)
    routing = routers.sampling_router(t, x)
    return experts(t, x, routing, gated)


__all__ = ["Parameter", "LayerKind", "ATTENTION_NORM", "MLP_NORM", "dense", "latent", "rotary", "MLP", "FOR_OWN", "Attention"]
