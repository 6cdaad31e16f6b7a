"""The building blocks of a layer as transformers writes them, in the operators of `operators.py`.

A block is a function of the pass and its input. Its variables are those of the code it stands for, so that a tensor
lives here exactly as long as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memscape.forward.operators import BF16, FP32, NEW
from memscape.forward.passes import Pass as Pass
from memscape.forward.tape import Parameter, Sizes, Storage, Tensor

ATTENTION_NORM, MLP_NORM = "attention norm", "mlp norm"
QUERY_NORM, KEY_NORM = "query norm", "key norm"
Norm = Callable[[Pass, Tensor, str], Tensor]
Heads = tuple[Tensor, Tensor, Tensor]


# norms


def layer_norm(t: Pass, x: Tensor, part: str) -> Tensor:
    """PyTorch's fused LayerNorm."""
    t.part = part
    weight = t.model.norm != "none"
    width = {key: x.columns[key] for key in list(x.columns)[-1:]}
    return t.layer_norm(x, width, bias=weight and t.model.norm_bias, weight=weight)


def llama_norm(t: Pass, x: Tensor, part: str, over: int = 1) -> Tensor:
    """RMSNorm written out: the input in fp32, its scale, the normalised numbers in the type of the weights.

    `over`: how many sizes of the columns are normalised together (2: all heads of a token).
    """
    t.part = part
    dtype = x.dtype
    x = t.cast(x, FP32, "input in fp32")
    scale = _scale(t, x, over)
    x = t.multiply(x, scale, "normalised in fp32")
    return _weighted(t, t.cast(x, dtype, "normalised"), over)


def wide_norm(t: Pass, x: Tensor, part: str, over: int = 1) -> Tensor:
    """RMSNorm whose weight multiplies in fp32 (gpt-oss, OLMo 2)."""
    t.part = part
    dtype = x.dtype
    x = t.cast(x, FP32, "input in fp32")
    scale = _scale(t, x, over)
    x = t.multiply(x, scale, "normalised in fp32")
    return t.cast(_weighted(t, x, over), dtype, "output")


def bare_norm(t: Pass, x: Tensor, name: str) -> Tensor:
    """RMSNorm without a weight, in fp32."""
    wide = t.cast(x, FP32, f"{name} in fp32")
    return t.cast(t.multiply(wide, _scale(t, wide), f"{name}, normalised in fp32"), x.dtype, f"{name}, normalised")


def gemma_norm(t: Pass, x: Tensor, part: str) -> Tensor:
    """RMSNorm in fp32 throughout, multiplied by one plus the weight."""
    t.part = part
    dtype = x.dtype
    wide = t.cast(x, FP32, "input in fp32")
    output = t.multiply(wide, _scale(t, wide), "normalised in fp32")
    plus_one = derived(t, t.parameter("weight", _width(x)), "one plus weight", FP32)
    output = t.multiply(output, plus_one, "output in fp32")
    return t.cast(output, dtype, "output")


def derived(t: Pass, weight: Parameter, name: str, dtype: str) -> Tensor:
    """Make a tensor of the size of a weight from it: one more, or the same in another type."""
    node = t.noted(weight.sizes, dtype, [(weight, NEW)])
    return Tensor(t.storage(name, weight.sizes, dtype), {}, weight.sizes, dtype, node)


def t5_norm(t: Pass, x: Tensor, part: str) -> Tensor:
    """RMSNorm that takes the scale from an fp32 copy but multiplies the input itself."""
    t.part = part
    scale = _scale(t, t.cast(x, FP32, "input in fp32"))
    x = t.multiply(x, scale, "normalised in fp32")
    return _weighted(t, t.cast(x, BF16, "normalised") if t.weights == BF16 else x)


def _scale(t: Pass, x: Tensor, over: int = 1) -> Tensor:
    mean = t.mean(t.function(x, "squared", scratch=2, wide=True), "mean square", over)
    return t.function(t.scaled(mean, "mean square and epsilon"), "scale", keep="result", wide=True)


def _weighted(t: Pass, x: Tensor, over: int = 1) -> Tensor:
    return t.multiply(x, t.parameter("weight", _width(x, over)), "output")


def _width(x: Tensor, over: int = 1) -> Sizes:
    return dict(list(x.columns.items())[-over:])


# positions


def rotary_tables(t: Pass, width: Sizes | None = None, dtype: str = "") -> list[Tensor]:
    """The cosines and sines that all layers share."""
    t.part = "rotary table"
    width = width or {"head_dim": t.model.head_dim}
    dtype = dtype or (BF16 if t.weights == BF16 else FP32)
    return [t.free(name, t.tokens, width, dtype) for name in ("cosine", "sine")]


def rotate(t: Pass, x: Tensor, name: str, tables: Sequence[Tensor] = ()) -> Tensor:
    """Turn a head by its position: x · cos + rotated half of x · sin; by the tables of all layers unless given."""
    cosine, sine = tables or t.tables
    return t.add(t.turned(x, cosine, f"{name} × cosine"), t.turned(rotated_half(t, x, name), sine, "× sine"), name)


def rotated_half(t: Pass, x: Tensor, name: str) -> Tensor:
    """Swap the halves of a head, one of them negated."""
    *others, last = x.columns.items()
    half = {**dict(others), f"half_{last[0]}": last[1] // 2}
    first, second = t.stretch(x, half), t.stretch(x, half)
    return t.join(f"{name} with swapped halves", t.scaled(second, "negated half"), first, columns=x.columns)


def rotate_part(t: Pass, x: Tensor, name: str, tables: Sequence[Tensor] = ()) -> Tensor:
    """Turn the first `rotary_dim` numbers of a head; the rest is joined again."""
    turned, rest = rotary_parts(t, x)
    return t.join(name, rotate(t, turned, f"{name}, turned part", tables), rest, columns=x.columns)


def rotary_parts(t: Pass, x: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of a head that turn, and the rest."""
    *others, _ = x.columns.items()
    turned = t.stretch(x, {**dict(others), "rotary_dim": t.model.rotary_dim})
    return turned, t.stretch(x, {**dict(others), "unrotated_dim": t.model.head_dim - t.model.rotary_dim})


# attention


def separate_heads(t: Pass, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values from three linear layers."""
    bias = t.model.qkv_bias
    q = t.linear(x, t.queries, "query", bias)
    k = t.linear(x, t.keys, "key", bias)
    v = t.linear(x, t.keys, "value", bias)
    return q, k, v


def normed_heads(t: Pass, x: Tensor, norm: Norm) -> Heads:
    """Queries, keys and values from three linear layers; a norm follows on the queries and one on the keys."""
    bias = t.model.qkv_bias
    q = t.linear(x, t.queries, "query", bias)
    q = norm(t, q, QUERY_NORM)
    t.part = "attention"
    k = t.linear(x, t.keys, "key", bias)
    k = norm(t, k, KEY_NORM)
    t.part = "attention"
    return q, k, t.linear(x, t.keys, "value", bias)


def fused_heads(t: Pass, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as stretches of one linear layer's result."""
    joint = {"query_key_value_heads": t.model.heads + 2 * t.model.kv_heads, "head_dim": t.model.head_dim}
    q, k, v = t.split(t.linear(x, joint, "query, key, value", t.model.qkv_bias), t.queries, t.keys, t.keys)
    return q, k, v


def output(t: Pass, x: Tensor) -> Tensor:
    """The projection after attention; heads that lie apart are copied side by side first."""
    if x.layout == "heads":
        x = t.copy(x, "attended, token by token")
    return t.linear(x, t.hidden, "output", t.model.output_bias)


def repeated(t: Pass, x: Tensor, name: str) -> Tensor:
    """Copy each key or value head for all its query heads; a single one is looked at by all of them."""
    columns = {"heads": t.model.heads, **_width(x)}
    if t.grouped and t.model.kv_heads == 1:
        return t.shown(x, columns)
    return t.repeat(x, name, columns) if t.grouped else x


def eager(
    t: Pass,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dtype: str = FP32,
    scale: bool = True,
    contiguous: bool = True,
    bias: Tensor | None = None,
    masked: bool = True,
    narrow: bool = True,
) -> tuple[Tensor, Tensor]:
    """Scores, softmax and the weighted sum, one after the other; the weights are returned too, as transformers does.

    `bias` is added to the scores; `masked`: so is the mask, if there is one; `narrow`: the weights are cast to the type
    of the values.
    """
    k, v = repeated(t, k, "key, repeated"), repeated(t, v, "value, repeated")
    tokens = next(size for name, size in k.rows.items() if name.endswith("tokens"))
    scores = t.product(q, k, {"heads": t.model.heads, "key_tokens": tokens}, "scores")
    if scale:
        scores = t.scaled(scores, "scaled scores")
    if t.model.score_cap:
        scores = capped(t, scores, "scores")
    for each, name in ((bias, "scores with bias"), (t.mask if masked else None, "masked scores")):
        scores = scores if each is None else t.add(scores, each, name)
    weights = t.softmax(scores, "attention weights", dtype)
    weights = t.cast(weights, q.dtype if dtype else v.dtype, "attention weights") if narrow else weights
    del scores
    weights = t.dropout(weights, t.rate("attention"), "attention dropout")
    attended = t.product(weights, v, {"heads": t.model.heads, **_width(v)}, "attended")
    return (t.copy(attended, "attended, token by token") if contiguous else attended), weights


def capped(t: Pass, x: Tensor, name: str) -> Tensor:
    """Squeeze into a range with tanh: scaled, tanh, scaled."""
    x = t.scaled(x, f"{name} before tanh")
    x = t.function(x, f"{name} after tanh", keep="result")
    return t.scaled(x, f"{name} capped")


def fused(t: Pass, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
    """Attention in the kernel that PyTorch chooses on CUDA."""
    masked = t.mask is not None or _width(q) != _width(v) or t.model.head_dim > 256
    if masked:
        k, v = repeated(t, k, "key, repeated"), repeated(t, v, "value, repeated")
    q, k, v = t.lower(q), t.lower(k), t.lower(v)
    if not masked and q.dtype != FP32:
        return t.flash(q, k, v), None
    if t.grouped and not masked:
        k, v = t.repeat(k, "key, repeated", t.queries), t.repeat(v, "value, repeated", t.queries)
    mask = t.mask
    if mask is not None and mask.dtype == "bool":
        mask = t.free("mask", t.rows, mask.columns, q.dtype)
    return t.efficient(q, k, v, mask), None


def attend(t: Pass, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attention as the training asks for it."""
    return fused(t, q, k, v) if t.sdpa else eager(t, q, k, v)


# MLP


def activated(t: Pass, x: Tensor) -> Tensor:
    """The activation function, fused or written out as transformers writes it."""
    kind = t.model.activation
    if kind in ("gelu_new", "gelu_python_tanh"):
        return gelu_written_out(t, x)
    if kind == "gelu_fast":
        return gelu_fast(t, x)
    if kind == "relu2":
        return t.function(t.function(x, "relu", keep="result"), "relu squared", scratch=2)
    return t.function(x, "activated", keep="result" if kind in ("relu", "sigmoid", "tanh") else "input")


def gelu_written_out(t: Pass, x: Tensor) -> Tensor:
    """0.5 · x · (1 + tanh(c · (x + 0.0447 · x³))), operator by operator."""
    half = t.scaled(x, "half of x")
    inner = t.scaled(t.function(x, "x cubed", scratch=2, wide=True), "cube × constant")
    inner = t.add(x, inner, "x + cube")
    inner = t.scaled(inner, "argument of tanh")
    inner = t.function(inner, "tanh", keep="result")
    inner = t.scaled(inner, "1 + tanh")
    return t.multiply(half, inner, "activated")


def gelu_fast(t: Pass, x: Tensor) -> Tensor:
    """0.5 · x · (1 + tanh(x · c · (1 + 0.0447 · x · x))), operator by operator."""
    half = t.scaled(x, "half of x")
    outer = t.scaled(x, "x × constant")
    inner = t.scaled(t.multiply(t.scaled(x, "x × second constant"), x, "square"), "1 + square")
    inner = t.multiply(outer, inner, "argument of tanh")
    del outer
    inner = t.function(inner, "tanh", keep="result")
    inner = t.scaled(inner, "1 + tanh")
    return t.multiply(half, inner, "activated")


def mlp(t: Pass, x: Tensor, width: Sizes | None = None) -> Tensor:
    """The MLP: up, activation, down; with a gate, the activated gate multiplies up."""
    bias, width = t.model.mlp_bias, width or {"ffn_size": t.model.ffn_size}
    if not t.model.gated:
        return t.linear(activated(t, t.linear(x, width, "up", bias)), t.hidden, "down", bias)
    gate = activated(t, t.linear(x, width, "gate", bias))
    return t.linear(t.multiply(gate, t.linear(x, width, "up", bias), "gated"), t.hidden, "down", bias)


# embedding, head, loss


def words(t: Pass, ids: Storage) -> Tensor:
    """Look up the words."""
    t.part = "embedding"
    return t.embedding(ids, t.rows, {"vocab_size": t.model.vocab_size}, t.hidden, "word")


def eager_mask(t: Pass) -> None:
    """Make the additive mask that eager attention adds to the scores of all layers."""
    if not t.sdpa:
        part, t.part = t.part, "mask"
        rows = {"micro_batch": t.training.micro_batch, **t.tokens}
        t.mask = t.free("mask", rows, {"key_tokens": t.training.sequence_tokens}, t.weights)
        t.part = part


def masks(t: Pass, *also: str) -> None:
    """Make the mask of each kind of layer: additive for eager attention, of one byte where a kernel needs a window.

    `also`: kinds whose mask is made even where no layer uses it.
    """
    part, t.part = t.part, "mask"
    words = {"key_tokens": t.training.sequence_tokens}
    for kind in dict.fromkeys((*also, *(each.attention for each in t.model.layer_kinds))):
        if not t.sdpa:
            t.masks[kind] = t.free("mask", t.rows, words, t.weights)
        elif t.windowed and kind != "full":
            t.masks[kind] = t.free("window", t.rows if kind == "chunked" else t.tokens, words, "bool")
    t.part = part


def logits(t: Pass, x: Tensor) -> Tensor:
    """Multiply by the output head; a tied head is the table of the words. An answer needs the last word's alone.

    What the layers gave is held until the loss is there.
    """
    t.part = "head"
    t.frame = t.frame or [x]
    if not t.learning and t.model.causal:
        x = t.view(x, rows={"micro_batch": t.training.micro_batch}, layout="part")
    return t.linear(x, {"vocab_size": t.model.vocab_size}, "logits", t.model.head_bias, matrix=t.tied)


def causal_loss(t: Pass, logits: Tensor) -> Tensor:
    """Cross-entropy of the next word, on logits in fp32; labels are shifted by one word.

    Shifting one sequence leaves a view of the labels and one word more; several are copied.
    """
    t.part = "loss"
    wide = t.cast(logits, FP32, "logits in fp32")
    batch = {"micro_batch": t.training.micro_batch}
    labels = t.storage("labels", {**batch, "tokens_and_one": t.training.sequence_tokens + 1}, "int64")
    shifted = labels if t.single else t.storage("shifted labels", t.rows, "int64")
    return t.cross_entropy(wide, shifted)


def plain_loss(t: Pass, logits: Tensor) -> Tensor:
    """Cross-entropy in the type of the logits."""
    t.part = "loss"
    return t.cross_entropy(logits, t.labels)
