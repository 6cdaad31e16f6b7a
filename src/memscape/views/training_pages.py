"""The pages about training: what is kept for the backward pass, and the course of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import Any

import memscape as ms
from memscape import tables, units
from memscape.breakdown import Breakdown
from memscape.catalog import Accelerator
from memscape.memory.rules_of_thumb import by_layer, room, two_tensors_a_layer
from memscape.model import Model
from memscape.problem import Problem
from memscape.views import controls, courses, figures, scenario, text
from memscape.views.charts import Chart
from memscape.workload import Training

DEVICE = "H100 SXM 80GB"
LENGTHS = tuple(2**power for power in range(7, 18, 2))
RULE, PAPER, EAGER, FUSED, CHECKPOINTED = "Two tensors", "Paper", "Eager", "Fused kernel", "Checkpointed"
COUNTED = {
    RULE: "the simplest rule: the input and the output of each layer's activation, nothing else",
    PAPER: "Korthikanti et al. 2022: every tensor of a GPT layer that is computed in fused 16-bit kernels",
    EAGER: "transformers as it is: each operator keeps what its own backward needs, the scores of attention among it",
    FUSED: "transformers with attention in one kernel, which computes the scores again in place of keeping them",
    CHECKPOINTED: "transformers keeps the input of each layer, and computes the layer again when backward comes to it",
}
MOMENTS = {
    "forward_peak": ("forward,<br>highest", "while the forward pass runs"),
    "forward_end": ("forward,<br>end", "at the end of the forward pass"),
    "backward_peak": ("backward,<br>highest", "while the backward pass runs"),
    "after_backward": ("backward,<br>end", "at the end of the backward pass"),
    "optimizer_peak": ("update,<br>highest", "while the optimizer updates the weights"),
    "after_optimizer": ("update,<br>end", "after the update"),
}
OPTIMIZERS = (
    "sgd", "sgd-momentum", "adafactor", "lion-8bit", "adamw-8bit", "lion", "muon", "rmsprop", "adamw", "adamw-amsgrad",
)  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What the activations page shows."""

    model: Model
    asked: Training
    kept: Breakdown
    ways: dict[str, Breakdown]
    chosen: str
    missing: tuple[str, ...]
    curves: dict[str, dict[int, int]]


def activations() -> Any:
    """Return the page that shows what is kept from forward to backward, counted in five ways."""
    models = scenario.ModelChoice("llama-3.1-8b")
    fields = (
        models.control,
        scenario.micro_batch(),
        scenario.length(),
        scenario.trained_in(),
        scenario.attention(),
        scenario.checkpointing(),
        controls.switch("dropout", "Dropout at the rates of the config", True),
    )
    outputs = {
        "answer": controls.html("answer"),
        "ways": Chart(height=400),
        "differ": controls.html("card"),
        "growth": Chart(height=420),
        "tensors": controls.html("card"),
        "notes": controls.html("card quiet"),
    }
    return controls.page(fields, _kept, _show_kept, outputs, models.upload)


def _kept(
    model: Model,
    micro_batch: int,
    sequence_tokens: int,
    training_precision: str,
    attention: str,
    checkpointing: bool,
    dropout: bool,
) -> Kept:
    asked = Training(
        micro_batch=micro_batch,
        sequence_tokens=sequence_tokens,
        precision=training_precision,
        attention=attention,
        recompute="full" if checkpointing else "none",
        dropout=None if dropout else 0,
    )
    kept = ms.activations(model, asked)
    chosen = CHECKPOINTED if checkpointing else EAGER if attention == "eager" else FUSED
    ways, missing = {RULE: two_tensors_a_layer(model, asked)}, []
    for name, way in _ways(asked).items():
        try:
            ways[name] = kept if name == chosen else ms.activations(model, way)
        except Problem as problem:
            missing.append(f"{name} is not shown: {problem}")
    alone = _ways(replace(asked, micro_batch=1))
    curves = {name: _curve(model, way) for name, way in alone.items() if name in ways and name != PAPER}
    return Kept(model, asked, kept, ways, chosen, tuple(missing), curves)


def _ways(asked: Training) -> dict[str, Training]:
    """The workload in every way to count it."""
    plain = replace(asked, recompute="none")
    return {
        PAPER: replace(plain, attention="eager", implementation="megatron"),
        EAGER: replace(plain, attention="eager"),
        FUSED: replace(plain, attention="sdpa"),
        CHECKPOINTED: replace(asked, recompute="full"),
    }


def _curve(model: Model, asked: Training) -> dict[int, int]:
    """The bytes kept at every length that the model can have, and at the one that is asked for."""
    sizes = {each: _total(model, replace(asked, sequence_tokens=each)) for each in {*LENGTHS, asked.sequence_tokens}}
    return {each: size for each, size in sorted(sizes.items()) if size is not None}


@lru_cache(maxsize=512)
def _total(model: Model, asked: Training) -> int | None:
    """The bytes kept, remembered; none where the model cannot take the sequence."""
    try:
        total: int = ms.activations(model, asked).total
    except Problem:
        return None
    return total


def _show_kept(seen: Kept) -> dict[str, Any]:
    length = seen.asked.sequence_tokens
    layers = by_layer(seen.kept)
    shown = f"What a layer keeps: {seen.chosen.lower()}"
    return {
        "answer": _kept_answer(seen),
        "ways": (courses.ways(seen.ways, seen.chosen), _said(seen)),
        "differ": f"<h2>Why they differ</h2>{text.compared(seen.ways, seen.chosen)}{_counted(seen)}",
        "growth": (figures.lengths(seen.curves, (length, seen.curves[seen.chosen][length])), _growing(seen)),
        "tensors": f"<h2>{shown}</h2>{text.tensors(layers)}{_letters(seen.kept)}",
        "notes": text.notes((*seen.kept.notes, *seen.missing)),
    }


def _kept_answer(seen: Kept) -> str:
    asked, kept = seen.asked, seen.kept
    groups = kept.by("group")
    most = max(groups, key=lambda group: groups[group])
    return (
        f"<p class='big'>{units.amount(kept.total)}</p><p class='lead'><b>{escape(seen.model.label)}</b> keeps "
        f"<b>{units.exact(kept.total)} bytes</b> ({units.amount(kept.total, 'GiB')}) from the forward to the backward "
        f"pass of {_many(asked)}, in {scenario.TRAINED_IN[asked.precision]}. The largest part is "
        f"<b>{text.name_of(most)}</b> with {units.amount(groups[most])}.</p>"
    )


def _many(asked: Training) -> str:
    batch, tokens = asked.micro_batch, asked.sequence_tokens
    return f"{batch:,} sequences of {tokens:,} tokens" if batch > 1 else f"one sequence of {tokens:,} tokens"


def _counted(seen: Kept) -> str:
    """What each way counts, and its largest tensor."""
    lines = (
        f"<li><b>{name}</b>: {COUNTED[name]}. Largest: {text.largest(way)}.</li>" for name, way in seen.ways.items()
    )
    return f"<ul class='notes'>{''.join(lines)}</ul>"


def _letters(kept: Breakdown) -> str:
    return f"<details data-part='letters'><summary>What the letters mean</summary>{text.letters(kept)}</details>"


def _said(seen: Kept) -> str:
    return "; ".join(text.described(way, name, "group") for name, way in seen.ways.items())


def _growing(seen: Kept) -> str:
    ends = (
        f"{name} {units.amount(sizes[min(sizes)])} at {min(sizes):,} tokens, {units.amount(sizes[max(sizes)])} at "
        f"{max(sizes):,}"
        for name, sizes in seen.curves.items()
    )
    return f"Bytes kept of one sequence against its tokens: {'; '.join(ends)}"


@dataclass(frozen=True)
class Trained:
    """What the training page shows."""

    model: Model
    asked: Training
    moments: dict[tuple[int, str], Breakdown]
    highest: tuple[tuple[int, str], ...]
    device: Accelerator
    left: int
    states: dict[str, int]


def training() -> Any:
    """Return the page that shows the memory of a training step over its course, and whether a device holds it."""
    models = scenario.ModelChoice("llama-3.1-8b")
    fields = (
        models.control,
        scenario.micro_batch(),
        scenario.length(),
        controls.choice("method", "Trained", scenario.named(scenario.METHODS), "full"),
        controls.slider("lora_rank", "Rank of the adapters (LoRA, QLoRA)", scenario.RANKS, 16),
        scenario.trained_in(),
        scenario.optimizers(),
        scenario.attention(),
        scenario.checkpointing(),
        controls.search("accelerator", "Accelerator", [(name, name) for name in tables.by_key("accelerators")], DEVICE),
    )
    outputs = {
        "answer": controls.html("answer"),
        "bar": Chart(height=150),
        "course": Chart(height=420),
        "parts": controls.html("card"),
        "states": Chart(height=380),
        "notes": controls.html("card quiet"),
    }
    return controls.page(fields, _trained, _show_trained, outputs, models.upload)


def _trained(
    model: Model,
    micro_batch: int,
    sequence_tokens: int,
    method: str,
    lora_rank: int,
    training_precision: str,
    optimizer: str,
    attention: str,
    checkpointing: bool,
    accelerator: str,
) -> Trained:
    asked = Training(
        micro_batch=micro_batch,
        sequence_tokens=sequence_tokens,
        method=method,
        lora_rank=lora_rank,
        precision=training_precision,
        optimizer=optimizer,
        attention=attention,
        recompute="full" if checkpointing else "none",
    )
    device = ms.accelerator(accelerator)
    moments = ms.timeline(model, asked)
    peak = max(alive.total for alive in moments.values())
    highest = tuple(moment for moment, alive in moments.items() if alive.total == peak)
    one = replace(asked, micro_batch=1, sequence_tokens=1)
    states = {_title(name): _states(model, replace(one, optimizer=name)) for name in _shown(optimizer)}
    return Trained(model, asked, moments, highest, device, room(moments[highest[0]], device), states)


@lru_cache(maxsize=256)
def _states(model: Model, asked: Training) -> int:
    """The bytes of an optimizer's states, which no batch changes."""
    total: int = ms.training_states(model, asked).only(phase="optimizer_states").total
    return total


def _shown(chosen: str) -> tuple[str, ...]:
    return OPTIMIZERS if chosen in OPTIMIZERS else (*OPTIMIZERS, chosen)


def _title(name: str) -> str:
    """The title of an optimizer; who wrote it is left out for those that are always shown."""
    title = tables.by_key("optimizers")[name]["title"]
    return title.partition(" (")[0] if name in OPTIMIZERS else title


def _show_trained(seen: Trained) -> dict[str, Any]:
    peak, device = seen.moments[seen.highest[0]], seen.device
    shown = [(MOMENTS[moment][0], alive) for (_, moment), alive in seen.moments.items()]
    marked = [place for place, key in enumerate(seen.moments) if key in seen.highest]
    bar = figures.memory_bar(peak, device.usable_bytes, 1, device.name)
    course = courses.course(shown, marked, device.usable_bytes, device.name)
    when = MOMENTS[seen.highest[0][1]][1]
    return {
        "answer": _trained_answer(seen),
        "bar": (bar, text.described(peak, f"1 × {device.name}")),
        "course": (course, _coursing(seen)),
        "parts": f"<h2>What is held {when}</h2><p>Open a part to see its terms.</p>{text.table(peak)}",
        "states": (figures.optimizers(seen.states, _title(seen.asked.optimizer)), text.listed(seen.states)),
        "notes": text.notes(_remarks(seen)),
    }


def _trained_answer(seen: Trained) -> str:
    asked, peak = seen.asked, seen.moments[seen.highest[0]]
    parts = [f"{text.name_of(part).lower()} {units.amount(size)}" for part, size in peak.by("phase").items() if size]
    return (
        f"<p class='over'>{_when(seen)}</p><p class='big'>{units.amount(peak.total)}</p>"
        f"<p class='lead'><b>{escape(seen.model.label)}</b>, {scenario.METHODS[asked.method]}, with {_many(asked)}: "
        f"<b>{units.amount(peak.total, 'GiB')}</b>, made of {', '.join(parts)}. {_fits(seen)}</p>"
    )


def _when(seen: Trained) -> str:
    """The highest moment in words."""
    steps = {step for step, _ in seen.highest}
    which = (
        "in every step" if len(steps) > 1 else "in the first step" if 1 in steps else "in every step after the first"
    )
    return f"At its highest, {MOMENTS[seen.highest[0][1]][1]}, {which}"


def _fits(seen: Trained) -> str:
    name = escape(seen.device.name)
    if seen.left >= 0:
        return f"It <b>fits on one {name}</b>, with {units.amount(seen.left)} to spare."
    return f"It <b>does not fit on one {name}</b>: {units.amount(-seen.left)} are missing."


def _remarks(seen: Trained) -> tuple[str, ...]:
    device = seen.device
    return (
        *seen.moments[seen.highest[0]].notes,
        "counted is what the program itself allocates: the driver's context, the workspaces of libraries and what the "
        "allocator rounds up come on top",
        f"{device.name} is sold with {device.memory_gb:g} GB; {units.amount(device.usable_bytes, digits=4)} "
        f"({units.amount(device.usable_bytes, 'GiB', 4)}) can be used: {device.basis}",
    )


def _coursing(seen: Trained) -> str:
    moments = (
        f"step {step}, {MOMENTS[moment][0].replace('<br>', ' ')}: {units.amount(alive.total)}"
        for (step, moment), alive in seen.moments.items()
    )
    return f"Memory in the course of two steps: {'; '.join(moments)}. {_when(seen)}"
