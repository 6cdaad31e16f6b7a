"""What the pages compare and show beside the exact calculation: a simple rule, one layer of many, room on a device."""

from __future__ import annotations

from dataclasses import dataclass

from memscape.breakdown import Breakdown, Quantity, Term
from memscape.catalog import Accelerator
from memscape.memory.parameters import active_parameters, parameters
from memscape.memory.weights import bits_per_weight, weights
from memscape.model import Model
from memscape.workload import Inference, Training


def two_tensors_a_layer(model: Model, training: Training) -> Breakdown:
    """Count activations by the simplest rule that is taught: the input and the output of each layer's activation.

        2 · L · b · s · h · p      [bytes]

    Holds for: nothing that is trained; it stands here to be compared with `ms.activations`.
    Not for:   the inner width of the MLP, attention, norms, dropout, the loss: the rule counts none of them.
    """
    layers = {"layers": model.layers}
    if model.has_encoder:
        layers = {"encoder_and_decoder_layers": model.encoder_layers + model.layers}
    factors = {
        "tensors_per_layer": 2,
        **layers,
        "micro_batch": training.micro_batch,
        "sequence_tokens": training.sequence_tokens,
        "hidden_size": model.hidden_size,
        "bytes_per_element": 4 if training.precision == "fp32" else 2,
    }
    term = Term("two tensors a layer", factors, "other", "activations", shape="b × s × h")
    return Breakdown("bytes", (term,))


def by_layer(kept: Breakdown) -> dict[tuple[str, Quantity], Breakdown]:
    """Return kept tensors apart by the layers that keep them, keyed (name, count), each breakdown for one such layer.

    What the whole model keeps once has the key ("", 1) and comes last.
    """
    found: dict[tuple[str, Quantity], list[Term]] = {}
    for term in kept:
        layers = [each for each in term.factors.items() if _counts_layers(each[0])]
        sizes = {name: size for name, size in term.factors.items() if not _counts_layers(name)}
        found.setdefault(layers[0] if layers else ("", 1), []).append(term.of(sizes))
    once = found.pop(("", 1), [])
    return {key: Breakdown(kept.unit, tuple(terms)) for key, terms in [*found.items(), (("", 1), once)] if terms}


def _counts_layers(factor: str) -> bool:
    return factor.endswith("layers") or factor.startswith("layer_of_")


def room(needed: Breakdown, accelerator: Accelerator) -> Quantity:
    """Return the bytes that one device has left beside what is needed; negative where they are missing.

    usable bytes - needed bytes      [bytes]
    """
    return accelerator.usable_bytes - needed.total


@dataclass(frozen=True)
class Rule:
    """A common rule: its words, what it answers by phase, and why it errs."""

    name: str
    says: str
    errs: str
    answer: Breakdown

    def error(self, exact: Breakdown) -> Quantity:
        """Return what the rule answers over the exact answer, less one."""
        return self.answer.total / exact.total - 1

    def worst(self, exact: Breakdown) -> str:
        """Return the phase in which the rule is furthest from the exact answer, in bytes."""
        mine, real = self.answer.by("phase"), exact.by("phase")
        return max({**real, **mine}, key=lambda phase: abs(mine.get(phase, 0) - real.get(phase, 0)))


def rules(model: Model, workload: Inference | Training) -> tuple[Rule, ...]:
    """Return what common rules answer for a model and a workload, each by phase as `ms.memory` is.

    Holds for: nothing in particular; they stand here to be compared with `ms.memory`.
    Sources: transformer_math, rajbhandari2020, korthikanti2022, article2024
    """
    return _of_training(model, workload) if isinstance(workload, Training) else _of_serving(model, workload)


def _of_serving(model: Model, asked: Inference) -> tuple[Rule, ...]:
    held = _weights(model, asked.weights)
    added = {"percent": 20, "one_percent": 1 / 100, "weight_bytes": held.amount}
    fifth = Term("a fifth more", added, "other", "runtime", "transformer_math")
    tokens = {"sequences": asked.sequences, "tokens": asked.prompt_tokens + asked.output_tokens}
    width = {"layers": model.layers, "hidden_size": model.hidden_size, "bytes_per_element": 2}
    wide = Term("keys and values of the whole width", {"keys_and_values": 2, **tokens, **width}, "other", "kv_cache")
    per_head = {"layers": model.layers, "kv_heads": model.kv_heads, "head_dim": model.head_dim, "bytes_per_element": 2}
    grouped = Term("keys and values of the KV heads", {"keys_and_values": 2, **tokens, **per_head}, "other", "kv_cache")
    two = {"tensors_per_layer": 2, **tokens, **width}
    kept = Term("two tensors a layer", two, "other", "activations", "article2024")
    return (
        Rule("Weights alone", "parameters × bytes", "It leaves out the cache, which grows with users.", _sum(held)),
        *_of_active(model, asked.weights),
        Rule(
            "A fifth more",
            "parameters × bytes × 1.2",
            "What comes beside the weights does not follow from the weights: it follows from tokens.",
            _sum(held, fifth),
        ),
        Rule(
            "Cache of the whole width",
            "weights + 2 × layers × hidden size × tokens × 2 bytes",
            "It gives every head keys and values of its own, and every layer the whole context.",
            _sum(held, wide),
        ),
        Rule(
            "Cache of the KV heads",
            "weights + 2 × layers × KV heads × head size × tokens × 2 bytes",
            "Right where every layer keeps all tokens for each KV head; windows, latent attention and encoders do not.",
            _sum(held, grouped),
        ),
        Rule(
            "Two tensors a layer",
            "weights + 2 × layers × hidden size × tokens × 2 bytes, called activations",
            "Nothing is kept from layer to layer in serving but the cache, which the rule does not name.",
            _sum(held, kept),
        ),
    )


def _of_active(model: Model, precision: str) -> tuple[Rule, ...]:
    """The rule that is told of mixtures of experts alone."""
    if not model.experts:
        return ()
    used = {"active_parameters": active_parameters(model).total, **_bytes_each(model, precision)}
    errs = "A token passes through some experts, but the next token through others: all of them have to be there."
    answer = _sum(Term("weights of a token's experts", used, "other", "weights"))
    return (Rule("Active parameters", "parameters that a token uses × bytes", errs, answer),)


def _of_training(model: Model, training: Training) -> tuple[Rule, ...]:
    number = parameters(model).total
    sixteen = [
        _states("weights", number, 2),
        _states("gradients", number, 2),
        _states("optimizer_states", number, 12),
    ]
    same = [_states(phase, number, 2, "article2024") for phase in ("weights", "gradients", "optimizer_states")]
    tokens = {"micro_batch": training.micro_batch, "sequence_tokens": training.sequence_tokens}
    width = {"layers": model.layers + model.encoder_layers, "hidden_size": model.hidden_size}
    wide = {"bytes_per_element": 34, **tokens, **width}
    paper = Term("34·s·b·h a layer", wide, "other", "activations", "korthikanti2022")
    twelve = {"numbers_per_token_and_layer": 12, "bytes_per_element": 2, **tokens, **width}
    zero = Term("12·s·b·h numbers a layer", twelve, "other", "activations", "rajbhandari2020")
    two = two_tensors_a_layer(model, training).terms
    return (
        Rule(
            "Three times the weights",
            "weights + gradients + optimizer, each the same, + two tensors a layer",
            "Adam keeps two moments and a 32-bit copy: six times the 16-bit weights.",
            Breakdown("bytes", (*same, *two)),
        ),
        Rule(
            "16 bytes a parameter",
            "2 + 2 + 12 bytes for each parameter",
            "It leaves out every activation, and adapters or other optimizers change the states.",
            Breakdown("bytes", tuple(sixteen)),
        ),
        Rule(
            "16 bytes and 12·s·b·h",
            "16 bytes a parameter + 12 numbers × tokens × hidden size for each layer",
            "It counts a dozen tensors of GPT-2's layer in 16 bits, and neither masks nor scores nor the loss.",
            Breakdown("bytes", (*sixteen, zero)),
        ),
        Rule(
            "16 bytes and 34·s·b·h",
            "16 bytes a parameter + 34 × tokens × hidden size for each layer",
            "The 34 is that of GPT-3's block under fused kernels; gated MLPs and PyTorch's norms keep other tensors.",
            Breakdown("bytes", (*sixteen, paper)),
        ),
    )


def _sum(*terms: Term) -> Breakdown:
    return Breakdown("bytes", terms)


def _weights(model: Model, precision: str) -> Term:
    """The weights as rules count them: whole bytes for each parameter, quantised or not, without scales."""
    size = {"parameters": parameters(model).total, **_bytes_each(model, precision)}
    return Term("weights", size, "other", "weights", "article2024")


def _bytes_each(model: Model, precision: str) -> dict[str, Quantity]:
    bits = bits_per_weight(precision) or 8 * weights(model, precision).total / parameters(model).total
    return {"bytes_per_element": round(bits) / 8}


def _states(phase: str, number: Quantity, size: int, source: str = "rajbhandari2020") -> Term:
    return Term(phase.replace("_", " "), {"parameters": number, "bytes_per_element": size}, "other", phase, source)
