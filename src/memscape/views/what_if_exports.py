"""The files of a what-if: both scenarios by part, all their terms, the map, what fits. Each column has its unit."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memscape.breakdown import Term
from memscape.planner.scenarios import Scenario, changes, surface
from memscape.views import exports
from memscape.views.text import name_of
from memscape.workload import Training

if TYPE_CHECKING:
    from memscape.views.what_if_words import Compared

POINTS = (200, 200)
FITTING = {
    "model": "model",
    "precision": "precision of the weights",
    "fits": "fits",
    "weights_bytes": "weights on the busiest device (bytes)",
    "left_bytes": "left on the busiest device (bytes)",
    "longest_context": "longest context (tokens)",
    "most_sequences": "most sequences of 2048 tokens (sequences)",
    "why": "why not",
}


def scenarios_csv(seen: Compared) -> str:
    """Return the parts of both scenarios and what each grows by."""
    steps = changes(seen.a, seen.b)
    ends = [each.held.by("phase") for each in (seen.a, seen.b)]
    rows: list[tuple[object, ...]] = [
        (name_of(part), *(end.get(part, 0) for end in ends), step) for part, step in steps.items()
    ]
    totals = seen.a.held.total, seen.b.held.total
    rows.append(("Total", *totals, totals[1] - totals[0]))
    return exports.table(("part", "A (bytes)", "B (bytes)", "B minus A (bytes)"), rows)


def scenarios_json(seen: Compared) -> str:
    """Return both scenarios with all that was asked, their totals and their terms."""
    found = {
        "accelerator": seen.device.name,
        "devices": seen.devices,
        "usable_bytes_of_a_device": seen.device.usable_bytes,
        "A": _scenario(seen.a),
        "B": _scenario(seen.b),
    }
    return json.dumps(found, indent=2, default=str) + "\n"


def _scenario(each: Scenario) -> dict[str, Any]:
    return {
        "model": each.model.name,
        "work": "training" if isinstance(each.asked, Training) else "serving",
        "asked": asdict(each.asked),
        "layout": asdict(each.layout),
        "total_bytes": each.held.total,
        "terms": [_term(term) for term in each.held.terms],
    }


def _term(term: Term) -> dict[str, Any]:
    return {
        "name": term.name,
        "phase": term.phase,
        "group": term.group,
        "bytes": term.amount,
        "factors": dict(term.factors),
        "source": term.source,
    }


def map_csv(seen: Compared) -> str:
    """Return the map in more points than are drawn, one row each."""
    across, up = seen.surface.across[0], seen.surface.up[0]
    fine = surface(seen.a, seen.device, across, up, POINTS)
    rows = (
        (int(column), int(row), int(held), "yes" if held <= fine.room else "no")
        for row, line in zip(fine.up[1], fine.totals, strict=True)
        for column, held in zip(fine.across[1], line, strict=True)
    )
    return exports.table((across, up, "memory of the busiest device (bytes)", "fits"), rows)


def fitting_csv(seen: Compared) -> str:
    """Return what fits: every model of the catalogue in the chosen precision."""
    rows = ([_cell(row[name]) for name in FITTING] for row in seen.fitting)
    return exports.table([*FITTING.values()], rows)


def _cell(value: object) -> object:
    return ("no", "yes")[value] if isinstance(value, bool) else value
