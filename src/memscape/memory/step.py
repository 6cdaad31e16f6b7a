"""The course of a training step: everything alive at six moments of the first step and of a later one."""

from __future__ import annotations

from memscape.breakdown import Breakdown
from memscape.memory.kept import alive_at, limited
from memscape.memory.scratch import update_scratch
from memscape.memory.trace import BACKWARD, FORWARD, cases
from memscape.memory.training_states import trained_weights, training_states
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
    Not for:   the CUDA context, library workspaces, scratch inside a kernel, what the allocator rounds up.
    Sources:   pytorch_autograd, pytorch_optim
    """
    loaded = trained_weights(model, training)
    states = training_states(model, training)
    gradients, kept = states.only(phase="gradients"), states.only(phase="optimizer_states")
    scratch = update_scratch(model, training)
    passes = _passes(model, training, gradients)
    found = {(1, moment): loaded + alive for moment, alive in passes.items()}
    found[1, "after_backward"] = loaded + gradients
    found |= {(2, moment): alive + kept for (_, moment), alive in found.items()}
    for step in (1, 2):
        found[step, "optimizer_peak"] = loaded + gradients + kept + scratch
        found[step, "after_optimizer"] = loaded + gradients + kept
    return {(step, moment): found[step, moment] for step in (1, 2) for moment in MOMENTS}


def _passes(model: Model, training: Training, gradients: Breakdown) -> dict[str, Breakdown]:
    """What forward and backward hold beside weights and states; gradients of earlier micro-batches stay."""
    earlier = Breakdown("bytes")
    for case, where in cases(model, training):
        if case.accumulates:
            earlier += limited(gradients, where)
    return {
        "forward_peak": earlier + alive_at(model, training, FORWARD, highest=True),
        "forward_end": earlier + alive_at(model, training, FORWARD, highest=False),
        "backward_peak": earlier + alive_at(model, training, BACKWARD, highest=True),
    }
