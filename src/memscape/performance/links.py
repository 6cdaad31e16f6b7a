"""Links: where the devices of each form of parallelism stand, and how fast they send to each other."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import NamedTuple

from memscape.breakdown import Quantity
from memscape.catalog import Accelerator
from memscape.parallelism import Layout
from memscape.performance.rates import GIGA, Rate, measured, share, spread

# a ring crosses the border of a node with all of its members' NICs; an exchange, or a neighbour, has one of its own
RINGS = ("tensor", "data")


class Group(NamedTuple):
    """The devices of one form: they spread over `span` neighbours, of which every `stride`-th is one of them."""

    span: int
    stride: int


def groups(layout: Layout) -> dict[str, Group]:
    """Return where the group of each form stands: tensor innermost, then context, expert, data, pipeline.

    Gradients are reduced over data- and context-parallel devices. Experts take those first, then tensor.
    Source: llama3
    """
    copies = layout.tensor * layout.context
    everyone = copies * layout.data
    return {
        "tensor": Group(layout.tensor, 1),
        "context": Group(copies, layout.tensor),
        "expert": Group(layout.tensor * gcd(int(layout.expert), int(layout.replicas)), layout.tensor),
        "data": Group(everyone, layout.tensor),
        "pipeline": Group(everyone * layout.pipeline, everyone),
    }


def link(form: str, layout: Layout, accelerator: Accelerator, network_gb_per_s: float | None = None) -> Rate:
    """Return how fast a device sends in its group: by the links of a node, or by the network where that is slower.

    A ring that goes through several nodes enters and leaves each of them over the NICs of all its members there.
    Source: nccl_several_nodes
    """
    span, stride = groups(layout)[form]
    inside = within_node(accelerator)
    if span <= accelerator.devices_per_node:
        return inside
    nics = max(1, accelerator.devices_per_node // stride) if form in RINGS else 1
    outside = replace(network(accelerator, network_gb_per_s), nics=nics)
    return min(inside, outside, key=lambda rate: rate.likely)


def within_node(accelerator: Accelerator) -> Rate:
    """Return how fast a device sends to others of its node, one direction: by its links, or by PCIe."""
    if accelerator.link_gb_per_s:
        row = share("device link", accelerator)
        return Rate(accelerator.link_gb_per_s / 2 * GIGA, spread(row), "bytes", row["source"])
    return measured(share("host link", accelerator, accelerator.pcie_generation))


def network(accelerator: Accelerator, network_gb_per_s: Quantity | None = None) -> Rate:
    """Return how fast a device sends to other nodes: its share of their network, one direction."""
    row, reached = share("network of a device", accelerator), share("network link", accelerator)
    return Rate((network_gb_per_s or float(row["likely"])) * GIGA, spread(reached), "bytes", reached["source"])
