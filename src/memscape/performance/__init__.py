"""Time: prefill and decode, a training step, loading and checkpoints, by roofline and ring collectives."""

from __future__ import annotations

from memscape.breakdown import Breakdown
from memscape.catalog import Accelerator, as_accelerator
from memscape.memory.step import device_of
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, check, shard_model
from memscape.performance import rates
from memscape.performance.serving import ServingTime, serving_time
from memscape.performance.training import TrainingTime, training_time
from memscape.problem import Problem
from memscape.workload import Inference, Training

__all__ = ["Performance", "ServingTime", "TrainingTime", "checkpoint_time", "load_time", "performance"]

Performance = ServingTime | TrainingTime


def performance(
    model: Model,
    workload: Inference | Training,
    accelerator: Accelerator | str,
    layout: Layout | None = None,
    network_gb_per_s: float | None = None,
) -> Performance:
    """Estimate the time of a workload: a `ServingTime` for inference, a `TrainingTime` for training.

    `network_gb_per_s` is one device's share of the network, one direction; None: what its generation usually has.
    Every share of a peak is a named factor with a source and a spread, so that totals have `low` and `high`.
    Sources: those of `serving_time` and `training_time`
    """
    card = as_accelerator(accelerator)
    if card is None:
        raise Problem('performance needs an accelerator; name one, as in "H100 SXM 80GB"')
    layout = layout or Layout()
    if isinstance(workload, Training):
        return training_time(model, workload, card, layout, network_gb_per_s)
    return serving_time(model, workload, card, layout, network_gb_per_s)


def load_time(
    model: Model, inference: Inference, accelerator: Accelerator | str, layout: Layout | None = None
) -> Breakdown:
    """Estimate the time to load the weights of a node's devices from its disks.

        max(bytes of the node / disks, bytes of a device / PCIe)      [seconds]

    Source: sizing_rules
    """
    card, layout = as_accelerator(accelerator), layout or Layout()
    assert card is not None
    shards = (shard_model(model, layout, stage) for stage in busy_stages(model, layout))
    held = {"weight_bytes": max(weights(shard, inference.weights).total for shard in shards)}
    together = held | {"devices_in_node": min(layout.devices, card.devices_per_node)}
    disks = rates.measured(rates.share("disk read of a node"))
    lane = rates.measured(rates.share("host link", card, card.pcie_generation))
    sides = (
        rates.seconds("disks of the node", together, disks, "load", "time", disks.source),
        rates.seconds("PCIe of each device", held, lane, "load", "time", lane.source),
    )
    return Breakdown("seconds", (max(sides, key=lambda term: float(term.amount)),))


def checkpoint_time(model: Model, training: Training, layout: Layout | None = None) -> Breakdown:
    """Estimate the time to write weights and optimizer states of the whole model to shared storage.

    Source: sizing_rules
    """
    layout = layout or Layout()
    check(model, layout, training)
    states = device_of(model, training, Layout()).states
    size = {"state_bytes": sum(states.only(phase=phase).total for phase in ("weights", "optimizer_states"))}
    storage = rates.measured(rates.share("shared storage write"))
    return Breakdown("seconds", (rates.seconds("states", size, storage, "checkpoint", "time", storage.source),))
