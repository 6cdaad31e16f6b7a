"""Decoders whose attention and MLP read the same input, as transformers writes them: GPT-NeoX, GPT-J, CodeGen."""

from __future__ import annotations

from memscape.forward import blocks
from memscape.forward.blocks import ATTENTION_NORM, MLP_NORM, Heads, Pass
from memscape.forward.classic import Attended, hold_weights, hold_words, replace_weights, side_by_side, words
from memscape.forward.operators import FP32
from memscape.forward.rotary import half
from memscape.forward.tape import Sizes, Tensor
from memscape.model import LayerKind


def embed(t: Pass, dropout: str) -> Tensor:
    """Words, the mask that all layers share, and dropout at the rate of a site."""
    x = words(t)
    hold_words(t, x)
    t.places = t.storage("positions", t.tokens, "int64")
    blocks.eager_mask(t)
    return t.dropout(x, t.rate(dropout), "embedding dropout")


# GPT-NeoX


def neox_embed(t: Pass) -> Tensor:
    """Words, dropout, and the rotary tables that all layers share."""
    x = embed(t, "hidden")
    t.tables = blocks.rotary_tables(t, {"rotary_dim": t.model.rotary_dim})
    return x


def neox_attention(t: Pass, x: Tensor) -> Attended:
    """One fused projection; a part of each head turns with its position."""
    t.part = "attention"
    q, k, v = blocks.fused_heads(t, x)
    q, k = blocks.rotate_part(t, q, "query"), blocks.rotate_part(t, k, "key")
    # the weights take the type of the queries, which autocast leaves in fp32
    attended, weights = blocks.fused(t, q, k, v) if t.sdpa else blocks.eager(t, q, k, v, narrow=not t.autocast)
    attended = side_by_side(t, attended)
    return blocks.output(t, attended), weights


def neox_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """Attention and MLP side by side on the same input, or one after the other."""
    attended, _weights = neox_attention(t, blocks.layer_norm(t, x, ATTENTION_NORM))
    attended = t.dropout(attended, t.rate("hidden"), "residual dropout")
    if not t.model.parallel:
        attended = t.add(attended, x, "residual stream")
    y = blocks.layer_norm(t, x if t.model.parallel else attended, MLP_NORM)
    t.part = "mlp"
    y = blocks.mlp(t, y)
    y = t.dropout(y, t.rate("hidden"), "residual dropout")
    if not t.model.parallel:
        return t.add(y, attended, "residual stream")
    return t.add(t.add(y, attended, "attention and MLP"), x, "residual stream")


# GPT-J and CodeGen


def gptj_embed(t: Pass) -> Tensor:
    """Words and dropout; every layer makes its own rotary tables."""
    x = embed(t, "embedding")
    hold_weights(t)
    return x


def turned(t: Pass, x: Tensor, dtype: str, name: str) -> Tensor:
    """Turn pairs of neighbours by tables that are spread anew, each number twice."""
    width = {"rotary_dim": t.model.rotary_dim}
    sine, cosine = (t.free(each, t.tokens, width, dtype) for each in ("sine, spread", "cosine, spread"))
    left = t.turned(x, cosine, f"{name} × cosine")
    even, odd = t.stretch(x, half(x)), t.stretch(x, half(x))
    swapped = t.join(f"{name}, pairs swapped", t.scaled(odd, "negated half"), even, columns=x.columns, layout="rows")
    right = t.turned(swapped, sine, f"{name} × sine")
    del swapped
    return t.add(left, right, name)


def turned_heads(t: Pass, q: Tensor, k: Tensor, dtype: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Turn a part of each head; return queries, keys and what the running function holds beside them."""
    heads = {"heads": t.model.heads}
    first = {**heads, "rotary_dim": t.model.rotary_dim}
    rest = {**heads, "unrotated_dim": t.model.head_dim - t.model.rotary_dim}
    k_first, k_rest, q_first, q_rest = (t.stretch(x, part) for x in (k, q) for part in (first, rest))
    k_first = turned(t, k_first, dtype, "key, turned part")
    q_first = turned(t, q_first, dtype, "query, turned part")
    k = t.join("key", k_first, k_rest, columns=t.queries, layout="rows")
    q = t.join("query", q_first, q_rest, columns=t.queries, layout="rows")
    return q, k, [k_first, k_rest, q_first, q_rest]


def wide_scores(t: Pass, q: Tensor, k: Tensor, v: Tensor, mask_first: bool) -> tuple[Tensor, Tensor]:
    """Attention whose scores are fp32; the mask is added before or after the scores are scaled."""
    q, k = t.cast(q, FP32, "query in fp32"), t.cast(k, FP32, "key in fp32")
    scores = t.product(q, k, {"heads": t.model.heads, "key_tokens": t.training.sequence_tokens}, "scores")
    scores = scores if mask_first else t.scaled(scores, "scaled scores")
    scores = scores if t.mask is None else t.add(scores, t.mask, "masked scores")
    scores = t.scaled(scores, "scaled scores") if mask_first else scores
    weights = t.softmax(scores, "attention weights", FP32)
    del scores
    weights = t.cast(weights, v.dtype, "attention weights")
    weights = t.dropout(weights, t.rate("attention"), "attention dropout")
    return t.product(weights, v, t.queries, "attended"), weights


def attention_output(t: Pass, attended: Tensor) -> Tensor:
    """The projection after attention, and dropout."""
    attended = side_by_side(t, attended)
    x = blocks.output(t, attended)
    return t.dropout(x, t.rate("hidden"), "residual dropout")


def gptj_attention(t: Pass, x: Tensor) -> Attended:
    """Separate projections; the rotary table of all positions is copied, and the places are looked up in it."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    width: Sizes = {"rotary_dim": t.model.rotary_dim}
    _table = t.free("table of all positions", {}, {"max_tokens": t.model.max_tokens, **width}, FP32)
    _places = t.free("positions, spread", t.tokens, width, "int64")
    _angles = t.cast(t.free("sine and cosine", t.tokens, width, FP32), k.dtype, "sine and cosine")
    q, k, _parts = turned_heads(t, q, k, k.dtype)
    attended, weights = wide_scores(t, q, k, v, mask_first=False)
    return attention_output(t, attended), weights


def codegen_attention(t: Pass, x: Tensor) -> Attended:
    """One fused projection in four groups, so that each of its parts is copied; rotary tables in fp32."""
    t.part = "attention"
    joint = {"query_key_value_heads": 3 * t.model.heads, "head_dim": t.model.head_dim}
    fused = t.linear(x, joint, "query, key, value", t.model.qkv_bias)
    q, k, v = grouped_heads(t, fused)
    _angles = t.free("sine and cosine", t.tokens, {"rotary_dim": t.model.rotary_dim}, FP32)
    q, k, _parts = turned_heads(t, q, k, FP32)
    attended, weights = wide_scores(t, q, k, v, mask_first=True)
    return attention_output(t, attended), weights


def grouped_heads(t: Pass, fused: Tensor) -> Heads:
    """Stretches of a fused projection that lie in groups: no view shows them as heads."""
    q, v, k = t.split(fused, t.queries, t.queries, t.queries)
    return t.copy(q, "query"), t.copy(k, "key"), t.copy(v, "value")


def gptj_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """One LayerNorm for attention and MLP."""
    residual = x
    x = blocks.layer_norm(t, x, ATTENTION_NORM)
    attended, weights = (codegen_attention if t.model.family == "codegen" else gptj_attention)(t, x)
    t.part = "mlp"
    y = blocks.mlp(t, x)
    y = t.dropout(y, t.rate("hidden"), "residual dropout")
    x = t.add(t.add(attended, y, "attention and MLP"), residual, "residual stream")
    replace_weights(t, weights)
    return x
