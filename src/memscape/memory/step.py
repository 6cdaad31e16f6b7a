"""The course of a training step: everything alive at six moments of the first step and of a later one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from memscape.breakdown import Breakdown, Quantity
from memscape.forward.trace import FORWARD, cases
from memscape.memory.buffers import passing_buffers, reduce_buffers, uneven_routing
from memscape.memory.kept import alive_at, kept_tensors, limited
from memscape.memory.megatron import megatron_activations, megatron_layer
from memscape.memory.offload import on_device
from memscape.memory.scratch import update_scratch
from memscape.memory.training_states import check, trained_weights, training_states
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, micro_batches, pieces_in_flight, shard_model, shard_workload
from memscape.workload import Training

MOMENTS = (
    "forward_peak",
    "forward_end",
    "backward_peak",
    "after_backward",
    "optimizer_peak",
    "after_optimizer",
)
HIGHEST = ("forward_peak", "backward_peak", "optimizer_peak")
Course = dict[tuple[int, str], Breakdown]


def training_timeline(model: Model, training: Training, layout: Layout, stage: int = 0) -> Course:
    """Return everything alive at each moment of a training step, keyed (step, moment), step 1 or 2.

    forward_peak     the highest point of the forward pass, forward_end its end: what is kept, logits and loss
    backward_peak    the highest point of the backward pass, in which gradients take the place of activations
    after_backward   weights and gradients
    optimizer_peak   the highest point of the update, with its temporaries; after_optimizer its end

    Step 1 makes the optimizer states in its update, step 2 has them from the start; gradients are dropped before the
    next forward pass (`zero_grad(set_to_none=True)`). With several micro-batches per update the moments are those of a
    later micro-batch, when gradients are there already; fp32 gradients beside 16-bit weights are a buffer that is
    always there, as in Megatron. In a layout it is the course of one device of a stage, when its pipeline is full: the
    micro-batches that wait for their backward are there beside the running one.
    Holds for: what the program itself allocates, as `torch.cuda.memory_allocated` counts it.
    `implementation="megatron"`: gradients are a buffer that is always there; forward and backward hold what the fused
    kernels keep, and one layer more where it is recomputed. Temporaries inside a layer are left out, as in the paper.
    Not for:   the CUDA context, library workspaces, scratch inside a kernel, what the allocator rounds up.
    Sources:   pytorch_autograd, pytorch_optim, narayanan2021
    """
    return device_of(model, training, layout, stage).course((1, 2), MOMENTS)


def highest_moments(model: Model, training: Training, layout: Layout, stage: int = 0) -> Course:
    """Return the moments of which one is the highest: a later step holds what the first one does, and its states."""
    return device_of(model, training, layout, stage).course((2,), HIGHEST)


@dataclass(frozen=True)
class Device:
    """One device of a stage of the layout: its part of the model, its share of the work."""

    whole: Model
    asked: Training
    layout: Layout
    stage: int = 0

    def __post_init__(self) -> None:
        """Refuse what the whole model cannot be trained for, before it is cut."""
        check(self.whole, self.asked)

    @cached_property
    def model(self) -> Model:
        """Its part of the model."""
        return self._shard(self.layout, None)

    @cached_property
    def training(self) -> Training:
        """Its share of the work."""
        shared = shard_workload(self.asked, self.layout)
        assert isinstance(shared, Training)
        return shared

    def _shard(self, layout: Layout, piece: int | None) -> Model:
        degrees = layout.tensor, layout.pipeline, layout.expert
        return self.whole if degrees == (1, 1, 1) else shard_model(self.whole, layout, self.stage, piece)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What of the layout decides which tensors there are."""
        layout = self.layout
        found: dict[str, Any] = {}
        if layout.sequence_parallel and layout.tensor > 1:
            found["tokens_over"] = layout.tensor
        if layout.zero > 1:
            found |= {"gradients_over": layout.replicas, "experts_over": layout.expert_replicas}
        if layout.interleave > 1 or (layout.zero > 1 and layout.offload_optimizer != "none"):
            # gradients are there from the start, or leave the device as they come
            found["accumulates"] = True
        return found

    # moments

    def course(self, steps: tuple[int, ...], moments: tuple[str, ...]) -> Course:
        """Return what is alive at the moments of some steps."""
        here = on_device(self.states, self.layout)
        gradients, kept = here.only(phase="gradients"), here.only(phase="optimizer_states")
        loaded = here.only(phase="weights")
        beside = {
            "after_backward": lambda: gradients,
            "optimizer_peak": lambda: gradients + kept + self.update,
            "after_optimizer": lambda: gradients + kept,
        }
        loaded += reduce_buffers(self.model, self.training, self.layout)
        earlier = self._earlier(gradients) + passing_buffers(self.model, self.training, self.layout)
        found = {}
        for moment in moments:
            held = loaded + (beside[moment]() if moment in beside else earlier + self._pass(moment))
            for step in steps:
                from_start = step > 1 and not moment.endswith(("optimizer", "optimizer_peak"))
                found[step, moment] = held + kept if from_start else held
        return {(step, moment): found[step, moment] for step in steps for moment in moments}

    @cached_property
    def states(self) -> Breakdown:
        """Its weights, gradients and optimizer states, wherever they are."""
        parts = trained_weights, training_states
        loaded, states = (part(self.model, self.training, self.layout) for part in parts)
        return loaded + states

    @cached_property
    def update(self) -> Breakdown:
        """The temporaries of the update; it runs where its states are."""
        if self.layout.offload_optimizer != "none":
            return Breakdown("bytes")
        return update_scratch(self.model, self.training, self.layout)

    def _earlier(self, gradients: Breakdown) -> Breakdown:
        """Gradients of earlier micro-batches, or a buffer of fp32 gradients: there during forward and backward."""
        if self.training.implementation == "megatron" or self.settings.get("accumulates"):
            return gradients
        earlier = Breakdown("bytes")
        for case, where in cases(self.model, self.training):
            if case.accumulates:
                earlier += limited(gradients, where)
        return earlier

    def _pass(self, moment: str) -> Breakdown:
        """What forward or backward holds at a moment, beside weights, states and earlier gradients."""
        direction, _, point = moment.partition("_")
        if self.training.implementation == "megatron":
            return self.fused(direction, self.batches)
        found = [self._running(place, direction, point == "peak") for place, _ in self.in_flight(self.batches)]
        return max(found, key=lambda held: _largest(held.total))

    def _running(self, place: int, direction: str, highest: bool) -> Breakdown:
        """What is held while one piece runs: its own tensors, and what the other micro-batches keep."""
        running = alive_at(self.piece(place), self.training, direction, highest, self.settings)
        return running + uneven_routing(running, self.layout) + self._waiting(self.batches, place)

    def fused(self, direction: str, batches: Quantity) -> Breakdown:
        """What Megatron's kernels hold in a direction, of all micro-batches in flight."""
        held = self._waiting(batches)
        if direction == FORWARD or self.training.recompute != "full":
            return held
        layer = megatron_layer(self._uncut(None), self.training, self.layout)
        return held + layer + uneven_routing(layer, self.layout)

    @property
    def batches(self) -> Quantity:
        """The micro-batches of one update that it computes."""
        return micro_batches(self.training)

    @cached_property
    def kept_once(self) -> Breakdown:
        """What one micro-batch keeps on this stage, all pieces of it."""
        if self.training.implementation == "megatron":
            return megatron_activations(self._uncut(None), self.training, self.layout)
        return kept_tensors(self.model, self.training, self.settings)

    # micro-batches that wait for their backward

    def piece(self, place: int) -> Model:
        """A piece of an interleaved stage, or the stage."""
        return self.model if self.layout.interleave == 1 else self._shard(self.layout, place)

    def in_flight(self, batches: Quantity) -> list[tuple[int, Quantity]]:
        """The pieces of a stage, alike ones together, each with the micro-batches that it keeps at once."""
        counts: dict[Model, tuple[int, Quantity]] = {}
        for place, count in enumerate(pieces_in_flight(self.layout, self.stage, batches)):
            first, known = counts.get(self.piece(place), (place, 0))
            counts[self.piece(place)] = first, known + count
        return list(counts.values())

    def _waiting(self, batches: Quantity, running: int | None = None) -> Breakdown:
        """What the micro-batches in flight keep, but for the one that runs through a piece."""
        found = Breakdown("bytes")
        for place, count in self.in_flight(batches):
            others = count - (place == running)
            if not (hasattr(others, "shape") or others):
                continue
            kept = self._kept(place)
            kept += uneven_routing(kept, self.layout)
            factors = {} if self.layout.pipeline == 1 else {"micro_batches_in_flight": others}
            found += replace(kept, terms=tuple(term.of(factors | dict(term.factors)) for term in kept))
        return found

    def _kept(self, place: int) -> Breakdown:
        """What one micro-batch keeps in a piece."""
        if self.training.implementation == "megatron":
            piece = None if self.layout.interleave == 1 else place
            return megatron_activations(self._uncut(piece), self.training, self.layout)
        return kept_tensors(self.piece(place), self.training, self.settings)

    def _uncut(self, piece: int | None) -> Model:
        """The layers of a stage before tensor parallelism: Megatron's formula divides itself."""
        layout = replace(self.layout, tensor=1, expert=1, sequence_parallel=False)
        cut = self._shard(layout, piece)
        return replace(cut, vocab_size=self.model.vocab_size * self.layout.tensor)


def device_of(model: Model, training: Training, layout: Layout, stage: int = 0) -> Device:
    """Return a device; for one layout and workload the same one each time, which keeps what it has worked out."""
    try:
        return _known(model, training, layout, stage)
    except TypeError:  # arrays have no hash
        return Device(model, training, layout, stage)


_known = lru_cache(maxsize=512)(Device)


def busiest(model: Model, training: Training, layout: Layout) -> int:
    """Return the stage whose highest moment is the highest of all stages."""
    stages = list(busy_stages(model, layout))
    if len(stages) == 1:
        return stages[0]
    return max(stages, key=lambda stage: highest(highest_moments(model, training, layout, stage)))


def highest(moments: Course) -> float:
    """Return the highest total of some moments; of a grid, that of its highest element."""
    return max(_largest(alive.total) for alive in moments.values())


def _largest(total: Quantity) -> float:
    return float(total.max() if hasattr(total, "max") else total)
