"""The page about parallelism: a model spread over devices, what each holds, what they send to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import memscape as ms
from memscape import units
from memscape.breakdown import Breakdown
from memscape.catalog import Accelerator
from memscape.memory.timeline import each_stage
from memscape.model import Model
from memscape.parallelism import (
    Layout,
    expert_degrees,
    in_flight,
    interleave_degrees,
    micro_batches,
    pipeline_degrees,
    shard_workload,
    stage_layers,
    tensor_degrees,
)
from memscape.performance import TrainingTime
from memscape.performance.traffic import traffic
from memscape.planner.advice import Change, on_layout
from memscape.planner.advice import zero as zero_of
from memscape.problem import Problem
from memscape.views import controls, devices, exports, loop, scenario, text
from memscape.views.outputs import Chart, Html
from memscape.views.steps import Steps
from memscape.workload import Inference, Training

COPIES = tuple(2**power for power in range(8))
CONTEXTS = (1, 2, 4, 8, 16)
BATCHES = tuple(2**power for power in range(11))
MOST_STAGES = 32
MOST_TENSOR = 32
MOST_TILES = 64
WORK = {"training": "Training", "serving": "Serving"}
ZERO = {
    "0": "nothing is shared (every copy holds all)",
    "1": "stage 1: optimizer states",
    "2": "stage 2: gradients too",
    "3": "stage 3: weights too (FSDP)",
}
RECOMPUTED = {"none": "nothing", "selective": "attention", "full": "every layer"}


@dataclass(frozen=True)
class Spread:
    """What the page shows."""

    model: Model
    asked: Inference | Training
    layout: Layout
    device: Accelerator
    stages: tuple[Breakdown, ...]
    sent: Breakdown
    time: str


def parallelism() -> Any:
    """Return the page that spreads a model over devices: tiles, stages by parts, traffic."""
    models = scenario.ModelChoice("llama-3.1-70b")
    legal = Steps(models.control)
    work = controls.choice("work", "What for", scenario.named(WORK), "training")
    zero = controls.choice("zero", "Copies share (ZeRO)", scenario.named(ZERO), "1")
    recomputed = controls.choice("recomputed", "Computed again in backward", scenario.named(RECOMPUTED), "none")
    controls.shown_for(work, {"training": (zero, recomputed)})
    fields = (
        models.control,
        work,
        legal.slider("tensor", "Tensor parallel: devices that share each matrix", _tensor, 8),
        legal.slider("pipeline", "Pipeline: stages that share the layers", _pipeline, 4),
        legal.slider("interleave", "Pieces of a stage on each device", _pieces, 1),
        legal.slider("data", "Data parallel: copies of the model", _copies, 4),
        zero,
        legal.slider("context", "Context parallel: devices that share each sequence", _contexts, 1),
        legal.slider("expert", "Expert parallel: devices that share the experts", _experts, 1),
        controls.switch("sequence_parallel", "Sequence parallelism: norms are split along the sequence too", True),
        controls.slider("batch", "Sequences of each copy: in an update, or served at once", BATCHES, 32),
        legal.length(scenario.length()),
        recomputed,
        *scenario.accelerator(),
    )
    files = {
        "stages.csv": _stages_csv,
        "traffic.csv": lambda seen: exports.terms_table(seen.sent),
        "changes.csv": lambda seen: exports.changes_table(_changes(seen)),
    }
    return loop.page(
        fields,
        _spread,
        _show,
        _outputs(),
        models.upload,
        files,
        steps=legal,
        terms=_busiest,
        at_rest={"advice": _advice},
    )


def _advice(seen: Spread) -> str:
    fits = _busiest(seen).total <= seen.device.usable_bytes
    return text.advice(int(seen.layout.devices) if fits else 0, _changes(seen))


def _changes(seen: Spread) -> tuple[Change, ...]:
    return on_layout(seen.model, seen.asked, seen.layout, _busiest(seen), seen.device)


def _stages_csv(seen: Spread) -> str:
    return exports.sums_table("stage", {str(place): stage for place, stage in enumerate(seen.stages, 1)})


def _outputs() -> dict[str, Any]:
    return {
        "answer": Html("answer"),
        "tiles_words": Html("caption"),
        "tiles": Chart(height=430),
        "advice": Html("card"),
        "stages": Html("card"),
        "parts": Html("card"),
        "sent_words": Html("caption"),
        "sent": Chart(height=230),
        "traffic": Html("card"),
        "notes": Html("card quiet"),
    }


# sliders that offer what the model can be split by


def _tensor(model: Model, _chosen: Mapping[str, int]) -> Sequence[int]:
    return tensor_degrees(model, MOST_TENSOR)


def _pipeline(model: Model, _chosen: Mapping[str, int]) -> Sequence[int]:
    return [degree for degree in pipeline_degrees(model) if degree <= MOST_STAGES]


def _pieces(model: Model, chosen: Mapping[str, int]) -> Sequence[int]:
    return interleave_degrees(model, chosen["pipeline"])


def _copies(_model: Model, _chosen: Mapping[str, int]) -> Sequence[int]:
    return COPIES


def _contexts(model: Model, _chosen: Mapping[str, int]) -> Sequence[int]:
    return CONTEXTS if model.causal and not model.has_encoder else (1,)


def _experts(model: Model, chosen: Mapping[str, int]) -> Sequence[int]:
    there = chosen["data"] * chosen["context"]
    return [degree for degree in expert_degrees(model) if there % degree == 0]


# the calculation


def _spread(
    model: Model,
    work: str,
    tensor: int,
    pipeline: int,
    interleave: int,
    data: int,
    zero: str,
    context: int,
    expert: int,
    sequence_parallel: bool,
    batch: int,
    sequence_tokens: int,
    recomputed: str,
    accelerator: Accelerator,
) -> Spread:
    stage = int(zero) if work == "training" else 0
    layout = Layout(
        tensor=tensor,
        pipeline=pipeline,
        interleave=interleave,
        data=data,
        context=context,
        expert=expert,
        sequence_parallel=sequence_parallel,
        **zero_of(stage),
    )
    asked = _asked(work, batch, sequence_tokens, recomputed, data, model)
    stages = each_stage(model, asked, layout, accelerator)
    sent, time = traffic(model, asked, layout), _time(model, asked, accelerator, layout)
    return Spread(model, asked, layout, accelerator, stages, sent, time)


def _asked(work: str, batch: int, tokens: int, recomputed: str, data: int, model: Model) -> Inference | Training:
    if work == "serving":
        return Inference(sequences=batch * data, prompt_tokens=tokens, output_tokens=tokens if model.has_encoder else 0)
    fused = not model.has_encoder
    if not fused and recomputed == "selective":
        recomputed = "none"
    return Training(
        micro_batch=1,
        sequence_tokens=tokens,
        global_batch=batch * data,
        precision="bf16-mixed",
        implementation="megatron" if fused else "transformers",
        recompute=recomputed,
    )


def _time(model: Model, asked: Inference | Training, device: Accelerator, layout: Layout) -> str:
    """How long it takes, in words; nothing where the rates of a device are not known."""
    try:
        found = ms.performance(model, asked, device, layout)
    except Problem:
        return ""
    if isinstance(found, TrainingTime):
        step, share = found.step, found.model_flops_utilisation
        waits = f"; {found.bubble:.0%} of it the stages wait" if layout.pipeline > 1 else ""
        return (
            f"An update takes about <b>{units.seconds(step.total)}</b> ({units.seconds(step.low)} to "
            f"{units.seconds(step.high)}), {share:.0%} of the peak{waits}."
        )
    return (
        f"Prompts are read in about <b>{units.seconds(found.prefill.total)}</b>; then a token takes "
        f"{units.seconds(found.decode.total)}."
    )


# what is shown


def _show(seen: Spread) -> dict[str, Any]:
    layout, capacity = seen.layout, seen.device.usable_bytes
    busiest = _busiest(seen)
    columns, copies = _columns(layout)
    tiles = devices.tiles(seen.stages, columns, capacity, copies)
    each = "; ".join(f"stage {place + 1}: {units.amount(stage.total)}" for place, stage in enumerate(seen.stages))
    return {
        "answer": _answer(seen, busiest),
        "tiles_words": f"<h2>The devices</h2><p>Each tile is one {escape(seen.device.name)}, filled by what it holds; "
        f"in a red frame it would have to hold more. <span class='on-screen'>Point at it for the amounts.</span></p>"
        f"{text.legend(seen.stages)}",
        "tiles": (tiles, f"One tile for each device, {copies}. On one device of {each}"),
        "stages": f"<h2>Stage by part</h2>{_stage_table(seen)}",
        "parts": text.parts("What the busiest device holds", busiest),
        "sent_words": f"<h2>What goes over the wire</h2><p>{_when(seen)}</p>",
        "sent": (devices.sent(seen.sent), _sent_words(seen.sent)),
        "traffic": f"<h2>The same in numbers</h2>{text.table(seen.sent, 'group')}" if seen.sent.terms else "",
        "notes": text.notes(_remarks(seen, busiest)),
    }


def _busiest(seen: Spread) -> Breakdown:
    return max(seen.stages, key=lambda stage: float(stage.total))


def _columns(layout: Layout) -> tuple[int, str]:
    """How many tiles stand side by side, and what that leaves out."""
    one = layout.tensor * layout.context
    every = one * layout.data
    if every * layout.pipeline <= MOST_TILES or layout.data == 1:
        return every, f"{units.exact(every)} devices on each stage"
    copies = f"one copy, which stands there {units.exact(layout.data)} times"
    return one, f"{units.exact(one)} devices on each stage of {copies}"


def _answer(seen: Spread, busiest: Breakdown) -> str:
    left = seen.device.usable_bytes - busiest.total
    name, count = escape(seen.device.name), units.exact(seen.layout.devices)
    fits = (
        f"It <b>fits on {count} × {name}</b>, with {units.amount(left)} to spare on the busiest one."
        if left >= 0
        else f"It <b>does not fit on {count} × {name}</b>: {units.amount(-left)} are missing on the busiest one."
    )
    what = "Training" if isinstance(seen.asked, Training) else "Serving"
    sizes = busiest.by("phase").items()
    parts = ", ".join(f"{text.name_of(part).lower()} {units.amount(size)}" for part, size in sizes)
    return (
        f"<p class='over'>{count} devices; the busiest one holds</p><p class='big'>{units.amount(busiest.total)}</p>"
        f"<p class='lead'>{what} <b>{escape(seen.model.label)}</b>: {parts}.</p><p class='lead'>{fits} {seen.time}</p>"
        f"{text.band(busiest, ' for that device')}"
    )


def _stage_table(seen: Spread) -> str:
    rows = []
    share = shard_workload(seen.asked, seen.layout)
    held = [stage.by("phase") for stage in seen.stages]
    shown = text.ordered(held, text.PHASE_NAMES)
    most = max(max(sizes.values()) for sizes in held)
    for place, stage in enumerate(seen.stages):
        layers = len(stage_layers(seen.model, seen.layout, place))
        cells = [f"{place + 1}", f"{layers}"]
        if isinstance(share, Training):
            pieces = in_flight(seen.layout, place, micro_batches(share)) if seen.layout.pipeline > 1 else 1
            cells.append(units.exact(pieces))
        parts = [text.shaded(part, held[place].get(part, 0), most) for part in shown]
        rows.append([*cells, f"<b>{units.amount(stage.total)}</b>", *parts])
    kept = ["Kept at once"] if isinstance(share, Training) else []
    head = ("Stage", "Layers", *kept, "On one device", *(text.name_of(part) for part in shown))
    said = " Micro-batches (or pieces of them) that wait for their backward pass are kept at once." if kept else ""
    table: str = text.simple_table(head, rows, "shades")
    return f"<p>What one device of each stage holds: the stronger the colour, the more.{said}</p>{table}"


def _when(seen: Spread) -> str:
    what = "in one update" if isinstance(seen.asked, Training) else "while the prompts are read"
    if not seen.sent.terms:
        return "A device alone sends nothing."
    return f"Bytes that one device sends {what}, by the form of parallelism that needs them."


def _sent_words(sent: Breakdown) -> str:
    sums = (f"{devices.FORMS[form]} {units.amount(size)}" for form, size in sent.by("group").items())
    return f"Sent by one device: {', '.join(sums)}" if sent.terms else "One device alone sends nothing"


def _remarks(seen: Spread, busiest: Breakdown) -> tuple[str, ...]:
    notes = [*busiest.notes]
    if isinstance(seen.asked, Training):
        notes.append("BF16 weights beside FP32 master weights, optimizer AdamW, one sequence in a micro-batch")
        notes.append(
            "activations are those of Megatron's fused kernels"
            if seen.asked.implementation == "megatron"
            else "activations are those of transformers, since Megatron's formula does not cover an encoder-decoder"
        )
    else:
        notes.append("weights and cache are BF16; runtime is what others measured, with its spread")
    return tuple(notes)
