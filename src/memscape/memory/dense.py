"""Decoders with one MLP per layer, as transformers writes them."""

from __future__ import annotations

from collections.abc import Callable

from memscape.memory import blocks
from memscape.memory.blocks import ATTENTION_NORM, MLP_NORM, Pass
from memscape.memory.tape import Tensor
from memscape.model import LayerKind

Norm = Callable[[Pass, Tensor, str], Tensor]
Attention = Callable[[Pass, Tensor], tuple[Tensor, Tensor | None]]


def pre_norm_layer(t: Pass, x: Tensor, norm: Norm, attention: Attention) -> Tensor:
    """Norm, attention, add; norm, MLP, add."""
    residual = x
    x = norm(t, x, ATTENTION_NORM)
    x, _weights = attention(t, x)
    x = t.add(residual, x, "residual stream")
    residual = x
    x = norm(t, x, MLP_NORM)
    t.part = "mlp"
    x = t.dropout(blocks.mlp(t, x), t.rate("hidden"), "residual dropout")
    return t.add(residual, x, "residual stream")


# LLaMA and its relatives


def rotary_embed(t: Pass) -> Tensor:
    """Words; the mask and the rotary tables that all layers share."""
    x = blocks.words(t, t.ids)
    blocks.eager_mask(t)
    t.tables = blocks.rotary_tables(t)
    t.places = t.storage("positions", t.tokens, "int64")
    return x


def llama_attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Separate projections, rotary positions."""
    t.part = "attention"
    q, k, v = blocks.separate_heads(t, x)
    q, k = blocks.rotate(t, q, "query"), blocks.rotate(t, k, "key")
    attended, weights = blocks.attend(t, q, k, v)
    return blocks.output(t, attended), weights


def llama_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """RMSNorm before attention and MLP."""
    return pre_norm_layer(t, x, blocks.llama_norm, llama_attention)


def llama_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head."""
    return blocks.logits(t, blocks.llama_norm(t, x, "final norm"))


# GPT-2


def gpt2_embed(t: Pass) -> Tensor:
    """Words and learned positions, added, and dropout."""
    x = blocks.words(t, t.ids)
    places = t.storage("positions", t.tokens, "int64")
    x = t.add(x, t.embedding(places, t.tokens, {"positions": t.model.positions}, t.hidden, "position"), "embedded")
    blocks.eager_mask(t)
    return t.dropout(x, t.rate("embedding"), "embedding dropout")


def gpt2_attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """One fused projection, softmax in the type of the scores."""
    t.part = "attention"
    q, k, v = blocks.fused_heads(t, x)
    if t.sdpa:
        attended, weights = blocks.fused(t, q, k, v)
    else:
        attended, weights = blocks.eager(t, q, k, v, dtype="", contiguous=False)
    x = blocks.output(t, attended)
    return t.dropout(x, t.rate("hidden"), "residual dropout"), weights


def gpt2_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm before attention and MLP."""
    return pre_norm_layer(t, x, blocks.layer_norm, gpt2_attention)


def layer_norm_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm, where there is one, and the output head."""
    return blocks.logits(t, blocks.layer_norm(t, x, "final norm") if t.model.final_norm else x)
