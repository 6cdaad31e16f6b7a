"""Advice: single changes that need less memory, least harm first, and the smaller cluster that each would do with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from memscape.breakdown import Breakdown
from memscape.catalog import Accelerator
from memscape.cluster import Cluster
from memscape.cluster.placement import Search
from memscape.cluster.server import placed
from memscape.memory.timeline import memory
from memscape.model import Model
from memscape.parallelism import Layout, pipeline_degrees, tensor_degrees
from memscape.problem import Problem
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    import pandas

# what a change costs, in words
HARM = ("hardly noticed", "slower", "less quality, or shorter")
# what copies of a model share in each stage of ZeRO
SHARED = {1: "optimizer states", 2: "gradients too", 3: "weights too"}
Asked = Inference | Training
Option = tuple[str, int, dict[str, Any]]  # words, harm (a place in HARM), the values that are changed
Tried = TypeVar("Tried")


@dataclass(frozen=True)
class Change:
    """One change: words, its harm (a place in HARM), bytes saved on the busiest device, devices that then do."""

    change: str
    harm: int
    saves_bytes: int
    devices: int


def advise(found: Cluster) -> pandas.DataFrame:
    """Return single changes that lower the memory of the busiest device, those that harm least first.

    One row each: `change` in words, `harm` (0: none, 1: speed, 2: quality or length), `saves_bytes` on the busiest
    device, `devices` that the smallest cluster then needs (0 where none fits). A change that saves nothing has no row.
    """
    import pandas

    return pandas.DataFrame(changes(found), columns=["change", "harm", "saves_bytes", "devices"])


def changes(found: Cluster) -> tuple[Change, ...]:
    """Return the rows of `advise`."""
    return tried(
        found.held,
        ways(found.workload),
        lambda asked: memory(found.model, asked, found.layout),
        lambda asked, _held: _devices(found, asked),
    )


def tried(
    held: Breakdown,
    options: Iterable[tuple[str, int, Tried]],
    hold: Callable[[Tried], Breakdown],
    count: Callable[[Tried, Breakdown], int],
) -> tuple[Change, ...]:
    """Return the options that need less than what is held, those that harm least first; what is refused has no row.

    Options of the same harm stay in their order: 8 bit before 4. An option has words, its harm and what it is; `hold`
    returns what it needs, `count` the devices that then do.
    """
    rows = []
    for words, harm, option in options:
        try:
            then = hold(option)
        except Problem:
            continue
        saved = int(held.total - then.total)
        if saved > 0:
            rows.append(Change(words, harm, saved, count(option, then)))
    return tuple(sorted(rows, key=lambda row: row.harm))


def on_one(model: Model, asked: Asked, held: Breakdown, device: Accelerator) -> tuple[Change, ...]:
    """Return single changes of what is asked of one device; `devices` is 1 where it then fits, else 0."""
    return tried(
        held,
        ways(asked),
        lambda changed: memory(model, changed),
        lambda _changed, then: int(then.total <= device.usable_bytes),
    )


def on_layout(model: Model, asked: Asked, layout: Layout, held: Breakdown, device: Accelerator) -> tuple[Change, ...]:
    """Return single changes of what is asked of many devices, or of how they share it; 0 `devices`: still no fit."""
    asking: list[tuple[str, int, tuple[Asked, Layout]]] = [
        (words, harm, (changed, layout)) for words, harm, changed in ways(asked)
    ]
    sharing = [(words, harm, (asked, other)) for words, harm, other in layouts(model, asked, layout)]
    return tried(
        held,
        [*asking, *sharing],
        lambda option: memory(model, option[0], option[1], device),
        lambda option, then: int(option[1].devices) if then.total <= device.usable_bytes else 0,
    )


def layouts(model: Model, asked: Asked, layout: Layout) -> list[tuple[str, int, Layout]]:
    """Return what can be changed of a layout, one thing at a time: words, harm, the changed layout."""
    options: list[Option] = []
    if layout.tensor > 1 and not layout.sequence_parallel:
        options.append(("sequence parallelism", 0, {"sequence_parallel": True}))
    if isinstance(asked, Training) and layout.data * layout.context > 1:
        options += [
            (f"copies share {SHARED[stage]} (ZeRO stage {stage})", int(stage > 1), zero(stage))
            for stage in range(layout.zero + 1, 4)
        ]
    wider = next((each for each in tensor_degrees(model) if each >= 2 * layout.tensor), None)
    if wider:
        options.append((f"each matrix shared by {wider} devices, not {layout.tensor}", 1, {"tensor": wider}))
    longer = 2 * layout.pipeline
    if longer in pipeline_degrees(model):
        options.append((f"layers shared by {longer} stages, not {layout.pipeline}", 1, {"pipeline": longer}))
    return _changed(layout, options)


def zero(stage: int) -> dict[str, Any]:
    """Return the values of a layout for a stage of ZeRO, sharded by the library that is usual for it."""
    return {"zero": stage, "sharding": "fsdp" if stage > 1 else "deepspeed"}


def _devices(found: Cluster, asked: Asked) -> int:
    try:
        stand = placed(Search(found.model, asked), found.accelerator)
    except Problem:
        return 0
    return int(stand.setting.layout.devices)


def ways(workload: Asked) -> list[tuple[str, int, Asked]]:
    """Return what can be changed, one thing at a time: words, harm (a place in HARM), the changed workload."""
    return _changed(workload, _of_training(workload) if isinstance(workload, Training) else _of_serving(workload))


def _of_serving(workload: Inference) -> list[Option]:
    return [
        ("a KV cache in 8 bit", 0, {"kv_cache": "fp8"}),
        ("read prompts in passes of 2,048 tokens", 1, {"prefill_tokens": 2048}),
        ("half as many sequences at once", 1, {"sequences": max(1, workload.sequences // 2)}),
        ("weights in FP8", 2, {"weights": "fp8"}),
        ("weights in 4 bit (GPTQ, groups of 128)", 2, {"weights": "gptq-4bit-g128"}),
        ("half as long prompts", 2, {"prompt_tokens": workload.prompt_tokens // 2}),
    ]


def _of_training(training: Training) -> list[Option]:
    options: list[Option] = [
        ("an optimizer update in one fused kernel", 0, {"update": "fused"}),
        ("a fused attention kernel", 0, {"attention": "sdpa"}),
        ("gradient checkpointing of every layer", 1, {"recompute": "full"}),
        ("8-bit states of AdamW", 2, {"optimizer": "adamw-8bit", "update": "single"}),
        ("LoRA adapters in place of all parameters", 2, {"method": "lora", "freeze": ()}),
        ("QLoRA adapters on 4-bit weights", 2, {"method": "qlora", "freeze": ()}),
    ]
    if training.micro_batch > 1:
        smaller = {"micro_batch": 1, "global_batch": training.global_batch or training.micro_batch}
        options.append(("micro-batches of one sequence", 1, smaller))
    return options


def _changed(what: Any, options: Iterable[Option]) -> list[tuple[str, int, Any]]:
    """Make each change; one that is refused, as a fused update of an optimizer that has none, is no way."""
    found = []
    for words, harm, values in options:
        try:
            found.append((words, harm, replace(what, **values)))
        except Problem:
            continue
    return found
