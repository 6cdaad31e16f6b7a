"""Decoders with one MLP per layer, as transformers writes them: attention first, then the MLP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from memscape.forward import blocks
from memscape.forward.blocks import ATTENTION_NORM, MLP_NORM, Heads, Norm
from memscape.forward.operators import BF16
from memscape.forward.passes import Pass
from memscape.forward.tape import Tensor
from memscape.model import LayerKind

Attention = Callable[[Pass, Tensor], tuple[Tensor, Tensor | None]]
Turn = Callable[[Pass, Tensor, Tensor], tuple[Tensor, Tensor]]
Step = Callable[[Pass, Tensor], Tensor]

ATTENDED_NORM, FED_NORM = "attention result norm", "mlp result norm"


def layer(
    t: Pass,
    x: Tensor,
    attention: Attention,
    mlp: Step = blocks.mlp,
    before: Norm | None = None,
    after: Norm | None = None,
    weighed: bool = False,
) -> Tensor:
    """Attention, add; MLP, add; norms `before` and `after` each. `weighed`: what is added is multiplied first."""
    residual = x
    if before:
        x = before(t, x, ATTENTION_NORM)
    x, _weights = attention(t, x)
    if after:
        x = after(t, x, ATTENDED_NORM)
    x = t.add(residual, t.scaled(x, "attended, weighed") if weighed else x, "residual stream")
    residual = x
    if before:
        x = before(t, x, MLP_NORM)
    t.part = "mlp"
    x = t.dropout(mlp(t, x), t.rate("hidden"), "residual dropout")
    if after:
        x = after(t, x, FED_NORM)
    return t.add(residual, t.scaled(x, "MLP result, weighed") if weighed else x, "residual stream")


def pre_norm_layer(t: Pass, x: Tensor, norm: Norm, attention: Attention) -> Tensor:
    """Norm, attention, add; norm, MLP, add."""
    return layer(t, x, attention, before=norm)


def rotary_attention(
    t: Pass, x: Tensor, heads: Callable[[Pass, Tensor], Heads] = blocks.separate_heads, turn: Turn | None = None
) -> tuple[Tensor, Tensor | None]:
    """Queries, keys and values, rotary positions, attention, and dropout on the result where the family has it."""
    t.part = "attention"
    q, k, v = heads(t, x)
    q, k = (turn or turned)(t, q, k)
    attended, weights = blocks.attend(t, q, k, v)
    return t.dropout(blocks.output(t, attended), t.rate("hidden"), "residual dropout"), weights


def turned(t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Turn whole heads."""
    return blocks.rotate(t, q, "query"), blocks.rotate(t, k, "key")


def turned_in_part(t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a part of each head."""
    return blocks.rotate_part(t, q, "query"), blocks.rotate_part(t, k, "key")


def unturned(_t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the heads as they are."""
    return q, k


def rotary_embed(t: Pass, weighed: bool = False, dtype: str = "", held: bool = False) -> Tensor:
    """Words, multiplied where `weighed`; the masks and the rotary tables that all layers share.

    `held`: beside what dropout leaves of the words, the words themselves live on while the layers run.
    """
    x = blocks.words(t, t.ids)
    if weighed:
        x = t.scaled(x, "words, weighed")
    blocks.masks(t)
    t.frame = [x] if held and t.rate("embedding") else []
    x = t.dropout(x, t.rate("embedding"), "embedding dropout")
    partly = t.model.rotary_dim != t.model.head_dim
    t.tables = blocks.rotary_tables(t, {"rotary_dim": t.model.rotary_dim} if partly else None, dtype)
    t.places = t.storage("positions", t.tokens, "int64")
    return x


def normed_head(t: Pass, x: Tensor, norm: Norm) -> Tensor:
    """The last norm and the output head; in between, what the model's own function held is let go."""
    x = norm(t, x, "final norm")
    t.frame = []
    return blocks.logits(t, x)


def layer_norm_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head."""
    return normed_head(t, x, blocks.layer_norm)


# LLaMA and its relatives


def llama_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """RMSNorm before attention and MLP (LLaMA, Mistral, Qwen2.5)."""
    return layer(t, x, rotary_attention, before=blocks.llama_norm)


def llama_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head."""
    return normed_head(t, x, blocks.llama_norm)


def qwen3_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """As LLaMA, with a norm on each query and key."""
    heads = partial(blocks.normed_heads, norm=blocks.llama_norm)
    return layer(t, x, partial(rotary_attention, heads=heads), before=blocks.llama_norm)


def smollm3_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """As LLaMA; some layers know no positions."""
    attention = partial(rotary_attention, turn=turned if kind.rotary else unturned)
    return layer(t, x, attention, before=blocks.llama_norm)


def granite_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """As LLaMA; what is added to the residual stream is multiplied first."""
    return layer(t, x, rotary_attention, before=blocks.llama_norm, weighed=True)


def granite_head(t: Pass, x: Tensor) -> Tensor:
    """As LLaMA, with divided logits."""
    x = llama_head(t, x)
    return t.scaled(x, "logits, divided")


def phi3_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """Fused projections; a part of each head may turn."""
    attention = partial(rotary_attention, heads=stretched_heads, turn=turned_in_part)
    return layer(t, x, attention, fused_mlp, before=blocks.llama_norm)


def stretched_heads(t: Pass, x: Tensor) -> Heads:
    """Queries, keys and values, each cut out of one linear layer's result."""
    joint = {"query_key_value_heads": t.model.heads + 2 * t.model.kv_heads, "head_dim": t.model.head_dim}
    x = t.linear(x, joint, "query, key, value", t.model.qkv_bias)
    return t.stretch(x, t.queries), t.stretch(x, t.keys), t.stretch(x, t.keys)


def fused_mlp(t: Pass, x: Tensor) -> Tensor:
    """The MLP whose gate and up are one linear layer."""
    inner = {"ffn_size": t.model.ffn_size}
    gate, up = t.split(t.linear(x, {"gate_and_up": 2, **inner}, "gate, up", t.model.mlp_bias), inner, inner)
    up = t.multiply(up, blocks.activated(t, gate), "gated")
    return t.linear(up, t.hidden, "down", t.model.mlp_bias)


# decoders with LayerNorm


def starcoder2_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm, an MLP without gate, dropout."""
    return layer(t, x, rotary_attention, before=blocks.layer_norm)


def nemotron_norm(t: Pass, x: Tensor, part: str) -> Tensor:
    """LayerNorm whose weight is stored less one; under autocast it runs in bf16 all the same."""
    t.part = part
    plus_one = blocks.derived(t, t.parameter("weight", x.columns), "one plus weight", t.weights)
    if not t.autocast:
        return t.layer_norm(x, x.columns, given=[plus_one])
    bias = blocks.derived(t, t.parameter("bias", x.columns), "bias in bf16", BF16)
    return t.layer_norm(t.lower(x), x.columns, given=[t.lower(plus_one), bias])


def nemotron_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm, a part of each head turned, an MLP without gate."""
    return layer(t, x, partial(rotary_attention, turn=turned_in_part), before=nemotron_norm)


def nemotron_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head."""
    return normed_head(t, x, nemotron_norm)


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
