"""Predicted beside measured, moment by moment.

Needs torch and transformers (extra `measure`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import memscape
from memscape import tables
from memscape.breakdown import Breakdown, product
from memscape.config import shortened
from memscape.measure.course import Course, serving_course, step_course
from memscape.measure.optimizers import optimizer_words
from memscape.measure.subject import Adapters, Config
from memscape.measure.witness import Kept, saved_tensors
from memscape.problem import Problem
from memscape.readers import parse_config
from memscape.workload import Inference, Training

DTYPES = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Reading:
    """One moment. `beside`: what is measured, known by name and not part of the prediction."""

    step: int
    moment: str
    predicted: int | None
    measured: int
    beside: Mapping[str, int] = field(default_factory=dict)
    reserved: int | None = None

    @property
    def difference(self) -> int | None:
        """Measured less predicted, all in."""
        return None if self.predicted is None else self.measured - self.predicted

    @property
    def rest(self) -> int | None:
        """What neither the prediction nor a known name explains."""
        return None if self.difference is None else self.difference - sum(self.beside.values())


@dataclass(frozen=True)
class Comparison:
    """The readings of one run: what was asked of which model, where; why there is no prediction, if there is none."""

    model: str
    workload: Inference | Training
    device: str
    layers: int | None
    readings: tuple[Reading, ...]
    course: Course
    unmatched: tuple[str, ...] = ()
    no_prediction: str = ""


def compare(
    model: str | Config, workload: Inference | Training, device: str = "meta", layers: int | None = None, steps: int = 2
) -> Comparison:
    """Run a model with random weights as the workload asks, and set what is predicted beside every moment.

    `model` is a name of the catalogue, the path of a config.json or its content; `layers` replaces its depth. `device`
    is "meta" (no memory is used), "cpu" or "cuda". The first reading of a training run is what autograd keeps.
    """
    name, config = config_of(model)
    config = shortened(config, layers)
    try:
        asked = memscape.read_model(config, name)
        predicted = {moment: _allocated(alive) for moment, alive in memscape.timeline(asked, workload).items()}
        kept, why = _kept(asked, workload), ""
    except Problem as problem:
        predicted, kept, why = {}, None, str(problem)
    _check_room(device, predicted)
    settings = _settings(workload) | {"device": device}
    if isinstance(workload, Inference):
        course = serving_course(config, output_tokens=workload.output_tokens, **settings)
        return Comparison(name, workload, device, layers, _readings(course, predicted), course, (), why)
    held = saved_tensors(config, **settings)
    first = Reading(1, "kept", kept.total if kept else None, sum(each.bytes for each in held))
    course = step_course(config, steps=steps, **settings, **_update(workload))
    readings = (first, *_readings(course, predicted))
    return Comparison(name, workload, device, layers, readings, course, unmatched(held, kept), why)


def config_of(model: str | Config) -> tuple[str, Config]:
    """Return the name of a model (for a config the digest of its content) and its config."""
    if isinstance(model, Mapping):
        return f"config {_digest(model)}", model
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        config = parse_config(path.read_bytes(), path.name)
        return f"config {_digest(config)}", config
    known = memscape.model(model).name
    return known, json.loads((tables.folder() / "models" / f"{known}.json").read_text(encoding="utf-8"))


def _digest(config: Config) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def _settings(workload: Inference | Training) -> dict[str, Any]:
    """Return how a workload is run; what this program cannot run is refused by name."""
    if isinstance(workload, Inference):
        if workload.weights not in ("bf16", "fp32") or workload.kv_cache != workload.weights:
            raise Problem(f'weights "{workload.weights}" are not run here; use "bf16" or "fp32", the cache alike')
        sizes = {"batch": workload.sequences, "sequence": workload.prompt_tokens}
        return sizes | {"dtype": workload.weights, "attention": workload.attention}
    for field_name, possible in RUNNABLE.items():
        if (value := getattr(workload, field_name)) not in possible:
            raise Problem(f'{field_name} "{value}" is predicted but cannot be run here; use {possible[0]!r}')
    adapters = Adapters(workload.lora_rank, workload.lora_targets, workload.lora_dropout, workload.adapter_precision)
    return {
        "batch": workload.micro_batch,
        "sequence": workload.sequence_tokens,
        "dtype": "fp32" if workload.precision == "fp32" else "bf16",
        "autocast": workload.precision == "bf16-autocast",
        "attention": workload.attention,
        "dropout": workload.dropout,
        "checkpointing": workload.recompute == "full",
        "target": workload.target_tokens,
        "adapters": adapters if workload.method == "lora" else None,
    }


RUNNABLE: dict[str, tuple[Any, ...]] = {
    "precision": ("bf16", "fp32", "bf16-autocast"),
    "gradients": (None,),
    "recompute": ("none", "full"),
    "implementation": ("transformers",),
    "objective": (None,),
    "method": ("full", "lora"),
    "freeze": ((),),
}


def _update(training: Training) -> dict[str, Any]:
    micro_batches = (training.global_batch or training.micro_batch) // training.micro_batch
    return {"optimizer": optimizer_words(training.optimizer, training.update), "micro_batches": micro_batches}


def _allocated(alive: Breakdown) -> int:
    """Return what the program allocates; the runtime (context, caching allocator) is outside its counters."""
    return int(alive.total - alive.only(phase="runtime").total)


def _kept(asked: memscape.Model, workload: Inference | Training) -> Breakdown | None:
    return memscape.activations(asked, workload) if isinstance(workload, Training) else None


def _readings(course: Course, predicted: Mapping[tuple[int, str], int]) -> tuple[Reading, ...]:
    known = {name: size for name, size in course.before.items() if name != "parameters" and size}
    found = []
    for (step, moment), size in course.bytes.items():
        rounding = course.rounding[step, moment]
        beside = known | ({"allocator's rounding": rounding} if rounding else {})
        reserved = course.reserved[step, moment]
        found.append(Reading(step, moment, predicted.get((step, moment)), course.start + size, beside, reserved))
    return tuple(found)


def unmatched(held: list[Kept], predicted: Breakdown | None) -> tuple[str, ...]:
    """Return what differs between the tensors kept and those predicted, by type and size."""
    if predicted is None:
        return ()
    real = Counter((DTYPES.get(each.dtype, each.dtype), each.bytes) for each in held)
    told = Counter[tuple[str, int]]()
    names: dict[tuple[str, int], str] = {}
    for each in held:
        names.setdefault((DTYPES.get(each.dtype, each.dtype), each.bytes), f"{each.where}: {each.operation}")
    for term in predicted:
        (first, count), *_ = term.factors.items()
        count = count if first.endswith("layers") else 1
        key = term.dtype, product(term.factors.values()) // count
        told[key] += count
        names.setdefault(key, term.name)
    lines = [_line(names[key], key, real[key], told[key]) for key in real | told if real[key] != told[key]]
    return tuple(lines)


def _line(name: str, key: tuple[str, int], real: int, told: int) -> str:
    return f"{real} kept, {told} predicted: {key[1]:,} bytes of {key[0]}, such as {name}"


def _check_room(device: str, predicted: Mapping[tuple[int, str], int]) -> None:
    """Refuse a run on the CPU that is predicted not to fit into what is free."""
    needed = max(predicted.values(), default=0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return
    if device == "cpu" and needed > free:
        raise Problem(
            f"this run needs about {needed / 1e9:,.0f} GB and this machine has {free / 1e9:,.0f} GB free; "
            'use fewer layers, or device "meta", which uses none'
        )
