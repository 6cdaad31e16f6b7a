"""Figures of a cluster: a tile for every device filled by what it holds, what is sent by form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memscape import units
from memscape.breakdown import Breakdown
from memscape.views.figures import MARGIN, Figure, Piece, sized, stack
from memscape.views.text import PHASE_NAMES, name_of, ordered

FORMS = {
    "tensor": "Tensor",
    "context": "Context",
    "expert": "Expert",
    "pipeline": "Pipeline",
    "data": "Data (ZeRO)",
}
TILE = 0.82  # of the room of a tile, so that neighbours stand apart
PLAIN = {"fixedrange": True, "showgrid": False, "zeroline": False, "ticks": ""}


def tiles(stages: Sequence[Breakdown], columns: int, capacity: int, copies: str) -> Figure:
    """Return one tile for each device: stages from top to bottom, the devices of a stage side by side.

    A tile is as high as the memory of a device. A device that needs more is full to the edge, in a frame of alert.
    """
    count = len(stages)
    across = {"showticklabels": False, "title": {"text": copies, "standoff": 8}, "range": [-0.6, columns - 0.4]}
    layout = {
        "barmode": "overlay",
        "showlegend": False,
        "shapes": [_gaps(count, columns), *_frames(stages, columns, capacity)],
        "xaxis": PLAIN | across,
        "yaxis": PLAIN | _stage_names(count) | {"range": [-0.1, count], "automargin": True},
        "margin": MARGIN | {"b": 40},
        "hoverlabel": {"align": "left"},
        "meta": {"kind": "tiles", "tiles": columns, "filled": TILE, "rows": _rows(stages, capacity)},
    }
    return {"data": [_fillings(stages, columns, capacity)], "layout": layout}


def _fillings(stages: Sequence[Breakdown], columns: int, capacity: int) -> Figure:
    """What the tiles of each stage hold, over its whole width; the gaps between tiles come on top."""
    pieces = []
    for row, stage in enumerate(stages):
        said, scale = _hover(stage, row, len(stages), capacity), TILE / max(capacity, stage.total)
        sizes = {**stage.by("phase"), "free": max(0, capacity - stage.total)}
        start = float(len(stages) - 1 - row)
        for part in ordered([sizes], PHASE_NAMES):
            pieces.append(Piece((columns - 1) / 2, sizes[part] * scale, f"part-{part}", said, start))
            start += sizes[part] * scale
    return stack(pieces, 1, upright=True) | {"width": columns - 1 + TILE}


def _gaps(rows: int, columns: int) -> Figure:
    """One shape over all that stands between two tiles: a browser has less to draw than with a shape for each part."""
    ends = [(column + TILE / 2, column + 1 - TILE / 2) for column in range(columns - 1)]
    path = "".join(f"M{left:g},0H{right:g}V{rows}H{left:g}Z" for left, right in ends)
    return {"type": "path", "path": path, "fillcolor": "var(--card)", "line": {"width": 0}}


def _frames(stages: Sequence[Breakdown], columns: int, capacity: int) -> list[Figure]:
    """One shape for the tiles that hold what they must, and one for those that do not."""
    fits = [stage.total <= capacity for stage in stages]
    drawn = []
    for wanted, colour in ((True, "var(--soft)"), (False, "var(--alert)")):
        rows = [low for low, each in zip(_bottoms(len(stages)), fits, strict=True) if each is wanted]
        drawn.append(_tiled(columns, rows) | {"line": {"width": 2, "color": colour}})
    return [frame for frame in drawn if frame["path"]]


def _tiled(columns: int, bottoms: Iterable[float]) -> Figure:
    """The edges of the tiles of some rows."""
    path = "".join(
        f"M{column - TILE / 2:g},{low}H{column + TILE / 2:g}V{low + TILE:g}H{column - TILE / 2:g}Z"
        for low in bottoms
        for column in range(columns)
    )
    return {"type": "path", "path": path}


def _bottoms(stages: int) -> list[int]:
    return [stages - 1 - row for row in range(stages)]


def _rows(stages: Sequence[Breakdown], capacity: int) -> list[tuple[int, str, bool]]:
    """The rows for boxes.js, which draws the tiles: where each begins, its name, whether its tiles hold enough."""
    shown = _stage_names(len(stages))
    names = dict(zip(shown["tickvals"], shown["ticktext"], strict=True))
    return [
        (bottom, names.get(bottom + TILE / 2, ""), stage.total <= capacity)
        for bottom, stage in zip(_bottoms(len(stages)), stages, strict=True)
    ]


def _stage_names(stages: int) -> Figure:
    """Names beside the rows, where they have room."""
    shown = [row for row in range(stages) if stages <= 16 or row in (0, stages // 2, stages - 1)]
    return {
        "tickvals": [_bottoms(stages)[row] + TILE / 2 for row in shown],
        "ticktext": [f"stage {row + 1}" for row in shown],
    }


def _hover(stage: Breakdown, row: int, stages: int, capacity: int) -> str:
    parts = "".join(f"<br>{name_of(part)}: {units.amount(size)}" for part, size in stage.by("phase").items() if size)
    where = f"A device of stage {row + 1}" if stages > 1 else "Each device"
    return f"{where}: {units.amount(stage.total)} of {units.amount(capacity)}{parts}"


def sent(traffic: Breakdown) -> Figure:
    """Return the bytes that one device sends, one bar for each form of parallelism."""
    sums = {FORMS[form]: size for form, size in traffic.by("group").items() if form in FORMS} or {FORMS["tensor"]: 0}
    return sized(dict.fromkeys(sums, "accent"), sums, " sent by one device")
