"""Figures of a cluster: a tile for every device filled by what it holds, stages by parts, what is sent by form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memscape import units
from memscape.breakdown import Breakdown
from memscape.views.figures import MARGIN, Figure, scale_of
from memscape.views.text import PHASE_NAMES, name_of, ordered

FORMS = {
    "tensor": "Tensor",
    "context": "Context",
    "expert": "Expert",
    "pipeline": "Pipeline",
    "data": "Data (ZeRO)",
}
TILE = 0.82  # of the room of a tile, so that neighbours stand apart
PLAIN = {"fixedrange": True, "showgrid": False, "zeroline": False}


def tiles(stages: Sequence[Breakdown], columns: int, capacity: int, copies: str) -> Figure:
    """Return one tile for each device: stages from top to bottom, the devices of a stage side by side.

    A tile is as high as the memory of a device. A device that needs more is full to the edge, in a frame of alert.
    """
    places = [(row, column) for row in range(len(stages)) for column in range(columns)]
    bottom = {row: len(stages) - 1 - row for row in range(len(stages))}
    phases = [stage.by("phase") for stage in stages]
    filled = [0.0] * len(stages)
    words = [_hover(stage, row, len(stages), capacity) for row, stage in enumerate(stages)]
    bars = [_frames(stages, places, bottom, capacity, words, "var(--part-free)")]
    for part in ordered(phases, PHASE_NAMES):
        room = [max(capacity, stage.total) for stage in stages]
        heights = [phase.get(part, 0) / room[row] * TILE for row, phase in enumerate(phases)]
        bars.append(_part(part, places, bottom, filled, heights, words))
        filled = [low + high for low, high in zip(filled, heights, strict=True)]
    bars.append(_frames(stages, places, bottom, capacity, words, "rgba(0,0,0,0)"))
    rows = [f"stage {row + 1}" for row in range(len(stages))]
    shown = [row for row in range(len(stages)) if len(stages) <= 16 or row in (0, len(stages) // 2, len(stages) - 1)]
    layout = {
        "barmode": "overlay",
        "bargap": 0,
        "showlegend": False,
        "xaxis": PLAIN | {"showticklabels": False, "title": {"text": copies, "standoff": 8}},
        "yaxis": PLAIN
        | {"tickvals": [bottom[row] + TILE / 2 for row in shown], "ticktext": [rows[row] for row in shown]}
        | {"range": [-0.1, len(stages)], "automargin": True},
        "margin": MARGIN | {"b": 40},
        "hoverlabel": {"align": "left"},
    }
    return {"data": bars, "layout": layout}


def _frames(
    stages: Sequence[Breakdown],
    places: Sequence[tuple[int, int]],
    bottom: Mapping[int, int],
    capacity: int,
    words: Sequence[str],
    filling: str,
) -> Figure:
    """The tiles themselves: empty ones, or their frames."""
    lines = ["var(--alert)" if stages[row].total > capacity else "var(--soft)" for row, _ in places]
    return _bar("Free", places, [bottom[row] for row, _ in places], [TILE] * len(places), words) | {
        "marker": {"color": filling, "line": {"width": 2, "color": lines}}
    }


def _part(
    part: str,
    places: Sequence[tuple[int, int]],
    bottom: Mapping[int, int],
    filled: Sequence[float],
    heights: Sequence[float],
    words: Sequence[str],
) -> Figure:
    bases = [bottom[row] + filled[row] for row, _ in places]
    return _bar(name_of(part), places, bases, [heights[row] for row, _ in places], words) | {
        "marker": {"color": f"var(--part-{part})", "line": {"width": 0}}
    }


def _bar(
    name: str,
    places: Sequence[tuple[int, int]],
    bases: Sequence[float],
    heights: Sequence[float],
    words: Sequence[str],
) -> Figure:
    return {
        "type": "bar",
        "name": name,
        "x": [column for _, column in places],
        "y": [*heights],
        "base": [*bases],
        "width": TILE,
        "hovertext": [words[row] for row, _ in places],
        "hoverinfo": "text",
    }


def _hover(stage: Breakdown, row: int, stages: int, capacity: int) -> str:
    parts = "".join(f"<br>{name_of(part)}: {units.amount(size)}" for part, size in stage.by("phase").items() if size)
    where = f"A device of stage {row + 1}" if stages > 1 else "Each device"
    return f"{where}: {units.amount(stage.total)} of {units.amount(capacity)}{parts}"


def heat(stages: Sequence[Breakdown]) -> Figure:
    """Return the bytes of every part on every stage as a heat map; amounts stand in it where there is room."""
    phases = [stage.by("phase") for stage in stages]
    parts = ordered(phases, PHASE_NAMES)
    scale, unit = scale_of(max(stage.total for stage in stages))
    rows = [[phase.get(part, 0) / scale for phase in phases] for part in parts]
    data = {
        "type": "heatmap",
        "x": [f"{place + 1}" for place in range(len(stages))],
        "y": [name_of(part) for part in parts],
        "z": rows,
        "colorscale": [[0, "var(--card)"], [1, "var(--accent)"]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": f"stage %{{x}}, %{{y}}: %{{z:,.2f}} {unit}<extra></extra>",
    }
    if len(stages) <= 8:
        data["texttemplate"] = "%{z:,.1f}"
    title = {"text": f"stage; amounts in {unit} on one device", "standoff": 8}
    layout = {
        "xaxis": PLAIN | {"title": title, "type": "category"},
        "yaxis": PLAIN | {"autorange": "reversed", "automargin": True, "ticksuffix": "  "},
        "margin": MARGIN,
    }
    return {"data": [data], "layout": layout}


def sent(traffic: Breakdown) -> Figure:
    """Return the bytes that one device sends, one bar for each form of parallelism."""
    sums = {form: size for form, size in traffic.by("group").items() if form in FORMS}
    scale, unit = scale_of(max([1.0, *sums.values()]))
    names = [form for form in FORMS if form in sums] or ["tensor"]
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": [sums.get(form, 0) / scale for form in names],
        "y": [FORMS[form] for form in names],
        "marker": {"color": "var(--accent)"},
        "text": [f" {units.amount(sums.get(form, 0))} " for form in names],
        "textposition": "auto",
        "textangle": 0,
        "cliponaxis": False,
        "hovertemplate": f"%{{y}}: %{{x:,.3f}} {unit}<extra></extra>",
    }
    title = {"text": f"{unit} sent by one device", "standoff": 8}
    layout = {
        "xaxis": {"title": title, "rangemode": "tozero", "fixedrange": True, "nticks": 6, "tickangle": 0},
        "yaxis": {"automargin": True, "fixedrange": True, "ticksuffix": "  ", "autorange": "reversed"},
        "margin": MARGIN,
        "showlegend": False,
    }
    return {"data": [bar], "layout": layout}
