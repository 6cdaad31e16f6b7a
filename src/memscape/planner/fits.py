"""What fits on given devices: the largest value of one input, and every model of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from memscape import tables as data
from memscape.breakdown import Quantity
from memscape.catalog import Accelerator, as_accelerator, common_precisions
from memscape.catalog import model as model_of
from memscape.memory.timeline import memory
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, pipeline_degrees, shard_model, tensor_degrees
from memscape.problem import Problem, one_of
from memscape.units import amount
from memscape.workload import LARGEST, Inference, Training

if TYPE_CHECKING:
    import pandas

# what can be asked for: more of it needs more memory
GROWING = (
    *("sequences", "prompt_tokens", "output_tokens", "reserved_tokens"),
    *("micro_batch", "sequence_tokens", "target_tokens", "lora_rank"),
)


MOST_SEQUENCES = 1 << 20


def solve(
    model: Model,
    workload: Inference | Training,
    accelerator: Accelerator | str,
    layout: Layout | None = None,
    largest: str = "",
    reserve_percent: int = 0,
) -> int | str:
    """Return the largest value of one input with which the busiest device of a layout just fits.

    `largest` is a number of the workload ("prompt_tokens": the longest context, "sequences": the most users,
    "micro_batch", "sequence_tokens", ...), or "weights" for the precision with most bits. `reserve_percent` of each
    device stays free. The next larger value does not fit, unless the model itself ends there (learned positions).
    Raises: Problem where not even the smallest value fits, saying by how much, and for an unknown input.
    """
    card = as_accelerator(accelerator)
    if card is None:
        raise Problem('solve needs an accelerator; name one, as in "H100 SXM 80GB"')
    room = card.usable_bytes * (100 - _percent(reserve_percent)) // 100
    if largest == "weights":
        return _precision(model, workload, card, layout, room)
    known = [name for name in GROWING if name in {each.name for each in fields(workload)}]
    if largest not in known:
        raise Problem(f'cannot solve for "{str(largest)[:40]}"; use {one_of([*known, "weights"])}')

    def needed(value: int) -> Quantity:
        return memory(model, replace(workload, **{largest: value}), layout, card).total  # type: ignore[arg-type]

    return _most(needed, room, f"{model.label} with {largest} 1", card)


def _percent(reserve: int) -> int:
    if type(reserve) is not int or not 0 <= reserve < 100:
        raise Problem(f"reserve_percent is {str(reserve)[:20]}; use a whole number from 0 to 99")
    return reserve


def _most(needed: Callable[[int], Quantity], room: Quantity, what: str, card: Accelerator) -> int:
    """The largest whole number that fits; what cannot be asked of the model does not fit either."""
    first = needed(1)
    if first > room:
        raise Problem(
            f"{what} needs {amount(first)} of the {amount(room)} on {card.name}, "
            f"{amount(first - room)} too much; use more devices, a smaller precision or another accelerator"
        )

    def fits(value: int) -> bool:
        try:
            return bool(needed(value) <= room)
        except Problem:
            return False

    low = 1
    while low < LARGEST and fits(2 * low):
        low *= 2
    high = min(2 * low, LARGEST + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _precision(
    model: Model, workload: Inference | Training, card: Accelerator, layout: Layout | None, room: Quantity
) -> str:
    """The precision of most bytes with which it fits."""
    if not isinstance(workload, Inference):
        raise Problem('"weights" can be solved for serving alone; for training ask for micro_batch or sequence_tokens')
    sized = {name: weights(model, name).total for name in common_precisions()}
    for name in sorted(sized, key=lambda each: -sized[each]):
        if memory(model, replace(workload, weights=name), layout, card).total <= room:
            return name
    least = min(sized, key=lambda each: sized[each])
    short = memory(model, replace(workload, weights=least), layout, card).total - room
    raise Problem(
        f"no precision makes {model.label} fit on {card.name}: {least} is {amount(short)} too much; "
        f"use more devices or another accelerator"
    )


def layout_of(model: Model, devices: int, card: Accelerator) -> Layout:
    """Return the layout that spreads a model over devices to serve it: tensor inside a node, then pipeline."""
    most = min(devices, max(1, card.devices_per_node))
    tensor = max(degree for degree in tensor_degrees(model, most) if devices % degree == 0)
    stages = devices // tensor
    if stages not in pipeline_degrees(model):
        raise Problem(
            f"{model.label} cannot be spread over {devices} devices: {stages} stages are more than it can be cut into; "
            f"use {one_of(tensor_degrees(model, devices))}"
        )
    return Layout(tensor=tensor, pipeline=stages)


def what_fits(
    accelerator: Accelerator | str,
    devices: int = 1,
    precisions: Collection[str] | None = None,
    inference: Inference | None = None,
    reserve_percent: int = 0,
) -> pandas.DataFrame:
    """Return every model of the catalogue in every precision: whether it fits, its longest context, most sequences.

    One row for each model and precision: `model`, `precision`, `fits`, `weights_bytes`, `left_bytes` (negative where
    it does not fit), `longest_context` (prompt tokens of one sequence, at most what the model was trained for),
    `most_sequences` (of the context of `inference`). Layouts are `layout_of`.
    """
    import pandas

    card = as_accelerator(accelerator)
    if card is None or devices < 1:
        raise Problem(f"what_fits needs an accelerator and at least one device, not {accelerator} and {devices}")
    asked = inference or Inference(output_tokens=0)
    room = card.usable_bytes * (100 - _percent(reserve_percent)) // 100
    rows = []
    for name in data.by_key("models", "id"):
        rows += _rows(model_of(name), asked, card, devices, tuple(precisions or common_precisions()), room)
    return pandas.DataFrame(rows)


def _rows(
    model: Model, asked: Inference, card: Accelerator, devices: int, precisions: tuple[str, ...], room: int
) -> list[dict[str, Any]]:
    try:
        layout = layout_of(model, devices, card)
        beside = _Beside(model, asked, layout, card)
    except Problem as problem:
        return [{"model": model.name, "precision": each, "fits": False, "why": str(problem)} for each in precisions]
    rows = []
    for each in precisions:
        held = beside.weights(each)
        left = room - held - beside.at_once()
        row = {"model": model.name, "precision": each, "fits": left >= 0, "weights_bytes": held, "left_bytes": left}
        rows.append(row | beside.most(room - held) | {"why": "" if left >= 0 else f"{amount(-left)} too much"})
    return rows


class _Beside:
    """What stands beside the weights of a model on the busiest device: it is the same for every precision."""

    def __init__(self, model: Model, asked: Inference, layout: Layout, card: Accelerator) -> None:
        """Work out both curves: by the length of one sequence, and by the number of sequences of the asked length."""
        import numpy

        self.asked = asked
        self.parts = [shard_model(model, layout, stage) for stage in busy_stages(model, layout)]
        lengths = _ends(model.max_tokens, [model.window or 0, model.max_tokens])
        counts = _ends(MOST_SEQUENCES, [])
        prompts = numpy.concatenate([lengths, numpy.full(len(counts), float(asked.prompt_tokens))])
        users = numpy.concatenate([numpy.ones(len(lengths)), counts])
        held = memory(model, replace(asked, prompt_tokens=prompts, sequences=users), layout, card)
        beside = held.total - held.only(phase="weights").total
        self.by_length, self.by_count = (
            (lengths, beside[: len(lengths)]),
            (counts, beside[len(lengths) :]),
        )

    def weights(self, precision: str) -> int:
        """The bytes of the weights on the device that holds most of them."""
        return max(int(weights(part, precision).total) for part in self.parts)

    def at_once(self) -> int:
        """The bytes beside the weights for one sequence of the asked length."""
        return int(self.by_count[1][0])

    def most(self, room: int) -> dict[str, int]:
        """The longest context of one sequence and the most sequences of the asked length."""
        return {"longest_context": _largest(*self.by_length, room), "most_sequences": _largest(*self.by_count, room)}


def _ends(most: int, bends: list[int]) -> Any:
    """Where a curve bends, and powers of two between: the curve is a line from one to the next."""
    import numpy

    budget = int(data.by_key("runtime")["prefill budget"]["likely"])
    powers = 2.0 ** numpy.arange(0, 31)
    points = numpy.unique(numpy.concatenate([powers, [float(most), float(budget), *(float(each) for each in bends)]]))
    return points[(points >= 1) & (points <= most)]


def _largest(points: Any, needed: Any, room: int) -> int:
    """The largest whole number that fits on a curve of lines; 0 where not even the first does."""
    import numpy

    if needed[0] > room:
        return 0
    if needed[-1] <= room:
        return int(points[-1])
    place = int(numpy.argmax(needed > room))
    (low, high), (start, end) = points[place - 1 : place + 1], needed[place - 1 : place + 1]
    return int(low + (high - low) * (room - start) // (end - start))
