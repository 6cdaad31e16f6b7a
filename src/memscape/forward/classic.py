"""Decoders with LayerNorm, attention and MLP one after the other, as transformers writes them: OPT, BLOOM, MPT."""

from __future__ import annotations

from memscape.forward import blocks
from memscape.forward.blocks import ATTENTION_NORM, MLP_NORM, Heads, Pass
from memscape.forward.operators import BF16, FOR_OWN, FP32, NEW
from memscape.forward.tape import Kept, Node, Sizes, Tensor
from memscape.model import LayerKind

Attended = tuple[Tensor, Tensor | None]


def head(t: Pass, x: Tensor) -> Tensor:
    """The last norm, where there is one, and the output head."""
    if t.model.final_norm:
        x = blocks.layer_norm(t, x, "final norm")
    if t.model.embedding_projection == "in_out":
        t.part = "embedding"
        x = t.linear(x, {"embedding_size": t.model.embedding_size}, "projection")
    t.frame = []
    return blocks.logits(t, x)


def side_by_side(t: Pass, x: Tensor) -> Tensor:
    """Attended heads token by token: a copy where they lie head after head."""
    return t.copy(x, "attended, token by token") if x.layout == "heads" else x


def position_bias(t: Pass, rows: Sizes, tokens: Sizes, dtype: str) -> Tensor:
    """One number per head and key, which grows with the distance (ALiBi)."""
    t.part = "mask"
    return t.free("position bias", rows, {"heads": t.model.heads, **tokens}, dtype)


def words(t: Pass, width: Sizes | None = None) -> Tensor:
    """Look up the words; of a frozen table they take a gradient all the same where PEFT asks for one."""
    t.part = "embedding"
    x = t.embedding(t.ids, t.rows, {"vocab_size": t.model.vocab_size}, width or t.hidden, "word")
    if x.node is None and t.lora and (t.training.recompute == "full" or t.training.method == "qlora"):
        x.node = Node((), [Kept(x.storage, "its own gradient")])
    return x


def hold_words(t: Pass, x: Tensor) -> None:
    """Hold the words while the layers run, as the model's own function does; without backward it is done elsewhere."""
    t.frame = [x] if t.learning else []


def hold_weights(t: Pass, dtype: str = "") -> None:
    """Hold attention weights as of a layer before: a layer that keeps nothing finds them, and leaves its own."""
    if (t.training.recompute == "full" or not t.learning) and not t.sdpa and t.model.layers > 1:
        t.part = "attention"
        columns = {"heads": t.model.heads, "key_tokens": t.training.sequence_tokens}
        t.frame.append(t.free("attention weights", t.rows, columns, dtype or (BF16 if t.autocast else t.weights)))


def replace_weights(t: Pass, weights: Tensor | None) -> None:
    """Hold a layer's attention weights, which it returned, in place of those of the layer before."""
    if weights is None or (t.keeping and t.learning):
        return
    if t.frame and "key_tokens" in t.frame[-1].columns:
        t.frame.pop()
    t.frame.append(weights)


# OPT


def opt_embed(t: Pass) -> Tensor:
    """Words, projected where they are narrow, and learned positions, which are counted per sequence."""
    narrow = t.model.embedding_projection == "in_out"
    x = words(t, {"embedding_size": t.model.embedding_size} if narrow else t.hidden)
    padding = t.free("padding mask", t.rows, {}, FP32)
    t.places = t.storage("positions", t.rows, "int64")
    blocks.eager_mask(t)
    places = t.storage("positions and offset", t.rows, "int64")
    learned = t.embedding(places, t.rows, {"positions": t.model.positions}, t.hidden, "position")
    del places
    if narrow:
        x = t.linear(x, t.hidden, "projection")
    hold_words(t, x)
    t.frame += [learned, padding]
    return t.add(x, learned, "embedded")


def opt_attention(t: Pass, x: Tensor) -> Attended:
    """Separate projections; the queries are scaled before the scores are."""
    t.part = "attention"
    bias = t.model.qkv_bias
    q = t.scaled(t.linear(x, t.queries, "query", bias), "scaled query")
    k = t.linear(x, t.keys, "key", bias)
    v = t.linear(x, t.keys, "value", bias)
    attended, weights = blocks.attend(t, q, k, v)
    attended = side_by_side(t, attended)
    return blocks.output(t, attended), weights


def opt_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm before attention and MLP, or after each (OPT 350M)."""
    before = "do_layer_norm_before" in t.model.traits
    residual = x
    if before:
        x = blocks.layer_norm(t, x, ATTENTION_NORM)
    x, _weights = opt_attention(t, x)
    x = t.dropout(x, t.rate("hidden"), "residual dropout")
    x = t.add(residual, x, "residual stream")
    if not before:
        x = blocks.layer_norm(t, x, ATTENTION_NORM)
    residual = x
    if before:
        x = blocks.layer_norm(t, x, MLP_NORM)
    t.part = "mlp"
    x = t.linear(x, {"ffn_size": t.model.ffn_size}, "up", t.model.mlp_bias)
    x = blocks.activated(t, x)
    x = t.linear(x, t.hidden, "down", t.model.mlp_bias)
    x = t.dropout(x, t.rate("hidden"), "residual dropout")
    x = t.add(residual, x, "residual stream")
    return x if before else blocks.layer_norm(t, x, MLP_NORM)


# BLOOM


def bloom_embed(t: Pass) -> Tensor:
    """Words and a norm; the position bias that all layers add to their scores."""
    x = words(t)
    hold_words(t, x)
    x = blocks.layer_norm(t, x, "embedding norm")
    rows, keys = {"micro_batch": t.training.micro_batch}, {"key_tokens": t.training.sequence_tokens}
    t.position_bias = position_bias(t, rows, keys, t.weights)
    t.frame.append(t.free("slopes", {}, {"heads": t.model.heads}, FP32))
    blocks.eager_mask(t)
    hold_weights(t)
    return x


def stretched_heads(t: Pass, x: Tensor) -> Heads:
    """Stretches of a fused projection, copied head after head; one sequence is viewed."""
    q, k, v = (t.stretch(x, t.queries) for _ in range(3))
    if t.single:
        return q, k, v
    q = t.copy(q, "query", layout="heads")
    k = t.copy(k, "key", layout="heads")
    return q, k, t.copy(v, "value", layout="heads")


def bloom_attention(t: Pass, x: Tensor, residual: Tensor) -> Attended:
    """One fused projection; the product of queries and keys is added to the position bias as it is made."""
    t.part = "attention"
    joint = {"query_key_value_heads": 3 * t.model.heads, "head_dim": t.model.head_dim}
    fused = t.linear(x, joint, "query, key, value", t.model.qkv_bias)
    q, k, v = stretched_heads(t, fused)
    scores = t.product(q, k, {"heads": t.model.heads, "key_tokens": t.training.sequence_tokens}, "scores with bias")
    masked = scores if t.mask is None else t.add(scores, t.mask, "masked scores")
    weights = t.cast(t.softmax(masked, "attention weights", FP32), q.dtype, "attention weights")
    weights = t.dropout(weights, t.rate("attention"), "attention dropout")
    attended = t.product(weights, v, t.queries, "attended")
    attended = side_by_side(t, attended)
    x = blocks.output(t, attended)
    return t.add(residual, t.dropout(x, t.rate("hidden"), "residual dropout"), "residual stream"), weights


def bloom_gelu(t: Pass, x: Tensor) -> Tensor:
    """BLOOM's own function: it keeps its input and computes the rest again in backward."""
    result = blocks.gelu_fast(t, Tensor(x.storage, x.rows, x.columns, x.dtype))
    result.node = t.noted(x.sizes, x.dtype, [(x, NEW)], [(x.storage, FOR_OWN)], scratch=4)
    return result


def bloom_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm before attention and MLP; the residual is what the norm reads, or what it returns."""
    after = "apply_residual_connection_post_layernorm" in t.model.traits
    normed = blocks.layer_norm(t, x, ATTENTION_NORM)
    residual = normed if after else x
    attended, weights = bloom_attention(t, normed, residual)
    normed = blocks.layer_norm(t, attended, MLP_NORM)
    residual = normed if after else attended
    t.part = "mlp"
    x = bloom_gelu(t, t.linear(normed, {"ffn_size": t.model.ffn_size}, "up", t.model.mlp_bias))
    x = t.linear(x, t.hidden, "down", t.model.mlp_bias)
    x = t.add(residual, t.dropout(x, t.rate("hidden"), "residual dropout"), "residual stream")
    replace_weights(t, weights)
    return x


# MPT


def mpt_embed(t: Pass) -> Tensor:
    """Words; a position bias for the longest sequence, and a mask of one byte."""
    x = words(t)
    t.position_bias = position_bias(t, {}, {"max_tokens": t.model.max_tokens}, FP32)
    t.part = "mask"
    t.mask = t.free("mask", t.rows, {"key_tokens": t.training.sequence_tokens}, "bool")
    t.tables = [t.mask]
    hold_weights(t)
    return x


def mpt_attention(t: Pass, x: Tensor) -> Attended:
    """One fused projection; the position bias makes the scores fp32, the mask fills them."""
    t.part = "attention"
    q, k, v = blocks.fused_heads(t, x)
    assert t.position_bias is not None
    assert t.mask is not None
    scores = t.product(q, k, {"heads": t.model.heads, "key_tokens": t.training.sequence_tokens}, "scores")
    scores = t.scaled(scores, "scaled scores")
    scores = t.add(scores, t.position_bias, "scores with bias")
    scores = t.made("masked scores", [(scores, NEW)], [(t.mask.storage, "which numbers take a gradient")])
    weights = t.cast(t.softmax(scores, "attention weights", FP32), v.dtype, "attention weights")
    weights = t.dropout(weights, t.rate("attention"), "attention dropout")
    attended = t.product(weights, v, t.queries, "attended")
    attended = side_by_side(t, attended)
    return blocks.output(t, attended), weights


def mpt_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm without bias before attention and MLP."""
    normed = blocks.layer_norm(t, x, ATTENTION_NORM)
    attended, weights = mpt_attention(t, normed)
    x = t.add(t.dropout(attended, t.rate("hidden"), "residual dropout"), x, "residual stream")
    normed = blocks.layer_norm(t, x, MLP_NORM)
    t.part = "mlp"
    y = t.dropout(blocks.mlp(t, normed), t.rate("hidden"), "residual dropout")
    x = t.add(y, x, "residual stream")
    replace_weights(t, weights)
    return x
