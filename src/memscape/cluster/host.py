"""What stands beside the devices of a node: RAM, cores, disks."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from memscape.breakdown import Breakdown, Quantity, Term
from memscape.cluster.sizing import Line, Setting, choices, line, rule, ruled
from memscape.memory.timeline import host_memory
from memscape.memory.weights import weights
from memscape.performance import checkpoint_time
from memscape.problem import Problem
from memscape.units import GB, GIB
from memscape.workload import Training

GROUP = "host"
TERA = 10**12


def host_lines(of: Setting, tokens: int | None) -> Iterator[Line]:
    """Yield cores, disks and their rate for a node, and the storage that all nodes share."""
    yield _cores(of)
    size = _disk_bytes(of)
    rate = _disk_rate(of)
    yield size
    yield rate
    yield _drives(size.amount, rate.amount)
    if isinstance(of.workload, Training):
        yield _storage(of, tokens)


def ram_lines(of: Setting) -> Iterator[Line]:
    """Yield RAM for device memory by rule, for what is offloaded, and up to the next size that modules add up to.

        devices · GB · ratio · 2^30  +  offloaded · 1.1  →  the next size      [bytes]

    Memory modules and device memory are both sold in GB that are nearer GiB, so both are counted in GiB.
    Raises: Problem for a device whose memory is the host's.
    Source: nvidia_certified, dgx_guides
    """
    if of.accelerator.unified_memory:
        raise Problem(f"the memory of {of.accelerator.name} is the RAM of its host; there is no other to plan")
    by = rule("RAM to device memory", of.kind)
    sold = {
        "devices_in_node": of.server.devices,
        "device_gigabytes": of.accelerator.memory_gb,
        "bytes_per_gibibyte": GIB,
    }
    terms = [ruled("for each GB of device memory", sold, "ram_ratio", by)]
    away = host_memory(of.model, of.workload, of.layout).total
    if away:
        beside = rule("RAM beside what is offloaded")
        in_node = min(of.server.devices, of.layout.devices)
        offloaded = {"devices_in_node": in_node, "offloaded_bytes": away, "one_percent": 1 / 100}
        terms.append(ruled("offloaded from the devices", offloaded, "percent", beside))
    asked = [Breakdown("bytes", tuple(terms)).total, Breakdown("bytes", tuple(terms)).high]
    more, most = (_module_size(each) - each for each in asked)
    size = choices("RAM size")[0]
    terms.append(
        Term("up to a size of memory modules", {"bytes": more}, "", "cluster", size.source, (0, max(more, most)))
    )
    yield line("RAM of a node", GROUP, "bytes", *terms, why=by.basis)


def _module_size(asked: Quantity) -> int:
    sizes = [each.likely * GIB for each in choices("RAM size")]
    least = max(asked, rule("least RAM").likely * GIB)
    whole = ceil(least / sizes[-1]) * sizes[-1]
    return int(next((size for size in sizes if size >= least), whole))


def _cores(of: Setting) -> Line:
    by, beside = rule("cores per device", of.kind), rule("cores beside the devices")
    terms = (
        ruled("for each device", {"devices_in_node": of.server.devices}, "cores_per_device", by),
        ruled("engine or system", {}, "cores", beside),
    )
    return line("cores of a node", GROUP, "cores", *terms, why=by.basis)


def state_bytes(of: Setting) -> int:
    """Return the bytes of one checkpoint of a training run: weights and optimizer states of the whole model."""
    assert isinstance(of.workload, Training)
    return int(checkpoint_time(of.model, of.workload, of.layout).terms[0].factors["state_bytes"])


def _disk_bytes(of: Setting) -> Line:
    """The files of the weights on each node, and a node's share of the checkpoints that are kept."""
    room, files = rule("room on disks"), weights(of.model, of.workload.weights).total
    terms = [ruled("weights", {"weight_bytes": files, "one_percent": 1 / 100}, "percent", room)]
    if isinstance(of.workload, Training):
        kept = rule("checkpoints kept")
        share = {"state_bytes": state_bytes(of), "over_nodes": 1 / of.nodes}
        terms.append(ruled("checkpoints", share, "checkpoints_kept", kept))
    return line("NVMe of a node", GROUP, "bytes", *terms, why=f"weights: {room.basis}")


def _disk_rate(of: Setting) -> Line:
    """What the disks of a node must deliver so that its devices have their weights in time."""
    by, files = rule("load time asked for"), weights(of.model, of.workload.weights).total
    share = min(of.server.devices, of.layout.devices) * of.layout.replicas
    in_node = min(1.0, share / of.layout.devices)
    factors = {"weight_bytes": files, "share_in_node": in_node, "gigabytes_per_byte": 1 / GB}
    rate = Term("load of the weights", {**factors, "loads_per_second": 1 / by.likely}, "", "cluster", by.source)
    span = rate.amount * by.likely / by.high, rate.amount * by.likely / by.low
    loads = Term(rate.name, rate.factors, "", "cluster", by.source, span)
    return line("NVMe rate of a node", GROUP, "GB/s", loads, why=by.basis)


def _drives(size: Breakdown, rate: Breakdown) -> Line:
    by, read = rule("drive size"), rule("drive read rate")
    for_size, for_rate = ceil(size.total / (by.likely * TERA)), ceil(rate.total / read.likely)
    drives = max(1, for_size, for_rate)
    why = f"the larger of {for_size:,} for the size ({by.basis}) and {for_rate:,} for the rate ({read.basis})"
    return line("drives of a node", GROUP, "drives", Term("drives", {"drives": drives}, source=by.source), why=why)


def _storage(of: Setting, tokens: int | None) -> Line:
    kept, stored = rule("checkpoints kept"), rule("bytes per stored token")
    terms = [ruled("checkpoints", {"state_bytes": state_bytes(of)}, "checkpoints_kept", kept)]
    if tokens:
        terms.append(ruled("data set", {"training_tokens": tokens}, "bytes_per_token", stored))
    return line("shared storage", GROUP, "bytes", *terms, why=f"{kept.basis}; tokens as {stored.basis}")


def shortfalls(of: Setting, lines: dict[str, Line]) -> tuple[str, ...]:
    """Say where a chosen server or instance has less than the rules ask for."""
    node, instance = of.server.node, of.server.instance
    has: dict[str, tuple[float | None, float, str]] = {}
    if node is not None:
        has["RAM of a node"] = node.ram_gb, GIB, "GiB of RAM"
        has["cores of a node"] = node.cores, 1, "cores"
        has["NVMe of a node"] = node.nvme_tb, TERA, "TB of NVMe"
    if instance is not None:
        has["RAM of a node"] = instance.ram_gib, GIB, "GiB of RAM"
        has["cores of a node"] = instance.vcpus and instance.vcpus / 2, 1, "cores (two vCPUs each)"
        has["NVMe of a node"] = instance.nvme_gb, GB, "GB of NVMe"
    short = [_short(of, lines[name].amount, *what) for name, what in has.items() if _is_short(lines, name, *what)]
    if of.layout.tensor > of.server.devices:
        short.append(
            f"tensor {of.layout.tensor} speaks in every layer, over nodes of {of.server.devices}: "
            f"the network between them is many times slower than the links inside"
        )
    return tuple(short)


def _is_short(lines: dict[str, Line], name: str, there: float | None, unit: float, _: str) -> bool:
    return name in lines and there is not None and there * unit < lines[name].amount.low


def _short(of: Setting, needed: Breakdown, there: float | None, unit: float, what: str) -> str:
    return (
        f"{of.server.name} has {there or 0:,.0f} {what}; the rule asks for {needed.total / unit:,.0f}, "
        f"at least {needed.low / unit:,.0f}"
    )
