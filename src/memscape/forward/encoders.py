"""Encoders as transformers writes them: BERT, RoBERTa, ALBERT."""

from __future__ import annotations

from functools import partial

from memscape.forward import blocks
from memscape.forward.blocks import ATTENTION_NORM, MLP_NORM
from memscape.forward.passes import Pass
from memscape.forward.stage import Stage
from memscape.forward.tape import Sizes, Storage, Tensor
from memscape.model import LayerKind, Model


def bert_embed(t: Pass) -> Tensor:
    """Words, token types and positions; positions are a buffer of the model, all sequences share the token types."""
    t.part = "embedding"
    return _embedded(t, t.storage("token types", t.tokens, "int64"), None)


def roberta_embed(t: Pass) -> Tensor:
    """As BERT, with positions counted for each sequence; so are the token types."""
    t.part = "embedding"
    places = t.storage("positions", t.rows, "int64")
    return _embedded(t, t.storage("token types", t.rows, "int64"), places)


def albert_embed(t: Pass) -> Tensor:
    """As BERT, narrow, and a projection to the width of the layers."""
    x = bert_embed(t)
    t.part = "projection"
    return t.linear(x, t.hidden, "embedding projection", bias=True)


def _embedded(t: Pass, types: Storage, places: Storage | None) -> Tensor:
    """Words, token types and positions, added one after the other, then a norm and dropout."""
    model = t.model
    width: Sizes = {"embedding_size": model.embedding_size} if model.narrow_embedding else t.hidden
    words = t.embedding(t.ids, t.rows, {"vocab_size": model.vocab_size}, width, "word")
    kinds = t.embedding(types, t.rows, {"token_types": model.token_types}, width, "token type")
    x = t.add(words, kinds, "words and types")
    rows = t.tokens if places is None else t.rows
    positions = t.embedding(places, rows, {"positions": model.positions}, width, "position")
    x = t.add(x, positions, "embedded")
    x = blocks.layer_norm(t, x, "embedding norm")
    return t.dropout(x, t.rate("hidden"), "embedding dropout")


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


def _self_attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attention in both directions without a mask; the softmax stays in the type that it has."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    return blocks.fused(t, q, k, v) if t.sdpa else blocks.eager(t, q, k, v, dtype="", narrow=False)


def albert_layer(group: int, t: Pass, x: Tensor) -> Tensor:
    """As BERT, without dropout after the MLP; the weights are those of a group of layers."""
    t.owner = f"group {group}"
    x = bert_layer(t, x, LayerKind(), dropout_after_mlp=False)
    t.owner = ""
    return x


def albert_stages(model: Model) -> list[Stage]:
    """Return the layers group by group: the last one is the first to make gradients, the others add to them."""
    groups, found = model.shared_layers, []
    for group in range(groups):
        count = sum(int(layer / (model.layers / groups)) == group for layer in range(model.layers))
        name = f"layer of group {group + 1}" if groups > 1 else "layer"
        run = partial(albert_layer, group)
        shares = (("first", min(1, count)), ("later", count - 2), ("last", min(1, count - 1)))
        found += [Stage(f"{place} {name}", run, share) for place, share in shares if share > 0]
    return found


def masked_head(t: Pass, x: Tensor, gelu: bool = False) -> Tensor:
    """A linear layer, activation and norm, then the output head; before a pair head the first token is pooled.

    `gelu`: the activation is this one, whatever the layers have.
    """
    t.frame = [x]
    pooled = _pooled(t, x) if t.model.pair_head else None
    t.part = "head"
    x = t.linear(x, {"transform_size": t.model.embedding_size}, "transform", bias=True)
    x = t.function(x, "activated") if gelu else blocks.activated(t, x)
    x = blocks.logits(t, blocks.layer_norm(t, x, "head"))
    if pooled is not None:
        t.outputs.append(t.linear(pooled, {"outputs": 2}, "sentence pair head", bias=True))
    return x


def _pooled(t: Pass, x: Tensor) -> Tensor:
    """The first token of each sequence, through a linear layer and tanh."""
    t.part = "head"
    first = t.view(t.stretch(x, x.columns), rows={"micro_batch": t.training.micro_batch})
    pooled = t.linear(first, {"pooled_size": t.model.hidden_size}, "pooler", bias=True)
    return t.function(pooled, "pooled", keep="result")


def masked_loss(t: Pass, logits: Tensor) -> Tensor:
    """Cross-entropy of the words, in the type of the logits; with a pair head, of the pairs too."""
    loss = blocks.plain_loss(t, logits)
    if t.model.pair_head:
        labels = t.storage("pair labels", {"micro_batch": t.training.micro_batch}, "int64")
        loss = t.add(loss, t.cross_entropy(t.outputs[-1], labels), "both losses")
    return loss
