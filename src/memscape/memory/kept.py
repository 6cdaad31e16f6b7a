"""The tensors of a training step as terms: what autograd keeps, and what is alive at one moment of the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, maximum
from memscape.forward.passes import group_of
from memscape.forward.recipes import recipe_of
from memscape.forward.tape import BYTES, Block
from memscape.forward.trace import EMBEDDING, FORWARD, HEAD, Trace, cases, trace
from memscape.memory.training_states import check
from memscape.model import Model
from memscape.workload import Inference, Training

SOURCE = "pytorch_autograd"
# words that tell alike layers apart by their place
ORDINALS = ("first", "second", "later", "last")


def kept_tensors(model: Model, training: Training, settings: Mapping[str, Any] | None = None) -> Breakdown:
    """Count what autograd keeps from forward to backward of one micro-batch of the whole model, loss included.

        Σ over kept tensors: layers · sizes of the tensor · bytes per element      [bytes]

    Every term is a tensor: its shape, its type and why it is kept. Tensors that all layers share (rotary tables, masks)
    count once. Under autocast the copies of the weights that backward reads are terms too.
    Holds for: transformers 5.23 with PyTorch 2.13, train mode, no padding mask, labels for every token.
    `settings` are fields of `Case` that a layout decides.
    Not for:   what lives on beside it: the logits while the output lives, the labels the caller holds.
    Raises:    Problem for a family whose forward pass is not described, or a workload that the model cannot take.
    Source:    pytorch_autograd
    """
    check(model, training)
    result = Breakdown("bytes", notes=remarks(model, training))
    for case, where in cases(model, training):
        result += limited(_kept(trace(model, training, case._replace(**settings or {}))), where)
    return result


def remarks(model: Model, training: Training) -> tuple[str, ...]:
    """Return what a reader must know about the answer."""
    if training.attention == "sdpa" and not recipe_of(model).sdpa:
        return (*model.notes, f"transformers has no fused attention for {model.label}: eager attention is counted")
    return model.notes


def _kept(step: Trace) -> Breakdown:
    """The tensors that are kept, once for all layers of a stage."""
    alone = len({" ".join(word for word in name.split() if word not in ORDINALS) for name, _ in step.order}) == 3
    terms = []
    for name, index, count, reason in step.kept_blocks():
        block = step.tape.blocks[index]
        if index == step.spans[name].entry and name not in (EMBEDDING, HEAD):
            block = block._replace(part="layer", name="input")
        terms.append(_term(block, _layers(name, count, alone), reason))
    return Breakdown("bytes", tuple(terms))


def _layers(name: str, count: int, alone: bool) -> dict[str, Quantity]:
    """The layers that keep a tensor, named by their kind; `alone`: the model has one kind of layer."""
    if count == 1:
        return {}
    words = [word for word in name.split() if word not in ORDINALS]
    kind = "_".join("moe" if word == "experts" else word for word in words)
    return {"layers" if alone else f"{kind}s": count}


def alive_at(
    model: Model, training: Training, direction: str, highest: bool, settings: Mapping[str, Any] | None = None
) -> Breakdown:
    """Return the tensors alive at the highest point of a direction, or at its end, above weights and earlier states."""
    result = Breakdown("bytes", notes=remarks(model, training))
    for case, where in cases(model, training):
        step = trace(model, training, case._replace(**settings or {}))
        place = step.peak(direction).place if highest else None
        for each, share in _places(place):
            result += limited(limited(Breakdown("bytes", tuple(_alive(step, direction, each))), share), where)
    return result


def prefill_at_highest(model: Model, inference: Inference) -> Breakdown:
    """Return the tensors alive at the highest point of reading a prompt in one pass, as transformers does.

    Keys and values are alive here while their layer computes; the cache that keeps them is counted by `kv_cache`.
    """
    reading = Training(
        micro_batch=inference.sequences,
        sequence_tokens=maximum(inference.prompt_tokens, 1),
        precision="fp32" if inference.weights.lower() == "fp32" else "bf16",
        attention=inference.attention,
        dropout=0,
    )
    result = Breakdown("bytes", notes=remarks(model, reading))
    for case, where in cases(model, reading):
        step = trace(model, reading, case._replace(serves=True))
        for each, share in _places(step.peak(FORWARD).place):
            result += limited(limited(Breakdown("bytes", tuple(_alive(step, FORWARD, each))), share), where)
    return result


def _places(place: Quantity) -> Iterator[tuple[int | None, Quantity]]:
    """The places of a peak: one, or several, each with the elements of the grid that stand there."""
    if not hasattr(place, "shape"):
        yield place, True
        return
    import numpy

    for each in numpy.unique(place):
        yield int(each), (place == each).astype("float64")


def _alive(step: Trace, direction: str, place: int | None) -> Iterator[Term]:
    """Alike tensors of several layers are one term."""
    joined: Counter[tuple[object, ...]] = Counter()
    first: dict[tuple[object, ...], Block] = {}
    for index, count in sorted(step.alive(direction, place).items()):
        block = step.tape.blocks[index]
        key = (block.name, block.part, tuple(block.sizes), block.dtype, block.role)
        joined[key] += count
        first.setdefault(key, block)
    for alike, count in joined.items():
        yield _term(first[alike], {"copies": count} if count > 1 else {}, "")


def _term(block: Block, layers: dict[str, Quantity], reason: str) -> Term:
    phase = "gradients" if block.role == "gradient" else "activations"
    return Term(
        f"{block.part}: {block.name}",
        {**layers, **block.sizes, "bytes_per_element": BYTES[block.dtype]},
        group_of(block.part),
        phase,
        SOURCE,
        shape=" × ".join(_letter(name) for name in block.sizes),
        dtype=block.dtype,
        because=reason,
    )


def _letter(name: str) -> str:
    letter = tables.by_key("symbols").get(name, {}).get("latex", name)
    return letter.replace("{", "").replace("}", "").replace("\\", "")


def limited(part: Breakdown, where: Quantity) -> Breakdown:
    """Limit a part to the elements of a grid where it applies."""
    if where is True:
        return part
    return replace(part, terms=tuple(_here(term, where) for term in part.terms))


def _here(term: Term, where: Quantity) -> Term:
    here = term.factors.get("where_it_applies", 1) * where
    return term.of({**term.factors, "where_it_applies": here})
