"""Gemma, GLM-4 and OLMo, as transformers writes them: norms in other places, positions in other ways than LLaMA."""

from __future__ import annotations

from functools import partial

from memscape.forward import blocks, dense
from memscape.forward.blocks import KEY_NORM, QUERY_NORM, Heads, Norm
from memscape.forward.operators import FP32
from memscape.forward.passes import Pass
from memscape.forward.tape import Tensor
from memscape.model import LayerKind


def embed(t: Pass) -> Tensor:
    """Words, multiplied; masks for whole and for local layers, and the rotary tables of both in Gemma 3."""
    x = blocks.words(t, t.ids)
    x = t.scaled(x, "words, weighed")
    local = t.model.window is not None
    blocks.masks(t, *(("full", "sliding") if local else ()))
    t.tables = blocks.rotary_tables(t)
    if t.model.family == "gemma3_text":
        t.tables += blocks.rotary_tables(t)
    t.places = t.storage("positions", t.tokens, "int64")
    return x


def gemma_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """A norm before attention and MLP."""
    return dense.layer(t, x, dense.rotary_attention, before=blocks.gemma_norm)


def gemma2_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """A norm before and after attention and MLP."""
    return dense.layer(t, x, dense.rotary_attention, before=blocks.gemma_norm, after=blocks.gemma_norm)


def gemma3_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """As Gemma 2, with a norm on each query and key; local layers turn by tables of their own."""
    turn = partial(_turned, local=kind.attention == "sliding")
    attention = partial(dense.rotary_attention, heads=partial(heads_then_norms, norm=blocks.gemma_norm), turn=turn)
    return dense.layer(t, x, attention, before=blocks.gemma_norm, after=blocks.gemma_norm)


def _turned(t: Pass, q: Tensor, k: Tensor, local: bool) -> tuple[Tensor, Tensor]:
    tables = t.tables[2:] if local else t.tables[:2]
    return blocks.rotate(t, q, "query", tables), blocks.rotate(t, k, "key", tables)


def heads_then_norms(t: Pass, x: Tensor, norm: Norm) -> Heads:
    """Queries, keys and values from three linear layers, then a norm on the queries and one on the keys."""
    q, k, v = blocks.separate_heads(t, x)
    q = norm(t, q, QUERY_NORM)
    k = norm(t, k, KEY_NORM)
    t.part = "attention"
    return q, k, v


def head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head; the logits may be capped."""
    x = dense.normed_head(t, x, blocks.gemma_norm)
    return blocks.capped(t, x, "logits") if t.model.logit_cap else x


# GLM-4


def glm_embed(t: Pass) -> Tensor:
    """As LLaMA; no layer uses the shared tables as they are."""
    x = dense.rotary_embed(t)
    t.base_tables, t.tables = t.tables, []
    return x


def glm_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """Fused gate and up; neighbours of a part of each head turn (GLM-4 9B)."""
    return dense.layer(t, x, glm_attention, dense.fused_mlp, before=blocks.llama_norm)


def glm4_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """A norm before and after attention and MLP (GLM-4 0414)."""
    return dense.layer(t, x, glm_attention, dense.fused_mlp, before=blocks.llama_norm, after=blocks.llama_norm)


def glm_attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attention whose heads are turned in part, by tables that each layer makes for itself."""
    return dense.rotary_attention(t, x, turn=_neighbours_turned)


def _neighbours_turned(t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    tables = [
        t.free(f"{name} of neighbours", t.tokens, each.columns, each.dtype)
        for name, each in zip(("cosine", "sine"), t.base_tables, strict=True)
    ]
    return blocks.rotate_part(t, q, "query", tables), blocks.rotate_part(t, k, "key", tables)


# OLMo


def olmo_norm(t: Pass, x: Tensor, part: str) -> Tensor:
    """The fused LayerNorm without weights, in fp32."""
    t.part = part
    dtype = x.dtype
    return t.cast(blocks.layer_norm(t, t.cast(x, FP32, "input in fp32"), part), dtype, "output")


def olmo_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """Norms without weights; queries, keys and values may be clipped."""
    return dense.layer(t, x, partial(dense.rotary_attention, heads=clipped_heads, turn=turned_wide), before=olmo_norm)


def turned_wide(t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Turn whole heads by tables in fp32; the result is cast back."""
    dtype = q.dtype
    q, k = blocks.rotate(t, q, "query in fp32"), blocks.rotate(t, k, "key in fp32")
    return t.cast(q, dtype, "query"), t.cast(k, dtype, "key")


def clipped_heads(t: Pass, x: Tensor) -> Heads:
    """Queries, keys and values, each cut off in place at a limit: what was there before is kept."""
    q, k, v = blocks.separate_heads(t, x)
    if "clip_qkv" in t.model.traits:
        q, k, v = t.function(q, "query, clipped"), t.function(k, "key, clipped"), t.function(v, "value, clipped")
    return q, k, v


def olmo_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head."""
    return dense.normed_head(t, x, olmo_norm)


def olmo2_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """Norms after attention and MLP, and one on all queries and one on all keys together."""
    heads = partial(blocks.normed_heads, norm=partial(blocks.wide_norm, over=2))
    return dense.layer(t, x, partial(dense.rotary_attention, heads=heads, turn=turned_wide), after=blocks.wide_norm)


def olmo2_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head."""
    return dense.normed_head(t, x, blocks.wide_norm)
