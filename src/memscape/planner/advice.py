"""Advice: single changes that need less memory, least harm first, and the smaller cluster that each would do with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memscape.cluster import Cluster
from memscape.cluster.placement import Search
from memscape.cluster.server import placed
from memscape.memory.timeline import memory
from memscape.problem import Problem
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    import pandas

# what a change costs, in words
HARM = ("hardly noticed", "slower", "less quality, or shorter")
Asked = Inference | Training


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
    rows = []
    for words, harm, asked in ways(found.workload):
        try:
            saved = int(found.held.total - memory(found.model, asked, found.layout).total)
        except Problem:
            continue
        if saved > 0:
            rows.append(Change(words, harm, saved, _devices(found, asked)))
    return tuple(sorted(rows, key=lambda row: (row.harm, -row.saves_bytes)))


def _devices(found: Cluster, asked: Asked) -> int:
    try:
        stand = placed(Search(found.model, asked), found.accelerator)
    except Problem:
        return 0
    return int(stand.setting.layout.devices)


def ways(workload: Asked) -> list[tuple[str, int, Asked]]:
    """Return what can be changed, one thing at a time: words, harm (a place in HARM), the changed workload."""
    if isinstance(workload, Training):
        return _of_training(workload)
    half = replace(workload, sequences=max(1, workload.sequences // 2))
    return [
        ("a KV cache in 8 bit", 0, replace(workload, kv_cache="fp8")),
        ("read prompts in passes of 2,048 tokens", 1, replace(workload, prefill_tokens=2048)),
        ("half as many sequences at once", 1, half),
        ("weights in FP8", 2, replace(workload, weights="fp8")),
        ("weights in 4 bit (GPTQ, groups of 128)", 2, replace(workload, weights="gptq-4bit-g128")),
        ("half as long prompts", 2, replace(workload, prompt_tokens=workload.prompt_tokens // 2)),
    ]


def _of_training(training: Training) -> list[tuple[str, int, Asked]]:
    ways: list[tuple[str, int, Asked]] = [
        ("an optimizer update in one fused kernel", 0, replace(training, update="fused")),
        ("a fused attention kernel", 0, replace(training, attention="sdpa")),
        ("gradient checkpointing of every layer", 1, replace(training, recompute="full")),
        ("8-bit states of AdamW", 2, replace(training, optimizer="adamw-8bit", update="single")),
        ("LoRA adapters in place of all parameters", 2, replace(training, method="lora", freeze=())),
        ("QLoRA adapters on 4-bit weights", 2, replace(training, method="qlora", freeze=())),
    ]
    if training.micro_batch > 1:
        smaller = replace(training, micro_batch=1, global_batch=training.global_batch or training.micro_batch)
        ways.append(("micro-batches of one sequence", 1, smaller))
    return ways
