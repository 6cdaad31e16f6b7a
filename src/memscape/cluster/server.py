"""What the devices stand in: a server that was asked for, one by rule, and whether a given layout fits."""

from __future__ import annotations

from dataclasses import dataclass

from memscape import tables
from memscape.breakdown import Breakdown, ceil_div
from memscape.catalog import Accelerator, as_accelerator
from memscape.catalog import accelerator as accelerator_of
from memscape.cluster.placement import Fit, Place, Search, room_of, spread_of, too_much
from memscape.cluster.sizing import Server, Setting
from memscape.hardware import Instance, Node, instance, instances_with, node, nodes_with
from memscape.memory.timeline import memory
from memscape.parallelism import Layout
from memscape.problem import Problem, one_of, unknown


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


@dataclass(frozen=True)
class Stand:
    """Where a workload has been placed, what its busiest device holds there, and the bytes that it may use."""

    setting: Setting
    held: Breakdown
    room: int


def placed(
    search: Search,
    accelerator: Accelerator | str | None,
    node: Node | Instance | str | None = None,
    layout: Layout | None = None,
    reserve: int | None = None,
    most: int | None = None,
) -> Stand:
    """Place a workload on as few devices as hold it, or on those of a layout, in servers of at most `most` devices.

    Raises: Problem where it does not fit, with the nearest that does or by how much it misses.
    """
    server = chosen_server(node)
    card = asked_accelerator(as_accelerator(accelerator), server)
    together = server.devices if server else min(card.devices_per_node, most or card.devices_per_node)
    place = Place(card, together, room_of(card, search.workload, reserve))
    fit = _held_by(search, place, layout) if layout else search.smallest(place)[0]
    stands_in = server or sold_server(card, min(together, fit.layout.devices))
    nodes = int(ceil_div(fit.layout.devices, stands_in.devices))
    setting = Setting(search.model, search.workload, card, fit.layout, stands_in, nodes)
    return Stand(setting, fit.held, place.room)


def _held_by(search: Search, place: Place, layout: Layout) -> Fit:
    """Return what a given layout holds; one that does not fit is refused with the two smallest that do."""
    fit = Fit(layout, memory(search.model, search.workload, layout, place.accelerator))
    if fit.held.total <= place.room:
        return fit
    try:
        others = search.smallest(place, 2)
        instead = f"the smallest that fit are {' and '.join(spread_of(each.layout) for each in others)}"
    except Problem:
        instead = "no layout of these devices fits; use a smaller precision or an accelerator with more memory"
    raise Problem(f"{too_much(search.model, place, fit)}; {instead}")
