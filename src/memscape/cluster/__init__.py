"""From bytes to a bill of materials: devices, servers, hosts, network, power, money, failures.

What only a bill needs is loaded when one is asked for, so that `import memscape` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memscape.catalog import Accelerator
from memscape.cluster.placement import RESERVE_PERCENT, Fit, Place, fewest_devices, room_of, smallest_fits
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    from datetime import date

    from memscape.cluster.bill import Cluster
    from memscape.cluster.money import Offer
    from memscape.cluster.sizing import Line, Rule, Server, rule
    from memscape.hardware import Instance, Node

__all__ = [
    "RESERVE_PERCENT",
    "Cluster",
    "Fit",
    "Line",
    "Offer",
    "Place",
    "Rule",
    "Server",
    "cluster",
    "fewest_devices",
    "room_of",
    "rule",
    "smallest_fits",
]
LATER = {"Cluster": "bill", "Offer": "money", "Line": "sizing", "Rule": "sizing", "Server": "sizing", "rule": "sizing"}


def __getattr__(name: str) -> Any:
    """Load what a bill is made of when it is asked for."""
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)


def cluster(
    model: Model,
    workload: Inference | Training,
    accelerator: Accelerator | str | None = None,
    node: Node | Instance | str | None = None,
    layout: Layout | None = None,
    reserve: int | None = None,
    *,
    tokens: int | None = None,
    utilisation: float | None = None,
    goodput: float | None = None,
    budget: float | None = None,
    provider: str | None = None,
    region: str | None = None,
    usd_per_hour: float | None = None,
    usd_per_kwh: float | None = None,
    pue: float | None = None,
    grid: str = "US average",
    today: date | None = None,
) -> Cluster:
    """Work out the cluster for a workload: devices and their layout, servers, network, power, money, failures.

    `node`         a server or cloud instance of the catalogue; None: a server by rule, as large as it needs to be
    `layout`       None: the smallest that fits (`smallest_fits`)
    `reserve`      percent of each device that stays free; None: 10, or 0 for an engine that fills the device itself
    `tokens`       of a training run; `utilisation` (causal MFU) and `goodput` in percent where they are known better
    `budget`       USD per hour; `usd_per_hour` is an own price of the instance, `provider` and `region` those of the
                   cloud, as `instances.csv` names them
    `pue`, `usd_per_kwh`, `grid`   of the site, where they are known better than the rules
    Raises: Problem where nothing fits, with the nearest and by how much it misses; where the server has another device;
    where a chosen instance has no price; where the budget does not suffice.
    """
    from memscape.cluster.bill import bill_of

    return bill_of(
        model,
        workload,
        accelerator,
        node,
        layout,
        reserve,
        tokens=tokens,
        utilisation=utilisation,
        goodput=goodput,
        budget=budget,
        provider=provider,
        region=region,
        usd_per_hour=usd_per_hour,
        usd_per_kwh=usd_per_kwh,
        pue=pue,
        grid=grid,
        today=today,
    )
