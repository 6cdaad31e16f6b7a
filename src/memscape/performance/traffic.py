"""What each form of parallelism puts on the wire: bytes that one device sends in a training step or a forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from memscape.breakdown import Breakdown, Quantity, Term, product
from memscape.memory.optimizers import BYTES
from memscape.memory.step import device_of
from memscape.memory.tensors import Sizes
from memscape.memory.training_states import gradient_bytes, trained
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout, shard_model, shard_workload
from memscape.performance.work import is_routed
from memscape.workload import Inference, Training

FORMS = ("tensor", "context", "expert", "pipeline", "data")
# sublayers of a layer that end in a sum over the tensor-parallel devices
SUBLAYERS = {False: 2, True: 1}


def training_traffic(model: Model, training: Training, layout: Layout, batches: Quantity = 1) -> Breakdown:
    """Count the bytes that one device sends in a step of `batches` micro-batches; `model`, `training` are its share.

        tensor    4·L all-reduces of b·s·h, 6·L with full recomputation; a ring sends 2·(t - 1)/t of the tensor
        context   keys and values round c - 1 neighbours forward, with their gradients back
        expert    two exchanges forward and two back of e·b·s·h, all but 1/E of it to others
        pipeline  b·s·h forward and its gradient back, per piece of a stage
        data      2·(N - 1)/N of the gradients; with ZeRO gradients and weights once each, stage 2 per micro-batch,
                  stage 3 also the weights forward and backward of every micro-batch

    Groups are the forms. Holds for: rings; sequence parallelism sends as much as tensor parallelism alone.
    Not for: trees and switches that reduce, which send less.
    Sources: thakur2005, narayanan2021, rajbhandari2020, liu2023ring, lepikhin2020
    """
    size = {"bytes_per_element": BYTES["fp32" if training.precision == "fp32" else "bf16"]}
    stream: Sizes = {"micro_batch": training.micro_batch, "sequence_tokens": training.sequence_tokens}
    again = 3 if training.recompute == "full" else 2
    passes = {"micro_batches": batches}
    terms = (
        *_tensor(model, layout, {"passes": again} | stream | size | passes),
        *_context(model, layout, {"forward_and_gradients": 3} | stream | size | passes),
        *_experts(model, layout, {"forward_and_back": 2} | stream | size | passes),
        *_pipeline(model, layout, {"forward_and_back": 2} | stream | size | passes),
        *_data(model, training, layout, batches),
    )
    return Breakdown("bytes", terms)


def forward_traffic(model: Model, inference: Inference, layout: Layout, tokens: Quantity) -> Breakdown:
    """Count the bytes that one device sends in one forward pass over some tokens of all its sequences together."""
    size = {"bytes_per_element": BYTES["fp32" if inference.weights.lower() == "fp32" else "bf16"]}
    passed = {"tokens_in_pass": tokens} | size
    terms = (
        *_tensor(model, layout, passed),
        *_context(model, layout, passed),
        *_experts(model, layout, passed),
        *_pipeline(model, layout, passed),
    )
    return Breakdown("bytes", terms)


def traffic(model: Model, workload: Inference | Training, layout: Layout) -> Breakdown:
    """Count the bytes that a device of a stage in the middle sends: in a training step, or while prompts are read.

    Sources: those of `training_traffic` and `forward_traffic`
    """
    stage = layout.pipeline // 2
    if isinstance(workload, Training):
        device = device_of(model, workload, layout, stage)
        return training_traffic(device.model, device.training, layout, device.batches)
    share = shard_workload(workload, layout)
    assert isinstance(share, Inference)
    tokens = share.sequences * share.prompt_tokens
    return forward_traffic(shard_model(model, layout, stage), share, layout, tokens)


def _tensor(model: Model, layout: Layout, rest: Sizes) -> Iterator[Term]:
    t = layout.tensor
    if t > 1:
        layers = {"sublayers": SUBLAYERS[model.parallel], "layers": model.layers + model.encoder_layers}
        sizes = {"ring_share": 2 * (t - 1) / t} | layers | {"hidden_size": model.hidden_size} | rest
        yield _term("all-reduce of each sublayer", sizes, "tensor", "thakur2005")


def _context(model: Model, layout: Layout, rest: Sizes) -> Iterator[Term]:
    if layout.context > 1:
        width = model.head_dim + (model.value_dim or model.head_dim)
        keys = {"kv_heads": model.kv_heads, "head_and_value_dim": width, "layers": model.layers}
        yield _term("keys and values", {"neighbours": layout.context - 1} | keys | rest, "context", "liu2023ring")


def _experts(model: Model, layout: Layout, rest: Sizes) -> Iterator[Term]:
    if layout.expert > 1 and model.moe_layers:
        sent = {"sent_share": (layout.expert - 1) / layout.expert, "sent_and_received": 2}
        tokens = {"experts_per_token": model.experts_per_token, "moe_layers": model.moe_layers}
        sizes = sent | tokens | {"hidden_size": model.hidden_size} | rest
        yield _term("tokens to their experts and back", sizes, "expert", "lepikhin2020")


def _pipeline(model: Model, layout: Layout, rest: Sizes) -> Iterator[Term]:
    if layout.pipeline > 1:
        share = {"sent_share": 1 / layout.tensor} if layout.sequence_parallel else {}
        sizes = {"pieces": layout.interleave} | share | {"hidden_size": model.hidden_size} | rest
        yield _term("hidden states to the next stage", sizes, "pipeline", "narayanan2021")


def _data(model: Model, training: Training, layout: Layout, batches: Quantity) -> Iterator[Term]:
    """Gradients and weights over the devices that hold the same ones; experts have fewer of those than the rest."""
    tensors, held = trained(model, training), weights(model, training.weights)
    for name, routed, copies in (("", False, layout.replicas), (" of experts", True, layout.expert_replicas)):
        numbers = sum(
            tensor.elements * product(tensor.copies.values())
            for tensor in tensors
            if is_routed(tensor.group, tensor.copies | tensor.sizes) == routed
        )
        if copies == 1 or not numbers:
            continue
        often = {"micro_batches": batches} if layout.zero > 1 else {}
        once = {"ring_share": (1 if layout.zero else 2) * (copies - 1) / copies}
        size = {"parameters": numbers, "bytes_per_element": gradient_bytes(training)}
        yield _term(f"gradients{name}", once | size | often, "data", "rajbhandari2020")
        if layout.zero:
            bytes_held = sum(term.amount for term in held if is_routed(term.group, term.factors) == routed)
            often = {"passes": 2, "micro_batches": batches} if layout.zero == 3 else {}
            share = {"ring_share": (copies - 1) / copies, "weight_bytes": bytes_held}
            yield _term(f"weights{name}", share | often, "data", "rajbhandari2020")


def _term(name: str, factors: Sizes, form: str, source: str) -> Term:
    return Term(name, factors, form, "traffic", source)
