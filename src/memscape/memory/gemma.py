"""Gemma and GLM-4, as transformers writes them: norms before and after, capped scores, pairs of neighbours that turn."""

from __future__ import annotations

from functools import partial

from memscape.memory import blocks, dense
from memscape.memory.blocks import KEY_NORM, QUERY_NORM, Heads, Norm
from memscape.memory.passes import Pass
from memscape.memory.tape import Tensor
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
    x = blocks.logits(t, blocks.gemma_norm(t, x, "final norm"))
    return blocks.capped(t, x, "logits") if t.model.logit_cap else x


# GLM-4


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
    tables = [t.free(f"{name} of neighbours", t.tokens, each.columns, each.dtype)
              for name, each in zip(("cosine", "sine"), t.tables, strict=True)]
    return blocks.rotate_part(t, q, "query", tables), blocks.rotate_part(t, k, "key", tables)
