"""What a forward pass needs beside weights and cache, and what training keeps of it for backward."""

from __future__ import annotations

from dataclasses import replace

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, maximum, minimum, product
from memscape.catalog import precision
from memscape.forward.recipes import RECIPES
from memscape.memory.kept import kept_tensors, prefill_at_highest
from memscape.memory.megatron import megatron_activations
from memscape.memory.tensors import Sizes
from memscape.model import Model
from memscape.parallelism import Layout, shard_model, shard_workload
from memscape.workload import Inference, Training

LOGIT_BYTES = {"bytes_per_logit": 4}


def activations(model: Model, workload: Inference | Training, layout: Layout | None = None) -> Breakdown:
    """Count the bytes of activations: for inference the highest point of prefill, for training what backward needs.

    For training see `kept_tensors` (transformers) and `megatron_activations` (fused kernels). A layout divides tensors
    and tokens; a pipeline is left aside, since this is one micro-batch of the whole model. With `engine="transformers"`
    a prompt is read in one pass, and every tensor alive at its highest point is a term (`prefill_at_highest`). The rest
    of this text is about other engines, which compute one layer at a time.

        T · (c · h + widest) · w  +  sequences · V · 4      [bytes], T tokens in one forward pass

    c copies of the residual stream are alive at once (2 to 4 are reported: a term with a spread). The widest operator
    is queries, keys and values, or the MLP with both inputs of its product. With `attention="eager"` the scores of one
    layer come on top. Logits are one fp32 row per sequence.
    Holds for: engines that compute one layer after the other and sample from the last token.
    Not for:   an engine's start-up profile, prompt log-probabilities (a row for every token).
    Source:    formulas_inference
    """
    layout = layout or Layout()
    if isinstance(workload, Training) and workload.implementation == "megatron":
        return megatron_activations(model, workload, layout)
    settings: dict[str, int] = {}
    if layout != Layout():
        layout = replace(layout, pipeline=1, interleave=1)
        model, workload = shard_model(model, layout), shard_workload(workload, layout)
        settings = {"tokens_over": layout.tensor} if layout.sequence_parallel else {}
    if isinstance(workload, Training):
        return kept_tensors(model, workload, settings)
    if workload.engine == "transformers" and workload.prefill_tokens is None and model.family in RECIPES:
        return prefill_at_highest(model, workload)
    tokens = _tokens_in_pass(workload, workload.sequences * workload.prompt_tokens)
    return _alive(model, workload, tokens)


def decode_activations(model: Model, inference: Inference) -> Breakdown:
    """Count the bytes alive while each sequence computes one token; otherwise as `activations`."""
    return _alive(model, inference, inference.sequences)


def _alive(model: Model, inference: Inference, tokens: Quantity) -> Breakdown:
    size = {"bytes_per_element": 4 if inference.weights.lower() == "fp32" else precision("bf16").parts[0].bytes}
    passed: Sizes = {"tokens_in_pass": tokens}
    terms = [_residual(model, passed | size), _widest(model, passed, size)]
    if inference.attention == "eager":
        scores = passed | {"heads": model.heads, "tokens": inference.tokens} | size
        terms.append(Term("attention scores", scores, "attention", "activations", "formulas_inference"))
    if model.head != "none":
        logits = {"sequences": inference.sequences, "vocab_size": model.vocab_size} | LOGIT_BYTES
        terms.append(Term("logits", logits, "lm_head", "activations", "formulas_inference"))
    return Breakdown("bytes", tuple(terms))


def _residual(model: Model, sizes: Sizes) -> Term:
    """The copies of the residual stream; how many are alive at once differs from engine to engine."""
    copies = tables.by_key("runtime")["residual copies"]
    low, likely, high = tables.spread(copies)
    one = model.hidden_size * product(sizes.values())
    factors = {"residual_copies": likely, "hidden_size": model.hidden_size} | sizes
    return Term("residual stream", factors, "other", "activations", copies["source"], (low * one, high * one))


def _widest(model: Model, passed: Sizes, size: Sizes) -> Term:
    """The operator with the most numbers alive at once."""
    projected = (model.heads + 2 * model.kv_heads) * model.head_dim
    inputs = 3 if model.gated else 2
    mlp = inputs * model.ffn_size
    if model.moe_layers:
        routed = model.experts_per_token * model.expert_ffn_size + model.shared_ffn_size
        mlp = maximum(mlp if model.moe_layers < model.layers else 0, inputs * routed)
    factors = passed | {"widest_operator": maximum(projected, mlp)} | size
    return Term("widest operator", factors, "other", "activations", "formulas_inference")


def _tokens_in_pass(inference: Inference, tokens: Quantity) -> Quantity:
    """All prompt tokens at once in transformers; at most the prefill budget elsewhere."""
    if inference.prefill_tokens is not None:
        return minimum(tokens, inference.prefill_tokens)
    if inference.engine == "transformers":
        return tokens
    return minimum(tokens, int(tables.by_key("runtime")["prefill budget"]["likely"]))
