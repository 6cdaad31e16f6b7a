"""Figures as plain plotly dicts: a Breakdown in, `data` and `layout` out. Colours are names of the page's variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log10
from typing import Any, NamedTuple

from memscape import units
from memscape.breakdown import Breakdown, Quantity
from memscape.views.text import name_of

Figure = dict[str, Any]
MOST_EDGES = 64
PAST = 1.05  # where an axis ends, past what is drawn on it
WITH_WORDS = 1.3  # the same, with room for an amount beside the longest bar
MARGIN = {"l": 10, "r": 16, "t": 8, "b": 52}


class Piece(NamedTuple):
    """A piece of a bar: which bar, size, colour and words; it starts where the last one ends, or at `start`.

    `text` stands beside its end.
    """

    bar: str | float
    size: Quantity
    colour: str
    said: str
    start: Quantity | None = None
    text: str = ""


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
    start: float = 0,
) -> Figure:
    """Return bars that lie, from top to bottom: `rows` has the words beside each; `edges` are lines across all.

    The axis runs from `start` to `end`. `meta` is for boxes.js, which draws all figures in the page.
    """
    names = [*rows]
    layout = {
        "barmode": "overlay",
        "showlegend": False,
        "xaxis": _amounts(title) | {"range": [start, end]},
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
            "showgrid": False,
            "visible": any(rows.values()),
        },
        "shapes": [_edges(edges)] if edges else [],
        "margin": MARGIN,
        "meta": {"kind": "bars", "rows": [*rows.items()], "edges": [*edges]},
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
        **_beside([piece.text for piece in pieces]),
    }


def _beside(words: Sequence[str]) -> Figure:
    return {"text": words, "textposition": "outside", "textangle": 0, "cliponaxis": False} if any(words) else {}


def _edges(places: Sequence[float]) -> Figure:
    """Dotted lines from the bottom to the top, as one shape."""
    line = {"color": "var(--ink)", "width": 1, "dash": "dot"}
    path = "".join(f"M{place:.6g},0V1" for place in places)
    return {"type": "path", "path": path, "yref": "paper", "line": line}


def groups(parameters: Breakdown) -> Figure:
    """Return one bar that lies for each group of parameters, largest first."""
    sums = dict(sorted(parameters.by("group").items(), key=lambda item: -item[1]))
    scale, label = _counts(parameters.total)
    pieces = [
        Piece(name, size, f"group-{name}", f"{name_of(name)}: {size / scale:,.3f} {label}")
        for name, size in sums.items()
    ]
    return lying(pieces, {name: name_of(name) for name in sums}, scale, label, max(sums.values()) / scale * PAST)


def precisions(sizes: Mapping[str, int], chosen: str) -> Figure:
    """Return the size of the weights in each precision, the chosen one in the part's colour."""
    return sized(_colours(sizes, chosen, "weights"), sizes, " of weights")


def optimizers(sizes: Mapping[str, int], chosen: str) -> Figure:
    """Return the size of the states of each optimizer, the chosen one in the part's colour."""
    return sized(_colours(sizes, chosen, "optimizer_states"), sizes)


def _colours(names: Iterable[str], chosen: str, part: str) -> dict[str, str]:
    return {name: f"part-{part}" if name == chosen else "line" for name in names}


def sized(colours: Mapping[str, str], sizes: Mapping[str, Quantity], title: str = "") -> Figure:
    """Return one bar that lies for each name, largest first, with its amount beside it."""
    names, most = sorted(sizes, key=lambda name: -sizes[name]), max(1, *sizes.values())
    scale, unit = scale_of(most)
    pieces = []
    for name in names:
        amount = units.amount(sizes[name])
        pieces.append(Piece(name, sizes[name], colours[name], f"{name}: {amount}", text=amount))
    return lying(pieces, dict(zip(names, names, strict=True)), scale, f"{unit}{title}", most / scale * WITH_WORDS)


def growth(
    tokens: Sequence[int], curves: Mapping[str, Sequence[int]], level: tuple[str, int], here: tuple[int, int]
) -> Figure:
    """Return cache against context length, one line for each cache, a level to compare with and the chosen point."""
    lines = [_line(name, tokens, sizes, place) for place, (name, sizes) in enumerate(curves.items())]
    words, size = level
    flat = _line(words, (tokens[0], tokens[-1]), (size, size), 0)
    flat["line"] = {"width": 2, "color": "var(--part-weights)", "dash": "longdash"}
    marks = {1: "1", 16: "16", 256: "256", 4096: "4k", 2**16: "64k", 2**20: "1M"}
    return _logarithmic([*lines, flat, _point(here)], marks, "tokens in each conversation")


def lengths(curves: Mapping[str, Mapping[int, int]], here: tuple[int, int]) -> Figure:
    """Return activations against the length of a sequence, one line for each way, and the chosen point."""
    lines = [_line(name, [*sizes], [*sizes.values()], place) for place, (name, sizes) in enumerate(curves.items())]
    marks = {128: "128", 512: "512", 2048: "2k", 8192: "8k", 2**15: "32k", 2**17: "128k"}
    return _logarithmic([*lines, _point(here)], marks, "tokens in each sequence")


def _logarithmic(lines: Sequence[Figure], marks: Mapping[int, str], title: str) -> Figure:
    """Lines of sizes against lengths, which are marked. The axis of sizes ends at marks, so that it seldom moves."""
    sizes = [size for line in lines for size in line["y"] if size]
    least, most = min(sizes), max(sizes)
    rungs = [(units.scaled(size), units.amount(size, digits=1)) for size in _rungs()]
    low = max((rung for rung, _ in rungs if rung <= least), default=least)
    high = min((rung for rung, _ in rungs if rung >= most), default=most)
    across = {
        "tickvals": [*marks],
        "ticktext": [*marks.values()],
        "range": [log10(min(marks)) - 0.1, log10(max(marks)) + 0.1],
        "tickangle": 0,
        "title": {"text": title, "standoff": 8},
    }
    up = {
        "tickvals": [rung for rung, _ in rungs],
        "ticktext": [words for _, words in rungs],
        "range": [log10(low), log10(high) + 0.05],
    }
    layout = {
        "xaxis": {"type": "log", "fixedrange": True} | across,
        "yaxis": {"type": "log", "fixedrange": True} | up,
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        "margin": {"l": 64, "r": 20, "t": 8, "b": 52},
        "meta": {"kind": "lines"},
    }
    return {"data": [*lines], "layout": layout}


def _rungs() -> list[int]:
    """Amounts that an axis marks: 1, 10 and 100 of each unit; 1 and 32 of binary ones, since 1,024 make the next."""
    step = 32 if units.shown() == "GiB" else 10
    return [step**power for power in range(int(18 / log10(step)) + 1)]


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
        "hovertext": [f"{name}, {x:,} tokens: {units.amount(y)}" for x, y in zip(tokens, sizes, strict=True)],
        "hoverinfo": "text",
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
        "separatethousands": True,
    }


def stacked(ways: Mapping[str, Breakdown]) -> Figure:
    """Return one horizontal bar for each breakdown, stacked by part, in the order in which they are given."""
    largest = max(float(way.total) for way in ways.values())
    scale, unit = scale_of(largest)
    pieces = [piece(name, part, size) for name, way in ways.items() for part, size in way.by("phase").items()]
    return lying(pieces, dict(zip(ways, ways, strict=True)), scale, unit, largest / scale * PAST)


def errors(kinds: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """Return a point for each prediction: its error in percent, one row of points for each kind."""
    points = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [100 * error for _, error in found],
            "y": [name] * len(found),
            "marker": {"size": 10, "opacity": 0.6, "color": f"var(--series-{place})"},
            "hovertext": [f"{what}: {100 * error:+.2f} %" for what, error in found],
            "hoverinfo": "text",
        }
        for place, (name, found) in enumerate(kinds.items())
    ]
    off = [100 * error for found in kinds.values() for _, error in found]
    low, high = min(0, *off), max(0, *off)
    room = (high - low) / 20 or 1
    across = {"nticks": 5, "zeroline": True, "zerolinecolor": "var(--ink)", "range": [low - room, high + room]}
    up = {"automargin": True, "fixedrange": True, "ticksuffix": "  ", "range": [len(kinds) - 0.5, -0.5]}
    layout = {
        "xaxis": _amounts("percent off") | across,
        "yaxis": up,
        "margin": MARGIN,
        "showlegend": False,
        "meta": {"kind": "points", "rows": [(name, name) for name in kinds], "edges": [0]},
    }
    return {"data": points, "layout": layout}
