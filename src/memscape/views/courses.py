"""Figures of training: several ways to count side by side, and the course of a step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import floor, log10

from memscape import units
from memscape.breakdown import Breakdown
from memscape.views.figures import Figure, scale_of
from memscape.views.text import GROUP_NAMES, PHASE_NAMES, name_of

STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
LEGEND = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"}
HEADROOM = 1.12


def ways(counted: Mapping[str, Breakdown], chosen: str) -> Figure:
    """Return one bar for each way to count, stacked by group, with its total beside its name; the chosen one bold."""
    scale, unit = scale_of(max(way.total for way in counted.values()))
    groups = {name: way.by("group") for name, way in counted.items()}
    bars = [
        _bars(
            name_of(group),
            f"var(--group-{group})",
            [way.get(group, 0) / scale for way in groups.values()],
            [f"{name}, {name_of(group)}: {units.amount(way.get(group, 0))}" for name, way in groups.items()],
        )
        for group in _present(GROUP_NAMES, groups.values())
    ]
    for bar in bars:
        bar |= {"orientation": "h", "x": bar["y"], "y": [*range(len(counted))]}
    labels = [_label(name, way, name == chosen) for name, way in counted.items()]
    top = nice_end(max(way.total for way in counted.values()) / scale)
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "xaxis": {"title": {"text": unit, "standoff": 8}, "range": [0, top], "nticks": 6, "fixedrange": True},
        "yaxis": {
            "tickvals": [*range(len(counted))],
            "ticktext": labels,
            "autorange": "reversed",
            "fixedrange": True,
            "ticks": "outside",
            "tickcolor": "rgba(0,0,0,0)",
        },
        "legend": LEGEND,
        "margin": {"l": 118, "r": 16, "t": 8, "b": 52},
    }
    return {"data": bars, "layout": layout}


def _label(name: str, way: Breakdown, chosen: bool) -> str:
    words = f"<b>▸ {name}</b>" if chosen else name
    return f"{words}<br>{units.amount(way.total)}"


def course(
    moments: Sequence[tuple[str, Breakdown]], highest: Collection[int], capacity_bytes: int, device: str
) -> Figure:
    """Return the moments of two steps as stacked bars, the highest marked, and a line at a device's memory."""
    peak = max(alive.total for _, alive in moments)
    line = capacity_bytes if capacity_bytes <= 2 * peak else 0
    scale, unit = scale_of(max(peak, line))
    places = [place + (place >= len(moments) // 2) * 0.6 for place in range(len(moments))]
    phases = [alive.by("phase") for _, alive in moments]
    bars = [
        _bars(
            name_of(phase),
            f"var(--part-{phase})",
            [alive.get(phase, 0) / scale for alive in phases],
            [f"{name_of(phase)}: {units.amount(alive.get(phase, 0))}" for alive in phases],
        )
        | {"x": places}
        for phase in _present(PHASE_NAMES, phases)
    ]
    marks = [_mark(places[place], peak, scale, place / len(moments)) for place in highest]
    layout = {
        "barmode": "stack",
        "bargap": 0.18,
        "xaxis": {
            "tickvals": places,
            "ticktext": [words for words, _ in moments],
            "tickfont": {"size": 12},
            "autotickangles": [0, 90],
            "automargin": True,
            "fixedrange": True,
            "showgrid": False,
        },
        "yaxis": {
            "title": {"text": unit, "standoff": 4},
            "range": [0, nice_end(max(peak, line) / scale * HEADROOM)],
            "automargin": True,
            "fixedrange": True,
        },
        "legend": LEGEND | {"y": 1.07},
        "annotations": [*_steps(places), *marks, *_limit(line, scale, device)],
        "shapes": _limit_line(line, scale),
        "margin": {"l": 50, "r": 12, "t": 8, "b": 40},
    }
    return {"data": bars, "layout": layout}


def _steps(places: Sequence[float]) -> list[Figure]:
    """The names of the two steps above their bars."""
    half = len(places) // 2
    words = {"first step": places[:half], "every later step": places[half:]}
    return [
        _note(f"<b>{name}</b>", sum(part) / len(part), 1) | {"yref": "paper", "yanchor": "bottom"}
        for name, part in words.items()
    ]


def _mark(x: float, peak: float, scale: float, share: float) -> Figure:
    """The arrow at a highest moment; near an edge its words grow away from it."""
    anchor = "left" if share < 0.2 else "right" if share > 0.8 else "center"
    return _note(f"<b>{units.amount(peak)}</b>", x, peak / scale) | {
        "showarrow": True,
        "arrowhead": 2,
        "arrowcolor": "var(--ink)",
        "ax": 0,
        "ay": -22,
        "xanchor": anchor,
    }


def _limit_line(line: int, scale: float) -> list[Figure]:
    stroke = {"color": "var(--alert)", "width": 2, "dash": "dash"}
    place = {"xref": "paper", "x0": 0, "x1": 1, "y0": line / scale, "y1": line / scale}
    return [{"type": "line", "line": stroke, **place}] if line else []


def _limit(line: int, scale: float, device: str) -> list[Figure]:
    note = _note(f"{device}: {units.amount(line)}", 0, line / scale)
    return [note | {"xref": "paper", "xanchor": "left", "yanchor": "bottom"}] if line else []


def _note(words: str, x: float, y: float) -> Figure:
    return {"text": words, "x": x, "y": y, "showarrow": False, "font": {"size": 13}}


def _bars(name: str, colour: str, heights: Sequence[float], words: Sequence[str]) -> Figure:
    return {
        "type": "bar",
        "name": name,
        "y": [*heights],
        "hovertext": [*words],
        "hoverinfo": "text",
        "marker": {"color": colour, "line": {"width": 1, "color": "var(--card)"}},
    }


def _present(names: Mapping[str, str], parts: Collection[Mapping[str, float]]) -> list[str]:
    """The parts that one of several sums has, in the order of their names."""
    found = {part for sums in parts for part in sums}
    return [*(name for name in names if name in found), *sorted(found - names.keys())]


def nice_end(value: float) -> float:
    """Return the end of an axis: the next of a few round numbers, so that it rests while a slider moves a little."""
    size = 10.0 ** floor(log10(value)) if value > 0 else 1.0
    return next(step * size for step in STEPS if step * size >= value)
