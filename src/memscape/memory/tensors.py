"""The parameter tensors of a model: one list that the count, the weights and the quantisation all read.

A tensor is stored as rows of columns, one row per output, as PyTorch and GGUF store a linear layer. Each size keeps its
name, so that a count can be explained; fused matrices (one tensor for queries, keys and values) are listed apart, since
they hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from memscape.breakdown import Quantity
from memscape.model import Model

Sizes = dict[str, Quantity]


@dataclass(frozen=True)
class Tensor:
    """`copies` alike tensors of `rows` × `columns`; a vector has no rows.

    `role` is llama.cpp's name of the tensor (attn_q, ffn_down, ...), `layers` the positions in the stack it stands in.
    """

    name: str
    role: str
    group: str
    columns: Sizes
    rows: Sizes = field(default_factory=dict)
    copies: Sizes = field(default_factory=dict)
    layers: tuple[int, ...] = ()

    @property
    def is_vector(self) -> bool:
        """Whether it is a norm or a bias: such tensors are not quantised."""
        return not self.rows


def tensors(model: Model) -> Iterator[Tensor]:
    """Yield every distinct parameter tensor of the model, from the embedding to the head."""
    if model.first_stage:
        yield from _embedding(model)
    for stack in _stacks(model):
        yield from _attention(model, stack)
        if stack.cross:
            yield from _heads_attention(model, stack, "cross-attention ")
        yield from _norms(model, stack)
    yield from _dense_mlps(model)
    yield from _experts(model)
    if model.last_stage:
        yield from _final_norms(model)
        yield from _head(model)


@dataclass(frozen=True)
class _Stack:
    """A run of layers that hold the same attention and norms: the decoder's, or the encoder's."""

    copies: Sizes
    norms: int
    cross: bool = False
    layers: tuple[int, ...] = ()


def _stacks(model: Model) -> Iterator[_Stack]:
    if model.has_encoder:
        yield _Stack({"encoder_layers": model.encoder_layers}, 2, layers=_places(model.encoder_layers))
        yield _Stack({"decoder_layers": model.layers}, model.norms_per_layer, True, _places(model.layers))
        return
    name = "stored_layers" if model.shared_layers else "layers"
    yield _Stack({name: model.stored_layers}, model.norms_per_layer, layers=tuple(range(len(model.layer_kinds))))


def _places(layers: Quantity) -> tuple[int, ...]:
    """The positions in a stack; none where a grid of depths is asked for at once."""
    return tuple(range(layers)) if isinstance(layers, int) else ()


def _embedding(model: Model) -> Iterator[Tensor]:
    width = {"embedding_size" if model.embedding_projection != "none" else "hidden_size": model.embedding_size}
    yield Tensor("token embedding", "token_embd", "embeddings", width, {"vocab_size": model.vocab_size})
    if model.positions:
        # OPT 350M adds its positions after the projection, ALBERT before it
        added = {"hidden_size": model.hidden_size} if model.embedding_projection == "in_out" else width
        yield Tensor("position embedding", "position_embd", "embeddings", added, {"positions": model.positions})
    if model.token_types:
        yield Tensor("token type embedding", "token_types", "embeddings", width, {"token_types": model.token_types})
    if model.relative_buckets:
        heads, buckets = {"heads": model.heads}, {"relative_buckets": model.relative_buckets}
        yield Tensor("relative position bias", "attn_rel_b", "embeddings", heads, buckets, {"stacks": 2})
    if model.embedding_norm:
        yield from _norm(model, "embedding norm", width, {})
    if model.embedding_projection == "in":
        yield Tensor("embedding projection", "embd_proj", "other", width, {"hidden_size": model.hidden_size})
        yield Tensor("embedding projection bias", "bias", "other", {"hidden_size": model.hidden_size})
    elif model.embedding_projection == "in_out":
        both: Sizes = {"in_and_out": 2} if model.last_stage else {}
        yield Tensor("embedding projection", "embd_proj", "other", width, {"hidden_size": model.hidden_size}, both)


def _attention(model: Model, stack: _Stack) -> Iterator[Tensor]:
    if model.attention == "latent":
        yield from _latent_attention(model, stack)
        return
    yield from _heads_attention(model, stack)
    if model.attention_sinks:
        yield Tensor("attention sinks", "attn_sinks", "attention", {"heads": model.heads}, {}, stack.copies)


def _heads_attention(model: Model, stack: _Stack, prefix: str = "") -> Iterator[Tensor]:
    hidden = {"hidden_size": model.hidden_size}
    queries = {"heads": model.heads, "head_dim": model.head_dim}
    grouped = {"kv_heads": model.kv_heads, "head_dim": model.head_dim}
    for name, role, rows in (("query", "attn_q", queries), ("key", "attn_k", grouped), ("value", "attn_v", grouped)):
        yield Tensor(f"{prefix}{name}", role, "attention", hidden, rows, stack.copies, stack.layers)
        if model.qkv_bias:
            yield Tensor(f"{prefix}{name} bias", "bias", "attention", rows, {}, stack.copies)
    yield Tensor(f"{prefix}attention output", "attn_output", "attention", queries, hidden, stack.copies, stack.layers)
    if model.output_bias:
        yield Tensor(f"{prefix}attention output bias", "bias", "attention", hidden, {}, stack.copies)


def _latent_attention(model: Model, stack: _Stack) -> Iterator[Tensor]:
    """Multi-head latent attention (DeepSeek-V2, section 2.1): keys and values from one compressed vector."""
    hidden, heads = {"hidden_size": model.hidden_size}, {"heads": model.heads}
    queries = heads | {"head_dim": model.head_dim}
    values = heads | {"value_dim": model.value_dim}
    latent = {"latent_rank": model.latent_rank}
    parts: list[tuple[str, str, Sizes, Sizes]] = []
    if model.query_rank:
        rank = {"query_rank": model.query_rank}
        parts += [("query down", "attn_q_a", hidden, rank), ("query up", "attn_q_b", rank, queries)]
    else:
        parts += [("query", "attn_q", hidden, queries)]
    parts += [
        ("latent down", "attn_kv_a_mqa", hidden, {"latent_and_rope_dim": model.latent_rank + model.rope_dim}),
        ("key up", "attn_k_b", latent, heads | {"nope_dim": model.nope_dim}),
        ("value up", "attn_v_b", latent, values),
        ("attention output", "attn_output", values, hidden),
    ]
    for name, role, columns, rows in parts:
        yield Tensor(name, role, "attention", columns, rows, stack.copies, stack.layers)
    if model.qkv_bias:
        biases = [{"latent_and_rope_dim": model.latent_rank + model.rope_dim}, hidden]
        biases += [{"query_rank": model.query_rank}] if model.query_rank else []
        for columns in biases:
            yield Tensor("latent attention bias", "bias", "attention", columns, {}, stack.copies)


def _norms(model: Model, stack: _Stack) -> Iterator[Tensor]:
    copies = stack.copies | {"norms_per_layer": stack.norms}
    yield from _norm(model, "layer norms", {"hidden_size": model.hidden_size}, copies)
    head = {"head_dim": model.head_dim}
    if model.qk_norm == "head":
        yield from _norm(model, "query and key norm", head, stack.copies | {"query_and_key": 2}, model.qk_norm_bias)
    elif model.qk_norm == "heads":
        both = {"heads_and_kv_heads": model.heads + model.kv_heads}
        yield from _norm(model, "query and key norm", both | head, stack.copies, model.qk_norm_bias)
    if model.attention == "latent":
        yield from _norm(model, "latent norm", {"latent_rank": model.latent_rank}, stack.copies)
        if model.query_rank:
            yield from _norm(model, "query norm", {"query_rank": model.query_rank}, stack.copies)


def _norm(model: Model, name: str, width: Sizes, copies: Sizes, bias: bool | None = None) -> Iterator[Tensor]:
    if model.norm == "none":
        return
    if model.norm_bias if bias is None else bias:
        copies = copies | {"weight_and_bias": 2}
    yield Tensor(name, "norm", "norms", width, {}, copies)


def _dense_mlps(model: Model) -> Iterator[Tensor]:
    """The MLPs of the layers that have no experts."""
    copies: Sizes
    layers: tuple[int, ...] = ()
    if model.has_encoder:
        copies = {"encoder_and_decoder_layers": model.encoder_layers + model.layers}
        layers = _places(model.encoder_layers) + _places(model.layers)
    elif model.moe_layers:
        dense = tuple(position for position, kind in enumerate(model.layer_kinds) if not kind.moe)
        copies, layers = {"dense_layers": len(dense)}, dense
        if not dense:
            return
    else:
        (stack,) = _stacks(model)
        copies, layers = stack.copies, stack.layers
    yield from _mlp(model, {"ffn_size": model.ffn_size}, copies, "mlp_dense", "", model.mlp_bias, layers)


def _mlp(
    model: Model, width: Sizes, copies: Sizes, group: str, suffix: str, bias: bool, layers: tuple[int, ...]
) -> Iterator[Tensor]:
    """Two matrices, three where the activation is gated; `suffix` is llama.cpp's for experts."""
    hidden, of = {"hidden_size": model.hidden_size}, {"": "", "_exps": "expert ", "_shexp": "shared expert "}[suffix]
    parts = [("gate", width, hidden)] if model.gated else []
    for name, rows, columns in (*parts, ("up", width, hidden), ("down", hidden, width)):
        yield Tensor(f"{of}{name}", f"ffn_{name}{suffix}", group, columns, rows, copies, layers)
        if bias:
            yield Tensor(f"{of}{name} bias", "bias", group, rows, {}, copies)


def _experts(model: Model) -> Iterator[Tensor]:
    if not model.moe_layers:
        return
    places = tuple(position for position, kind in enumerate(model.layer_kinds) if kind.moe)
    copies = {"moe_layers": model.moe_layers}
    every, width = copies | {"experts": model.stored_experts}, {"expert_ffn_size": model.expert_ffn_size}
    yield from _mlp(model, width, every, "experts", "_exps", model.expert_bias, places)
    if model.shared_ffn_size:
        shared = {"shared_ffn_size": model.shared_ffn_size}
        yield from _mlp(model, shared, copies, "experts", "_shexp", False, places)
    hidden, experts = {"hidden_size": model.hidden_size}, {"experts": model.experts}
    yield Tensor("router", "ffn_gate_inp", "router", hidden, experts, copies, places)
    if model.router_bias:
        yield Tensor("router bias", "bias", "router", experts, {}, copies)
    if model.shared_gate:
        yield Tensor("shared expert gate", "ffn_gate_inp_shexp", "router", hidden, {"outputs": 1}, copies, places)


def _final_norms(model: Model) -> Iterator[Tensor]:
    if model.final_norm:
        stacks = {"stacks": 2} if model.has_encoder else {}
        yield from _norm(model, "final norm", {"hidden_size": model.hidden_size}, stacks)


def _head(model: Model) -> Iterator[Tensor]:
    hidden, vocabulary = {"hidden_size": model.hidden_size}, {"vocab_size": model.vocab_size}
    if model.pooler:
        yield Tensor("pooler", "pooler", "lm_head", hidden, {"pooled_size": model.hidden_size})
        yield Tensor("pooler bias", "bias", "lm_head", hidden)
    if model.pair_head:
        yield Tensor("sentence pair head", "cls", "lm_head", hidden, {"outputs": 2})
        yield Tensor("sentence pair head bias", "bias", "lm_head", {"outputs": 2})
    if model.head == "none":
        return
    inner = hidden if model.embedding_projection == "none" else {"embedding_size": model.embedding_size}
    if model.embedding_projection == "in_out" and not model.first_stage:
        yield Tensor("embedding projection", "embd_proj", "other", inner, hidden)
    if model.head == "masked":
        yield Tensor("head transform", "cls", "lm_head", hidden, {"transform_size": model.embedding_size})
        yield Tensor("head transform bias and norm", "norm", "lm_head", inner, {}, {"bias_and_norm": 3})
    if not model.tied or not model.first_stage:  # a tied head on another device is a copy
        yield Tensor("output head", "output", "lm_head", inner, vocabulary)
    if model.head_bias:
        # transformers gives an untied masked head a bias of its own beside the shared one
        twice = {"weight_and_bias": 2} if model.head == "masked" and not model.tied else {}
        yield Tensor("output head bias", "bias", "lm_head", vocabulary, {}, twice)
