"""The encoder-decoder T5 and its relatives, as transformers writes them."""

from __future__ import annotations

from memscape.breakdown import ceil_div
from memscape.forward import blocks
from memscape.forward.blocks import ATTENTION_NORM, MLP_NORM
from memscape.forward.passes import Pass
from memscape.forward.stage import Stage, Step
from memscape.forward.tape import Node, Sizes, Storage, Tensor
from memscape.model import Model

CROSS_NORM, FINAL_NORM = "cross-attention norm", "final norm"
Attended = tuple[Tensor, Tensor | None]


def t5_stages(model: Model) -> list[Stage]:
    """Return encoder and decoder, the layers apart that treat what all share in another way.

    The first one makes the position bias, the second one is the last to let go of it, and the last one is the first to
    make gradients of the bias and of the encoder's result.
    """
    return [
        *_stack("encoder layer", encoder_layer, model.encoder_layers),
        Stage("decoder embedding", decoder_embed, layer=False),
        *_stack("decoder layer", decoder_layer, model.layers),
    ]


def _stack(name: str, run: Step, layers: int) -> list[Stage]:
    shares = (("first", layers > 0), ("second", layers > 2), ("later", layers - 3), ("last", layers > 1))
    return [Stage(f"{place} {name}", run, int(count)) for place, count in shares if count > 0]


# embedding and head


def encoder_embed(t: Pass) -> Tensor:
    """Words and dropout; there is no mask."""
    t.hands = ("mask", "position_bias", "memory", "cross_bias")
    return _words(t, t.ids, t.rows)


def decoder_embed(t: Pass, x: Tensor) -> Tensor:
    """End the encoder, whose result all layers of the decoder read; then the words of the decoder and its mask."""
    x = _normed(t, x)
    t.position_bias, t.memory = None, x
    t.outputs.append(x)
    rows = {"micro_batch": t.training.micro_batch, **t.written}
    x = _words(t, t.storage("decoder ids", rows, "int64"), rows)
    if not t.sdpa:
        t.part = "mask"
        t.mask = t.free("mask", rows, {"key_tokens": t.written["target_tokens"]}, t.weights)
    if x.node is None and t.training.recompute == "full":  # a checkpoint needs an input that takes a gradient
        x.node = Node(())
    return x


def _words(t: Pass, ids: Storage, rows: Sizes) -> Tensor:
    """Look up words; encoder, decoder and, where it is tied, the head have the same table."""
    t.part = "embedding"
    x = t.embedding(ids, rows, {"vocab_size": t.model.vocab_size}, t.hidden, "word", t.embedded)
    t.frame = [x]
    return t.dropout(x, t.rate("hidden"), "embedding dropout")


def _normed(t: Pass, x: Tensor) -> Tensor:
    return t.dropout(blocks.t5_norm(t, x, FINAL_NORM), t.rate("hidden"), "final dropout")


def t5_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm, dropout and the output head; before a tied head the result is scaled down (not in mT5)."""
    x = _normed(t, x)
    t.mask = t.position_bias = t.memory = t.cross_bias = None
    t.frame = [x]
    t.part = "head"
    if t.model.tied and t.model.family == "t5":
        x = t.scaled(x, "scaled")
        t.frame.append(x)
    return blocks.logits(t, x)


# layers


def encoder_layer(t: Pass, x: Tensor) -> Tensor:
    """Attention within the encoder, then the MLP."""
    x, _weights = _self_attention(t, x, causal=False)
    return _feed_forward(t, x)


def decoder_layer(t: Pass, x: Tensor) -> Tensor:
    """Attention to what is written so far, attention to the encoder, then the MLP."""
    x, _weights = _self_attention(t, x, causal=True)
    x, _weights = _cross_attention(t, x)
    return _feed_forward(t, x)


def _self_attention(t: Pass, x: Tensor, causal: bool) -> Attended:
    normed = blocks.t5_norm(t, x, ATTENTION_NORM)
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, normed)
    if t.position_bias is None:
        t.position_bias = _position_bias(t, t.written if causal else t.tokens, causal)
    if t.sdpa:
        attended, weights = _kernel(t, q, k, v, t.position_bias, causal)
    else:
        attended, weights = blocks.eager(t, q, k, v, dtype="", bias=t.position_bias, narrow=False)
    attended = blocks.output(t, attended)
    return _added(t, x, attended), weights


def _cross_attention(t: Pass, x: Tensor) -> Attended:
    normed = blocks.t5_norm(t, x, CROSS_NORM)
    t.part = "cross-attention"
    assert t.memory is not None
    q = t.linear(normed, t.queries, "query")
    k, v = t.linear(t.memory, t.keys, "key"), t.linear(t.memory, t.keys, "value")
    if t.cross_bias is None:
        t.cross_bias = _no_bias(t, q)
    if t.sdpa:
        attended, weights = _kernel(t, q, k, v, t.cross_bias, causal=False)
    else:
        attended, weights = blocks.eager(t, q, k, v, dtype="", bias=t.cross_bias, masked=False, narrow=False)
    attended = blocks.output(t, attended)
    return _added(t, x, attended), weights


def _feed_forward(t: Pass, x: Tensor) -> Tensor:
    y = blocks.t5_norm(t, x, MLP_NORM)
    y = _mlp(t, y)
    return _added(t, x, y)


def _mlp(t: Pass, x: Tensor) -> Tensor:
    """The MLP, with dropout within it too; the last matrix reads the type that it is stored in."""
    t.part, width = "mlp", {"ffn_size": t.model.ffn_size}
    if t.model.gated:
        gate = blocks.activated(t, t.linear(x, width, "gate"))
        up = t.linear(x, width, "up")
        inner = t.multiply(gate, up, "gated")
    else:
        inner = blocks.activated(t, t.linear(x, width, "up"))
    inner = t.dropout(inner, t.rate("hidden"), "mlp dropout")
    inner = t.cast(inner, t.weights)
    return t.linear(inner, t.hidden, "down")


def _added(t: Pass, x: Tensor, y: Tensor) -> Tensor:
    return t.add(x, t.dropout(y, t.rate("hidden"), "residual dropout"), "residual stream")


# attention


def _position_bias(t: Pass, tokens: Sizes, causal: bool) -> Tensor:
    """Look up one number per head for the distance between two tokens."""
    part, t.part = t.part, "position bias"
    pair = {**tokens, "key_tokens": next(iter(tokens.values()))}
    table = {"relative_buckets": t.model.relative_buckets}
    bias = t.embedding(_buckets(t, pair, causal), pair, table, {"heads": t.model.heads}, "relative position")
    t.part = part
    return bias


def _buckets(t: Pass, pair: Sizes, causal: bool) -> Storage:
    """Sort distances between tokens into buckets, near ones finely, with tables as large as the result in between."""

    def table(name: str, dtype: str = "int64") -> Storage:
        return t.storage(name, pair, dtype)

    tables = [table("distances"), table("distances without sign"), table("whether near", "bool")]
    buckets = None if causal else table("buckets")
    tables += [table("far buckets"), table("last bucket"), table("far buckets up to the last")]
    del tables[-3:-1]
    tables.append(table("near or far bucket"))
    return buckets or table("buckets")


def _no_bias(t: Pass, q: Tensor) -> Tensor:
    """Make the zeros that stand for a bias between decoder and encoder; with checkpoints they take a gradient."""
    heads: Sizes = {"heads": t.model.heads, "key_tokens": t.tokens["sequence_tokens"]}
    bias = t.view(t.free("zeros for a bias", t.written, heads, q.dtype), layout="heads")
    if t.training.recompute == "full":
        bias.node = Node(())
        if not t.keeping:
            t.outputs.append(bias)
    return bias


def _kernel(t: Pass, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, causal: bool) -> Attended:
    """Attend in a kernel that takes the bias as an additive mask, head by head; causality is put into it."""
    if causal:
        seen = t.free("what may be seen", t.written, {"key_tokens": t.written["target_tokens"]}, "bool")
        bias = t.turned(bias, seen, "bias where it may be seen")
        del seen
    if bias.layout != "heads":
        bias = t.copy(bias, "bias, head by head", layout="heads")
    q, k, v, bias = t.lower(q), t.lower(k), t.lower(v), t.lower(bias)
    columns = {"heads": t.model.heads, "padded_key_tokens": 16 * ceil_div(bias.sizes["key_tokens"], 16)}
    return t.efficient(q, k, v, t.spread(bias, q.rows, columns)), None
