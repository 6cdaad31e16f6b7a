"""Figures of a what-if: from one scenario to another, a map over two inputs, what matters most."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from memscape import units
from memscape.breakdown import Quantity
from memscape.parallelism import DEGREES
from memscape.planner.scenarios import Scenario, Surface
from memscape.views.figures import MARGIN, PAST, Figure, Piece, lying, piece, scale_of
from memscape.views.text import PHASE_NAMES, name_of, ordered

LEVELS = 8  # shades on each side of the edge
MOST_TICKS = 6
SIDES = {"lower": ("Lowered", "series-2"), "higher": ("Raised", "series-0")}
PLAIN = {"fixedrange": True, "showgrid": False, "zeroline": False}
# what fits in the page's accent, what does not in its colour of alert; the edge is a line as well
SHADES = [[0, "var(--card)"], [0.5, "var(--accent)"], [0.5, "var(--alert-wash)"], [1, "var(--alert)"]]


def waterfall(before: Scenario, after: Scenario, steps: Mapping[str, Quantity], capacity: int) -> Figure:
    """Return both scenarios as bars by part and between them what each part grows or shrinks by, from where it stands.

    The dotted line is the memory of one device.
    """
    ends = [before.held.by("phase"), after.held.by("phase")]
    parts = [part for part in ordered(ends, PHASE_NAMES) if steps[part] or any(end.get(part) for end in ends)]
    moved = [part for part in parts if steps[part]]
    scale, unit = scale_of(max(before.held.total, after.held.total, capacity))
    names = ["A", *(f"{name_of(part)} {signed(steps[part])}" for part in moved), "B"]
    at, reached = before.held.total, {}
    for part in moved:
        reached[part] = min(at, at + steps[part])
        at = at + steps[part]
    pieces = []
    for part in parts:
        pieces += [piece(row, part, end.get(part, 0)) for row, end in zip("AB", ends, strict=True)]
        if part in reached:
            row = names[1 + moved.index(part)]
            pieces.append(piece(row, part, abs(steps[part]))._replace(start=reached[part]))
    end = max(before.held.total, after.held.total, capacity, *(piece.size + (piece.start or 0) for piece in pieces))
    return lying(pieces, dict(zip(names, names, strict=True)), scale, unit, end / scale * PAST, [capacity / scale])


def signed(size: Quantity) -> str:
    """Return a difference in bytes with its sign."""
    return f"{'+' if size >= 0 else '−'}{units.amount(abs(size))}"


def heat_map(seen: Surface, here: tuple[int, int], titles: tuple[str, str]) -> Figure:
    """Return the map: shades for bytes, the edge of what fits as a line, the scenario as a point.

    Columns and rows are counted, so that equal ratios are equally wide; shades are levels, so that little is sent.
    """
    cells = {
        "type": "heatmap",
        "z": _packed(_levels(seen), "u1"),
        "zmin": 0,
        "zmax": 2 * LEVELS - 1,
        "colorscale": SHADES,
        "showscale": False,
        "hoverinfo": "skip",
    }
    places = [_place(values, value) for (_, values), value in zip((seen.across, seen.up), here, strict=True)]
    point = {
        "type": "scatter",
        "mode": "markers+text",
        "x": places[:1],
        "y": places[1:],
        "text": ["A"],
        "textposition": "middle center",
        "textfont": {"color": "var(--card)", "size": 13},
        "marker": {"size": 22, "color": "var(--ink)", "line": {"width": 2, "color": "var(--card)"}},
        "hoverinfo": "skip",
    }
    axes = {
        "xaxis": _axis(seen.across[1], titles[0]),
        "yaxis": _axis(seen.up[1], titles[1]) | {"automargin": True},
    }
    steps = {"across": seen.across[1].tolist(), "up": seen.up[1].tolist()}
    held = {"held": _packed(seen.totals / units.scales()[1][0], "f4"), "unit": units.shown()}
    layout = {**axes, "showlegend": False, "margin": MARGIN, "meta": {"kind": "map", **steps, **held}}
    return {"data": [cells, *_edge(seen), point], "layout": layout}


def _packed(values: Any, kind: str) -> Figure:
    """A table of numbers as plotly takes it packed: a third of what the digits take, and nothing to write or read."""
    shape = ", ".join(str(size) for size in values.shape)
    return {"dtype": kind, "bdata": b64encode(values.astype(kind).tobytes()).decode(), "shape": shape}


def _levels(seen: Surface) -> Any:
    """The shade of every point: the first half for what fits, the second for what does not, in equal ratios."""
    import numpy

    held, room = numpy.log(seen.totals), float(numpy.log(seen.room))
    low, high = min(float(held.min()), room - 0.01), max(float(held.max()), room + 0.01)
    below = numpy.floor((held - low) / (room - low) * LEVELS).clip(0, LEVELS - 1)
    above = numpy.floor((held - room) / (high - room) * LEVELS).clip(0, LEVELS - 1)
    return numpy.where(seen.totals <= seen.room, below, LEVELS + above)


def _edge(seen: Surface) -> list[Figure]:
    """The line between what fits and what does not, twice: a light one below, so that it stands out on any shade."""
    smallest = seen.up[0] in DEGREES
    heights = [_height(seen.up[1], float(each), smallest) for each in seen.edge]
    shape = "hvh" if smallest or seen.across[0] in DEGREES else "linear"
    line = {"type": "scatter", "mode": "lines", "x": [*range(len(heights))], "y": heights, "hoverinfo": "skip"}
    return [
        line | {"line": {"width": width, "color": f"var(--{colour})", "shape": shape}}
        for width, colour in ((7, "card"), (3, "ink"))
    ]


def _height(values: Any, edge: float, smallest: bool) -> float:
    """Where the line runs over a column: at the value that just fits, below the degree that does, or past an end."""
    top, bottom = len(values) - 0.5, -0.5
    if not edge:
        return top if smallest else bottom
    if smallest:
        return _place(values, edge) - 0.5
    return top if edge >= values[-1] else round(_place(values, edge), 2)


def _place(values: Any, value: float) -> float:
    """Where a value stands among the steps of an axis."""
    import numpy

    return float(numpy.interp(value, values, numpy.arange(len(values))))


def _axis(values: Any, title: str) -> Figure:
    every = max(1, -(-len(values) // MOST_TICKS))
    shown = [*range(0, len(values), every)]
    return PLAIN | {
        "tickvals": shown,
        "ticktext": [_short(int(values[place])) for place in shown],
        "tickangle": 0,
        "range": [-0.5, len(values) - 0.5],
        "title": {"text": title, "standoff": 8},
    }


def _short(value: int) -> str:
    """A number on an axis: the exact one while it is short."""
    if value < 10_000:
        return f"{value:,}"
    return f"{value / 1000:,.0f}k" if value < 10**6 else f"{value / 10**6:,.2g}M"


def tornado(swings: Sequence[Mapping[Any, Any]], names: Mapping[str, str], whole: Quantity) -> Figure:
    """Return what lowering and raising each input does to the memory, the input that matters most at the top."""
    labels = [
        f"{names.get(row['input'], name_of(row['input']))}<br>{signed(row['lower'] - whole)} to "
        f"{signed(row['higher'] - whole)}"
        for row in swings
    ]
    pieces = []
    for label, row in zip(labels, swings, strict=True):
        for side, (words, colour) in SIDES.items():
            first, last = sorted((row[side], whole))
            pieces.append(Piece(label, last - first, colour, f"{words}: {units.amount(row[side])}", first))
    ends = [whole, *(row[side] for row in swings for side in SIDES)]
    least, most = min(ends), max(ends)
    scale, unit = scale_of(most)
    room = (most - least) / 20 or 1
    rows = dict(zip(labels, labels, strict=True))
    return lying(pieces, rows, scale, unit, (most + room) / scale, [whole / scale], max(0, least - room) / scale)
