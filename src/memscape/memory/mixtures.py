"""Decoders whose layers hold a mixture of experts in place of one MLP, as transformers writes them."""

from __future__ import annotations

from collections.abc import Callable

from memscape.memory import blocks, experts, latent, rotary, routers
from memscape.memory.blocks import ATTENTION_NORM, MLP_NORM
from memscape.memory.operators import FP32, NEW, REDUCED, SAME
from memscape.memory.passes import Pass
from memscape.memory.tape import Tensor
from memscape.model import LayerKind

Attended = tuple[Tensor, Tensor | None]
Attention = Callable[[Pass, Tensor, LayerKind], Attended]
Step = Callable[[Pass, Tensor], Tensor]
Norm = Callable[[Pass, Tensor, str], Tensor]


def mixture_layer(
    t: Pass, x: Tensor, kind: LayerKind, attention: Attention, mixture: Step, norm: Norm = blocks.llama_norm
) -> Tensor:
    """Norm, attention, add; norm, experts or MLP, add."""
    residual = x
    x = norm(t, x, ATTENTION_NORM)
    x, _weights = attention(t, x, kind)
    x = t.add(residual, x, "residual stream")
    residual = x
    x = norm(t, x, MLP_NORM)
    x = mixture(t, x) if kind.moe else mlp(t, x)
    return t.add(residual, x, "residual stream")


def mlp(t: Pass, x: Tensor) -> Tensor:
    """The MLP of a layer without experts."""
    t.part = "mlp"
    return blocks.mlp(t, x)


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


def attention(t: Pass, x: Tensor, _kind: LayerKind) -> Attended:
    """Separate projections, norms on queries and keys where the family has them, rotary positions."""
    q, k, v = heads(t, x)
    turn = blocks.rotate if t.model.rotary_dim == t.model.head_dim else blocks.rotate_part
    q, k = turn(t, q, "query"), turn(t, k, "key")
    attended, weights = blocks.attend(t, q, k, v)
    return blocks.output(t, attended), weights


def heads(t: Pass, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values; the norms are over one head or over all heads at once."""
    t.part = "attention"
    if t.model.qk_norm == "none":
        return blocks.separate_heads(t, x)
    over = 1 if t.model.qk_norm == "head" else 2
    q = t.linear(x, t.queries, "query", t.model.qkv_bias)
    q = blocks.llama_norm(t, q, "query norm", over)
    t.part = "attention"
    k = t.linear(x, t.keys, "key", t.model.qkv_bias)
    k = blocks.llama_norm(t, k, "key norm", over)
    t.part = "attention"
    return q, k, t.linear(x, t.keys, "value", t.model.qkv_bias)


def latent_attention(t: Pass, x: Tensor, _kind: LayerKind) -> Attended:
    """DeepSeek's compressed keys and values."""
    return latent.attention(t, x)


def gpt_oss_attention(t: Pass, x: Tensor, _kind: LayerKind) -> Attended:
    """Scores stand beside a learned sink, which takes part in the softmax and is dropped."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    q, k = rotary.rotate_split(t, q, "query"), rotary.rotate_split(t, k, "key")
    attended, weights = _with_sinks(t, q, k, v)
    return blocks.output(t, attended), weights


def _with_sinks(t: Pass, q: Tensor, k: Tensor, v: Tensor) -> Attended:
    k, v = blocks.repeated(t, k, "key, repeated"), blocks.repeated(t, v, "value, repeated")
    keys, sinks = t.training.sequence_tokens, t.parameter("sinks", {"heads": t.model.heads})
    scores = t.product(q, k, {"heads": t.model.heads, "key_tokens": keys}, "scores")
    scores = t.scaled(scores, "scaled scores")
    scores = scores if t.mask is None else t.add(scores, t.mask, "masked scores")
    beside = {"heads": t.model.heads, "keys_and_sink": keys + 1}
    joint = t.made("scores and sink", [(scores, SAME), (sinks, NEW)], columns=beside)
    place = t.storage("place of the largest score", {**q.rows, "heads": t.model.heads}, "int64")
    largest = t.made("largest score", [(joint, NEW)], [(place, routers.PLACES)], columns={"heads": t.model.heads})
    joint = t.made("scores below the largest", [(joint, SAME), (largest, REDUCED)])
    del largest, place
    weights = t.softmax(joint, "attention weights and sink", joint.dtype)
    kept = t.view(t.stretch(weights, scores.columns), layout="heads")
    scores = t.cast(t.dropout(kept, t.rate("attention"), "attention dropout"), v.dtype, "attention weights")
    attended = t.product(scores, v, t.queries, "attended")
    return t.copy(attended, "attended, token by token"), scores


def llama4_attention(t: Pass, x: Tensor, kind: LayerKind) -> Attended:
    """Chunked layers have rotary positions and norms without weights; the others scale queries by their position."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    local = kind.attention == "chunked"
    if local:
        q, k = rotary.rotate_complex(t, q, k)
    if local and "use_qk_norm" in t.model.traits:
        q, k = blocks.bare_norm(t, q, "query"), blocks.bare_norm(t, k, "key")
    if not local and "attn_temperature_tuning" in t.model.traits:
        _places = t.storage("positions", t.tokens, "int64")
        scale = t.free("scale of each position", t.tokens, {}, FP32)
        q = t.cast(t.turned(q, scale, "scaled query in fp32"), q.dtype, "scaled query")
    attended, weights = blocks.fused(t, q, k, v) if t.sdpa else blocks.eager(t, q, k, v, dtype="")
    return blocks.output(t, attended), weights


# embedding, layers, head


def embed(t: Pass) -> Tensor:
    """Words; masks for whole and local layers, and the rotary tables that all layers share."""
    x = blocks.words(t, t.ids)
    blocks.masks(t, *(("full", "sliding") if t.model.family == "qwen2_moe" else ()))
    t.tables = tables(t)
    t.places = t.storage("positions", t.tokens, "int64")
    return x


def tables(t: Pass) -> list[Tensor]:
    """Cosines and sines, or complex numbers."""
    m = t.model
    if m.family == "llama4_text":
        return [rotary.complex_table(t, {"head_dim": m.head_dim})]
    if m.family == "gpt_oss":
        return blocks.rotary_tables(t, {"half_head_dim": m.head_dim // 2})
    return blocks.rotary_tables(t, {"rotary_dim": m.rotary_dim})


def softmax_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """Mixtral, Qwen3 MoE, OLMoE."""
    return mixture_layer(t, x, kind, attention, softmax_mixture)


def qwen2_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """Qwen2 MoE."""
    return mixture_layer(t, x, kind, attention, qwen2_mixture)


def glm_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """GLM-4.5."""
    return mixture_layer(t, x, kind, attention, deepseek_mixture)


def deepseek_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """DeepSeek-V2 and -V3."""
    return mixture_layer(t, x, kind, latent_attention, deepseek_mixture)


def gpt_oss_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """gpt-oss: the weight of its norms multiplies in fp32."""
    return mixture_layer(t, x, kind, gpt_oss_attention, gpt_oss_mixture, blocks.wide_norm)


def gpt_oss_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head."""
    return blocks.logits(t, blocks.wide_norm(t, x, "final norm"))


def phimoe_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """Phi-3.5-MoE."""
    return mixture_layer(t, x, kind, attention, phimoe_mixture, blocks.layer_norm)


def llama4_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """Llama 4."""
    return mixture_layer(t, x, kind, llama4_attention, llama4_mixture)
