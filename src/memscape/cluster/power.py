"""Racks, power, heat and how they are cooled."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from memscape.breakdown import Breakdown, Term, ceil_div
from memscape.cluster.network import switches
from memscape.cluster.sizing import Line, Rule, Setting, choices, follows, line, rule, ruled
from memscape.problem import Problem

GROUP = "power"


def power_lines(of: Setting, lines: dict[str, Line], pue: float | None) -> Iterator[Line]:
    """Yield power per node, rack and site, heat, air, cooling and circuits.

    Raises: Problem where neither the server's nor the device's power is known.
    """
    node = _node(of)
    yield node
    rack, racks = _racks(of, node.amount)
    yield racks
    yield rack
    yield from _heat_of_node(of, node.amount)
    yield from _site(of, node.amount, switches(lines), pue)
    yield _cooling(rack.amount)
    yield _circuits(rack.amount)


def _node(of: Setting) -> Line:
    by, chosen = rule("node power to device power", of.accelerator.architecture), of.server.node
    if chosen is not None and chosen.power_kw is not None:
        known = Term("chassis at the wall", {"kilowatts": chosen.power_kw}, source="dgx_guides")
        why = f"{chosen.name}: {chosen.source}; power supplies {chosen.psu}"
        return line("power of a node", GROUP, "kW", known, why=why)
    if of.accelerator.power_w is None:
        raise Problem(
            f"the power of {of.accelerator.name} is not published; without it there is no power, heat, rack or energy"
        )
    if of.accelerator.unified_memory and of.accelerator.devices_per_node == 1:
        raise Problem(
            f"{of.accelerator.name} is a whole machine, for which the rule of servers does not hold; "
            f"name a node of the catalogue that has it"
        )
    boards = {
        "devices_in_node": of.server.devices,
        "watts_per_device": of.accelerator.power_w,
        "kilowatts_per_watt": 1 / 1000,
    }
    return line("power of a node", GROUP, "kW", ruled("devices and host", boards, "power_ratio", by), why=by.basis)


def _racks(of: Setting, node: Breakdown) -> tuple[Line, Line]:
    """Nodes to a rack by height and by power, whichever allows fewer; at least one."""
    units, limit = rule("rack units"), rule("power of a rack")
    height = _height(of)
    most = max(1, min(int(units.likely // height), int(limit.likely / node.total)))
    inside = min(most, of.nodes)
    why = f"{most} to a rack: {units.likely} U of {height:g} U each, and {limit.likely} kW ({limit.basis})"
    full = follows("nodes of a full rack", node, {"nodes_in_rack": inside}, limit.source, "kilowatts_per_node")
    count = Term("racks", {"racks": ceil_div(of.nodes, most)}, source=limit.source)
    rack = line("power of a rack", GROUP, "kW", full, why=why)
    return rack, line("racks", GROUP, "racks", count, why=why)


def _height(of: Setting) -> float:
    if of.server.node is not None and of.server.node.rack_units:
        return of.server.node.rack_units
    each, least = rule("rack units per device"), rule("least rack units of a node")
    return float(max(least.likely, ceil(of.server.devices * each.likely)))


def _site(of: Setting, node: Breakdown, fabric: Breakdown, pue: float | None) -> Iterator[Line]:
    """The most that nodes and switches draw, what they draw on average, and what the building draws for it."""
    one, source = rule("power of a switch"), node.terms[0].source
    most = [follows("nodes", node, {"nodes": of.nodes}, source, "kilowatts_per_node")]
    if fabric.total:
        most.append(ruled("switches", {"switches": fabric.total}, "kilowatts_per_switch", one))
    at_most = line("power at most", GROUP, "kW", *most, why="nodes at their maximum, and the switches between them")
    yield at_most
    yield from _heat(at_most.amount)
    share, whole = rule("average power", of.kind), at_most.amount
    drawn = ruled("nodes and switches", {"kilowatts": whole.total, "one_percent": 0.01}, "percent", share, whole)
    average = line("average power", GROUP, "kW", drawn, why=share.basis)
    yield average
    by = rule("PUE")
    site = ruled("site", {"average_kilowatts": drawn.amount}, "pue", by, average.amount)
    if pue:
        site = follows("site", average.amount, {"pue": pue}, by.source, "average_kilowatts")
    yield line("average power of the site", GROUP, "kW", site, why=f"PUE: {'as given' if pue else by.basis}")


def _heat(most: Breakdown) -> Iterator[Line]:
    """All power becomes heat."""
    by, source = rule("heat"), most.terms[0].source
    heat = follows("nodes and switches", most, {}, source, "kilowatts")
    yield line("heat", GROUP, "kW", heat, why="all power becomes heat, at most")
    shown = follows("nodes and switches", most, {"btu_per_kilowatt_hour": by.likely}, by.source, "kilowatts")
    yield line("heat in BTU/h", GROUP, "BTU/h", shown, why=f"1 kW is {by.likely:,} BTU/h")


def _heat_of_node(of: Setting, node: Breakdown) -> Iterator[Line]:
    """Heat of a node and the air that takes it away; a published figure stands beside it."""
    by, air, rise = rule("heat"), rule("airflow"), rule("temperature rise of air")
    heat = follows("power of a node", node, {"btu_per_kilowatt_hour": by.likely}, by.source, "kilowatts_per_node")
    chosen = of.server.node
    stated = f"; {chosen.name} states {chosen.heat_btu_per_h:,.0f}" if chosen and chosen.heat_btu_per_h else ""
    yield line("heat of a node", GROUP, "BTU/h", heat, why=f"all power becomes heat{stated}")
    flow = {"watts_per_kilowatt": 1000, "airflow_constant": air.likely, "over_temperature_rise": 1 / rise.likely}
    through = follows("air of a node", node, flow, air.source, "kilowatts_per_node")
    yield line("airflow of a node", GROUP, "CFM", through, why=f"{air.basis}; {rise.basis}")


def cooling_class(kilowatts: float) -> Rule:
    """Return the kind of cooling that a rack of so much power needs; the last one for more than any."""
    known = choices("cooling class")
    return next((each for each in known if kilowatts <= each.high), known[-1])


def _cooling(rack: Breakdown) -> Line:
    by, ton = cooling_class(rack.total), rule("cooling ton")
    load = {"kilowatts_per_rack": rack.total, "tons_per_kilowatt": 1 / ton.likely}
    return line(
        "cooling of a rack",
        GROUP,
        "tons of cooling",
        Term(by.applies_to, load, by.applies_to, "cluster", by.source),
        why=f"{by.applies_to}: {by.low} to {by.high} kW per rack, {by.basis}",
    )


def _circuits(rack: Breakdown) -> Line:
    """The smallest circuit that carries a rack, or several of the largest, once for each feed."""
    known, feeds = choices("circuit"), rule("feeds")
    by = next((each for each in known if each.likely >= rack.total), known[-1])
    number = ceil(rack.total / by.likely)
    factors = {"circuits_per_feed": number, "feeds": feeds.likely}
    term = Term(by.applies_to, factors, by.applies_to, "cluster", by.source)
    return line("circuits of a rack", GROUP, "circuits", term, why=f"{by.applies_to}: {by.basis}; {feeds.basis}")
