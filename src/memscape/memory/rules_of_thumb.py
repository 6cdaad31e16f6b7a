"""What the pages compare and show beside the exact calculation: a simple rule, one layer of many, room on a device."""

from __future__ import annotations

from dataclasses import replace

from memscape.breakdown import Breakdown, Quantity, Term
from memscape.catalog import Accelerator
from memscape.model import Model
from memscape.workload import Training


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
        found.setdefault(layers[0] if layers else ("", 1), []).append(replace(term, factors=sizes))
    once = found.pop(("", 1), [])
    return {key: Breakdown(kept.unit, tuple(terms)) for key, terms in [*found.items(), (("", 1), once)] if terms}


def _counts_layers(factor: str) -> bool:
    return factor.endswith("layers") or factor.startswith("layer_of_")


def room(needed: Breakdown, accelerator: Accelerator) -> Quantity:
    """Return the bytes that one device has left beside what is needed; negative where they are missing.

    usable bytes - needed bytes      [bytes]
    """
    return accelerator.usable_bytes - needed.total
