"""What the devices stand in: a server that was asked for, one by rule, and whether a given layout fits."""

from __future__ import annotations

from memscape import tables
from memscape.catalog import Accelerator
from memscape.catalog import accelerator as accelerator_of
from memscape.cluster.placement import Fit, Place, smallest_fits, spread_of, too_much
from memscape.cluster.sizing import Server
from memscape.hardware import Instance, Node, instance, instances_with, node, nodes_with
from memscape.memory.timeline import memory
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem, one_of, unknown
from memscape.workload import Inference, Training


def chosen_server(asked: Node | Instance | str | None) -> Server | None:
    """Return the server or the instance that was asked for; an unknown name is refused with the nearest ones."""
    if asked is None:
        return None
    if isinstance(asked, str):
        servers, machines = tables.by_key("nodes"), tables.by_key("instances")
        folded = {name.lower(): name for name in (*machines, *servers)}
        if asked.lower() not in folded:
            raise unknown("node or instance", asked, (*servers, *machines))
        name = folded[asked.lower()]
        asked = node(name) if name in servers else instance(name)
    if isinstance(asked, Node):
        return Server(asked.name, asked.devices, node=asked)
    if asked.devices < 1:
        raise Problem(f"{asked.name} has {asked.devices:g} of a device; take an instance with a whole one")
    return Server(asked.name, int(asked.devices), instance=asked)


def asked_accelerator(card: Accelerator | None, server: Server | None) -> Accelerator:
    """Return the accelerator; that of the server where none was named. A server with another one is refused."""
    if server is None or not (inside := server.node or server.instance):
        if card is None:
            raise Problem('a cluster needs an accelerator or a node; name one, as in accelerator="H100 SXM 80GB"')
        return card
    if card is not None and card.name != inside.accelerator:
        with_it = [each.name for each in nodes_with(card)] + [each.name for each in instances_with(card)]
        instead = f"use {one_of(with_it[:3])}" if with_it else "leave node out for a server by rule"
        raise Problem(f"{inside.name} has {inside.accelerator}, not {card.name}; {instead}")
    return accelerator_of(inside.accelerator)


def sold_server(card: Accelerator, devices: int) -> Server:
    """Return the server by rule: 1, 2, 4, ... devices, up to as many as usually stand together."""
    size = 1
    while size < min(devices, card.devices_per_node):
        size *= 2
    size = min(size, card.devices_per_node)
    return Server(f"a server of {size} × {card.name}", size)


def held_by(model: Model, workload: Inference | Training, place: Place, layout: Layout) -> Fit:
    """Return what a given layout holds.

    Raises: Problem where it does not fit, by how much, with the two smallest layouts that do.
    """
    fit = Fit(layout, memory(model, workload, layout, place.accelerator))
    if fit.held.total <= place.room:
        return fit
    try:
        others = smallest_fits(model, workload, place, 2)
        instead = f"the smallest that fit are {' and '.join(spread_of(each.layout) for each in others)}"
    except Problem:
        instead = "no layout of these devices fits; use a smaller precision or an accelerator with more memory"
    raise Problem(f"{too_much(model, place, fit)}; {instead}")
