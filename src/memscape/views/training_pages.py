"""The page about training: what is held in the course of a step, and whether a device holds it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import Any

import memscape as ms
from memscape import tables, units
from memscape.breakdown import Breakdown
from memscape.catalog import Accelerator
from memscape.memory.rules_of_thumb import room
from memscape.memory.training_states import check
from memscape.model import Model
from memscape.planner.advice import Change, on_one
from memscape.views import controls, courses, exports, figures, loop, scenario, text
from memscape.views.outputs import Chart, Html
from memscape.views.steps import Steps
from memscape.workload import Training

MOMENTS = {
    "forward_peak": "while the forward pass runs",
    "forward_end": "at the end of the forward pass",
    "backward_peak": "while the backward pass runs",
    "after_backward": "at the end of the backward pass",
    "optimizer_peak": "while the optimizer updates the weights",
    "after_optimizer": "at the end of the update",
}
UPDATES = {
    "single": "one tensor after the other",
    "foreach": "all tensors at once (PyTorch's usual on a GPU)",
    "fused": "in one fused kernel",
}
PAIRS = ("forward", "backward", "update") * 2
STEPS = "Of each pair of bars the left one is the highest point, the right one the end."
OPTIMIZERS = (
    "sgd", "sgd-momentum", "adafactor", "lion-8bit", "adamw-8bit", "lion", "muon", "rmsprop", "adamw", "adamw-amsgrad",
)  # fmt: skip


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
    legal = Steps(models.control)
    method = controls.choice("method", "What is trained", scenario.named(scenario.METHODS), "full")
    rank = legal.rank(controls.slider("lora_rank", "Rank of the adapters", scenario.RANKS, 16))
    controls.shown_for(method, {"lora": (rank,), "qlora": (rank,)})
    fields = (
        models.control,
        scenario.micro_batch(),
        legal.length(scenario.length()),
        method,
        rank,
        scenario.trained_in(),
        scenario.optimizers(),
        controls.choice("update", "The optimizer updates", scenario.named(UPDATES), "single"),
        scenario.attention(),
        scenario.checkpointing(),
        *scenario.accelerator(),
    )
    return loop.page(
        fields,
        _trained,
        _show_trained,
        _outputs(),
        models.upload,
        steps=legal,
        terms=_highest,
        exports={
            "course.csv": _course_csv,
            "optimizers.csv": _optimizers_csv,
            "changes.csv": lambda seen: exports.changes_table(_changes(seen)),
        },
        at_rest={"advice": lambda seen: text.advice(int(seen.left >= 0), _changes(seen))},
    )


def _changes(seen: Trained) -> tuple[Change, ...]:
    return on_one(seen.model, seen.asked, _highest(seen), seen.device)


def _highest(seen: Trained) -> Breakdown:
    return seen.moments[seen.highest[0]]


def _course_csv(seen: Trained) -> str:
    moments = {f"step {step}, {MOMENTS[moment]}": alive for (step, moment), alive in seen.moments.items()}
    return exports.sums_table("moment", moments)


def _optimizers_csv(seen: Trained) -> str:
    return exports.table(("optimizer", "kept between updates (bytes)"), seen.states.items())


def _outputs() -> dict[str, Any]:
    return {
        "answer": Html("answer"),
        "fit": Html("caption"),
        "bar": Chart(height=130),
        "advice": Html("card"),
        "steps": Html("caption"),
        "course": Chart(height=390),
        "moments": Html("card"),
        "parts": Html("card"),
        "optimizers": Html("caption"),
        "states": Chart(height=370),
        "notes": Html("card quiet"),
    }


def _trained(
    model: Model,
    micro_batch: int,
    sequence_tokens: int,
    method: str,
    lora_rank: int,
    training_precision: str,
    optimizer: str,
    update: str,
    attention: str,
    checkpointing: bool,
    accelerator: Accelerator,
) -> Trained:
    asked = Training(
        micro_batch=micro_batch,
        sequence_tokens=sequence_tokens,
        method=method,
        lora_rank=lora_rank,
        precision=training_precision,
        optimizer=optimizer,
        update=update,
        attention=attention,
        recompute="full" if checkpointing else "none",
    )
    check(model, asked)
    moments = ms.timeline(model, asked)
    peak = max(alive.total for alive in moments.values())
    highest = tuple(moment for moment, alive in moments.items() if alive.total == peak)
    one = replace(asked, micro_batch=1, sequence_tokens=1, update="single")
    states = {_title(name): _states(model, replace(one, optimizer=name)) for name in _shown(optimizer)}
    return Trained(model, asked, moments, highest, accelerator, room(moments[highest[0]], accelerator), states)


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
    names = {f"Step {step}, {MOMENTS[moment]}": alive for (step, moment), alive in seen.moments.items()}
    marked = [place for place, key in enumerate(seen.moments) if key in seen.highest]
    bar = figures.memory_bar(peak, device.usable_bytes, 1, device.name)
    course = courses.course(names, marked, PAIRS, device.usable_bytes)
    when = MOMENTS[seen.highest[0][1]]
    sums = "; ".join(f"{name}: {units.amount(alive.total)}" for name, alive in names.items())
    return {
        "answer": _trained_answer(seen),
        "fit": text.on_devices(peak, device.name, 1),
        "bar": (bar, text.described(peak, f"1 × {device.name}")),
        "steps": f"<h2>The course of two steps</h2><p>{STEPS} {_limit(seen)}</p>{text.legend(seen.moments.values())}",
        "course": (course, f"Memory in the course of two steps. {sums}. {_when(seen)}"),
        "moments": f"<h2>The same in numbers</h2>{text.course(seen.moments, MOMENTS)}",
        "parts": text.parts(f"What is held {when}", peak),
        "optimizers": "<h2>What each optimizer would keep between the updates</h2>",
        "states": (figures.optimizers(seen.states, _title(seen.asked.optimizer)), text.listed(seen.states)),
        "notes": text.notes(_remarks(seen)),
    }


def _limit(seen: Trained) -> str:
    size = f"one {escape(seen.device.name)}, {units.amount(seen.device.usable_bytes)}"
    if courses.in_sight(seen.moments.values(), seen.device.usable_bytes):
        return f"The dashed line is the memory of {size}."
    return f"The memory of {size}, is far above."


def _trained_answer(seen: Trained) -> str:
    asked, peak = seen.asked, seen.moments[seen.highest[0]]
    parts = [f"{text.name_of(part).lower()} {units.amount(size)}" for part, size in peak.by("phase").items() if size]
    what = f"{_what(asked)} <b>{escape(seen.model.label)}</b> with {scenario.sequences_of(asked)}"
    return (
        f"<p class='over'>{_when(seen)}</p><p class='big'>{units.amount(peak.total)}</p><p class='lead'>"
        f"Training {what} holds <b>{units.exact(peak.total)} bytes</b> ({units.amount(peak.total, units.other())}): "
        f"{', '.join(parts)}.</p><p class='lead'>{_fits(seen)}</p>"
    )


def _what(asked: Training) -> str:
    if asked.method == "full":
        return "all parameters of"
    kind = "LoRA" if asked.method == "lora" else "QLoRA"
    return f"{kind} adapters of rank {asked.lora_rank:,} on"


def _when(seen: Trained) -> str:
    """The highest moment in words."""
    steps = {step for step, _ in seen.highest}
    which = (
        "in every step" if len(steps) > 1 else "in the first step" if 1 in steps else "in every step after the first"
    )
    return f"At its highest, {MOMENTS[seen.highest[0][1]]}, {which}"


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
        f"{device.name} is sold with {device.memory_gb:g} GB; {units.both(device.usable_bytes, 4)} "
        f"can be used: {device.basis}",
    )
