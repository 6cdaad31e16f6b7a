"""Encoders (BERT, RoBERTa, ALBERT) and the encoder-decoder T5, as transformers writes them."""

from __future__ import annotations

from functools import partial

from memscape.memory import blocks
from memscape.memory.blocks import ATTENTION_NORM, MLP_NORM
from memscape.memory.forward import Recipe, Stage
from memscape.memory.operators import BF16
from memscape.memory.passes import Pass
from memscape.memory.tape import Node, Sizes, Storage, Tensor
from memscape.model import LayerKind, Model

# BERT and its relatives


def _embedded(t: Pass, types: Storage, places: Storage | None) -> Tensor:
    """Words, token types and positions, added one after the other, then a norm and dropout."""
    model = t.model
    width: Sizes = {"embedding_size": model.embedding_size} if model.narrow_embedding else t.hidden
    x = t.embedding(t.ids, t.rows, {"vocab_size": model.vocab_size}, width, "word")
    kinds = t.embedding(types, t.rows, {"token_types": model.token_types}, width, "token type")
    x = t.add(x, kinds, "words and types")
    rows = t.tokens if places is None else t.rows
    positions = t.embedding(places, rows, {"positions": model.positions}, width, "position")
    x = t.add(x, positions, "embedded")
    del kinds, positions
    return t.dropout(blocks.layer_norm(t, x, "embedding norm"), t.rate("hidden"), "embedding dropout")


def bert_embed(t: Pass) -> Tensor:
    """Positions are a buffer of the model; all sequences share the token types."""
    t.part = "embedding"
    x = _embedded(t, t.storage("token types", t.tokens, "int64"), None)
    t.frame = [x]
    return x


def roberta_embed(t: Pass) -> Tensor:
    """Positions are counted for each sequence, from its ids; so are the token types."""
    t.part = "embedding"
    places = t.storage("positions", t.rows, "int64")
    x = _embedded(t, t.storage("token types", t.rows, "int64"), places)
    t.frame = [x]
    return x


def albert_embed(t: Pass) -> Tensor:
    """As BERT, narrow, and a projection to the width of the layers."""
    x = bert_embed(t)
    t.part = "projection"
    return t.linear(x, t.hidden, "embedding projection", bias=True)


def _self_attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attention in both directions; the softmax stays in the type that it has."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    return blocks.fused(t, q, k, v) if t.sdpa else blocks.eager(t, q, k, v, dtype="", narrow=False)


def bert_layer(t: Pass, x: Tensor, _kind: LayerKind, dropout_after_mlp: bool = True) -> Tensor:
    """Attention, add, norm; MLP, add, norm."""
    attended, _weights = _self_attention(t, x)
    attended = t.dropout(blocks.output(t, attended), t.rate("hidden"), "residual dropout")
    x = blocks.layer_norm(t, t.add(attended, x, "residual stream"), ATTENTION_NORM)
    del attended
    t.part = "mlp"
    inner = blocks.mlp(t, x)
    if dropout_after_mlp:
        inner = t.dropout(inner, t.rate("hidden"), "residual dropout")
    return blocks.layer_norm(t, t.add(inner, x, "residual stream"), MLP_NORM)


def albert_layer(t: Pass, x: Tensor, group: int) -> Tensor:
    """As BERT; the weights are those of a group of layers."""
    t.owner = f"group {group}"
    x = bert_layer(t, x, LayerKind(), dropout_after_mlp=False)
    t.owner = ""
    return x


def albert_stages(model: Model) -> list[Stage]:
    """Return the layers by group; the first one back makes the gradients of a group, the others add to them."""
    groups = model.shared_layers
    found: list[Stage] = []
    for group in range(groups):
        count = sum(int(layer / (model.layers / groups)) == group for layer in range(model.layers))
        of = f" of group {group + 1}" if groups > 1 else ""
        run = partial(_grouped, group)
        for name, share in (("first", 1), ("later", count - 2), ("last", min(1, count - 1))):
            if share > 0:
                found.append(Stage(f"{name} layer{of}", run, share))
    return found


def _grouped(group: int, t: Pass, x: Tensor) -> Tensor:
    return albert_layer(t, x, group)


def _pair_logits(t: Pass, x: Tensor) -> Tensor:
    """Pool the first token of each sequence: a linear layer and tanh."""
    t.part = "head"
    first = t.view(t.stretch(x, x.columns), rows={"micro_batch": t.training.micro_batch})
    return t.function(t.linear(first, {"pooled_size": t.model.hidden_size}, "pooler", bias=True), "pooled", "result")


def masked_head(t: Pass, x: Tensor, activation: str = "") -> Tensor:
    """A linear layer, activation and norm, then the output head; before a pair head the first token is pooled."""
    t.frame = []
    pooled = _pair_logits(t, x) if t.model.pair_head else None
    t.part = "head"
    y = t.linear(x, {"transform_size": t.model.embedding_size}, "transform", bias=True)
    y = t.function(y, "activated") if activation == "gelu" else blocks.activated(t, y)
    y = blocks.layer_norm(t, y, "head")
    logits = blocks.logits(t, y)
    if pooled is not None:
        t.outputs.append(t.linear(pooled, {"outputs": 2}, "sentence pair head", bias=True))
    return logits


def masked_loss(t: Pass, logits: Tensor) -> Tensor:
    """Cross-entropy in the type of the logits, of the words and, with a pair head, of the pairs."""
    loss = blocks.plain_loss(t, logits)
    if not t.model.pair_head:
        return loss
    labels = t.storage("pair labels", {"micro_batch": t.training.micro_batch}, "int64")
    return t.add(loss, t.cross_entropy(t.outputs[-1], labels), "loss")


# T5


def t5_embed(t: Pass) -> Tensor:
    """Words of the encoder and dropout; there is no mask."""
    t.hands = ("mask", "position_bias", "memory", "cross_bias")
    return _words(t, t.ids, t.rows)


def _words(t: Pass, ids: Storage, rows: Sizes) -> Tensor:
    t.part = "embedding"
    x = t.embedding(ids, rows, {"vocab_size": t.model.vocab_size}, t.hidden, "word", t.embedded)
    t.frame = [x]
    return t.dropout(x, t.rate("hidden"), "embedding dropout")


def decoder_embed(t: Pass, x: Tensor) -> Tensor:
    """End the encoder, whose result all layers of the decoder read; then the words of the decoder and its mask."""
    x = t.dropout(blocks.t5_norm(t, x, "final norm"), t.rate("hidden"), "final dropout")
    t.position_bias, t.memory = None, x
    t.outputs.append(x)
    rows = {"micro_batch": t.training.micro_batch, **t.written}
    x = _words(t, t.storage("decoder ids", rows, "int64"), rows)
    if not t.sdpa:
        t.part = "mask"
        t.mask = t.free("mask", rows, {"key_tokens": t.written["target_tokens"]}, t.weights)
    return x


def _buckets(t: Pass, pair: Sizes, causal: bool) -> Storage:
    """Sort the distances between tokens into buckets, near ones finely; whole numbers of eight bytes throughout."""
    distance = t.storage("distances", pair, "int64")
    ahead = None if causal else t.storage("buckets of what comes after", pair, "int64")
    size = t.storage("absolute distances", pair, "int64")
    near = t.storage("whether near", pair, "bool")
    far = t.storage("buckets of far distances", pair, "int64")
    most = t.storage("last bucket", pair, "int64")
    far = t.storage("buckets of far distances", pair, "int64")
    del most
    chosen = t.storage("buckets", pair, "int64")
    result = ahead or t.storage("buckets", pair, "int64")
    del distance, size, near, far, chosen
    return result


def _position_bias(t: Pass, rows: Sizes, causal: bool) -> Tensor:
    """Look up one number per head for each distance; the first layer of a stack does so for all."""
    part, t.part = t.part, "position bias"
    pair = {**rows, "key_tokens": next(iter(rows.values()))}
    table = {"relative_buckets": t.model.relative_buckets}
    bias = t.embedding(_buckets(t, pair, causal), pair, table, {"heads": t.model.heads}, "relative position")
    t.part = part
    return bias


def _no_bias(t: Pass, q: Tensor, tokens: Sizes) -> Tensor:
    """Make the zeros that stand for a bias between decoder and encoder; with checkpoints they take a gradient."""
    heads: Sizes = {"heads": t.model.heads, "key_tokens": next(iter(tokens.values()))}
    bias = t.free("zeros for a bias", t.written, heads, q.dtype)
    if t.training.recompute == "full":
        bias.node = Node(())
        if not t.keeping:
            t.outputs.append(bias)
    return bias


def _kernel(t: Pass, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, causal: bool) -> Tensor:
    """Attend in a kernel that takes the bias as an additive mask, ordered head by head; causality is put into it."""
    if causal:
        earlier = t.free("what may be seen", t.written, {"key_tokens": t.written["target_tokens"]}, "bool")
        bias = t.turned(bias, earlier, "bias where it may be seen")
        del earlier
    if "sequence_tokens" not in bias.rows or bias.layout != "heads":
        bias = t.copy(bias, "bias, head by head", layout="heads")
    q, k, v, bias = t.lower(q), t.lower(k), t.lower(v), t.lower(bias)
    return t.efficient(q, k, v, t.spread(bias, q.rows, bias.columns))
