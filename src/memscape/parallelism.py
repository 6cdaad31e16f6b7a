"""Layout: over how many devices a workload is spread, and along which axes."""

from __future__ import annotations

from dataclasses import dataclass

from memscape.breakdown import Quantity
from memscape.problem import Problem, chosen
from memscape.workload import whole

DEGREES = ("tensor", "pipeline", "data", "context", "expert", "interleave")
ZERO_STAGES = (0, 1, 2, 3)
SCHEDULES = ("1f1b", "gpipe")
SHARDING = ("deepspeed", "fsdp")
OFFLOAD = ("none", "cpu", "nvme")
CHOICES = {
    "schedule": SCHEDULES,
    "sharding": SHARDING,
    "offload_optimizer": OFFLOAD,
    "offload_weights": OFFLOAD,
}


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
    `schedule`            how a pipeline runs: "1f1b" (with `interleave` above 1 the interleaved one), "gpipe"
    `sharding`            whose ZeRO it is: "deepspeed", or PyTorch's "fsdp"; they hold other buffers
    `offload_optimizer`, `offload_weights`   where ZeRO keeps them: "none" on the device, "cpu" in RAM, "nvme" on disks
    `expert_load_percent` tokens that the busiest expert-parallel device gets, in percent of the mean
    """

    tensor: Quantity = 1
    pipeline: Quantity = 1
    data: Quantity = 1
    context: Quantity = 1
    expert: Quantity = 1
    sequence_parallel: bool = False
    zero: int = 0
    interleave: Quantity = 1
    schedule: str = "1f1b"
    sharding: str = "deepspeed"
    offload_optimizer: str = "none"
    offload_weights: str = "none"
    expert_load_percent: Quantity = 100

    def __post_init__(self) -> None:
        """Refuse degrees that are no whole numbers from 1, and choices that do not exist."""
        for name in DEGREES:
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        object.__setattr__(self, "expert_load_percent", whole("expert_load_percent", self.expert_load_percent, 100))
        for name, known in CHOICES.items():
            object.__setattr__(self, name, chosen(name.replace("_", " "), getattr(self, name), known))
        if isinstance(self.zero, bool) or self.zero not in ZERO_STAGES:
            raise Problem(f"zero is {str(self.zero)[:20]}; use stage 0, 1, 2 or 3")
        if not isinstance(self.sequence_parallel, bool):
            raise Problem(f"sequence_parallel is {str(self.sequence_parallel)[:20]}; use True or False")

    @property
    def devices(self) -> Quantity:
        """The devices in all; expert-parallel devices are among them."""
        return self.tensor * self.pipeline * self.data * self.context
