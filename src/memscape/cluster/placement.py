"""From bytes to devices: how many hold what a workload needs, and in which layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from memscape.breakdown import Breakdown, Quantity, ceil_div
from memscape.catalog import Accelerator
from memscape.memory.step import device_of
from memscape.memory.timeline import left_of, memory
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, pipeline_degrees, tensor_degrees
from memscape.problem import Problem
from memscape.units import amount
from memscape.workload import Inference, Training

SHARED_PHASES = ("weights", "kv_cache")
RESERVE_PERCENT = 10
# engines that fill a device by themselves and keep their own reserve
FILLING_ENGINES = ("vllm",)
MOST_DEVICES = 1 << 14
STATES = ("weights", "gradients", "optimizer_states")


def fewest_devices(needed: Breakdown, accelerator: Accelerator, reserve_percent: int = RESERVE_PERCENT) -> Quantity:
    """Return the least number of devices whose memory together holds the weights and the cache.

        ceil( (weights + KV cache) / (usable bytes · (1 - reserve)) )      [devices]

    The reserve is the share of each device left to activations, runtime and growth. It is a lower bound: a layout may
    need more, because heads and layers split evenly and some tensors are copied. Usable bytes are the driver's, not the
    marketing figure.
    Raises: Problem for a reserve outside 0 to 90 percent.
    """
    if needed.unit != "bytes":
        raise Problem(
            f"devices hold bytes and this is an amount of {needed.unit}; pass ms.memory(...) or ms.weights(...)"
        )
    if not isinstance(reserve_percent, int | float) or not 0 <= reserve_percent <= 90:
        raise Problem(
            f"a reserve of {str(reserve_percent)[:20]} percent leaves no device to use; choose 0 to 90 percent"
        )
    held: Quantity = 0
    for phase in SHARED_PHASES:
        held = held + needed.only(phase=phase).total
    return ceil_div(held * 100, accelerator.usable_bytes * (100 - reserve_percent))


@dataclass(frozen=True)
class Place:
    """Where a workload may run: a card, how many stand in a server, and the bytes of each that may be used."""

    accelerator: Accelerator
    devices: int
    room: int


@dataclass(frozen=True)
class Fit:
    """A layout and what its busiest device holds."""

    layout: Layout
    held: Breakdown

    @cached_property
    def beside(self) -> int:
        """The bytes beside weights, gradients and optimizer states."""
        return int(self.held.total - sum(size for phase, size in self.held.by("phase").items() if phase in STATES))


def room_of(accelerator: Accelerator, workload: Inference | Training, reserve: int | None) -> int:
    """Return the bytes of a device that may be used; an engine that fills the device has its own reserve.

    Raises: Problem for a reserve outside 0 to 90 percent.
    """
    if reserve is None:
        fills = isinstance(workload, Inference) and workload.engine in FILLING_ENGINES
        reserve = 0 if fills else RESERVE_PERCENT
    if type(reserve) is not int or not 0 <= reserve <= 90:
        raise Problem(f"reserve is {str(reserve)[:20]}; use a whole number of percent from 0 to 90")
    return accelerator.usable_bytes * (100 - reserve) // 100


def smallest_fits(model: Model, workload: Inference | Training, place: Place, most: int = 1) -> tuple[Fit, ...]:
    """Return the smallest layouts that fit, one for each number of devices, the smallest first.

    Devices are counted as servers are sold: 1, 2, 4, ... up to a server, then whole servers. Serving takes the most
    tensor parallelism within a server, then stages, then copies; training shards the states over data (FSDP) or takes
    tensor, stages and ZeRO 1 as Megatron does, whichever needs fewer devices.
    Raises: Problem where none fits, with the nearest layout and by how much it misses.
    """
    return Search(model, workload).smallest(place, most)


class Search:
    """The search for layouts of one workload in one place after the other: what it has worked out it keeps."""

    def __init__(self, model: Model, workload: Inference | Training) -> None:
        """Start with nothing known."""
        self.model, self.workload = model, workload
        self._held: dict[tuple[Layout, str], Breakdown | None] = {}
        self._states: dict[tuple[int, int], tuple[int, int]] = {}
        self._refused: Problem | None = None

    def smallest(self, place: Place, most: int = 1) -> tuple[Fit, ...]:
        """Return the smallest layouts that fit; see `smallest_fits`."""
        found: list[Fit] = []
        tried: list[Fit] = []
        over: list[tuple[int, Layout]] = []
        for devices in _sizes(place.devices, ceil_div(self._least, place.room)):
            fit = self._fit_on(place, devices, tried, over)
            found += [fit] if fit else []
            if len(found) == most:
                break
        if found:
            return tuple(found)
        tried = tried or self._nearest(place, over)
        if not tried and self._refused:
            raise self._refused
        raise _none(self.model, self.workload, place, tried)

    def _fit_on(self, place: Place, devices: int, tried: list[Fit], over: list[tuple[int, Layout]]) -> Fit | None:
        """Return the first layout over some devices that fits, None if none does.

        `tried` collects what was held, `over` the layouts that hold too much before activations are counted.
        """
        for layout in _layouts(self.model, self.workload, devices, place.devices):
            least = self._at_least(layout, place.room)
            if least > place.room:
                over.append((least, layout))
                continue
            if self._hopeless(layout, place, tried):
                continue
            held = self.held(layout, place.accelerator)
            if held is None:
                continue
            tried.append(Fit(layout, held))
            if held.total <= place.room:
                return Fit(layout, left_of(held, place.accelerator))
        return None

    def _nearest(self, place: Place, over: list[tuple[int, Layout]]) -> list[Fit]:
        """Return the layout that holds the least of those that hold too much; none where none can be."""
        for _, layout in sorted(over, key=lambda each: each[0]):
            held = self.held(layout, place.accelerator)
            if held is not None:
                return [Fit(layout, held)]
        return []

    def _at_least(self, layout: Layout, room: int) -> int:
        """What the busiest device holds at least: its share of weights and gradients, and of the optimizer states."""
        parts = int(layout.tensor * layout.pipeline)
        if isinstance(self.workload, Inference):
            return self._least // parts
        least = _shared(layout, *self._of(Layout())) // parts
        # the mean of the stages may say it already; the fullest one is worth a look only where it does not
        if layout.zero == 3 or least > room:
            return least
        return _shared(layout, *self._of(Layout(tensor=layout.tensor, pipeline=layout.pipeline)))

    def _of(self, layout: Layout) -> tuple[int, int]:
        split = layout.tensor, layout.pipeline
        if split not in self._states:
            self._states[split] = self._split(layout)
        return self._states[split]

    def _split(self, layout: Layout) -> tuple[int, int]:
        """The bytes of weights, gradients and optimizer states of the fullest stage; those of the last among them."""
        assert isinstance(self.workload, Training)
        devices = (device_of(self.model, self.workload, layout, stage) for stage in busy_stages(self.model, layout))
        states = max((device.states for device in devices), key=lambda each: int(each.total))
        return int(states.total), int(states.only(phase="optimizer_states").total)

    def held(self, layout: Layout, accelerator: Accelerator) -> Breakdown | None:
        """Return what the busiest device holds, None for a layout that cannot be; most engines hold it on any card."""
        own = isinstance(self.workload, Inference) and self.workload.engine in FILLING_ENGINES
        known = layout, accelerator.name if own else ""
        if known not in self._held:
            try:
                self._held[known] = memory(self.model, self.workload, layout, accelerator if own else None)
            except Problem as refused:
                self._held[known], self._refused = None, self._refused or refused
        return self._held[known]

    def _hopeless(self, layout: Layout, place: Place, tried: list[Fit]) -> bool:
        """Whether the same split over fewer copies had no room for activations: more copies leave these as they are."""
        asked = self.workload
        if isinstance(asked, Inference) or (asked.global_batch is not None and layout.pipeline > 1):
            return False
        split = layout.tensor, layout.pipeline, layout.zero == 3
        alike = (fit for fit in tried if (fit.layout.tensor, fit.layout.pipeline, fit.layout.zero == 3) == split)
        return any(fit.beside > place.room for fit in alike)

    @cached_property
    def _least(self) -> int:
        """The bytes that all devices together hold at least."""
        if isinstance(self.workload, Inference):
            return int(weights(self.model, self.workload.weights).total)
        return self._of(Layout())[0]


def _shared(layout: Layout, states: int, optimizer: int) -> int:
    """What is left of the states on one copy, where copies share all of them (ZeRO 3), the optimizer's, or none."""
    copies = int(layout.replicas)
    if layout.zero == 3:
        return states // copies
    return states - optimizer + (optimizer // copies if layout.zero else optimizer)


def _sizes(server: int, least: int) -> Iterator[int]:
    """Yield numbers of devices: powers of two in a server, then servers; above eight of them in steps of an eighth."""
    size = 1
    while size < server:
        if size >= least:
            yield size
        size *= 2
    servers = max(1, ceil_div(least, server))
    while servers * server <= MOST_DEVICES:
        yield servers * server
        servers += max(1, servers // 8)


def _layouts(model: Model, workload: Inference | Training, devices: int, server: int) -> Iterator[Layout]:
    """Yield the layouts over some devices that are worth a try, the fastest kind first."""
    inside = min(devices, server)
    degrees = [degree for degree in reversed(tensor_degrees(model, inside)) if inside % degree == 0]
    if isinstance(workload, Inference):
        yield from _serving(model, workload, devices, degrees)
    else:
        yield from _training(model, workload, devices, degrees[0])


def _serving(model: Model, inference: Inference, devices: int, degrees: list[int]) -> Iterator[Layout]:
    stages = pipeline_degrees(model)
    for tensor in degrees:
        rest = devices // tensor
        # copies hold the weights again, so they are taken only where stages run out
        for copies in range(1, min(rest, inference.sequences) + 1):
            if rest % copies == 0 and rest // copies in stages:
                yield Layout(tensor=tensor, pipeline=rest // copies, data=copies)
                break


def _training(model: Model, training: Training, devices: int, tensor: int) -> Iterator[Layout]:
    yield Layout(data=devices, zero=3, sharding="fsdp") if devices > 1 else Layout()
    rest, fullest = devices // tensor, model.layers + 1
    for pipeline in pipeline_degrees(model):
        # more stages that leave the fullest one as it is only wait longer
        if rest % pipeline or devices == 1 or ceil_div(model.layers, pipeline) == fullest:
            continue
        fullest = ceil_div(model.layers, pipeline)
        if tensor > 1 or pipeline > 1:
            copies = rest // pipeline
            zero = 1 if copies > 1 else 0
            yield Layout(tensor=tensor, pipeline=pipeline, data=copies, zero=zero, sequence_parallel=tensor > 1)


def spread_of(layout: Layout) -> str:
    """Return a layout in words: `16 devices (tensor 8 × pipeline 2)`."""
    degrees = ("tensor", "pipeline", "data", "context")
    parts = [f"{name} {getattr(layout, name)}" for name in degrees if getattr(layout, name) > 1]
    number = f"{layout.devices:,} device{'s' if layout.devices > 1 else ''}"
    return number + (f" ({' × '.join(parts)})" if parts else "")


def too_much(model: Model, place: Place, fit: Fit) -> str:
    """Return by how much a layout misses, in words."""
    return (
        f"{model.label} on {spread_of(fit.layout)} of {place.accelerator.name} needs {amount(fit.held.total)} "
        f"of the {amount(place.room)} that each may use, {amount(fit.held.total - place.room)} too much"
    )


def _none(model: Model, workload: Inference | Training, place: Place, tried: list[Fit]) -> Problem:
    if not tried:
        return Problem(
            f"{model.label} cannot be split over devices of {place.accelerator.name} so that it could fit; "
            f"use a smaller precision, or an accelerator with more memory"
        )
    nearest = min(tried, key=lambda fit: float(fit.held.total))
    less = "a shorter context" if isinstance(workload, Inference) else "a smaller micro-batch, gradient checkpointing"
    return Problem(
        f"no layout fits; the nearest: {too_much(model, place, nearest)}; "
        f"use {less}, a smaller precision, or an accelerator with more memory"
    )
