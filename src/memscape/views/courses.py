"""Figures of training: several ways to count side by side, and the course of a step. Their legends are HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import floor, log10

from memscape import units
from memscape.breakdown import Breakdown
from memscape.views.figures import Figure, lying, piece, scale_of, stack
from memscape.views.text import GROUP_NAMES, PHASE_NAMES, ordered

ENDS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
HEADROOM = 1.12  # room for the amount above the highest bar
WIDTH = 0.94  # of a bar; neighbours in a pair are 1 apart
EDGE = 0.6  # from the middle of the outer bars to the ends of the axis
PLAIN = {"fixedrange": True, "showgrid": False, "zeroline": False}


def ways(counted: Mapping[str, Breakdown], chosen: str) -> Figure:
    """Return one bar for each way to count, stacked by group, with its total below its name; the chosen one marked."""
    largest = max(way.total for way in counted.values())
    scale, unit = scale_of(largest)
    groups = {name: way.by("group") for name, way in counted.items()}
    pieces = [
        piece(name, group, groups[name][group], group=True, before=f"{name}<br>")
        for group in ordered(groups.values(), GROUP_NAMES)
        for name in counted
        if group in groups[name]
    ]
    labels = {name: _label(name, way, name == chosen) for name, way in counted.items()}
    return lying(pieces, labels, scale, unit, nice_end(largest / scale))


def _label(name: str, way: Breakdown, chosen: bool) -> str:
    words = f"<b>▸ {name}</b>" if chosen else name
    return f"{words}<br>{units.amount(way.total)}"


def course(moments: Mapping[str, Breakdown], highest: Collection[int], pairs: Sequence[str], capacity: int) -> Figure:
    """Return the moments of two steps as stacked bars, side by side in pairs, and the memory of a device as a line.

    The highest moments are marked. The line is there where it is in sight.
    """
    peak = max(alive.total for alive in moments.values())
    line = capacity if in_sight(moments.values(), capacity) else 0
    scale, unit = scale_of(max(peak, line))
    end = nice_end(max(peak, line) / scale * HEADROOM)
    places = [place + place // 2 * 0.35 + place // (len(moments) // 2) * 0.5 for place in range(len(moments))]
    phases = [alive.by("phase") for alive in moments.values()]
    pieces = [
        piece(place, phase, alive[phase], before=f"{name}<br>")
        for phase in ordered(phases, PHASE_NAMES)
        for place, name, alive in zip(places, moments, phases, strict=True)
        if phase in alive
    ]
    marks = [(places[place], peak / scale, f"{units.amount(peak)}<br>▼") for place in highest]
    layout = {
        "barmode": "overlay",
        "showlegend": False,
        "xaxis": PLAIN
        | {"tickvals": _middles(places, 2), "ticktext": [*pairs], "autotickangles": [0, 90], "automargin": True}
        | {"range": [-EDGE, places[-1] + EDGE]},
        "yaxis": _upwards(unit, end),
        "shapes": _limit(line / scale) if line else [],
        "margin": {"l": 50, "r": 12, "t": 26, "b": 30},
        "meta": {"kind": "course"},
    }
    bars = stack(pieces, scale, upright=True) | {"width": WIDTH}
    return {"data": [bars, _words([*_steps(places, end), *marks])], "layout": layout}


def in_sight(moments: Iterable[Breakdown], capacity: int) -> bool:
    """Whether the memory of a device is not far above what is held."""
    return bool(capacity <= 2 * max(alive.total for alive in moments))


def _upwards(unit: str, end: float) -> Figure:
    return {"title": {"text": unit, "standoff": 4}, "range": [0, end], "automargin": True, "fixedrange": True}


def _middles(places: Sequence[float], count: int) -> list[float]:
    """The middle of each run of `count` bars."""
    runs = [places[first : first + count] for first in range(0, len(places), count)]
    return [sum(run) / len(run) for run in runs]


def _steps(places: Sequence[float], end: float) -> list[tuple[float, float, str]]:
    """The names of the two steps, above their bars."""
    names = ("first step", "every later step")
    return [(x, end, name) for name, x in zip(names, _middles(places, len(places) // 2), strict=True)]


def _words(words: Sequence[tuple[float, float, str]]) -> Figure:
    """Words above places of the chart."""
    return {
        "type": "scatter",
        "mode": "text",
        "x": [x for x, _, _ in words],
        "y": [y for _, y, _ in words],
        "text": [f"<b>{each}</b>" for _, _, each in words],
        "textposition": "top center",
        "textfont": {"size": 13},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def _limit(height: float) -> list[Figure]:
    stroke = {"color": "var(--alert)", "width": 2, "dash": "dash"}
    return [{"type": "line", "line": stroke, "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height}]


def nice_end(value: float) -> float:
    """Return the end of an axis: the next of a few round numbers, so that it rests while a slider moves a little."""
    size = 10.0 ** floor(log10(value)) if value > 0 else 1.0
    return next(end * size for end in ENDS if end * size >= value)
