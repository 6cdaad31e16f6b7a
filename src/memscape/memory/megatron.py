"""What fused kernels keep for backward: the formula of Korthikanti et al. 2022, one term for each kept tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memscape.breakdown import Breakdown, Quantity, Term, ceil_div
from memscape.memory.tensors import Sizes
from memscape.memory.training_states import check
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem, one_of
from memscape.workload import Training

PAPER = "korthikanti2022"
DERIVED = "megatron_derived"
BYTES = {"fp32": 4, "bf16": 2}
MASK = {"bytes_per_element": 1}
WIDE = {"bytes_per_element": 4}


def megatron_activations(model: Model, training: Training, layout: Layout | None = None) -> Breakdown:
    """Count what a stack of layers with Megatron's fused kernels keeps from forward to backward of one micro-batch.

        attention 11·s·b·h + 5·a·s²·b, MLP 19·s·b·h, two norms 4·s·b·h      [bytes per layer, 16 bit, f = 4h, dropout]

    and once the embedding's dropout mask s·b·h, the final norm and the head's input 4·s·b·h, fp32 logits 4·s·b·V. A
    head's width, KV heads and the MLP's width are the model's own. `tensor` divides what is inside attention and MLP,
    `sequence_parallel` the rest along the sequence. `attention="sdpa"` is a flash kernel: one fp32 number per query
    and head in place of scores; "selective" recomputes scores, "light" also an activated gate and what MLA makes of its
    compressed vectors, "full" keeps the input of each layer alone. Without dropout there are no masks. A gated MLP
    keeps gate, up, the activated gate and the product, so that a LLaMA keeps s·b·h·(12 + 4·k/a + 8·f/h).
    Holds for: GPT (the paper's Table 2, to the byte), and as its reading for gated MLPs, RMSNorm and grouped heads.
    Not for:   encoder-decoders (refused); experts and MLA are derived, not checked against a run: even
               routing, no capacity factor, not divided by `expert`. Statistics of norms are left out, as in the paper.
    `training` is what one device of context parallelism has, `model` the layers of one pipeline stage.
    Sources:   korthikanti2022 sections 4.1 to 4.3 and 5, megatron_derived
    """
    check(model, training)
    kept = _Kept(model, training, layout or Layout())
    terms = (*kept.embedding(), *kept.layers(), *kept.head())
    return Breakdown("bytes", terms, model.notes)


def megatron_layer(model: Model, training: Training, layout: Layout | None = None) -> Breakdown:
    """Count what one layer keeps while it is alive: with full recomputation this comes on top in backward."""
    kept = _Kept(model, training, layout or Layout())
    return Breakdown("bytes", tuple(kept.layer({}, moe=bool(model.moe_layers))), model.notes)


@dataclass(frozen=True)
class _Kept:
    """The tensors that a model keeps in a layout."""

    model: Model
    training: Training
    layout: Layout

    def __post_init__(self) -> None:
        if self.model.has_encoder:
            raise Problem(
                f"{self.model.label} has an encoder beside its decoder, which Megatron's formula does not cover; "
                f'use implementation "transformers"'
            )
        for name in ("heads", "ffn_size"):
            _check_split(self.layout.tensor, name, getattr(self.model, name))

    # sizes

    @property
    def size(self) -> Sizes:
        """Bytes of a kept number."""
        return {"bytes_per_element": BYTES["fp32" if self.training.precision == "fp32" else "bf16"]}

    @property
    def tokens(self) -> Sizes:
        """Tokens inside attention and MLP: all of them."""
        return {"sequence_tokens": self.training.sequence_tokens, "micro_batch": self.training.micro_batch}

    @property
    def stream(self) -> Sizes:
        """One residual stream: with sequence parallelism each device has a part of its tokens."""
        tokens = self.tokens
        if self.layout.sequence_parallel:
            share = ceil_div(self.training.sequence_tokens, self.layout.tensor)
            tokens = {"tokens_per_device": share, "micro_batch": self.training.micro_batch}
        return tokens | {"hidden_size": self.model.hidden_size}

    def split(self, name: str, size: Quantity) -> Sizes:
        """A size that tensor parallelism divides; a head of keys that cannot be divided is copied."""
        if isinstance(self.layout.tensor, int) and self.layout.tensor == 1:
            return {name: size}
        return {f"{name}_per_device": ceil_div(size, self.layout.tensor)}

    def drops(self, rate: float) -> bool:
        """Whether a dropout of this rate in the config keeps a mask."""
        return rate > 0 and self.training.dropout != 0

    # parts

    def embedding(self) -> Iterator[Term]:
        """The mask of the embedding's dropout."""
        if self.model.first_stage and self.drops(self.model.embedding_dropout):
            yield _term("embedding dropout mask", "embeddings", self.stream | MASK)

    def layers(self) -> Iterator[Term]:
        """All layers, those with experts apart."""
        moe, layers = self.model.moe_layers, self.model.layers
        if self.training.recompute == "full":
            yield _term("input of the layer", "attention", {"layers": layers} | self.stream | self.size)
            return
        if not moe:
            yield from self.layer({"layers": layers}, moe=False)
            return
        yield from self.attention({"layers": layers})
        yield from self.norms({"layers": layers})
        if layers > moe:
            yield from self.mlp({"dense_layers": layers - moe}, "mlp_dense", "ffn_size", self.model.ffn_size)
        yield from self.experts({"moe_layers": moe})

    def layer(self, layers: Sizes, moe: bool) -> Iterator[Term]:
        """One kind of layer."""
        yield from self.attention(layers)
        yield from self.norms(layers)
        if moe:
            yield from self.experts(layers)
        else:
            yield from self.mlp(layers, "mlp_dense", "ffn_size", self.model.ffn_size)

    def attention(self, layers: Sizes) -> Iterator[Term]:
        """The input of the three projections, their results, the attention itself, the input of the last projection."""
        model, group = self.model, "attention"
        if model.attention == "latent":
            yield from self.latent_attention(layers)
            return
        width = {"head_dim": model.head_dim} | self.size
        heads, kv_heads = self.split("heads", model.heads), self.split("kv_heads", model.kv_heads)
        yield _term("input of queries, keys and values", group, layers | self.stream | self.size)
        if model.qk_norm != "none":
            yield _term("queries before their norm", group, layers | self.tokens | heads | width, DERIVED)
            yield _term("keys before their norm", group, layers | self.tokens | kv_heads | width, DERIVED)
        yield _term("queries", group, layers | self.tokens | heads | width)
        yield _term("keys", group, layers | self.tokens | kv_heads | width)
        yield _term("values", group, layers | self.tokens | kv_heads | width)
        if self.training.recompute in ("none", "full"):
            yield from self.core(layers | heads | self.tokens)
        yield _term("input of the attention's projection", group, layers | self.tokens | heads | width)
        if self.drops(model.hidden_dropout):
            yield _term("attention dropout mask", group, layers | self.stream | MASK)

    def latent_attention(self, layers: Sizes) -> Iterator[Term]:
        """The compressed vectors before and after their norms, and what is made of them unless that is recomputed."""
        model, tokens, heads = self.model, layers | self.tokens, self.split("heads", self.model.heads)
        ranks = {"latent_and_rope_dim": model.latent_rank + model.rope_dim}
        ranks |= {"query_rank": model.query_rank} if model.query_rank else {}
        yield _term("input of the down-projections", "attention", layers | self.stream | self.size, DERIVED)
        for name, rank in ranks.items():
            both = {"before_and_after_norm": 2, name: rank}
            yield _term(f"{name.replace('_', ' ')} vectors", "attention", tokens | both | self.size, DERIVED)
        made = {"queries": "head_dim", "keys": "head_dim", "values": "value_dim"}
        for name, width in made.items() if self.training.recompute != "light" else ():
            sizes = tokens | heads | {width: getattr(model, width)} | self.size
            yield _term(name, "attention", sizes, DERIVED)
        if self.training.recompute in ("none", "full"):
            yield from self.core(layers | heads | self.tokens)
        attended = tokens | heads | {"value_dim": model.value_dim} | self.size
        yield _term("input of the attention's projection", "attention", attended, DERIVED)

    def core(self, queries: Sizes) -> Iterator[Term]:
        """What lies between queries and the attended values: scores, or what a flash kernel keeps in their place."""
        if self.training.attention == "sdpa":
            yield _term("sum of the exponents of each query", "attention", queries | WIDE, DERIVED)
            return
        scores = queries | {"key_tokens": self.training.sequence_tokens}
        yield _term("softmax output", "attention", scores | self.size)
        if self.drops(self.model.attention_dropout):
            yield _term("softmax dropout mask", "attention", scores | MASK)
            yield _term("softmax output after dropout", "attention", scores | self.size)

    def norms(self, layers: Sizes) -> Iterator[Term]:
        """The input of each norm."""
        norms = {"norms_per_layer": self.model.norms_per_layer}
        yield _term("inputs of the norms", "norms", layers | norms | self.stream | self.size)

    def mlp(self, layers: Sizes, group: str, name: str, width: Quantity) -> Iterator[Term]:
        """The input, the inner tensors, the input of the last matrix, the mask."""
        prefix = "" if group == "mlp_dense" else "shared expert: "
        inner = layers | self.tokens | self.split(name, width) | self.size
        yield _term(f"{prefix}input of the MLP", group, layers | self.stream | self.size)
        yield from self.inner(prefix, group, inner, PAPER)
        if self.drops(self.model.hidden_dropout):
            yield _term(f"{prefix}MLP dropout mask", group, layers | self.stream | MASK)

    def inner(self, prefix: str, group: str, sizes: Sizes, source: str) -> Iterator[Term]:
        """The inner tensors of a gated MLP, or of one with an activation between two matrices."""
        names = ["gate", "up", "activated gate"] if self.model.gated else ["input of the activation"]
        if self.model.gated and self.training.recompute == "light":
            names.remove("activated gate")
        for name in (*names, "input of the last matrix"):
            yield _term(f"{prefix}{name}", group, sizes, DERIVED if self.model.gated else source)

    def experts(self, layers: Sizes) -> Iterator[Term]:
        """Each token goes to several experts; what goes in and what comes out is kept once per expert."""
        model, used = self.model, {"experts_per_token": self.model.experts_per_token}
        scores = layers | self.tokens | {"experts": model.experts, "scores_and_probabilities": 2} | WIDE
        yield _term("router scores", "router", scores, DERIVED)
        yield _term("input of the experts", "experts", layers | used | self.stream | self.size, DERIVED)
        inner = layers | used | self.tokens | self.split("expert_ffn_size", model.expert_ffn_size) | self.size
        yield from self.inner("expert: ", "experts", inner, DERIVED)
        yield _term("output of the experts", "experts", layers | used | self.stream | self.size, DERIVED)
        if model.shared_ffn_size:
            yield from self.mlp(layers, "experts", "shared_ffn_size", model.shared_ffn_size)

    def head(self) -> Iterator[Term]:
        """The final norm, the input of the head, the logits in fp32."""
        if not self.model.last_stage:
            return
        if self.model.final_norm:
            yield _term("input of the final norm", "norms", self.stream | self.size)
        if self.model.head != "none":
            yield _term("input of the head", "lm_head", self.stream | self.size)
            logits = self.tokens | self.split("vocab_size", self.model.vocab_size) | {"bytes_per_logit": 4}
            yield _term("logits in fp32", "lm_head", logits)


def _term(name: str, group: str, factors: Sizes, source: str = PAPER) -> Term:
    return Term(name, factors, group, "activations", source)


def _check_split(tensor: Quantity, name: str, size: Quantity) -> None:
    uneven = size % tensor != 0
    if uneven.any() if hasattr(uneven, "any") else uneven:
        possible = [degree for degree in (1, 2, 4, 8, 16, 32) if size % degree == 0]
        raise Problem(f"tensor {str(tensor)[:40]} cannot split {size:,} {name}; use {one_of(possible)}")
