"""What a layout adds on a device: copies and buffers that are there because several devices share the work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, ceil_div, minimum, product
from memscape.memory.modules import Stored, stored
from memscape.memory.optimizers import BYTES
from memscape.memory.tensors import Sizes
from memscape.memory.training_states import gradient_bytes, trained, trained_weights
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.workload import Training

TWO = {"sent_and_received": 2}


def reduce_buffers(model: Model, training: Training, layout: Layout) -> Breakdown:
    """Count the buffers through which copies of the model reduce their gradients; they stay from step to step.

    DDP without ZeRO reduces through buckets that together are one more copy of the gradients; DeepSpeed's ZeRO through
    one bucket, here at most as large as what is reduced; Megatron reduces its gradient buffer in place. `model` and
    `training` are one device's share.
    Holds for: default settings, as `data/sharding.csv` quotes them.
    Not for:   a bucket of DeepSpeed that is larger than the model, a second one where communication overlaps.
    Sources:   deepspeed_config, pytorch_ddp
    """
    return Breakdown("bytes", tuple(_reduced(model, training, layout)))


def passing_buffers(model: Model, training: Training, layout: Layout) -> Breakdown:
    """Count what forward and backward hold because of a layout; `model` and `training` are one device's share.

    ZeRO 3      the weights that are gathered: DeepSpeed at most its limit of live numbers, FSDP the parts outside the
                layers and two layers; never more than the device does not hold itself
    FSDP        the gradients of the same units before they are reduced
    sequence    the gathered input of one matrix; context: the keys and values of two neighbours
    pipeline    a micro-batch received and one sent; expert: the tokens sent to experts and back
    Holds for: default settings of DeepSpeed, PyTorch and Megatron-LM, as `data/sharding.csv` quotes them.
    Not for:   workspaces of NCCL, padding of flattened buffers.
    Sources:   deepspeed_config, pytorch_fsdp, korthikanti2022, liu2023ring, narayanan2021, lepikhin2020
    """
    terms = (
        *_unreduced(model, training, layout),
        *_gathered(model, training, layout),
        *_passed(model, training, layout),
    )
    return Breakdown("bytes", terms)


def _reduced(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    away = layout.zero > 1 and layout.offload_optimizer != "none"
    alone = not _several(layout.replicas) and not away
    if alone or (training.implementation == "megatron" and layout.zero < 2):
        return
    held = trained(model, training)
    numbers = _absent(held, layout) if layout.zero > 1 and not away else _numbers(held)
    size = {"bytes_per_element": gradient_bytes(training)}
    if layout.zero == 0 or (layout.sharding == "fsdp" and layout.zero == 1):
        yield _buffer("gradient buckets of DDP", _if_several(layout, {"elements": numbers}) | size, "pytorch_ddp")
    elif layout.sharding == "deepspeed":
        bucket = minimum(numbers, _setting("deepspeed reduce bucket"))
        sizes = {"elements": bucket} if away else _if_several(layout, {"elements": bucket})
        yield _buffer("reduce bucket", sizes | size, "deepspeed_config")


def _unreduced(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    """The gradients of FSDP's running units."""
    if layout.zero < 2 or layout.sharding != "fsdp" or not _several(layout.replicas):
        return
    units = minimum(_absent(trained(model, training), layout), _units(model, layout))
    size = {"bytes_per_element": gradient_bytes(training)}
    yield _buffer("gradients of the running units", {"elements": units} | size, "pytorch_fsdp")


def _gathered(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    """The weights that ZeRO stage 3 gathers, or fetches from the host, to compute with: as they are stored."""
    away = layout.offload_weights != "none"
    if layout.zero < 3 or not (_several(layout.replicas) or away):
        return
    whole = trained_weights(model, training).total
    here = 0 if away else trained_weights(model, training, layout).total
    deepspeed = layout.sharding == "deepspeed"
    most = _setting("deepspeed live parameters") if deepspeed else _units(model, layout)
    gathered = minimum(whole - here, most * BYTES[training.weights])
    source = "deepspeed_config" if deepspeed else "pytorch_fsdp"
    yield _buffer("gathered weights", {"bytes_gathered": gathered}, source)


def _passed(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    """What devices hand to each other during forward and backward."""
    size = {"bytes_per_element": BYTES["fp32" if training.precision == "fp32" else "bf16"]}
    tokens: Sizes = {"micro_batch": training.micro_batch, "sequence_tokens": training.sequence_tokens}
    stream = tokens | {"hidden_size": model.hidden_size}
    shared = layout.sequence_parallel and layout.tensor > 1
    if shared:
        yield _buffer("sequence gathered for a matrix", stream | size, "korthikanti2022")
        share = ceil_div(training.sequence_tokens, layout.tensor)
        tokens_here: Sizes = {"micro_batch": training.micro_batch, "tokens_per_device": share}
        stream = tokens_here | {"hidden_size": model.hidden_size}
    if layout.pipeline > 1:
        yield _buffer("micro-batches between stages", TWO | stream | size, "narayanan2021")
    if _several(layout.context):
        width = model.head_dim + (model.value_dim or model.head_dim)
        factors = _if_several(layout, TWO, "context") | {"kv_heads": model.kv_heads, "head_and_value_dim": width}
        yield _buffer("keys and values of neighbours", factors | tokens | size, "liu2023ring")
    if layout.expert > 1 and model.moe_layers:
        sent = TWO | {"experts_per_token": model.experts_per_token} | stream | size
        yield _buffer("tokens between experts", sent, "lepikhin2020")


def uneven_routing(kept: Breakdown, layout: Layout) -> Breakdown:
    """Count what the busiest expert-parallel device keeps above the mean: its experts get more tokens than others'.

    Shared experts see every token on every device alike.
    Source: lepikhin2020
    """
    if not _several(layout.expert_load_percent, 100) or layout.expert == 1:
        return Breakdown("bytes")
    held = kept.only(group="experts", phase="activations")
    routed = sum(term.amount for term in held if not term.name.startswith("shared"))
    share = {"percent_above_mean": layout.expert_load_percent - 100, "one_percent_of_experts": ceil_div(routed, 100)}
    return Breakdown("bytes", (Term("uneven routing", share, "experts", "activations", "lepikhin2020"),))


def _units(model: Model, layout: Layout) -> Quantity:
    """The numbers of FSDP's units in flight: what is outside the layers, and two of the largest layers.

    Experts that no other device holds are neither gathered nor reduced.
    """
    sums: dict[str, Quantity] = {}
    for tensor in stored(model):
        if "experts" in tensor.sizes and layout.expert_replicas == 1:
            continue
        kind, layers = next(((name, size) for name, size in tensor.copies.items() if name.endswith("layers")), ("", 1))
        sums[kind] = sums.get(kind, 0) + ceil_div(_numbers((tensor,)), layers)
    outside = sums.pop("", 0)
    kinds = [sums.pop(kind, 0) for kind in ("dense_layers", "moe_layers")]
    layer = sum(sums.values()) + max(kinds)
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
