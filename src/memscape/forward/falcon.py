"""Falcon as transformers writes it: one key and value head for all queries, for groups of them, or one each."""

from __future__ import annotations

from memscape.forward import blocks
from memscape.forward.blocks import ATTENTION_NORM, MLP_NORM, Heads, Pass
from memscape.forward.classic import Attended, hold_weights, position_bias, replace_weights, side_by_side, words
from memscape.forward.operators import FP32, NEW, SAME
from memscape.forward.tape import Sizes, Tensor
from memscape.model import LayerKind


def falcon_embed(t: Pass) -> Tensor:
    """Words; the mask, which is always made; the position bias or the rotary tables that all layers share."""
    x = words(t)
    t.places = t.storage("positions", t.tokens, "int64")
    blocks.eager_mask(t)
    t.part = "mask"
    if "alibi" in t.model.traits:
        biased_mask(t)
    elif t.sdpa:
        t.mask = t.free("mask", t.tokens, {"key_tokens": t.training.sequence_tokens}, "bool")
    tables = blocks.rotary_tables(t)
    if "alibi" not in t.model.traits or t.training.recompute == "full":
        t.tables += tables
    t.frame += tables
    hold_weights(t, t.weights)
    return x


def biased_mask(t: Pass) -> None:
    """A mask per head that holds the position bias too; a kernel keeps it. Rotary tables are made, but not used."""
    batch, keys = {"micro_batch": t.training.micro_batch}, {"key_tokens": t.training.sequence_tokens}
    t.frame = [t.free("padding mask", t.rows, {}, "int64")]
    t.position_bias = position_bias(t, batch, keys, t.weights)
    t.mask = t.free("mask with position bias", t.rows, {"heads": t.model.heads, **keys}, t.weights)
    t.tables = [t.mask] if t.sdpa and not ungrouped(t) else []


def ungrouped(t: Pass) -> bool:
    """Whether attention is called with fewer key and value heads than query heads, which no kernel takes as it is."""
    return t.grouped and not t.model.cache_repeats_heads


def linear(t: Pass, x: Tensor, out: Sizes, name: str, bias: bool) -> Tensor:
    """Multiply by a transposed weight, whose copy autocast makes anew each time; then add the bias."""
    x = t.linear(x, out, name)
    t.copies.pop((t.owner or t.scope, t.part, f"{name} weight"), None)
    return t.add(x, t.parameter(f"{name} bias", out), f"{name} with bias") if bias else x


def in_place(t: Pass, x: Tensor, *inputs: tuple[Tensor, str]) -> Tensor:
    """An operator that writes its result over its first input."""
    return Tensor(x.storage, x.rows, x.columns, x.dtype, t.noted(x.sizes, x.dtype, inputs), x.layout)


def picked(t: Pass, x: Tensor, name: str) -> Tensor:
    """Copy the heads that an index names; the index is kept."""
    index = t.storage("index", {"numbers": 1}, "int64")
    return t.made(name, [(x, NEW)], [(index, "where the gradient goes")], columns=t.keys)


def heads(t: Pass, fused: Tensor) -> Heads:
    """Queries, keys and values out of the fused projection; groups are copied out, once per query head."""
    if not t.grouped and not t.model.cache_repeats_heads:
        return t.stretch(fused, t.queries), t.stretch(fused, t.queries), t.stretch(fused, t.queries)
    q = t.stretch(fused, t.queries)
    k, v = picked(t, fused, "key"), picked(t, fused, "value")
    if t.model.cache_repeats_heads:
        q = t.copy(q, "query")
        k, v = (t.made(f"{name}, repeated", [(x, NEW)], columns=t.queries) for name, x in (("key", k), ("value", v)))
    return q, k, v


def spread(t: Pass, x: Tensor, name: str) -> Tensor:
    """Show a head to all queries: a copy for each, or one view of one sequence."""
    x = t.lower(x)
    if x.columns == t.queries:
        return x
    if not t.single:
        return t.repeat(x, f"{name}, repeated", t.queries)
    return Tensor(x.storage, x.rows, t.queries, x.dtype, t.noted({**x.rows, **t.queries}, x.dtype, [(x, NEW)]), "heads")


def scores(t: Pass, q: Tensor, k: Tensor) -> Tensor:
    """The product of queries and keys."""
    columns = {"heads": t.model.heads, "key_tokens": t.training.sequence_tokens}
    return t.product(q, spread(t, k, "key"), columns, "scores")


def eager(t: Pass, q: Tensor, k: Tensor, v: Tensor, dtype: str) -> Attended:
    """Scores, scaled in place, softmax in the type of the layer's input."""
    assert t.mask is not None
    weights = scores(t, q, k)
    weights = in_place(t, weights, (weights, NEW))
    masked = t.add(weights, t.mask, "masked scores")
    weights = t.softmax(masked, "attention weights", dtype)
    del masked
    return t.product(weights, spread(t, v, "value"), t.queries, "attended"), weights


def biased(t: Pass, q: Tensor, k: Tensor, v: Tensor, dtype: str) -> Attended:
    """Scores in fp32 with a position bias, then a mask that holds the bias too."""
    assert t.mask is not None
    assert t.position_bias is not None
    product = scores(t, q, k)
    wide = t.cast(product, FP32, "scores in fp32")
    with_bias = t.add(wide, t.position_bias, "scores with bias")
    with_bias = in_place(t, with_bias, (with_bias, NEW))
    masked = t.add(with_bias, t.mask, "masked scores")
    weights = t.softmax(masked, "attention weights", dtype)
    del masked
    weights = t.dropout(weights, t.rate("attention"), "attention dropout")
    attended = side_by_side(t, t.product(weights, spread(t, v, "value"), t.queries, "attended"))
    return attended, weights


def written_out(t: Pass, q: Tensor, k: Tensor, v: Tensor) -> Attended:
    """PyTorch's attention without a kernel, for heads that it cannot group: all in fp32, out of autocast's reach."""
    dtype, autocast, t.autocast = q.dtype, t.autocast, False
    q, k, v = (t.cast(x, FP32, f"{name} in fp32") for x, name in ((q, "query"), (k, "key"), (v, "value")))
    scaled = t.scaled(q, "scaled query")
    weights = scores(t, scaled, t.scaled(k, "scaled key"))
    if t.mask is not None:
        weights = t.add(weights, t.mask, "masked scores")
    weights = t.softmax(weights, "attention weights", FP32)
    _returned = t.cast(weights, dtype, "returned weights")
    attended = t.product(weights, spread(t, v, "value"), t.queries, "attended in fp32")
    t.autocast = autocast
    return t.cast(attended, dtype, "attended"), None


def fused(t: Pass, q: Tensor, k: Tensor, v: Tensor) -> Attended:
    """Attention in the kernel that takes a mask."""
    q, k, v = t.lower(q), t.lower(k), t.lower(v)
    if ungrouped(t):
        return written_out(t, q, k, v)
    mask = t.mask
    if mask is not None and mask.dtype == "bool":
        mask = t.free("mask", t.rows, mask.columns, q.dtype)
    return t.efficient(q, k, v, mask), None


def attention(t: Pass, x: Tensor) -> Attended:
    """One fused projection; rotary positions unless there is a position bias."""
    t.part = "attention"
    joint = {"query_key_value_heads": t.model.heads + 2 * t.model.kv_heads, "head_dim": t.model.head_dim}
    joined = linear(t, x, joint, "query, key, value", t.model.qkv_bias)
    q, k, v = heads(t, joined)
    alibi = "alibi" in t.model.traits
    if not alibi:
        q, k = blocks.rotate(t, q, "query"), blocks.rotate(t, k, "key")
    if t.sdpa:
        attended, weights = fused(t, q, k, v)
    else:
        attended, weights = (biased if alibi else eager)(t, q, k, v, x.dtype)
    attended = side_by_side(t, attended)
    return linear(t, attended, t.hidden, "output", t.model.output_bias), weights


def mlp(t: Pass, x: Tensor) -> Tensor:
    """Up, activation, down."""
    t.part = "mlp"
    x = blocks.activated(t, linear(t, x, {"ffn_size": t.model.ffn_size}, "up", t.model.mlp_bias))
    return linear(t, x, t.hidden, "down", t.model.mlp_bias)


def falcon_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """Attention and MLP on the same input, of one norm or of two, or one after the other."""
    residual = x
    new = t.model.cache_repeats_heads
    normed = blocks.layer_norm(t, x, ATTENTION_NORM)
    for_mlp = blocks.layer_norm(t, x, MLP_NORM) if new and t.model.norms_per_layer == 2 else normed
    attended, weights = attention(t, normed)
    if not new and not t.model.parallel:
        residual = t.add(residual, t.dropout(attended, t.rate("attention"), "dropout"), "residual stream")
        for_mlp = blocks.layer_norm(t, residual, MLP_NORM)
    y = mlp(t, for_mlp)
    if new or t.model.parallel:
        y = in_place(t, y, (y, SAME), (attended, SAME if y.dtype == attended.dtype else NEW))
    x = t.add(residual, t.dropout(y, t.rate("hidden"), "residual dropout"), "residual stream")
    replace_weights(t, weights)
    return x
