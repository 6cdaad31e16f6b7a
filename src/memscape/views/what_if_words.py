"""The words and tables of a what-if: the headline, both sides, the edge of the map, what matters, what else fits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

import memscape as ms
from memscape import tables, units
from memscape.breakdown import Quantity
from memscape.catalog import Accelerator
from memscape.memory.rules_of_thumb import room
from memscape.memory.weights import title
from memscape.parallelism import DEGREES
from memscape.planner.scenarios import Scenario, Surface
from memscape.views import text, what_if_figures
from memscape.views.what_if_controls import AXES, WHAT
from memscape.workload import Training

Row = dict[Any, Any]  # of a table of the package
MOST_MODELS = 12


@dataclass(frozen=True)
class Compared:
    """What the page shows."""

    a: Scenario
    b: Scenario
    changed: tuple[str, ...]
    device: Accelerator
    devices: int
    steps: dict[str, Quantity]
    most: dict[str, tuple[int, int]]
    surface: Surface
    axes: tuple[str, str]
    swings: list[Row]
    percent: int
    fitting: list[Row]
    fits_in: str


@lru_cache(maxsize=512)
def _size(name: str) -> int:
    total: int = ms.parameters(ms.model(name)).total
    return total


def work(seen: Compared) -> str:
    """Return the kind of work of both scenarios."""
    return "training" if isinstance(seen.a.asked, Training) else "serving"


def hardware(seen: Compared) -> str:
    """Return the devices of both scenarios."""
    return f"{seen.devices:,} × {escape(seen.device.name)}"


def answer(seen: Compared) -> str:
    """Return the headline: the difference, and whether each fits."""
    difference = sum(seen.steps.values())
    size = units.amount(abs(difference))
    big = f"{size} {'less' if difference < 0 else 'more'}" if difference else "No difference"
    what = f"is A with {escape('; '.join(seen.changed))}" if seen.changed else "is the same as A until it is changed"
    return (
        f"<p class='over'>B against A, on the busiest of {hardware(seen)}</p><p class='big'>{big}</p>"
        f"<p class='lead'><b>A</b>, {WHAT[work(seen)].lower()} {escape(seen.a.model.label)}, "
        f"{_verdict(seen, seen.a)}. "
        f"<b>B</b> {what}: it {_verdict(seen, seen.b)}.</p>"
        f"{text.band(seen.a.held, ' for A')}{text.band(seen.b.held, ' for B')}"
    )


def _verdict(seen: Compared, each: Scenario) -> str:
    left = room(each.held, seen.device)
    held = f"holds <b>{units.amount(each.held.total)}</b>"
    if left >= 0:
        return f"{held} and <b>fits</b>, with {units.amount(left)} to spare"
    return f"{held} and <b>does not fit</b>: {units.amount(-left)} are missing"


def side_by_side(seen: Compared) -> str:
    """Return the parts of both scenarios as a table, with the largest sizes that would fit."""
    ends = [each.held.by("phase") for each in (seen.a, seen.b)]
    rows = [
        [
            f"{text.swatch(f'part-{part}')}{text.name_of(part)}",
            *(units.amount(end.get(part, 0)) for end in ends),
            what_if_figures.signed(seen.steps[part]) if seen.steps[part] else "–",
        ]
        for part in text.ordered(ends, text.PHASE_NAMES)
    ]
    totals = [f"<b>{units.amount(each.held.total)}</b>" for each in (seen.a, seen.b)]
    rows.append(["<b>Together</b>", *totals, f"<b>{what_if_figures.signed(sum(seen.steps.values()))}</b>"])
    for axis, pair in seen.most.items():
        rows.append([f"Most {AXES[axis]} that fit", *(units.exact(each) if each else "none" for each in pair), ""])
    table: str = text.simple_table(("On the busiest device", "A", "B", "B − A"), rows, "compared")
    return table


def edge(seen: Compared) -> str:
    """Return the edge of the map at the present value of its horizontal input, in words."""
    across, up = seen.axes
    field, values = seen.surface.up
    now = seen.a.now(seen.surface.across[0])
    found = seen.surface.most(now)
    where = f"At {now:,} {across}"
    if field in DEGREES:
        return f"{where}, A fits from {found:,} {up} on." if found else f"{where}, A fits with no number of {up}."
    if not found:
        return f"{where}, A does not fit at all: not even with one of {up}."
    if found >= values[-1]:
        return f"{where}, A fits with all of the {found:,} {up} that the map shows."
    return f"{where}, A fits with up to <b>{found:,}</b> {up}."


def swings(seen: Compared, names: dict[str, str]) -> str:
    """Return which input matters most."""
    if not seen.swings:
        return "No number of this workload can be lowered and raised."
    first = seen.swings[0]
    name = names.get(first["input"], text.name_of(first["input"]))
    return (
        f"Each input is lowered and raised by {seen.percent} % (at least by one). Most depends on the {name}: between "
        f"the two lie {units.amount(first['swing'])}, {first['share']:.1%} of what A holds."
    )


def fitting(seen: Compared) -> str:
    """Return the largest models that fit, as a table."""
    good = [row for row in seen.fitting if row["fits"]]
    words = escape(title(seen.fits_in))
    if not good:
        return f"<p>No model of the catalogue has room there in {words}.</p>"
    listed = sorted(good, key=lambda row: -_size(row["model"]))[:MOST_MODELS]
    titles = tables.by_key("models", "id")
    rows = [
        (
            escape(titles[row["model"]]["title"]),
            units.count(_size(row["model"])),
            units.amount(row["weights_bytes"]),
            units.amount(row["left_bytes"]),
            f"{int(row['longest_context']):,}",
            f"{int(row['most_sequences']):,}",
        )
        for row in listed
    ]
    head = ("Model", "Parameters", "Weights", "Left", "Longest context", "Most conversations")
    return (
        f"<p>With weights in {words}, {len(good):,} of {len(seen.fitting):,} models have room to serve one "
        f"conversation of 2,048 tokens; these are the largest. Weights and what is left are those of the busiest "
        f"device, the longest context is of one conversation alone.</p>{text.simple_table(head, rows, 'compared')}"
    )


def remarks(seen: Compared) -> tuple[str, ...]:
    """Return how the models are spread, what is assumed, and what the calculation notes."""
    lines = [f"{name}: {_spread(each)}" for name, each in (("A", seen.a), ("B", seen.b))]
    if work(seen) == "training":
        lines.append("the tensor program is that of transformers; copies share their optimizer states (ZeRO stage 1)")
    lines.append("nothing is kept free on a device here: what fits, fits to the last byte that the driver reports")
    return (*lines, *dict.fromkeys((*seen.a.held.notes, *seen.b.held.notes)))


def _spread(each: Scenario) -> str:
    layout = each.layout
    return f"{each.model.label} is spread over tensor {layout.tensor} × pipeline {layout.pipeline}"
