"""Layout: over how many devices a workload is spread, and along which axes. The shards themselves are not here yet."""

from __future__ import annotations

from dataclasses import dataclass

from memscape.breakdown import Quantity
from memscape.problem import Problem
from memscape.workload import whole

DEGREES = ("tensor", "pipeline", "data", "context", "expert", "interleave")
ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Layout:
    """The degrees of parallelism; each may be a number or a numpy array, `zero` and `sequence_parallel` are choices.

    `tensor`              devices that share each matrix
    `pipeline`            stages that share the layers; `interleave` is how many pieces of a stage each device has
    `data`                copies of the model, each with micro-batches of its own
    `context`             devices that share each sequence
    `expert`              devices that share the experts
    `sequence_parallel`   norms and dropout split along the sequence over the tensor-parallel devices (Megatron)
    `zero`                what data-parallel devices share: 1 optimizer states, 2 gradients too, 3 weights too
    """

    tensor: Quantity = 1
    pipeline: Quantity = 1
    data: Quantity = 1
    context: Quantity = 1
    expert: Quantity = 1
    sequence_parallel: bool = False
    zero: int = 0
    interleave: Quantity = 1

    def __post_init__(self) -> None:
        """Refuse degrees that are no whole numbers from 1, and choices that do not exist."""
        for name in DEGREES:
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        if isinstance(self.zero, bool) or self.zero not in ZERO_STAGES:
            raise Problem(f"zero is {str(self.zero)[:20]}; use stage 0, 1, 2 or 3")
        if not isinstance(self.sequence_parallel, bool):
            raise Problem(f"sequence_parallel is {str(self.sequence_parallel)[:20]}; use True or False")
