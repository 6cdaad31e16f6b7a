"""What ZeRO keeps off the device: weights and optimizer states in RAM or on NVMe, and what RAM needs for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memscape import tables
from memscape.breakdown import Breakdown, Term, product
from memscape.memory.modules import stored
from memscape.memory.optimizers import BYTES
from memscape.memory.training_states import training_states
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.workload import Training

SOURCES = {"cpu": "ren2021", "nvme": "rajbhandari2021"}


def on_device(states: Breakdown, layout: Layout) -> Breakdown:
    """Return what of weights, gradients and optimizer states stays on the device.

    Offloaded optimizer states take the reduced gradients with them where these are sharded (stages 2 and 3).
    """
    away = {phase for phase in ("weights", "gradients", "optimizer_states") if _place(phase, layout) != "none"}
    return replace(states, terms=tuple(term for term in states if term.phase not in away))


def offloaded(model: Model, training: Training, layout: Layout, states: Breakdown, where: str) -> Breakdown:
    """Count what one device keeps in its host's RAM ("cpu") or on its NVMe disks ("nvme").

        RAM: the states themselves, gradients in fp32 for the update, pinned 16-bit gradients      [bytes]

    What is on NVMe passes through RAM in buffers that each hold the largest tensor. `model` and `training` are one
    device's share, `states` all of its weights, gradients and optimizer states.
    Holds for: DeepSpeed's ZeRO-Offload and ZeRO-Infinity with their default buffers.
    Not for:   page caches, the data loader, copies while a checkpoint is written.
    Sources:   ren2021, rajbhandari2021, deepspeed_config
    """
    terms = (*_kept(states, layout, where), *(_beside(model, training, layout) if where == "cpu" else ()))
    return Breakdown("bytes", terms)


def _kept(states: Breakdown, layout: Layout, where: str) -> Iterator[Term]:
    for term in states:
        if term.phase in ("weights", "optimizer_states") and _place(term.phase, layout) == where:
            yield replace(term, source=SOURCES[where])


def _beside(model: Model, training: Training, layout: Layout) -> Iterator[Term]:
    """What RAM holds beside the states: gradients on their way to the update, buffers of the disks."""
    if layout.offload_optimizer != "none":
        # an update needs the gradients of its own states
        here = replace(layout, zero=3, offload_optimizer="none", offload_weights="none", sharding="fsdp")
        own = training_states(model, training, here)
        for term in own.only(phase="gradients"):
            numbers = {name: size for name, size in term.factors.items() if name != "bytes_per_element"}
            wide = numbers | {"bytes_per_element": BYTES["fp32"]}
            yield replace(term, name=f"{term.name}: gradient in fp32", factors=wide, source=SOURCES["cpu"])
            pinned = numbers | {"bytes_per_element": BYTES[training.weights]}
            yield replace(term, name=f"{term.name}: pinned gradient", factors=pinned, source=SOURCES["cpu"])
    for phase, size in (("weights", BYTES[training.weights]), ("optimizer_states", BYTES["fp32"])):
        if _place(phase, layout) == "nvme":
            row = tables.by_key("sharding")[f"deepspeed buffers of {phase}"]
            largest = max(product(tensor.shape) for tensor in stored(model))
            factors = {"buffers": int(row["elements"]), "largest_tensor": largest, "bytes_per_element": size}
            yield Term(f"buffers of {phase}", factors, "other", "buffers", row["source"])


def _place(phase: str, layout: Layout) -> str:
    if phase == "weights":
        return layout.offload_weights
    if phase == "gradients" and layout.zero < 2:
        return "none"
    return layout.offload_optimizer
