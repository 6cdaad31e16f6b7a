"""The page of what-ifs: two scenarios, what lies between them, a map of what fits, what matters, what else fits."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from html import escape
from typing import Any

import memscape as ms
from memscape import units
from memscape.breakdown import Breakdown
from memscape.catalog import Accelerator
from memscape.memory.training_states import check
from memscape.model import Model
from memscape.planner import layout_of
from memscape.planner.scenarios import Scenario, changes, most, surface
from memscape.views import loop, scenario, text, what_if_figures
from memscape.views import what_if_words as words
from memscape.views.outputs import Chart, Html
from memscape.views.steps import Steps
from memscape.views.what_if_controls import AXES, FIELDS, SAME, Axes, changed, fields
from memscape.views.what_if_exports import fitting_csv, map_csv, scenarios_csv, scenarios_json
from memscape.views.what_if_words import Compared, Row
from memscape.workload import Inference, Training

EXPORTS = {
    "scenarios.csv": scenarios_csv,
    "scenarios.json": scenarios_json,
    "heat_map.csv": map_csv,
    "what_fits.csv": fitting_csv,
}


def what_if() -> Any:
    """Return the page that compares two scenarios and shows what each input would do."""
    models = scenario.ModelChoice("llama-3.1-70b")
    outputs = {
        "answer": Html("answer"),
        "steps_words": Html("caption"),
        "steps": Chart(height=300),
        "sides": Html("card"),
        "map_words": Html("caption"),
        "map": Chart(height=420),
        "swings_words": Html("caption"),
        "swings": Chart(height=200),
        "fitting": Html("card"),
        "notes": Html("card quiet"),
    }
    legal = Steps(models.control)
    found = fields(models.control, legal)
    axes = Axes(legal, *(field for field in found if field.name in ("across", "up")))
    return loop.page(found, _compared, _show, outputs, models.upload, EXPORTS, axes, _both)


def _both(seen: Compared) -> dict[str, Breakdown]:
    return {"A": seen.a.held, "B": seen.b.held}


# the calculation


def _compared(
    model: Model,
    model_b: str,
    work: str,
    accelerator: Accelerator,
    devices: str,
    across: str,
    up: str,
    percent: str,
    fits_in: str,
    **asked: Any,
) -> Compared:
    device, count = accelerator, int(devices)
    other = model if model_b == SAME else ms.model(model_b)
    of_b = {name: _of_b(name, value, asked[f"{name}_b"]) for name, value in asked.items() if f"{name}_b" in asked}
    a = _scenario(model, work, count, device, asked)
    b = _scenario(other, work, count, device, of_b)
    columns, rows = (FIELDS[work].get(each, each) for each in (across, up))
    ends = {each: (most(a, device, name), most(b, device, name)) for each, name in FIELDS[work].items()}
    return Compared(
        a=a,
        b=b,
        changed=changed(work, model_b, asked),
        device=device,
        devices=count,
        steps=changes(a, b),
        most=ends,
        surface=surface(a, device, columns, rows),
        axes=(AXES[across], AXES[up]),
        swings=ms.sensitivity(model, a.asked, a.layout, int(percent)).to_dict("records"),
        percent=int(percent),
        fitting=_fitting(device.name, count, fits_in),
        fits_in=fits_in,
    )


def _of_b(name: str, value: Any, change: str) -> Any:
    """The value of a control in B: as in A, another one, or some percent of A's."""
    if name in ("tokens", "sequences"):
        return max(1, value * int(change) // 100)
    if change == SAME:
        return value
    return change == "yes" if name == "checkpointing" else change


def _scenario(model: Model, work: str, devices: int, device: Accelerator, asked: dict[str, Any]) -> Scenario:
    layout = layout_of(model, devices, device)
    if work == "serving":
        written = asked["tokens"] if model.has_encoder else 0
        served = Inference(
            sequences=asked["sequences"],
            prompt_tokens=asked["tokens"],
            output_tokens=written,
            weights=asked["precision"],
            kv_cache=asked["kv_cache"],
        )
        return Scenario.of(model, served, layout)
    trained = Training(
        micro_batch=asked["sequences"],
        sequence_tokens=asked["tokens"],
        precision=asked["training_precision"],
        optimizer=asked["optimizer"],
        method=asked["method"],
        recompute="full" if asked["checkpointing"] else "none",
    )
    check(model, trained)
    return Scenario.of(model, trained, replace(layout, zero=1))


@lru_cache(maxsize=64)
def _fitting(accelerator: Accelerator, devices: int, precision: str) -> list[Row]:
    """What fits, which no other control changes."""
    found: list[Row] = ms.what_fits(accelerator, devices, [precision]).to_dict("records")
    return found


# what is shown


def _show(seen: Compared) -> dict[str, Any]:
    names = {field: AXES[each] for each, field in FIELDS[words.work(seen)].items()}
    short = {field: each for each, field in FIELDS[words.work(seen)].items()}
    here = (seen.a.now(seen.surface.across[0]), seen.surface.up[0])
    point = (here[0], seen.a.now(here[1]))
    steps = ", ".join(
        f"{text.name_of(part)} {what_if_figures.signed(size)}" for part, size in seen.steps.items() if size
    )
    sentence = words.edge(seen)
    ends = [seen.a.held, seen.b.held]
    room_here = seen.device.usable_bytes
    return {
        "answer": words.answer(seen),
        "steps_words": f"<h2>From A to B</h2><p>What the busiest device holds in each, and between them what grows and "
        f"what shrinks. The dotted line is the memory of one {escape(seen.device.name)}.</p>{text.legend(ends)}",
        "steps": (
            what_if_figures.waterfall(seen.a, seen.b, seen.steps, room_here),
            f"From A, {units.amount(ends[0].total)}, to B, {units.amount(ends[1].total)}: {steps or 'no change'}",
        ),
        "sides": f"<h2>Side by side</h2>{words.side_by_side(seen)}",
        "map_words": f"<h2>A, with two inputs changed</h2><p>{sentence}</p><p>Each cell is what the busiest device of "
        f"A would hold. Blue fits, red does not, the line is the edge; the stronger the colour, the more bytes or the "
        f"more is missing. Point at a cell for its amount.</p>",
        "map": (what_if_figures.heat_map(seen.surface, point, seen.axes), sentence),
        "swings_words": f"<h2>Which input matters most to A</h2><p>{words.swings(seen, names)}</p>"
        f"{text.key({colour: side for side, colour in what_if_figures.SIDES.values()})}",
        "swings": (
            what_if_figures.tornado(seen.swings, short, seen.a.held.total),
            words.swings(seen, names),
        ),
        "fitting": f"<h2>What else fits on {words.hardware(seen)}</h2>{words.fitting(seen)}",
        "notes": text.notes(words.remarks(seen)),
    }
