"""Routers: which experts a token goes to, and how much each counts, family by family."""

from __future__ import annotations

from typing import NamedTuple

from memscape.forward.operators import FOR_OTHER, FOR_WEIGHT, FP32, NEW, REDUCED, RESULT, SAME
from memscape.forward.passes import Pass
from memscape.forward.tape import Sizes, Storage, Tensor

ROUTER = "router"
PLACES = "which numbers take a gradient"


class Routing(NamedTuple):
    """The logits of all experts, the weights of the chosen ones, which they are."""

    logits: Tensor
    weights: Tensor
    experts: Storage


def chosen(t: Pass) -> Sizes:
    """The experts of one token."""
    return {"experts_per_token": t.model.experts_per_token}


def logits(t: Pass, x: Tensor, bias: bool = False) -> Tensor:
    """One number per expert."""
    t.part = ROUTER
    return t.linear(x, {"experts": t.model.experts}, "router", bias)


def wide_logits(t: Pass, x: Tensor) -> Tensor:
    """One number per expert in fp32, from fp32 copies of input and weight."""
    t.part = ROUTER
    experts = {"experts": t.model.experts}
    if t.weights == FP32:
        return t.linear(x, experts, "router")
    weight = t.parameter("router weight", {**x.columns, **experts})
    wide = t.cast(x, FP32, "input in fp32")
    copy = Tensor(t.storage("router weight in fp32", weight.sizes, FP32), {}, weight.sizes, FP32)
    copy.node = t.noted(weight.sizes, FP32, [(weight, NEW)])
    kept = [(wide.storage, FOR_WEIGHT)] if copy.trained else []
    kept += [(copy.storage, "the gradient of the input")] if wide.trained else []
    return t.made("router", [(wide, NEW), (copy, NEW)], kept, columns=experts)


def best(t: Pass, scores: Tensor) -> tuple[Tensor, Storage]:
    """The largest scores of each token, and their places."""
    places = t.storage("chosen experts", {**scores.rows, **chosen(t)}, "int64")
    return t.made("scores of the chosen experts", [(scores, NEW)], [(places, PLACES)], columns=chosen(t)), places


def shares(t: Pass, scores: Tensor) -> Tensor:
    """Divide the scores by their sum, in place: their values before it are kept apart."""
    total = t.made("sum of the scores", [(t.wider(scores), SAME)], columns={})
    before = t.storage("scores before the division", scores.sizes, scores.dtype)
    kept = [(total.storage, FOR_OTHER), (before, FOR_OTHER)]
    node = t.noted(scores.sizes, scores.dtype, [(scores, NEW), (total, REDUCED)], kept)
    return Tensor(scores.storage, scores.rows, scores.columns, scores.dtype, node)


def softmax_router(t: Pass, x: Tensor) -> Routing:
    """Softmax over all experts in fp32, then the best; Mixtral leaves the weights in fp32."""
    raw = logits(t, x)
    scores = t.softmax(raw, "router probabilities", FP32)
    weights, experts = best(t, scores)
    mixtral = t.model.family == "mixtral"
    if mixtral or "norm_topk_prob" in t.model.traits:
        weights = shares(t, weights)
    return Routing(raw, weights if mixtral else t.cast(weights, raw.dtype, "weights of the experts"), experts)


def sigmoid_router(t: Pass, x: Tensor) -> Routing:
    """A sigmoid per expert; a correction that takes no gradient decides the choice alone (DeepSeek-V3, GLM-4.5)."""
    raw = wide_logits(t, x)
    scores = t.function(raw, "expert scores", keep="result")
    _corrected = t.free("corrected scores", scores.rows, scores.columns, FP32)
    experts = t.storage("chosen experts", {**scores.rows, **chosen(t)}, "int64")
    kept = [(scores.storage, PLACES), (experts, PLACES)]
    weights = t.made("scores of the chosen experts", [(scores, NEW)], kept, columns=chosen(t))
    if "norm_topk_prob" in t.model.traits:
        weights = shares(t, weights)
    return Routing(raw, t.scaled(weights, "weights of the experts"), experts)


def grouped_router(t: Pass, x: Tensor) -> Routing:
    """Softmax in fp32, the best of all experts, or of those in the best groups (DeepSeek-V2)."""
    raw = wide_logits(t, x)
    scores = t.softmax(raw, "router probabilities", FP32)
    if "group_limited_greedy" in t.model.traits:
        scores = _masked(t, scores, "other groups")
    weights, experts = best(t, scores)
    return Routing(raw, t.scaled(weights, "weights of the experts"), experts)


def late_softmax_router(t: Pass, x: Tensor) -> Routing:
    """The best logits, softmax over these alone (gpt-oss)."""
    raw = logits(t, x, t.model.router_bias)
    values, experts = best(t, raw)
    return Routing(raw, t.softmax(values, "weights of the experts", values.dtype), experts)


def sparse_scores(t: Pass, x: Tensor) -> tuple[Tensor, Tensor]:
    """A sigmoid of the best logits, zero for all other experts (Llama 4); the logits are returned too."""
    raw = logits(t, x)
    values, places = best(t, raw)
    scores = t.free("scores, none elsewhere", raw.rows, raw.columns, raw.dtype)
    scores.node = t.noted(scores.sizes, scores.dtype, [(values, NEW)], [(places, PLACES)])
    wide = t.function(t.cast(scores, FP32, "scores in fp32"), "expert scores", keep="result")
    return t.cast(wide, raw.dtype, "expert scores"), raw


def sampling_router(t: Pass, x: Tensor) -> Routing:
    """SparseMixer: two experts drawn one after the other, each with a gradient of its own making (Phi-3.5-MoE)."""
    raw = logits(t, x)
    first, place = _drawn(t, raw, raw)
    rest = t.made("scores of the others", [(raw, NEW)], [(place, PLACES)])
    second, _place = _drawn(t, raw, rest)
    weights = t.join("weights of the experts", first, second, columns=chosen(t), layout="rows")
    return Routing(raw, weights, t.storage("chosen experts", weights.sizes, "int64"))


def _drawn(t: Pass, scores: Tensor, candidates: Tensor) -> tuple[Tensor, Storage]:
    """One expert of each token, drawn among the scores near the best, and its weight."""
    gates = t.softmax(_masked(t, candidates, "too far from the best"), "probabilities of the draw")
    place = t.storage("drawn expert", gates.rows, "int64")
    own = t.made("probability of the drawn", [(gates, NEW)], [(place, PLACES), (gates.storage, PLACES)], columns={})
    kept = [(own.storage, RESULT), (place, PLACES), (gates.storage, FOR_OTHER)]
    return t.made("weight of the drawn", [(scores, NEW)], kept, columns={}, dtype=gates.dtype), place


def _masked(t: Pass, x: Tensor, name: str) -> Tensor:
    mask = t.storage(name, x.sizes, "bool")
    return t.made("masked scores", [(x, NEW)], [(mask, PLACES)])
