"""What a pass computes and reads: floating-point operations and bytes, counted from the model's matrices."""

from __future__ import annotations

from collections.abc import Mapping

from memscape.breakdown import Breakdown, Quantity, Term, minimum, product
from memscape.memory.tensors import Sizes, Tensor, tensors
from memscape.model import Model

MULTIPLY_AND_ADD = {"multiply_and_add": 2}


def forward_flops(model: Model, tokens: Sizes, context: Quantity, rows_of_head: Sizes | None = None) -> Breakdown:
    """Count the operations of one forward pass of a model, or of a shard of one.

        Σ over matrices 2 · rows · columns · T  +  L · 2 · 2 · T · context/2 · a · d      [operations], causal

    Experts count as often as a token uses them; looking up an embedding computes nothing. `tokens` are the factors of
    T, `context` what one token attends to before the causal half is taken, `rows_of_head` the tokens that go through
    the head (all by default).
    Holds for: dense attention; a window limits the context of its layers; MLA with expanded keys and values.
    Not for:   norms, activations, softmax, which are limited by memory and counted there.
    Source:    chowdhery2022
    """
    terms = [_matrix(model, tensor, tokens, rows_of_head) for tensor in tensors(model) if _multiplies(model, tensor)]
    return Breakdown("operations", (*terms, *_scores(model, tokens, context)))


def _multiplies(model: Model, tensor: Tensor) -> bool:
    if tensor.is_vector:
        return False
    return tensor.group != "embeddings" or (model.tied and model.last_stage and tensor.role == "token_embd")


def _matrix(model: Model, tensor: Tensor, tokens: Sizes, head: Sizes | None) -> Term:
    through_head = tensor.group in ("lm_head", "embeddings")
    rows = head if head is not None and through_head else tokens
    factors = MULTIPLY_AND_ADD | _passed(model, tensor) | tensor.rows | tensor.columns | rows
    name = "output head (tied)" if tensor.group == "embeddings" else tensor.name
    return Term(name, factors, tensor.group, "matmul", "chowdhery2022")


def _scores(model: Model, tokens: Sizes, context: Quantity) -> list[Term]:
    """Queries times keys and weights times values; half of a causal square is computed."""
    width = model.head_dim + (model.value_dim or model.head_dim)
    terms = []
    for kind, layers in model.attention_layers.items():
        seen = context if kind == "full" or model.window is None else minimum(context, 2 * model.window)
        half = 2 if model.causal else 1
        sizes = {"layers": layers, "heads": model.heads, "head_and_value_dim": width, "tokens_seen": seen / half}
        terms.append(
            Term(f"attention, {kind}", MULTIPLY_AND_ADD | sizes | tokens, "attention", "scores", "chowdhery2022")
        )
    return terms


def matrix_parameters(model: Model) -> Quantity:
    """Return the numbers in matrices that a token is multiplied by."""
    used = [tensor for tensor in tensors(model) if _multiplies(model, tensor)]
    return sum(_numbers(model, tensor) for tensor in used)


def _numbers(model: Model, tensor: Tensor) -> Quantity:
    return product([*_passed(model, tensor).values(), *tensor.rows.values(), *tensor.columns.values()])


def _passed(model: Model, tensor: Tensor) -> Sizes:
    """How often a token passes a matrix: the layers that share one use it each, and of the experts only some do."""
    named = {"experts": ("experts_per_token", model.experts_per_token), "stored_layers": ("layers", model.layers)}
    return dict(named.get(name, (name, size)) for name, size in tensor.copies.items())


def is_routed(group: str, factors: Mapping[str, Quantity]) -> bool:
    """Return whether a tensor belongs to experts that tokens choose between: no shared expert, no router."""
    return group == "experts" and "experts" in factors


def distinct_experts(model: Model, tokens: Quantity) -> Quantity:
    """Return the experts of a layer that a batch is expected to use, of those stored here, if routing is even.

    E · (1 - (1 - e/E)^T)
    """
    return model.stored_experts * (1 - (1 - model.experts_per_token / model.experts) ** tokens)
