"""Model: an architecture described by its building blocks, frozen and validated.

A family is not a case in a formula: it is a choice of norm, attention, MLP, embedding and head. The formulas read the
blocks, so a new model of a known family is a new config.json and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, wraps
from typing import Any, NamedTuple, TypeVar

from memscape.problem import Problem

ATTENTION_KINDS = ("full", "sliding", "chunked")
Answer = TypeVar("Answer")


class LayerKind(NamedTuple):
    """What one layer of a stack is: how far its attention sees, whether its MLP is a mixture of experts.

    `rotary`: whether its heads turn with the position, in a family of rotary positions.
    """

    attention: str = "full"
    moe: bool = False
    rotary: bool = True


@dataclass(frozen=True)
class Model:
    """An architecture, as its published config.json gives it.

    Sizes are counts. `layers` are the layers that run (the decoder's, if there is an encoder too). `layer_kinds`
    has one entry per layer, in order. `assumed` names the keys that the file did not give and the family's published
    default filled.
    """

    name: str
    family: str
    source: str
    layers: Any
    hidden_size: Any
    heads: Any
    kv_heads: Any
    head_dim: Any
    ffn_size: Any
    vocab_size: Any
    max_tokens: int
    layer_kinds: tuple[LayerKind, ...] = ()
    title: str = ""
    dtype: str = "bf16"
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    # embedding
    narrow_embedding: Any = 0  # the width of the embedding where it is not hidden_size
    embedding_projection: str = "none"  # "none", "in" with bias (ALBERT), "in_out" without (OPT 350M)
    positions: int = 0
    token_types: int = 0
    embedding_norm: bool = False
    relative_buckets: int = 0

    # stack
    encoder_layers: Any = 0
    causal: bool = True
    shared_layers: int = 0  # the layers that are stored where all layers share them (ALBERT)
    norm: str = "rmsnorm"  # "rmsnorm", "layernorm", "none": a norm without parameters
    norm_bias: bool = False
    norms_per_layer: int = 2
    final_norm: bool = True

    # attention
    attention: str = "heads"  # "heads": keys and values per KV head; "latent": one compressed vector per token (MLA)
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: str = "none"  # "none", "head": one vector of head_dim; "heads": one vector over all heads
    qk_norm_bias: bool = False
    attention_sinks: bool = False
    window: int | None = None
    query_rank: int = 0
    latent_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0
    cache_repeats_heads: bool = False  # transformers stores Falcon's grouped keys and values once per query head

    # MLP
    gated: bool = True
    mlp_bias: bool = False
    activation: str = "silu"
    experts: Any = 0
    experts_per_token: int = 0
    expert_ffn_size: int = 0
    expert_bias: bool = False
    shared_ffn_size: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    router_correction: bool = False

    # head
    tied: bool = False
    head: str = "linear"  # "linear", "masked" (BERT's transform before it), "none"
    head_bias: bool = False
    pooler: bool = False
    pair_head: bool = False  # next sentence (BERT), sentence order (ALBERT)
    mtp_layers: int = 0

    # what decides which tensors a training step keeps
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    embedding_dropout: float = 0.0
    rotary_dim: int = 0  # the numbers of a head that turn with its position
    parallel: bool = False  # attention and MLP read the same input
    score_cap: bool = False  # attention scores pass through tanh
    logit_cap: bool = False  # logits pass through tanh
    traits: frozenset[str] = frozenset()  # switches of a single family, by the name of its config key

    # a shard of a model (`parallelism.shard_model`): what of it stands on one device
    first_stage: bool = True  # whether the embedding is here
    last_stage: bool = True  # whether the final norm and the head are here
    experts_here: Any = 0  # the experts that are stored here; 0: all of them

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        heads, kv_heads = self.heads, self.kv_heads
        if isinstance(heads, int) and isinstance(kv_heads, int) and (kv_heads < 1 or heads % kv_heads):
            raise Problem(
                f"{self.name}: {heads} heads cannot share {kv_heads} kv_heads evenly; "
                f"make num_key_value_heads a divisor of num_attention_heads"
            )
        if isinstance(self.experts, int) and self.experts_per_token > self.experts:
            raise Problem(
                f"{self.name}: a token cannot use {self.experts_per_token} of {self.experts} experts; "
                f"lower num_experts_per_tok to at most {self.experts}"
            )
        if not self.layer_kinds and isinstance(self.layers, int):
            object.__setattr__(self, "layer_kinds", (LayerKind(),) * self.layers)
        if isinstance(self.layers, int) and len(self.layer_kinds) != self.layers:
            raise Problem(f"{self.name}: {self.layers} layers but {len(self.layer_kinds)} layer_kinds; change both")

    @property
    def embedding_size(self) -> Any:
        """The width of the embedding."""
        return self.narrow_embedding or self.hidden_size

    @property
    def stored_experts(self) -> Any:
        """The experts of a layer that are stored here; a router knows all of them."""
        return self.experts_here or self.experts

    @property
    def stored_layers(self) -> Any:
        """The layers that have weights of their own."""
        return self.shared_layers or self.layers

    @cached_property
    def attention_layers(self) -> Counter[str]:
        """How many layers attend to the full context, a sliding window, a chunk."""
        return Counter(kind.attention for kind in self.layer_kinds)

    @cached_property
    def moe_layers(self) -> int:
        """How many layers have experts in place of one MLP."""
        return sum(kind.moe for kind in self.layer_kinds)

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder stands beside the decoder (T5)."""
        return self.relative_buckets > 0

    @property
    def nope_dim(self) -> Any:
        """Latent attention: the part of a query or key head that is not rotated."""
        return self.head_dim - self.rope_dim

    @property
    def label(self) -> str:
        """The name a reader knows it by."""
        return self.title or self.name


def remembered(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Keep what a function of a model answers, for the next length or number of sequences asked.

    A model with an array among its sizes is answered each time.
    """
    kept = lru_cache(maxsize=256)(function)

    @wraps(function)
    def answer(model: Model, *given: Any) -> Answer:
        try:
            hash(model)
        except TypeError:
            return function(model, *given)
        return kept(model, *given)

    return answer


def scaled(model: Model, depth: int = 100, width: int = 100, vocabulary: int = 100) -> Model:
    """Return a what-if: the model with more or fewer layers, a wider or narrower stack, another vocabulary, in percent.

    Sizes are rounded to whole numbers, at least 1. The width scales the heads, never the size of a head; query heads
    stay the same multiple of KV heads, and hidden_size and the MLPs follow the heads that result.
    """
    layers = _share(model.layers, depth, 100)
    kv_heads = 1 if model.kv_heads == 1 else _share(model.kv_heads, width, 100)
    heads = _share(model.heads, width, 100) if model.kv_heads == 1 else kv_heads * (model.heads // model.kv_heads)
    sizes = ("hidden_size", "ffn_size", "narrow_embedding", "expert_ffn_size", "shared_ffn_size")
    changes: dict[str, Any] = {name: _share(getattr(model, name), heads, model.heads) for name in sizes}
    return replace(
        model,
        layers=layers,
        layer_kinds=(model.layer_kinds * (layers // model.layers + 1))[:layers],
        encoder_layers=_share(model.encoder_layers, depth, 100),
        heads=heads,
        kv_heads=kv_heads,
        vocab_size=_share(model.vocab_size, vocabulary, 100),
        **changes,
    )


def _share(size: int, part: int, whole: int) -> int:
    """Return size · part / whole, rounded; none of nothing, at least 1 of something."""
    return max(1, (2 * size * part + whole) // (2 * whole)) if size else 0
