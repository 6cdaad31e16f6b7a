"""Decoders whose attention and MLP read the same input, as transformers writes them: Cohere, Phi, StableLM."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from memscape.forward import blocks, dense, gemma
from memscape.forward.blocks import ATTENTION_NORM, Heads, Norm
from memscape.forward.dense import Attention
from memscape.forward.operators import FP32, REDUCED, SAME
from memscape.forward.passes import Pass
from memscape.forward.tape import Tensor
from memscape.model import LayerKind


def layer(t: Pass, x: Tensor, norm: Norm, attention: Attention) -> Tensor:
    """One norm, then attention and MLP side by side; both are added."""
    residual = x
    x = norm(t, x, ATTENTION_NORM)
    attended, _weights = attention(t, x)
    t.part = "mlp"
    fed = t.dropout(blocks.mlp(t, x), t.rate("hidden"), "residual dropout")
    return t.add(t.add(residual, attended, "residual stream and attended"), fed, "residual stream")


# Cohere


def cohere_norm(t: Pass, x: Tensor, part: str) -> Tensor:
    """LayerNorm written out in fp32, with a weight for each head where it is on heads."""
    t.part = part
    dtype = x.dtype
    x = t.cast(x, FP32, "input in fp32")
    mean = t.mean(x, "mean")
    square = t.function(_centred(t, x, mean), "squared", scratch=2, wide=True)
    variance = t.scaled(t.mean(square, "variance"), "variance and epsilon")
    del square
    x = t.multiply(_centred(t, x, mean), t.function(variance, "scale", keep="result", wide=True), "normalised")
    weight = t.parameter("weight", x.columns)
    wide = weight if weight.dtype == FP32 else blocks.derived(t, weight, "weight in fp32", FP32)
    x = t.multiply(x, wide, "output in fp32")
    return t.cast(x, dtype, "output")


def _centred(t: Pass, x: Tensor, mean: Tensor) -> Tensor:
    return t.made("centred", [(x, SAME), (mean, REDUCED)])


def cohere_layer(t: Pass, x: Tensor, kind: LayerKind) -> Tensor:
    """Heads turn in fp32; in Cohere 2 only those of local layers."""
    whole = t.model.family == "cohere2" and kind.attention == "full"
    heads = blocks.separate_heads if t.model.qk_norm == "none" else _normed_heads
    attention = partial(dense.rotary_attention, heads=heads, turn=dense.unturned if whole else turned_in_fp32)
    return layer(t, x, cohere_norm, attention)


_normed_heads = partial(gemma.heads_then_norms, norm=cohere_norm)


def turned_in_fp32(t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Turn copies in fp32; the results are cast back."""
    dtype = q.dtype
    q, k = t.cast(q, FP32, "query in fp32"), t.cast(k, FP32, "key in fp32")
    turned_q, turned_k = blocks.rotate(t, q, "turned query in fp32"), blocks.rotate(t, k, "turned key in fp32")
    return t.cast(turned_q, dtype, "query"), t.cast(turned_k, dtype, "key")


def cohere_head(t: Pass, x: Tensor) -> Tensor:
    """The last norm and the output head, with scaled logits."""
    x = dense.normed_head(t, x, cohere_norm)
    return t.scaled(x, "logits, scaled")


# Phi, StableLM


def phi_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm, a part of each head turned, an MLP without gate."""
    return layer(t, x, blocks.layer_norm, phi_attention)


def phi_attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """There may be one norm for all queries and one for all keys; dropout on the result."""
    heads = blocks.separate_heads if t.model.qk_norm == "none" else _layer_normed_heads
    x, weights = _attention(t, x, heads)
    return t.dropout(x, t.rate("hidden"), "residual dropout"), weights


_layer_normed_heads = partial(gemma.heads_then_norms, norm=blocks.layer_norm)


def stablelm_layer(t: Pass, x: Tensor, _kind: LayerKind) -> Tensor:
    """LayerNorm, a part of each head turned; attention and MLP side by side or one after the other."""
    if t.model.parallel:
        return layer(t, x, blocks.layer_norm, stablelm_attention)
    return dense.layer(t, x, stablelm_attention, before=blocks.layer_norm)


def stablelm_attention(t: Pass, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Each head may have a norm of its own."""
    return _attention(t, x, blocks.separate_heads if t.model.qk_norm == "none" else _norms_per_head)


def _attention(t: Pass, x: Tensor, heads: Callable[[Pass, Tensor], Heads]) -> tuple[Tensor, Tensor | None]:
    """Attention that holds the parts of its heads until it ends."""
    t.part = "attention"
    q, k, v = heads(t, x)
    (turned_q, rest_q), (turned_k, rest_k) = blocks.rotary_parts(t, q), blocks.rotary_parts(t, k)
    turned_q, turned_k = dense.turned(t, turned_q, turned_k)
    q = t.join("query", turned_q, rest_q, columns=q.columns)
    k = t.join("key", turned_k, rest_k, columns=k.columns)
    attended, weights = blocks.attend(t, q, k, v)
    return blocks.output(t, attended), weights


def head_norms(t: Pass, x: Tensor, part: str) -> Tensor:
    """A LayerNorm with weights of its own for each head; the results are joined."""
    t.part = part
    width = {"head_dim": x.columns["head_dim"]}
    normed = t.layer_norm(x, width, bias=False, shape=x.columns)
    return t.join("normalised heads", normed, columns=x.columns)


_norms_per_head = partial(gemma.heads_then_norms, norm=head_norms)
