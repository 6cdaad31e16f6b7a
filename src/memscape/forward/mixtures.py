"""Decoders whose layers hold a mixture of experts in place of one MLP, as transformers writes them."""

from __future__ import annotations

from functools import partial

from memscape.forward import blocks, dense, experts, gemma, latent, rotary, routers
from memscape.forward.blocks import ATTENTION_NORM, MLP_NORM, Norm
from memscape.forward.dense import Attention, Step
from memscape.forward.operators import FP32, NEW, REDUCED, SAME
from memscape.forward.passes import Pass
from memscape.forward.tape import Tensor
from memscape.model import LayerKind

Attended = tuple[Tensor, Tensor | None]


def layer(
    t: Pass, x: Tensor, kind: LayerKind, attention: Attention, mixture: Step, norm: Norm = blocks.llama_norm
) -> Tensor:
    """Norm, attention, add; norm, experts or MLP, add."""
    return dense.layer(t, x, attention, mixture if kind.moe else blocks.mlp, before=norm)


# embedding and head


def embed(t: Pass) -> Tensor:
    """Words; masks for whole and local layers, and the rotary tables that all layers share."""
    m = t.model
    x = blocks.words(t, t.ids)
    blocks.masks(t)
    if m.family == "qwen2_moe" and m.window is None:
        t.frame = [_mask_of_no_layer(t)]
    if m.family == "llama4_text":
        t.tables = [rotary.complex_table(t, {"head_dim": m.head_dim})]
    else:
        half = m.family == "gpt_oss"
        t.tables = blocks.rotary_tables(t, {"half_head_dim": m.head_dim // 2} if half else {"rotary_dim": m.rotary_dim})
    t.places = t.storage("positions", t.tokens, "int64")
    return x


def _mask_of_no_layer(t: Pass) -> Tensor:
    """Qwen2 MoE makes the mask of sliding layers even where it has none."""
    t.part = "mask"
    keys = {"key_tokens": t.training.sequence_tokens}
    return t.free("window", t.tokens, keys, "bool") if t.sdpa else t.free("mask", t.rows, keys, t.weights)


def qwen2_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm, with which the model's own function ends, and the output head."""
    x = blocks.llama_norm(t, x, "final norm")
    t.frame = []
    return blocks.logits(t, x)


def gpt_oss_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm, whose weight multiplies in fp32, and the output head."""
    return blocks.logits(t, blocks.wide_norm(t, x, "final norm"))


# one mixture in place of an MLP


def softmax_mixture(t: Pass, x: Tensor) -> Tensor:
    """Router and experts."""
    t.part = experts.EXPERTS
    if "router_jitter_noise" in t.model.traits:
        x = experts.jittered(t, x)
    routing = routers.softmax_router(t, x)
    return experts.grouped(t, x, routing, experts.gated)


def qwen2_mixture(t: Pass, x: Tensor) -> Tensor:
    """Experts beside a shared one that a gate of its own weighs."""
    beside = experts.shared(t, x)
    routing = routers.softmax_router(t, x)
    output = experts.grouped(t, x, routing, experts.gated)
    t.part = routers.ROUTER
    gate = t.function(t.linear(x, {"outputs": 1}, "shared expert output gate"), "gate of the shared expert", "result")
    beside = t.multiply(beside, t.view(gate, {}), "weighted shared expert")
    return t.add(output, beside, "output")


def deepseek_mixture(t: Pass, x: Tensor) -> Tensor:
    """A router in fp32, and shared experts beside the routed ones."""
    residual = x
    router = routers.grouped_router if t.model.family == "deepseek_v2" else routers.sigmoid_router
    routing = router(t, x)
    x = experts.grouped(t, x, routing, experts.gated)
    return t.add(x, experts.shared(t, residual), "output")


def gpt_oss_mixture(t: Pass, x: Tensor) -> Tensor:
    """Experts with biases and a clamped gate."""
    routing = routers.late_softmax_router(t, x)
    return experts.grouped(t, x, routing, experts.clamped)


def phimoe_mixture(t: Pass, x: Tensor) -> Tensor:
    """Experts drawn at random; the input is jittered here and again by the router."""
    t.part = experts.EXPERTS
    if "input_jitter_noise" in t.model.traits:
        x = experts.jittered(t, experts.jittered(t, x), view=True)
    routing = routers.sampling_router(t, x)
    return experts.grouped(t, x, routing, experts.gated)


def llama4_mixture(t: Pass, x: Tensor) -> Tensor:
    """Every expert computes every token, most of them multiplied by zero."""
    scores, _logits = routers.sparse_scores(t, x)
    return experts.batched(t, x, scores)


# attention


def qwen3_attention(t: Pass, x: Tensor) -> Attended:
    """A norm on each query and key."""
    return dense.rotary_attention(t, x, partial(blocks.normed_heads, norm=blocks.llama_norm))


def olmoe_attention(t: Pass, x: Tensor) -> Attended:
    """A norm on all queries of a token and one on all keys; queries, keys and values may be clipped."""

    def heads(t: Pass, x: Tensor) -> blocks.Heads:
        q, k, v = blocks.normed_heads(t, x, partial(blocks.llama_norm, over=2))
        if "clip_qkv" in t.model.traits:
            q, k, v = t.function(q, "query, clipped"), t.function(k, "key, clipped"), t.function(v, "value, clipped")
        return q, k, v

    return dense.rotary_attention(t, x, heads)


def glm_attention(t: Pass, x: Tensor) -> Attended:
    """A norm on each query and key in the larger model; a part of each head turns."""
    normed = partial(gemma.heads_then_norms, norm=blocks.llama_norm)
    heads = blocks.separate_heads if t.model.qk_norm == "none" else normed
    return dense.rotary_attention(t, x, heads, dense.turned_in_part)


def gpt_oss_attention(t: Pass, x: Tensor) -> Attended:
    """Scores stand beside a learned sink, which takes part in the softmax and is dropped."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    q, k = rotary.rotate_split(t, q, "query"), rotary.rotate_split(t, k, "key")
    attended, weights = _with_sinks(t, q, k, v)
    return blocks.output(t, attended), weights


def _with_sinks(t: Pass, q: Tensor, k: Tensor, v: Tensor) -> Attended:
    k, v = blocks.repeated(t, k, "key, repeated"), blocks.repeated(t, v, "value, repeated")
    heads, keys = {"heads": t.model.heads}, t.training.sequence_tokens
    scores = t.product(q, k, {**heads, "key_tokens": keys}, "scores")
    scores = t.scaled(scores, "scaled scores")
    scores = scores if t.mask is None else t.add(scores, t.mask, "masked scores")
    sinks = t.parameter("sinks", heads)
    joint = t.made("scores and sink", [(scores, SAME), (sinks, NEW)], columns={**heads, "keys_and_sink": keys + 1})
    joint = t.made("scores below the largest", [(joint, SAME), (_largest(t, joint), REDUCED)])
    weights = t.softmax(joint, "attention weights and sink", joint.dtype)
    kept = t.view(t.stretch(weights, scores.columns), layout="heads")
    scores = t.cast(t.dropout(kept, t.rate("attention"), "attention dropout"), v.dtype, "attention weights")
    attended = t.product(scores, v, t.queries, "attended")
    return t.copy(attended, "attended, token by token"), scores


def _largest(t: Pass, x: Tensor) -> Tensor:
    """The largest score of each query; its place is kept."""
    heads = {"heads": t.model.heads}
    place = t.storage("place of the largest score", {**x.rows, **heads}, "int64")
    return t.made("largest score", [(x, NEW)], [(place, routers.PLACES)], columns=heads)


def llama4_attention(t: Pass, x: Tensor, turned: bool) -> Attended:
    """Layers with rotary positions have norms without weights; the others scale queries by their position."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    if turned:
        q, k = rotary.rotate_complex(t, q, k, together=True)
    if turned and "use_qk_norm" in t.model.traits:
        q, k = blocks.bare_norm(t, q, "query"), blocks.bare_norm(t, k, "key")
    if not turned and "attn_temperature_tuning" in t.model.traits:
        _places = t.storage("positions", t.tokens, "int64")
        scale = t.free("scale of each position", t.tokens, {}, FP32)
        q = t.cast(t.turned(q, scale, "scaled query in fp32"), q.dtype, "scaled query")
    attended, weights = blocks.fused(t, q, k, v) if t.sdpa else blocks.eager(t, q, k, v, dtype="", narrow=False)
    return blocks.output(t, attended), weights


# layers

mixtral_layer = partial(layer, attention=dense.rotary_attention, mixture=softmax_mixture)
qwen2_layer = partial(layer, attention=dense.rotary_attention, mixture=qwen2_mixture)
qwen3_layer = partial(layer, attention=qwen3_attention, mixture=softmax_mixture)
olmoe_layer = partial(layer, attention=olmoe_attention, mixture=softmax_mixture)
glm_layer = partial(layer, attention=glm_attention, mixture=deepseek_mixture)
deepseek_layer = partial(layer, attention=latent.attention, mixture=deepseek_mixture)
gpt_oss_layer = partial(layer, attention=gpt_oss_attention, mixture=gpt_oss_mixture, norm=blocks.wide_norm)
phimoe_layer = partial(layer, attention=dense.rotary_attention, mixture=phimoe_mixture, norm=blocks.layer_norm)


def llama4_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """As the others, but what was attended lives until the layer ends."""
    residual = x
    x = blocks.llama_norm(t, x, ATTENTION_NORM)
    attended, _weights = llama4_attention(t, x, kind.rotary)
    x = t.add(residual, attended, "residual stream")
    residual = x
    x = blocks.llama_norm(t, x, MLP_NORM)
    t.part = "mlp"
    x = llama4_mixture(t, x) if kind.moe else blocks.mlp(t, x)
    return t.add(residual, x, "residual stream")
