"""What joins the nodes: NICs, and a rail-optimised fabric of leaves and spines."""

from __future__ import annotations

from collections.abc import Iterator

from memscape.breakdown import Breakdown, Term, ceil_div
from memscape.cluster.sizing import Line, Setting, line, rule, ruled

GROUP = "network"


def network_lines(of: Setting) -> Iterator[Line]:
    """Yield the NICs of a node and, from two nodes on, the fabric between their devices."""
    front = rule("front-end NICs of a node")
    yield line(
        "front-end NICs of a node", GROUP, "NICs", ruled("users and storage", {}, "nics", front), why=front.basis
    )
    if of.nodes == 1:
        return
    by, speed = rule("NICs per device"), rule("NIC of a device", of.accelerator.architecture)
    inside = {"devices_in_node": of.server.devices}
    yield line("fabric NICs of a node", GROUP, "NICs", ruled("of the fabric", inside, "nics", by), why=by.basis)
    yield _rate(of, inside)
    yield from _fabric(of, speed.likely)


def _rate(of: Setting, inside: dict[str, int]) -> Line:
    speed = rule("NIC of a device", of.accelerator.architecture)
    term = ruled("fabric", inside, "gigabits_per_nic", speed)
    why = speed.basis
    if of.fabric_gbps:
        why = f"as {of.server.name} has it; the rule would be {term.amount:,.0f} Gb/s ({speed.basis})"
        term = Term("fabric", {"gigabits_per_node": of.fabric_gbps}, "", "cluster", source_of(of))
    return line("fabric rate of a node", GROUP, "Gb/s", term, why=why)


def source_of(of: Setting) -> str:
    """Return the key of what a chosen server's figures come from."""
    return of.server.instance.source if of.server.instance else "dgx_guides"


def _fabric(of: Setting, gigabits: float) -> Iterator[Line]:
    """Leaves with half of their ports down, spines with all of them; a third tier above what two can join.

        one switch up to n ports;  ⌈N / (n/2)⌉ leaves, ⌈N / n⌉ spines up to n²/2;  as many spines as leaves above

    N fabric NICs, n ports. Holds for: a fat tree that blocks nothing, one NIC per device.
    Source: superpod
    """
    by = rule("ports of a switch")
    ports, ends = by.likely, of.installed * rule("NICs per device").likely
    tiers = 1 if ends <= ports else 2 if ends <= ports**2 // 2 else 3
    leaves = 1 if tiers == 1 else int(ceil_div(ends, ports // 2))
    spines = (0, ceil_div(ends, ports), leaves)[tiers - 1]
    why = f"{ends:,} NICs of {gigabits:,.0f} Gb/s; {by.basis}; {tiers} tier{'s' if tiers > 1 else ''}"
    terms = [Term("leaves", {"leaves": leaves}, source=by.source)]
    if tiers > 1:
        terms.append(Term("spines", {"spines": spines}, source=by.source))
    if tiers > 2:
        terms.append(Term("cores", {"core_switches": int(ceil_div(ends, ports))}, source=by.source))
    yield line("switches", GROUP, "switches", *terms, why=why)
    # every cable between two switches takes a port at both of its ends
    used = Term("ports", {"fabric_nics": ends, "ports_per_nic": 2 * tiers - 1}, source=by.source)
    yield line("switch ports", GROUP, "ports", used, why="one port to each NIC, and two for each link between switches")


def switches(lines: dict[str, Line]) -> Breakdown:
    """Return the switches of a fabric; none for one node."""
    return lines["switches"].amount if "switches" in lines else Breakdown("switches")
