"""Multi-head latent attention (DeepSeek): queries, keys and values from compressed vectors."""

from __future__ import annotations

from memscape.forward import blocks, rotary
from memscape.forward.operators import NEW
from memscape.forward.passes import Pass
from memscape.forward.tape import Tensor

ATTENTION = "attention"


def embed(t: Pass) -> Tensor:
    """Words; the mask and the rotary tables that all layers share."""
    x = blocks.words(t, t.ids)
    blocks.eager_mask(t)
    rope = {"rope_dim": t.model.rope_dim}
    whole = t.model.family == "deepseek_v2"
    t.tables = [rotary.complex_table(t, rope)] if whole else blocks.rotary_tables(t, rope)
    t.places = t.storage("positions", t.tokens, "int64")
    return x


def attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Keys and values from one compressed vector, queries from another or directly; a part of each head is rotated."""
    m, heads = t.model, {"heads": t.model.heads}
    queries = _queries(t, x)
    q_pass, q_rot = t.split(queries, {**heads, "nope_dim": m.nope_dim}, {**heads, "rope_dim": m.rope_dim})
    compressed = t.linear(x, {"latent_and_rope_dim": m.latent_rank + m.rope_dim}, "latent down", m.qkv_bias)
    latent, k_rot = t.split(compressed, {"latent_rank": m.latent_rank}, {"rope_dim": m.rope_dim})
    latent = blocks.llama_norm(t, latent, "latent norm")
    t.part = ATTENTION
    q_rot, k_rot = _turned(t, q_rot, k_rot)
    q = t.join("query", q_pass, q_rot, columns=t.queries)
    k, v = _expanded(t, latent, k_rot)
    attended, weights = blocks.attend(t, q, k, v)
    return blocks.output(t, attended), weights


def _queries(t: Pass, x: Tensor) -> Tensor:
    t.part = ATTENTION
    if not t.model.query_rank:
        return t.linear(x, t.queries, "query")
    down = t.linear(x, {"query_rank": t.model.query_rank}, "query down", t.model.qkv_bias)
    down = blocks.llama_norm(t, down, "query norm")
    t.part = ATTENTION
    return t.linear(down, t.queries, "query up")


def _turned(t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    if t.model.family == "deepseek_v2":
        return rotary.rotate_complex(t, q, k)
    if "rope_interleave" in t.model.traits:
        return rotary.rotate_pairs(t, q, k)
    return blocks.rotate(t, q, "rotated query"), blocks.rotate(t, k, "rotated key")


def _expanded(t: Pass, latent: Tensor, k_rot: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of all heads. A key is filled in two strokes; on the way back each copies the gradient whole."""
    m, heads = t.model, {"heads": t.model.heads}
    both = t.linear(latent, {**heads, "nope_and_value_dim": m.nope_dim + m.value_dim}, "key up and value up")
    k_pass, v = t.split(both, {**heads, "nope_dim": m.nope_dim}, {**heads, "value_dim": m.value_dim})
    spread = Tensor(k_rot.storage, k_rot.rows, {**heads, **k_rot.columns}, k_rot.dtype)
    spread.node = t.noted(spread.sizes, k_rot.dtype, [(k_rot, NEW)])
    k = Tensor(
        t.storage("key", {**latent.rows, **t.queries}, both.dtype), latent.rows, t.queries, both.dtype, layout="heads"
    )
    k.node = t.noted(k.sizes, k.dtype, [(k_pass, NEW)], scratch=1)
    node = t.noted(k.sizes, k.dtype, [(k, NEW), (spread, NEW)])
    if node is not None:
        node.scratch = ((spread.sizes, k.dtype),)
    k.node = node
    return k, v
