"""What a layout adds on a device: copies and buffers that are there because several devices share the work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, ceil_div, minimum, product
from memscape.memory.modules import Stored, stored
from memscape.memory.optimizers import BYTES
from memscape.memory.tensors import Sizes
from memscape.memory.training_states import gradient_bytes, trained
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.workload import Training

TWO = {"sent_and_received": 2}


def layout_buffers(model: Model, training: Training, layout: Layout) -> Breakdown:
    """Count the buffers of a training step in forward and backward; `model` and `training` are one device's share.

    ZeRO        DeepSpeed's reduce bucket; with stage 3 what is gathered: at most its limit of live numbers, or for FSDP
                the parts outside the layers and two layers; never more than the device does not hold itself
    copies      DDP without ZeRO reduces gradients through buckets that together are one more copy of them; Megatron's
                gradient buffer is reduced in place
    sequence    the gathered input of one matrix; context: the keys and values of two neighbours
    pipeline    a micro-batch received and one sent; expert: the tokens sent to experts and back
    Holds for: default settings of DeepSpeed, PyTorch and Megatron-LM, as `data/sharding.csv` quotes them.
    Not for:   workspaces of NCCL, padding of flattened buffers.
    Sources:   deepspeed_config, pytorch_fsdp, pytorch_ddp, korthikanti2022, liu2023ring, narayanan2021
    """
    terms = (
        *_of_copies(model, training, layout),
        *_gathered(model, training, layout),
        *_passed(model, training, layout),
    )
    return Breakdown("bytes", terms)


def _of_copies(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    """Buffers through which copies of the model reduce their gradients."""
    if not _several(layout.replicas) or (training.implementation == "megatron" and layout.zero < 2):
        return
    held = trained(model, training)
    numbers = _numbers(held)
    size = {"bytes_per_element": gradient_bytes(training)}
    if layout.zero == 0 or (layout.sharding == "fsdp" and layout.zero == 1):
        yield _buffer("gradient buckets of DDP", _if_several(layout, {"elements": numbers}) | size, "pytorch_ddp")
        return
    if layout.zero > 1:
        numbers = _absent(held, layout)
    if layout.sharding == "deepspeed":
        bucket = minimum(numbers, _setting("deepspeed reduce bucket"))
        yield _buffer("reduce bucket", _if_several(layout, {"elements": bucket}) | size, "deepspeed_config")
    else:
        units = minimum(numbers, _units(model))
        yield _buffer("gradients of the running units", _if_several(layout, {"elements": units}) | size, "pytorch_fsdp")


def _gathered(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    """The weights that ZeRO stage 3 gathers to compute with."""
    if layout.zero < 3 or not _several(layout.replicas):
        return
    absent = _absent(stored(model), layout)
    deepspeed = layout.sharding == "deepspeed"
    gathered = minimum(absent, _setting("deepspeed live parameters") if deepspeed else _units(model))
    size = {"bytes_per_element": BYTES[training.weights]}
    source = "deepspeed_config" if deepspeed else "pytorch_fsdp"
    yield _buffer("gathered weights", {"elements_gathered": gathered} | size, source)


def _passed(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    """What devices hand to each other during forward and backward."""
    size = {"bytes_per_element": BYTES["fp32" if training.precision == "fp32" else "bf16"]}
    tokens: Sizes = {"micro_batch": training.micro_batch, "sequence_tokens": training.sequence_tokens}
    stream = tokens | {"hidden_size": model.hidden_size}
    if layout.sequence_parallel and layout.tensor > 1:
        yield _buffer("sequence gathered for a matrix", stream | size, "korthikanti2022")
    if layout.pipeline > 1:
        yield _buffer("micro-batches between stages", TWO | stream | size, "narayanan2021")
    if _several(layout.context):
        keys = {"keys_and_values": 2, "kv_heads": model.kv_heads, "head_dim": model.head_dim}
        factors = _if_several(layout, TWO, "context") | keys | tokens | size
        yield _buffer("keys and values of neighbours", factors, "liu2023ring")
    if layout.expert > 1 and model.moe_layers:
        sent = TWO | {"experts_per_token": model.experts_per_token} | stream | size
        yield _buffer("tokens between experts", sent, "lepikhin2020")


def uneven_routing(kept: Breakdown, layout: Layout) -> Breakdown:
    """Count what the busiest expert-parallel device keeps above the mean: its experts get more tokens than others'."""
    if not _several(layout.expert_load_percent, 100) or layout.expert == 1:
        return Breakdown("bytes")
    routed = sum(term.amount for term in kept.only(group="experts", phase="activations"))
    share = {"percent_above_mean": layout.expert_load_percent - 100, "one_percent_of_experts": ceil_div(routed, 100)}
    return Breakdown("bytes", (Term("uneven routing", share, "experts", "activations", "lepikhin2020"),))


def _units(model: Model) -> Quantity:
    """The numbers of FSDP's units in flight: what is outside the layers, and two layers."""
    layer = outside = 0
    for tensor in stored(model):
        layers = [size for name, size in tensor.copies.items() if name.endswith("layers")]
        inside = _numbers((tensor,))
        if layers:
            layer += ceil_div(inside, layers[0])
        else:
            outside += inside
    return outside + minimum(model.layers, _setting("fsdp units at once")) * layer


def _numbers(tensors: Iterable[Stored]) -> Quantity:
    return sum(tensor.elements * product(tensor.copies.values()) for tensor in tensors)


def _absent(tensors: Iterable[Stored], layout: Layout) -> Quantity:
    """The numbers that other devices hold of what ZeRO shares; the experts' have fewer copies."""
    absent: Quantity = 0
    for tensor in tensors:
        over = layout.expert_replicas if "experts" in tensor.sizes else layout.replicas
        numbers = _numbers((tensor,))
        absent = absent + numbers - ceil_div(numbers, over)
    return absent


def _setting(name: str) -> int:
    return int(tables.by_key("sharding")[name]["elements"])


def _several(count: Quantity, least: int = 1) -> bool:
    more = count > least
    return bool(more.any()) if hasattr(more, "any") else bool(more)


def _if_several(layout: Layout, sizes: Sizes, degree: str = "replicas") -> Sizes:
    """Sizes that are none where an element of a grid has one device alone."""
    count = getattr(layout, degree)
    return sizes | {"where_it_applies": (count > 1).astype("float64")} if hasattr(count, "shape") else sizes


def _buffer(name: str, factors: Sizes, source: str) -> Term:
    return Term(name, factors, "other", "buffers", source)
