"""The course of a training step: everything alive at six moments of the first step and of a later one."""

from __future__ import annotations

from memscape.breakdown import Breakdown
from memscape.forward.trace import BACKWARD, cases
from memscape.memory.kept import alive_at, limited
from memscape.memory.megatron import megatron_activations, megatron_layer
from memscape.memory.scratch import update_scratch
from memscape.memory.training_states import check, trained_weights, training_states
from memscape.model import Model
from memscape.workload import Training

MOMENTS = (
    "forward_peak",
    "forward_end",
    "backward_peak",
    "after_backward",
    "optimizer_peak",
    "after_optimizer",
)


def training_timeline(model: Model, training: Training) -> dict[tuple[int, str], Breakdown]:
    """Return everything alive at each moment of a training step, keyed (step, moment), step 1 or 2.

    forward_peak     the highest point of the forward pass, forward_end its end: what is kept, logits and loss
    backward_peak    the highest point of the backward pass, in which gradients take the place of activations
    after_backward   weights and gradients
    optimizer_peak   the highest point of the update, with its temporaries; after_optimizer its end

    Step 1 makes the optimizer states in its update, step 2 has them from the start; gradients are dropped before the
    next forward pass (`zero_grad(set_to_none=True)`). With several micro-batches per update the moments are those of a
    later micro-batch, when gradients are there already; fp32 gradients beside 16-bit weights are a buffer that is
    always there, as in Megatron.
    Holds for: what the program itself allocates, as `torch.cuda.memory_allocated` counts it.
    `implementation="megatron"`: gradients are a buffer that is always there; forward and backward hold what the fused
    kernels keep, and one layer more where it is recomputed. Temporaries inside a layer are left out, as in the paper.
    Not for:   the CUDA context, library workspaces, scratch inside a kernel, what the allocator rounds up.
    Sources:   pytorch_autograd, pytorch_optim
    """
    return _course(model, training, (1, 2), MOMENTS)


def highest_moments(model: Model, training: Training) -> dict[tuple[int, str], Breakdown]:
    """Return the moments of which one is the highest: a later step holds what the first one does, and its states."""
    return _course(model, training, (2,), ("forward_peak", "backward_peak", "optimizer_peak"))


def _course(
    model: Model, training: Training, steps: tuple[int, ...], moments: tuple[str, ...]
) -> dict[tuple[int, str], Breakdown]:
    check(model, training)
    loaded, states = trained_weights(model, training), training_states(model, training)
    gradients, kept = states.only(phase="gradients"), states.only(phase="optimizer_states")
    earlier = _earlier(model, training, gradients)
    beside = {
        "after_backward": lambda: gradients,
        "optimizer_peak": lambda: gradients + kept + update_scratch(model, training),
        "after_optimizer": lambda: gradients + kept,
    }
    found = {}
    for moment in moments:
        held = loaded + (beside[moment]() if moment in beside else earlier + _pass(model, training, moment))
        for step in steps:
            from_start = step > 1 and not moment.endswith(("optimizer", "optimizer_peak"))
            found[step, moment] = held + kept if from_start else held
    return {(step, moment): found[step, moment] for step in steps for moment in moments}


def _pass(model: Model, training: Training, moment: str) -> Breakdown:
    """What forward or backward holds at a moment, beside weights, states and earlier gradients."""
    direction, _, point = moment.partition("_")
    if training.implementation == "megatron":
        kept = megatron_activations(model, training)
        again = direction == BACKWARD and training.recompute == "full"
        return kept + megatron_layer(model, training) if again else kept
    return alive_at(model, training, direction, highest=point == "peak")


def _earlier(model: Model, training: Training, gradients: Breakdown) -> Breakdown:
    """Gradients of earlier micro-batches, or a buffer of fp32 gradients: they are there during forward and backward."""
    if training.implementation == "megatron":
        return gradients
    earlier = Breakdown("bytes")
    for case, where in cases(model, training):
        if case.accumulates:
            earlier += limited(gradients, where)
    return earlier
