"""How often something fails, what stands by for it, and how often to write a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, sqrt

from memscape.breakdown import Quantity, Term, maximum
from memscape.cluster.host import state_bytes
from memscape.cluster.sizing import Line, Setting, choice, line, rule, ruled
from memscape.units import GB
from memscape.workload import Training

GROUP = "reliability"
SECONDS_OF_AN_HOUR = 3600
SECONDS_OF_A_MINUTE = 60


def reliability_lines(of: Setting) -> Iterator[Line]:
    """Yield the time between failures, failures of a month, spare nodes; for training the checkpoint interval."""
    by, month = rule("device-hours per failure"), rule("hours of a month")
    share = 1 / of.layout.devices
    between = {"device_hours_per_failure": by.likely, "over_devices": share}
    mean = Term("between failures", between, "", "cluster", by.source, (by.low * share, by.high * share))
    yield line("time between failures", GROUP, "hours", mean, why=by.basis)
    often = {"hours_of_a_month": month.likely, "failures_per_hour": 1 / mean.amount}
    span = month.likely / mean.high, month.likely / mean.low
    yield line(
        "failures per month", GROUP, "failures", Term("failures", often, "", "cluster", by.source, span), why=by.basis
    )
    yield _spares(of)
    if isinstance(of.workload, Training):
        yield from _checkpoints(of, mean)


def _spares(of: Setting) -> Line:
    by, least = rule("spare nodes"), rule("nodes from which a spare stands by")
    floor = 1 if of.nodes >= least.likely else 0

    def number(percent: float) -> int:
        return int(maximum(floor, ceil(of.nodes * percent / 100))) if floor else 0

    term = Term(
        "spare nodes", {"spare_nodes": number(by.likely)}, "", "cluster", by.source, (number(by.low), number(by.high))
    )
    return line("spare nodes", GROUP, "nodes", term, why=f"{by.basis}; {least.basis}")


def _written(of: Setting) -> Line:
    """The time to write weights and optimizer states of the whole model to storage that grows with the cluster.

        bytes / min(nodes · rate of a node, units of 32 nodes · rate of a unit)      [seconds]

    Source: superpod
    """
    node, unit, nodes = (
        choice("shared storage write", "node"),
        choice("shared storage write", "unit"),
        rule("nodes of a storage unit"),
    )
    units = ceil(of.nodes / nodes.likely)
    by, number = (node, of.nodes) if of.nodes * node.likely <= units * unit.likely else (unit, units)
    factors = {
        "state_bytes": state_bytes(of),
        "over_storage_units": 1 / number,
        "seconds_per_byte": 1 / (by.likely * GB),
    }
    amount = Term("", factors).amount
    span = amount * by.likely / by.high, amount * by.likely / by.low
    term = Term("weights and optimizer states", factors, "", "cluster", by.source, span)
    return line("time of a checkpoint", GROUP, "seconds", term, why=f"{number:,} × {by.likely} GB/s: {by.basis}")


def _checkpoints(of: Setting, mean: Term) -> Iterator[Line]:
    """Yield the time of a checkpoint, the best interval between two, and the share of time that failures cost.

        √2 · √(time to write) · √(time between failures)      [seconds]

    Holds for: writing that takes much less than the time between failures and that stops the run meanwhile.
    Sources: young1974, daly2006
    """
    found = _written(of)
    written = found.amount
    yield found
    seconds = mean.amount * SECONDS_OF_AN_HOUR
    roots = {
        "root_of_two": sqrt(2),
        "root_of_write_seconds": sqrt(written.total),
        "root_of_seconds_between_failures": sqrt(seconds),
    }
    ends = (
        sqrt(2 * written.low * mean.low * SECONDS_OF_AN_HOUR),
        sqrt(2 * written.high * mean.high * SECONDS_OF_AN_HOUR),
    )
    every = Term("Young and Daly", roots, "", "cluster", "young1974", ends)
    yield line("checkpoint interval", GROUP, "seconds", every, why="writing costs as much as what a failure undoes")
    yield _lost(written.total, every.amount, seconds)


def _lost(write: Quantity, every: Quantity, between: Quantity) -> Line:
    """The share of time that writing takes, that is computed again, and that a restart takes; to first order."""
    back = rule("restart after a failure")
    failures = {"failures_per_second": 1 / between, "in_percent": 100}
    writing = {"write_seconds": write, "checkpoints_per_second": 1 / every, "in_percent": 100}
    again = {"half": 0.5, "seconds_between": every, **failures}
    restart = ruled("restarting", {"seconds_of_a_minute": SECONDS_OF_A_MINUTE, **failures}, "minutes_of_restart", back)
    terms = (
        Term("writing", writing, "", "cluster", "daly2006"),
        Term("work done again", again, "", "cluster", "daly2006"),
        restart,
    )
    return line("time lost to failures", GROUP, "percent", *terms, why=f"first order; restart: {back.basis}")
