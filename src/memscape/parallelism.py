"""Layout: over how many devices a workload is spread, and along which axes; the part that one device has.

A shard is a smaller model: sizes are divided here once, and every formula stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

from memscape.breakdown import Quantity, ceil_div, minimum
from memscape.model import Model, remembered
from memscape.problem import Problem, chosen, one_of
from memscape.workload import LARGEST, Inference, Training, whole

DEGREES = ("tensor", "pipeline", "data", "context", "expert", "interleave")
SINGLE = ("expert_load_percent", "vocab_multiple")
VLLM_WORDS = 64
ZERO_STAGES = (0, 1, 2, 3)
SCHEDULES = ("1f1b", "gpipe")
SHARDING = ("deepspeed", "fsdp")
OFFLOAD = ("none", "cpu", "nvme")
CHOICES = {
    "schedule": SCHEDULES,
    "sharding": SHARDING,
    "offload_optimizer": OFFLOAD,
    "offload_weights": OFFLOAD,
}


@dataclass(frozen=True)
class Layout:
    """The degrees of parallelism (up to `interleave`), each a number or a numpy array; all else is one choice.

    Arrays make a grid, which `memory` answers by its totals.

    `tensor`              devices that share each matrix
    `pipeline`            stages that share the layers; `interleave` is how many pieces of a stage each device has
    `data`                copies of the model, each with micro-batches of its own
    `context`             devices that share each sequence
    `expert`              devices that share the experts; they are among the others, data and context first, then tensor
    `sequence_parallel`   norms and dropout split along the sequence over the tensor-parallel devices (Megatron)
    `zero`                what data-parallel devices share: 1 optimizer states, 2 gradients too, 3 weights too
    `schedule`            how a pipeline runs: "1f1b" (with `interleave` above 1 the interleaved one), "gpipe"
    `sharding`            whose ZeRO it is: "deepspeed", or PyTorch's "fsdp"; they hold other buffers
    `offload_optimizer`, `offload_weights`   where ZeRO keeps them: "none" on the device, "cpu" in RAM, "nvme" on disks
    `expert_load_percent` tokens that the busiest expert-parallel device gets, in percent of the mean
    `vocab_multiple`      a split vocabulary is padded to whole multiples of this per device (Megatron: 128)
    """

    tensor: Quantity = 1
    pipeline: Quantity = 1
    data: Quantity = 1
    context: Quantity = 1
    expert: Quantity = 1
    sequence_parallel: bool = False
    zero: int = 0
    interleave: Quantity = 1
    schedule: str = "1f1b"
    sharding: str = "deepspeed"
    offload_optimizer: str = "none"
    offload_weights: str = "none"
    expert_load_percent: int = 100
    vocab_multiple: int = 128

    def __post_init__(self) -> None:
        """Refuse degrees that are no whole numbers from 1, and choices that do not exist."""
        for name in DEGREES:
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        for name in SINGLE:
            least = 100 if name == "expert_load_percent" else 1
            if type(getattr(self, name)) is not int or not least <= getattr(self, name) <= LARGEST:
                raise Problem(f"{name} is {str(getattr(self, name))[:40]}; use one whole number from {least}")
        for name, known in CHOICES.items():
            object.__setattr__(self, name, chosen(name.replace("_", " "), getattr(self, name), known))
        if type(self.zero) is not int or self.zero not in ZERO_STAGES:
            raise Problem(f"zero is {str(self.zero)[:20]}; use stage 0, 1, 2 or 3")
        if not isinstance(self.sequence_parallel, bool):
            raise Problem(f"sequence_parallel is {str(self.sequence_parallel)[:20]}; use True or False")
        _check_zero(self)

    @property
    def devices(self) -> Quantity:
        """The devices in all; expert-parallel devices are among them."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def replicas(self) -> Quantity:
        """The devices that hold the same part of the weights, over which ZeRO shares: data times context."""
        return self.data * self.context

    @property
    def expert_tensor(self) -> int:
        """The devices that share one expert's matrices; expert parallelism takes data and context first."""
        if self.expert == 1:
            return int(self.tensor)
        taken: int = self.expert // gcd(self.expert, int(self.replicas))
        return int(self.tensor // taken)

    @property
    def expert_replicas(self) -> Quantity:
        """The devices that hold the same experts."""
        return self.tensor * self.replicas // (self.expert_tensor * self.expert)


def _check_zero(layout: Layout) -> None:
    places = layout.offload_optimizer, layout.offload_weights
    if places[0] != "none" and not layout.zero:
        raise Problem("offload_optimizer is part of ZeRO; use zero 1, 2 or 3 with it, or leave it out")
    if places[1] != "none" and layout.zero != 3:
        raise Problem(f"offload_weights needs weights that are sharded; use zero 3 in place of {layout.zero}")
    if "nvme" in places and layout.zero != 3:
        raise Problem(f'DeepSpeed offloads to NVMe with zero 3 alone; use it in place of {layout.zero}, or "cpu"')
    if places[1] != "none" and places[0] == "none":
        raise Problem(f'weights leave the device with the states alone; use offload_optimizer "{places[1]}" too')
    if layout.sharding == "fsdp" and places not in (("none", "none"), ("cpu", "cpu")):
        raise Problem('sharding "fsdp" offloads weights and states to RAM together; use "cpu" for both, or "deepspeed"')
    if layout.zero < 2 or layout.sharding == "fsdp" or not _some(layout.pipeline > 1):
        return
    raise Problem(
        f"DeepSpeed refuses zero {layout.zero} with a pipeline, which accumulates gradients over micro-batches; "
        f'use zero 1, pipeline 1, or sharding "fsdp"'
    )


def _some(condition: Quantity) -> bool:
    return bool(condition.any()) if hasattr(condition, "any") else bool(condition)


# what can be split


def check(model: Model, layout: Layout, workload: Inference | Training | None = None) -> None:
    """Refuse a layout that the model cannot be split by, and a workload that does not divide into it.

    Raises: Problem, one sentence with the nearest degrees that are possible.
    """
    if any(hasattr(getattr(layout, name), "shape") for name in ("tensor", "pipeline", "expert", "interleave")):
        raise Problem("a grid of layouts is checked layout by layout; give one number for each degree")
    if not _splits(model, layout.tensor):
        _check_degree(model, "tensor", layout.tensor, tensor_degrees(model), "devices")
    _check_pipeline(model, layout)
    _check_experts(model, layout)
    if _some(layout.context > 1) and (not model.causal or model.has_encoder):
        raise Problem(f"{model.label} reads in both directions, and context parallelism is for decoders; use context 1")
    if workload is not None:
        check_context(layout, workload)
    if isinstance(workload, Inference) and layout.expert_load_percent != 100:
        raise Problem("expert_load_percent is for training, where tokens are kept; leave it at 100 to serve a model")
    if isinstance(workload, Training):
        _check_training(layout, workload)


def check_context(layout: Layout, workload: Inference | Training) -> None:
    """Refuse a context-parallel workload that does not use fused kernels."""
    if workload.attention == "eager" and _some(layout.context > 1):
        raise Problem('context parallelism passes keys round between fused kernels; use attention "sdpa", or context 1')


def tensor_degrees(model: Model, most: int = 256) -> tuple[int, ...]:
    """Return the tensor-parallel degrees that split heads and MLPs evenly; KV heads are copied where they run out."""
    return tuple(degree for degree in range(1, most + 1) if _splits(model, degree))


def _splits(model: Model, tensor: int) -> bool:
    if model.heads % tensor or (model.shared_ffn_size and model.shared_ffn_size % tensor):
        return False
    if model.moe_layers < model.layers and model.ffn_size % tensor:
        return False
    if model.moe_layers and model.expert_ffn_size % tensor:
        return False
    return model.attention == "latent" or model.kv_heads % tensor == 0 or tensor % model.kv_heads == 0


def pipeline_degrees(model: Model) -> tuple[int, ...]:
    """Return the numbers of stages that a model has layers for."""
    return (1,) if model.has_encoder or model.shared_layers else tuple(range(1, model.layers + 1))


def interleave_degrees(model: Model, stages: int) -> tuple[int, ...]:
    """Return the numbers of pieces that a stage can be cut into."""
    if stages == 1:
        return (1,)
    return (1, *(each for each in range(2, (model.layers + 2) // stages + 1) if _even(model, stages * each)))


def expert_degrees(model: Model) -> tuple[int, ...]:
    """Return the numbers of devices that share the experts evenly."""
    return tuple(degree for degree in range(1, max(1, model.experts) + 1) if max(1, model.experts) % degree == 0)


def _check_degree(model: Model, name: str, value: int, possible: tuple[int, ...], what: str) -> None:
    if value not in possible:
        near = sorted(sorted(possible, key=lambda degree: (abs(degree - value), degree))[:4])
        raise Problem(f"{model.label} does not split evenly over {name} {value:,} {what}; use {one_of(near)}")


def _check_pipeline(model: Model, layout: Layout) -> None:
    stages, pieces = layout.pipeline, layout.interleave
    if stages > 1 and (model.has_encoder or model.shared_layers):
        why = "has an encoder beside its decoder" if model.has_encoder else "shares one layer's weights among all"
        raise Problem(f"{model.label} {why} and is not cut into stages; use pipeline 1, and tensor or data")
    if stages > model.layers:
        raise Problem(
            f"pipeline {stages:,} stages are more than the {model.layers} layers of {model.label}; "
            f"use at most {model.layers}"
        )
    if pieces == 1:
        return
    if stages == 1 or layout.schedule == "gpipe":
        raise Problem(
            f'interleave {pieces} is for schedule "1f1b" with pipeline 2 or more; use interleave 1, or pipeline 2'
        )
    if not _even(model, stages * pieces):
        even = one_of(interleave_degrees(model, stages))
        raise Problem(
            f"{model.layers} layers do not divide into {stages} stages of {pieces} pieces; use interleave {even}"
        )


def _even(model: Model, parts: int) -> bool:
    """Whether layers divide into parts, or do where embedding and head count as a layer each (Llama 3)."""
    return bool(model.layers % parts == 0 or (model.layers + 2) % parts == 0)


def _check_experts(model: Model, layout: Layout) -> None:
    degree = layout.expert
    if degree == 1:
        return
    if not model.moe_layers:
        raise Problem(f"{model.label} has no experts; use expert 1")
    _check_degree(model, "expert", degree, expert_degrees(model), f"devices ({model.experts} experts)")
    there = layout.tensor * layout.replicas
    if there % degree:
        possible = [each for each in expert_degrees(model) if there % each == 0]
        raise Problem(
            f"expert {degree} does not divide the {there} devices of tensor × data × context; "
            f"use expert {one_of(possible[-4:])}, or more data"
        )
    if layout.tensor % (degree // gcd(degree, int(layout.replicas))) or model.expert_ffn_size % layout.expert_tensor:
        even = gcd(degree, int(layout.replicas))
        raise Problem(
            f"expert {degree} takes {degree // even} of the {layout.tensor} tensor-parallel devices, which does not "
            f"divide them; use expert {even}, or more data"
        )


def _check_training(layout: Layout, training: Training) -> None:
    if training.global_batch is not None:
        at_once = training.micro_batch * layout.data
        if _some(training.global_batch % at_once != 0):
            sizes = str(training.global_batch)[:40], str(training.micro_batch)[:40], str(layout.data)[:40]
            raise Problem(
                f"global_batch {sizes[0]} is no multiple of micro_batch {sizes[1]} × data {sizes[2]}; "
                f"use {_multiples(training.global_batch, at_once)}"
            )


def _multiples(value: Quantity, of: Quantity) -> str:
    """The multiples next to a number; words for a grid."""
    if hasattr(value, "shape") or hasattr(of, "shape"):
        return "one that is"
    below = value // of * of
    return one_of([each for each in (below, below + of) if each])


# the part of one device


def shard_model(model: Model, layout: Layout, stage: int = 0, piece: int | None = None) -> Model:
    """Return the part of a model that one device of a pipeline stage holds, as a smaller model.

    Heads, MLPs and the vocabulary (padded) are divided by `tensor`, layers by `pipeline`, experts by `expert`. Every
    device has copies of norms, router, learned positions, the down-projections and the latent vector of MLA, and of KV
    heads where there are fewer than devices. The first stage has the embedding, the last one the final norm and the
    head; a tied head is there a copy. Layers that do not divide evenly go to the stages between first and last first,
    as in Llama 3. `piece`: of an interleaved stage, that piece alone.
    Raises: Problem where the model cannot be split so.
    Source: narayanan2021, llama3
    """
    check(model, layout)
    for name, value, most in (("stage", stage, layout.pipeline), ("piece", piece or 0, layout.interleave)):
        if type(value) is not int or not 0 <= value < most:
            raise Problem(f"{name} is {str(value)[:20]}; count from 0 to {most - 1}")
    pieces = layout.interleave
    first = model.first_stage and stage == 0 and piece in (None, 0)
    last = model.last_stage and stage == layout.pipeline - 1 and piece in (None, pieces - 1)
    # whole experts on tensor-parallel devices hold and compute as much as a share of more experts would
    experts_here = ceil_div(model.stored_experts * layout.tensor, layout.expert * layout.expert_tensor)
    places, vocabulary = stage_layers(model, layout, stage, piece), _padded(model.vocab_size, layout)
    return _part(model, places, layout.tensor, vocabulary, experts_here, first, last)


@remembered
def _part(
    model: Model, places: tuple[int, ...], tensor: int, vocab_size: int, experts_here: int, first: bool, last: bool
) -> Model:
    """Some layers of a model, and a share of each matrix; equal parts are one, and what was counted of it stays."""
    return replace(
        model,
        layers=len(places),
        layer_kinds=tuple(model.layer_kinds[place] for place in places),
        heads=ceil_div(model.heads, tensor),
        kv_heads=ceil_div(model.kv_heads, tensor),
        ffn_size=ceil_div(model.ffn_size, tensor),
        vocab_size=vocab_size,
        shared_ffn_size=ceil_div(model.shared_ffn_size, tensor),
        expert_ffn_size=ceil_div(model.expert_ffn_size, tensor),
        experts_here=experts_here,
        first_stage=first,
        last_stage=last,
        head=model.head if last else "none",
    )


def _padded(vocabulary: int, layout: Layout) -> int:
    """The words of one device; a vocabulary that is not split is not padded."""
    if layout.tensor == 1:
        return vocabulary
    return int(ceil_div(vocabulary, layout.tensor * layout.vocab_multiple) * layout.vocab_multiple)


def of_engine(layout: Layout, workload: Inference | Training) -> Layout:
    """Return a layout with the padding of the engine that serves: vLLM pads to whole multiples of 64 words in all."""
    if isinstance(workload, Training) or workload.engine != "vllm":
        return layout
    return replace(layout, vocab_multiple=VLLM_WORDS // gcd(VLLM_WORDS, int(layout.tensor)))


def stage_layers(model: Model, layout: Layout, stage: int, piece: int | None = None) -> tuple[int, ...]:
    """Return the positions of the layers of a stage, or of one piece of it.

    Layers that are left over go to the parts after the first, which has the embedding.
    """
    least, rest = divmod(model.layers, layout.pipeline * layout.interleave)
    places: list[int] = []
    for each in range(layout.interleave) if piece is None else (piece,):
        part = each * layout.pipeline + stage
        begin = least * part + min(max(part - 1, 0), rest)
        places += range(begin, begin + least + (1 <= part <= rest))
    return tuple(places)


def shard_workload(workload: Inference | Training, layout: Layout) -> Inference | Training:
    """Return what one device is asked for: its sequences of all data-parallel copies, its tokens of each sequence.

    `micro_batch` is what one copy computes at once and stays. A pipeline without a `global_batch` gets as many
    micro-batches as fill it.
    """
    if isinstance(workload, Inference):
        return _shard_inference(workload, layout)
    batch = workload.global_batch
    share = workload.micro_batch * filling(layout) if batch is None else batch // layout.data
    targets = workload.target_tokens
    return replace(
        workload,
        global_batch=None if batch is None and not _some(layout.pipeline > 1) else share,
        sequence_tokens=ceil_div(workload.sequence_tokens, layout.context),
        target_tokens=None if targets is None else ceil_div(targets, layout.context),
    )


def filling(layout: Layout) -> int:
    """Return the micro-batches that fill a pipeline."""
    return int(1 if layout.pipeline == 1 else layout.pipeline * (1 if layout.interleave == 1 else 2))


def _shard_inference(inference: Inference, layout: Layout) -> Inference:
    reserved = inference.reserved_tokens
    return replace(
        inference,
        sequences=ceil_div(inference.sequences, layout.data),
        prompt_tokens=ceil_div(inference.prompt_tokens, layout.context),
        output_tokens=ceil_div(inference.output_tokens, layout.context),
        reserved_tokens=None if reserved is None else ceil_div(reserved, layout.context),
    )


def busy_stages(model: Model, layout: Layout) -> Iterator[int]:
    """Yield the stages one of which is the busiest: of alike stages the first, since it has most micro-batches."""
    seen = set()
    for stage in range(layout.pipeline):
        kinds = tuple(model.layer_kinds[place] for place in stage_layers(model, layout, stage))
        alike = kinds, stage == 0, stage == layout.pipeline - 1
        if alike not in seen:
            seen.add(alike)
            yield stage


# a pipeline's course


def micro_batches(training: Training) -> Quantity:
    """Return the micro-batches of one update on one data-parallel copy; `training` is one device's share."""
    return 1 if training.global_batch is None else training.global_batch // training.micro_batch


def pieces_in_flight(layout: Layout, stage: int, batches: Quantity) -> tuple[Quantity, ...]:
    """Return the micro-batches that each piece of a stage keeps at once; together they are `in_flight`.

    An interleaved pipeline fills its pieces in groups of p micro-batches: all pieces but the last are full, the last
    one fills up, and what is left over is the next group of the first piece.
    Source: narayanan2021 section 2.2
    """
    stages, pieces = layout.pipeline, layout.interleave
    if pieces == 1:
        return (in_flight(layout, stage, batches) if stages > 1 else 1,)
    rest = 2 * (stages - stage - 1) + 1
    full = [stages + max(0, rest - stages), *[stages] * (pieces - 2), min(rest, stages)]
    return tuple(minimum(batches, each) for each in full)


def in_flight(layout: Layout, stage: int, batches: Quantity) -> Quantity:
    """Return the pieces of micro-batches whose activations a stage keeps at once; a stage has `interleave` pieces.

        1F1B min(m, p - i), GPipe m, interleaved min(m·v, 2·(p - i - 1) + (v - 1)·p + 1)

    Stage i of p from 0, m micro-batches, v pieces. Times the layers of a piece, the first stage of an interleaved
    pipeline so keeps L·(1 + (p - 1)/(p·v)) layers' worth.
    Source: narayanan2021 section 2.2, korthikanti2022 section 4.2.3
    """
    stages, pieces = layout.pipeline, layout.interleave
    if layout.schedule == "gpipe":
        return batches
    if pieces == 1:
        return minimum(batches, stages - stage)
    return minimum(batches * pieces, 2 * (stages - stage - 1) + (pieces - 1) * stages + 1)
