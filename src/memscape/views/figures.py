"""Figures as plain plotly dicts: a Breakdown in, `data` and `layout` out. Colours are names of the page's variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from memscape import units
from memscape.breakdown import Breakdown, Quantity
from memscape.views.text import name_of

Figure = dict[str, Any]
MOST_EDGES = 64
PAST = 1.05  # where an axis ends, past what is drawn on it
MARGIN = {"l": 10, "r": 16, "t": 8, "b": 52}


class Piece(NamedTuple):
    """A piece of a bar: which bar, size, colour and words; it starts where the last one ends, or at `start`."""

    bar: str | float
    size: Quantity
    colour: str
    said: str
    start: Quantity | None = None


def piece(bar: str | float, part: str, size: Quantity, group: bool = False, before: str = "") -> Piece:
    """Return the piece of a part in the part's colour; what is said of it begins with `before`."""
    kind = "group" if group else "part"
    return Piece(bar, size, f"{kind}-{part}", f"{before}{name_of(part)}: {units.amount(size)}")


def memory_bar(served: Breakdown, capacity_bytes: float, devices: int, device: str) -> Figure:
    """Return one stacked bar of what is held against the memory of the devices, with a line at the end of each."""
    room = capacity_bytes * devices
    most = max(served.total, room)
    scale, unit = scale_of(most)
    pieces = [piece("", part, size) for part, size in served.by("phase").items()]
    if room > served.total:
        free = room - served.total
        pieces.append(Piece("", free, "part-free", f"Free: {units.amount(free)}"))
    edges = [capacity_bytes * place / scale for place in range(1, devices + 1)] if devices <= MOST_EDGES else []
    return lying(pieces, {"": ""}, scale, f"{unit} on {devices:,} × {device}", most / scale * PAST, edges)


def scale_of(largest: float) -> tuple[float, str]:
    """Return the unit in which an axis stays below 2,000, and its bytes."""
    return next((step, name) for step, name in units.scales() if largest < 2e3 * step)


def lying(
    pieces: Sequence[Piece],
    rows: Mapping[str, str],
    scale: float,
    title: str,
    end: float,
    edges: Sequence[float] = (),
) -> Figure:
    """Return bars that lie, from top to bottom: `rows` has the words beside each; `edges` are lines across all.

    `meta` is for chart.js, which draws these itself, as boxes: they are painted with the answer.
    """
    names = [*rows]
    layout = {
        "barmode": "overlay",
        "showlegend": False,
        "xaxis": _amounts(title) | {"range": [0, end]},
        "yaxis": {
            "type": "category",
            "range": [len(names) - 0.5, -0.5],
            "categoryorder": "array",
            "categoryarray": names,
            "tickvals": names,
            "ticktext": [*rows.values()],
            "ticksuffix": "  ",
            "automargin": True,
            "fixedrange": True,
            "visible": any(rows.values()),
        },
        "shapes": [_edges(edges)] if edges else [],
        "margin": MARGIN,
        "meta": {"rows": [*rows.items()], "edges": [*edges]},
    }
    return {"data": [stack(pieces, scale)], "layout": layout}


def stack(pieces: Sequence[Piece], scale: float, upright: bool = False) -> Figure:
    """Return bars made of pieces, end to end but for those that say where they start, for `barmode` "overlay"."""
    ends: dict[str | float, float] = {}
    starts: list[float] = []
    for piece in pieces:
        starts.append(ends.get(piece.bar, 0) if piece.start is None else piece.start)
        ends[piece.bar] = starts[-1] + piece.size
    across, along = ("x", "y") if upright else ("y", "x")
    return {
        "type": "bar",
        "orientation": "v" if upright else "h",
        across: [piece.bar for piece in pieces],
        along: [piece.size / scale for piece in pieces],
        "base": [start / scale for start in starts],
        "marker": {
            "color": [f"var(--{piece.colour})" for piece in pieces],
            "line": {"width": 1, "color": "var(--card)"},
        },
        "hovertext": [piece.said for piece in pieces],
        "hoverinfo": "text",
    }


def _edges(places: Sequence[float]) -> Figure:
    """Dotted lines from the bottom to the top, as one shape."""
    line = {"color": "var(--ink)", "width": 1, "dash": "dot"}
    path = "".join(f"M{place:.6g},0V1" for place in places)
    return {"type": "path", "path": path, "yref": "paper", "line": line}


def groups(breakdown: Breakdown, unit: str) -> Figure:
    """Return one horizontal bar for each group of a breakdown, largest first."""
    sums = sorted(breakdown.by("group").items(), key=lambda item: item[1])
    scale, label = units.scales()[1] if unit == "bytes" else _counts(breakdown.total)
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": [value / scale for _, value in sums],
        "y": [name_of(group) for group, _ in sums],
        "marker": {"color": [f"var(--group-{group})" for group, _ in sums]},
        "hovertemplate": f"%{{y}}: %{{x:,.3f}} {label}<extra></extra>",
    }
    return {"data": [bar], "layout": _named_bars(label)}


def precisions(sizes: Mapping[str, int], chosen: str) -> Figure:
    """Return the size of the weights in each precision, the chosen one in the part's colour."""
    return _sizes(sizes, chosen, "weights", " of weights")


def optimizers(sizes: Mapping[str, int], chosen: str) -> Figure:
    """Return the size of the states of each optimizer, the chosen one in the part's colour."""
    return _sizes(sizes, chosen, "optimizer_states", "")


def _sizes(sizes: Mapping[str, int], chosen: str, part: str, title: str) -> Figure:
    """One horizontal bar for each name, largest first."""
    names = sorted(sizes, key=lambda name: sizes[name])
    scale, unit = scale_of(max(sizes.values()))
    bar = {
        "type": "bar",
        "orientation": "h",
        "x": [sizes[name] / scale for name in names],
        "y": names,
        "marker": {"color": [f"var(--part-{part})" if name == chosen else "var(--line)" for name in names]},
        "text": [f" {units.amount(sizes[name])} " for name in names],
        "textposition": "auto",
        "textangle": 0,
        "insidetextanchor": "end",
        "cliponaxis": False,
        "hovertemplate": f"%{{y}}: %{{x:,.2f}} {unit}<extra></extra>",
    }
    return {"data": [bar], "layout": _named_bars(f"{unit}{title}")}


def growth(
    tokens: Sequence[int], curves: Mapping[str, Sequence[int]], level: tuple[str, int], here: tuple[int, int]
) -> Figure:
    """Return cache against context length, one line for each cache, a level to compare with and the chosen point."""
    lines = [_line(name, tokens, sizes, place) for place, (name, sizes) in enumerate(curves.items())]
    words, size = level
    flat = _line(words, (tokens[0], tokens[-1]), (size, size), 0)
    flat["line"] = {"width": 2, "color": "var(--part-weights)", "dash": "longdash"}
    return {"data": [*lines, flat, _point(here)], "layout": _logarithmic(units.shown())}


def lengths(curves: Mapping[str, Mapping[int, int]], here: tuple[int, int]) -> Figure:
    """Return activations against the length of a sequence, one line for each way, and the chosen point."""
    lines = [_line(name, [*sizes], [*sizes.values()], place) for place, (name, sizes) in enumerate(curves.items())]
    layout = _logarithmic(f"{units.shown()} kept of one sequence")
    layout["xaxis"] |= {
        "tickvals": [2**power for power in range(7, 18, 2)],
        "ticktext": ["128", "512", "2k", "8k", "32k", "128k"],
        "title": {"text": "tokens in each sequence", "standoff": 8},
    }
    return {"data": [*lines, _point(here)], "layout": layout}


def _logarithmic(title: str) -> Figure:
    return {
        "xaxis": {
            "type": "log",
            "tickvals": [16**power for power in range(6)],
            "ticktext": ["1", "16", "256", "4k", "64k", "1M"],
            "tickangle": 0,
            "title": {"text": "tokens in each conversation", "standoff": 8},
            "fixedrange": True,
        },
        "yaxis": {
            "type": "log",
            "dtick": 1,
            "title": {"text": title, "standoff": 4},
            "automargin": True,
            "fixedrange": True,
            "exponentformat": "none",
            "separatethousands": True,
        },
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        "margin": {"l": 60, "r": 20, "t": 8, "b": 52},
    }


def _point(here: tuple[int, int]) -> Figure:
    return _line("chosen", here[:1], here[1:], 0) | {
        "mode": "markers",
        "marker": {"size": 13, "color": "var(--accent)", "line": {"width": 2, "color": "var(--card)"}},
    }


def _line(name: str, tokens: Sequence[int], sizes: Sequence[int], place: int) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(tokens),
        "y": [units.scaled(size) for size in sizes],
        "line": {"width": 3, "color": f"var(--series-{place})", "dash": ("solid", "dash", "dot", "dashdot")[place % 4]},
        "hovertemplate": f"{name}: %{{x:,}} tokens, %{{y:,.2f}} {units.shown()}<extra></extra>",
    }


def _counts(total: float) -> tuple[float, str]:
    return (1e9, "billion parameters") if total >= 1e9 else (1e6, "million parameters")


def _amounts(title: str) -> Figure:
    return {
        "title": {"text": title, "standoff": 8},
        "rangemode": "tozero",
        "fixedrange": True,
        "nticks": 6,
        "tickangle": 0,
    }


def _named_bars(title: str) -> Figure:
    names = {"automargin": True, "fixedrange": True, "ticksuffix": "  "}
    return {"xaxis": _amounts(title), "yaxis": names, "margin": MARGIN, "showlegend": False}


def stacked(ways: Mapping[str, Breakdown]) -> Figure:
    """Return one horizontal bar for each breakdown, stacked by part, in the order in which they are given."""
    largest = max(float(way.total) for way in ways.values())
    scale, unit = scale_of(largest)
    pieces = [piece(name, part, size) for name, way in ways.items() for part, size in way.by("phase").items()]
    return lying(pieces, dict(zip(ways, ways, strict=True)), scale, unit, largest / scale * PAST)


def errors(kinds: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """Return a point for each prediction: its error in percent, one row of points for each kind."""
    rows = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [100 * error for _, error in found],
            "y": [name] * len(found),
            "text": [what for what, _ in found],
            "marker": {"size": 10, "opacity": 0.6, "color": f"var(--series-{place})"},
            "hovertemplate": "%{text}: %{x:+.2f} %<extra></extra>",
        }
        for place, (name, found) in enumerate(kinds.items())
    ]
    layout = _named_bars("percent off")
    layout["xaxis"] |= {"nticks": 5, "rangemode": "normal", "zeroline": True, "zerolinecolor": "var(--ink)"}
    return {"data": rows, "layout": layout}
