"""Rates that are reached: what a data sheet promises times the share that others measured, with its spread."""

from __future__ import annotations

from dataclasses import dataclass

from memscape import tables
from memscape.breakdown import Quantity, Term
from memscape.catalog import Accelerator
from memscape.problem import Problem
from memscape.workload import Inference, Training

GIGA, TERA, MICRO = 10**9, 10**12, 10**-6


@dataclass(frozen=True)
class Rate:
    """So much per second, at best, and the share of it that is reached: lowest, likely, highest, in percent.

    `nics` are the network cards that work at once, each of which has the peak.
    """

    peak: float
    share: tuple[float, float, float]
    unit: str
    source: str
    nics: int = 1

    @property
    def likely(self) -> float:
        """What is reached per second."""
        return self.peak * self.nics * self.share[1] / 100


def share(name: str, accelerator: Accelerator | None = None, kind: str = "") -> tables.Row:
    """Return the row of `data/efficiencies.csv` for an architecture (or PCIe generation); the first that applies."""
    wanted = kind or (accelerator.architecture if accelerator else "")
    return next(
        row
        for row in tables.rows("efficiencies")
        if row["name"] == name and (not row["architecture"] or row["architecture"] in wanted)
    )


def spread(row: tables.Row) -> tuple[float, float, float]:
    """Return lowest, likely and highest of a row."""
    return float(row["low"]), float(row["likely"]), float(row["high"])


def matmul(accelerator: Accelerator, workload: Inference | Training) -> Rate:
    """Return how fast matrices are multiplied in the number type of a workload."""
    wide = workload.weights.lower() == "fp32" and getattr(workload, "precision", "fp32") == "fp32"
    narrow = isinstance(workload, Inference) and workload.weights.lower().startswith("fp8")
    eighth = accelerator.fp8_tflops if narrow else None
    peak = accelerator.fp32_tflops if wide else (eighth or accelerator.bf16_tflops)
    if peak is None:
        kind = "fp32" if wide else "bf16"
        raise Problem(
            f"the {kind} rate of {accelerator.name} is not known; add it to accelerators.csv, or take another"
        )
    row = share("matmul", accelerator)
    return Rate(peak * TERA, spread(row), "flops", row["source"])


def memory(accelerator: Accelerator) -> Rate:
    """Return how fast a device reads its own memory."""
    if accelerator.bandwidth_gb_per_s is None:
        raise Problem(
            f"the memory bandwidth of {accelerator.name} is not known; add it to accelerators.csv, or take another"
        )
    row = share("memory bandwidth", accelerator)
    return Rate(accelerator.bandwidth_gb_per_s * GIGA, spread(row), "bytes", row["source"])


def measured(row: tables.Row) -> Rate:
    """Return the rate of a row in GB/s."""
    return Rate(float(row["likely"]) * GIGA, _relative(row), "bytes", row["source"])


def _relative(row: tables.Row) -> tuple[float, float, float]:
    low, likely, high = spread(row)
    return 100 * low / likely, 100.0, 100 * high / likely


def seconds(name: str, amount: dict[str, Quantity], rate: Rate, group: str, phase: str, source: str) -> Term:
    """Return the time that an amount takes at a rate: amount · seconds at the peak · 100 / percent reached."""
    factors = amount | {f"seconds_per_{rate.unit[:-1]}": 1 / rate.peak, "over_share_reached": 100 / rate.share[1]}
    factors |= {"over_nics": 1 / rate.nics} if rate.nics > 1 else {}
    term = Term(name, factors, group, phase, source)
    low, likely, high = rate.share
    # a higher share takes less time
    return Term(name, factors, group, phase, source, (term.amount * likely / high, term.amount * likely / low))
