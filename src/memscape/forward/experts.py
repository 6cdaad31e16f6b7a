"""Experts as transformers runs them on CUDA: all of a layer in one grouped matrix product (Llama 4: a batched one)."""

from __future__ import annotations

from collections.abc import Callable

from memscape.forward import blocks, routers
from memscape.forward.operators import FOR_OTHER, FOR_WEIGHT, NEW, SAME, Operators
from memscape.forward.passes import Pass
from memscape.forward.routers import PLACES, Routing
from memscape.forward.tape import Sizes, Storage, Tensor

EXPERTS, SHARED = "experts", "shared experts"
GATE_AND_UP, DOWN = "expert gate + expert up", "expert down"
Gate = Callable[[Pass, Tensor], Tensor]


def each(t: Pass) -> Sizes:
    """The experts of a layer."""
    return {"experts": t.model.stored_experts}


def inner(t: Pass) -> Sizes:
    """The inner width of one expert."""
    return {"expert_ffn_size": t.model.expert_ffn_size}


def grouped(t: Pass, x: Tensor, routing: Routing, gate: Gate) -> Tensor:
    """Send each token to its experts: rows are sorted by expert, put back, weighted and added up."""
    t.part = EXPERTS
    pairs = {**x.rows, **routers.chosen(t)}
    by_expert, order = (t.storage(name, pairs, "int64") for name in ("experts, sorted", "order of the rows"))
    rows = gathered(t, x, t.storage("token of each row", pairs, "int64"), pairs, "rows of the experts")
    shares = gathered(t, t.view(routing.weights, {}, rows=pairs), order, pairs, "weights, sorted")
    _counts = t.storage("experts, sorted, in int32", pairs, "int32"), t.storage("rows per expert", each(t), "int32")
    ends = t.storage("end of each expert's rows", each(t), "int32")
    both = {"gate_and_up": 2, **inner(t)}
    bias = _bias(t, GATE_AND_UP, both, by_expert, pairs)
    result = _product(t, rows, both, GATE_AND_UP, ends, bias)
    result = gate(t, result)
    bias = _bias(t, DOWN, t.hidden, by_expert, pairs)
    result = _product(t, result, t.hidden, DOWN, ends, bias)
    weighted = t.multiply(result, shares, "weighted rows")
    back = t.storage("order back", pairs, "int64")
    t.storage("numbers of the rows", pairs, "int64")
    weighted = gathered(t, weighted, back, pairs, "weighted rows, token by token")
    total = t.made("sum over the experts of a token", [(t.wider(weighted), NEW)], rows=x.rows)
    return t.cast(total, x.dtype, "output")


def gathered(t: Pass, x: Tensor, index: Storage, rows: Sizes, name: str) -> Tensor:
    """Copy rows in the order of an index, which is kept."""
    return t.made(name, [(x, NEW)], [(index, PLACES)], rows=rows, layout="rows")


def _bias(t: Pass, name: str, columns: Sizes, by_expert: Storage, pairs: Sizes) -> Tensor | None:
    """Copy the bias of its expert for every row."""
    if not t.model.expert_bias:
        return None
    bias = t.parameter(f"{name} bias", {**each(t), **columns})
    node = t.noted({**pairs, **columns}, bias.dtype, [(bias, NEW)], [(by_expert, PLACES)])
    return Tensor(
        t.storage(f"{name} bias of each row", {**pairs, **columns}, bias.dtype), pairs, columns, bias.dtype, node
    )


def _product(t: Pass, x: Tensor, columns: Sizes, name: str, ends: Storage, bias: Tensor | None) -> Tensor:
    """Multiply each expert's rows by its matrix and add a bias in place. Autocast does not know this product."""
    weight = t.parameter(f"{name} weight", {**each(t), **x.columns, **columns})
    x = t.cast(x, weight.dtype, f"{name} input")
    kept = [(x.storage, FOR_WEIGHT)] if weight.trained else []
    kept.append((ends, "which rows belong to which expert"))
    result = t.made(name, [(x, NEW), (weight, NEW)], kept, columns=columns)
    if bias is not None:
        result.node = t.noted(result.sizes, result.dtype, [(result, SAME), (bias, SAME)])
    return result


# gates


def gated(t: Pass, x: Tensor) -> Tensor:
    """The activated gate times up; both are views of one tensor."""
    gate, up = t.split(x, inner(t), inner(t))
    return t.multiply(blocks.activated(t, gate), up, "gated")


def clamped(t: Pass, x: Tensor) -> Tensor:
    """gpt-oss: gate and up alternate and are clamped; gate · sigmoid(alpha · gate) · (up + 1)."""
    gate, up = t.stretch(x, inner(t)), t.stretch(x, inner(t))
    gate = t.function(gate, "clamped gate")
    up = t.function(up, "clamped up")
    glu = t.multiply(gate, t.function(t.scaled(gate, "scaled gate"), "sigmoid", keep="result"), "activated gate")
    return t.multiply(t.scaled(up, "up + 1"), glu, "gated")


# beside and before the experts


def shared(t: Pass, x: Tensor) -> Tensor:
    """The experts that every token uses: one dense MLP."""
    t.part = SHARED
    return blocks.mlp(t, x, {"shared_ffn_size": t.model.shared_ffn_size})


def jittered(t: Pass, x: Tensor, view: bool = False) -> Tensor:
    """Multiply by random numbers near one, in place: they are kept; through a view, backward copies what it changes."""
    noise = t.storage("noise", x.sizes, x.dtype)
    node = t.noted(x.sizes, x.dtype, [(x, NEW)], [(noise, FOR_OTHER)], scratch=2 if view else 0)
    return Tensor(x.storage, x.rows, x.columns, x.dtype, node, x.layout)


# Llama 4


def batched(t: Pass, x: Tensor, scores: Tensor) -> Tensor:
    """Send every token to every expert, multiplied by its score, which is zero for most of them."""
    t.part = EXPERTS
    rows = {**each(t), **x.rows}
    spread = t.made("tokens, once per expert", [(x, NEW)], rows=rows)
    scores = t.made("scores, expert by expert", [(scores, SAME)], rows=rows, columns={})
    spread = t.multiply(spread, scores, "rows of the experts")
    del scores
    routed = _batched_mlp(t, spread)
    result = shared(t, x)
    total = t.made("sum over the experts", [(t.wider(routed), SAME)], rows=x.rows)
    node = t.noted(result.sizes, result.dtype, [(result, SAME), (total, SAME if total.dtype == result.dtype else NEW)])
    return Tensor(result.storage, result.rows, result.columns, result.dtype, node)


def _batched_mlp(t: Pass, x: Tensor) -> Tensor:
    both = _batched(t, x, {"gate_and_up": 2, **inner(t)}, GATE_AND_UP)
    gate, up = t.split(both, inner(t), inner(t))
    return _batched(t, t.multiply(up, blocks.activated(t, gate), "gated"), t.hidden, DOWN)


def _batched(t: Pass, x: Tensor, columns: Sizes, name: str) -> Tensor:
    weight = t.parameter(f"{name} weight", {**each(t), **x.columns, **columns})
    return Operators.linear(t, x, columns, name, matrix=weight)
