"""The plan: every accelerator tried, the clusters that hold a workload ranked, the others with their reason."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import TYPE_CHECKING, Any

from memscape import tables
from memscape.catalog import Accelerator, accelerator
from memscape.cluster.money import Offer, Prices, offers
from memscape.cluster.placement import Search
from memscape.cluster.server import Stand, placed
from memscape.cluster.sizing import Setting
from memscape.model import Model
from memscape.performance import ServingTime, performance
from memscape.problem import Problem, chosen
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    import pandas

RANKS = {"cost": "usd_per_hour", "latency": "latency_s", "devices": "devices"}
COLUMNS = (
    *("accelerator", "fits", "devices", "tensor", "pipeline", "data", "held_bytes", "spare_bytes", "latency_s"),
    *("instance", "instances", "usd_per_hour", "price_of", "why"),
)


def plan(
    model: Model,
    workload: Inference | Training,
    *,
    accelerators: Collection[str | Accelerator] | None = None,
    provider: str | None = None,
    region: str | None = None,
    budget: float | None = None,
    latency_s: float | None = None,
    devices: int | None = None,
    node_devices: int | None = None,
    rank: str = "cost",
    reserve: int | None = None,
    today: date | None = None,
) -> pandas.DataFrame:
    """Return a cluster for every accelerator, the best first; those that do not do have a reason in `why`.

    `latency_s` is the time of one output token, or of one update in training. `budget` (USD per hour), `latency_s` and
    `devices` are the most that is accepted, `node_devices` the most devices in a server; `provider` and `region` are
    where it may be rented. `rank` is "cost", "latency" or "devices"; what is not known comes after what is, and stale
    prices after fresh ones. Prices carry their day in `price_of`.
    Raises: Problem for a rank, an accelerator, a provider or a region that is not known, or limits that cannot be.
    """
    import pandas

    rows = candidates(
        model,
        workload,
        accelerators=accelerators,
        provider=provider,
        region=region,
        budget=budget,
        latency_s=latency_s,
        devices=devices,
        node_devices=node_devices,
        rank=rank,
        reserve=reserve,
        today=today,
    )
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def candidates(
    model: Model,
    workload: Inference | Training,
    *,
    accelerators: Collection[str | Accelerator] | None = None,
    provider: str | None = None,
    region: str | None = None,
    budget: float | None = None,
    latency_s: float | None = None,
    devices: int | None = None,
    node_devices: int | None = None,
    rank: str = "cost",
    reserve: int | None = None,
    today: date | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of `plan`, one dict for each accelerator; what is not known has no key."""
    by = RANKS[chosen("rank", rank, RANKS)]
    most = {"budget": budget, "latency_s": latency_s, "devices": devices, "node_devices": node_devices}
    for name, value in most.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise Problem(f"{name} is {str(value)[:20]}; use a number above 0, or leave it out")
    known = tables.by_key("accelerators")
    cards = [each if isinstance(each, Accelerator) else accelerator(each) for each in accelerators or known]
    search, limits = Search(model, workload), _Limits(budget, latency_s, devices, provider, region)
    today = today or date.today()
    rows = [_candidate(search, card, reserve, node_devices, limits, today) for card in cards]

    def place(row: dict[str, Any]) -> tuple[bool, bool, bool, float]:
        value = row.get(by)
        return not row["fits"], rank == "cost" and row.get("stale", False), value is None, value or 0

    return sorted(rows, key=place)


class _Limits:
    """The most that is accepted of money, time and devices."""

    def __init__(
        self,
        budget: float | None,
        latency_s: float | None,
        devices: int | None,
        provider: str | None,
        region: str | None,
    ) -> None:
        self.budget, self.latency_s, self.devices = budget, latency_s, devices
        self.prices = Prices(provider=provider, region=region)
        self.where = " in ".join(each for each in (provider, region) if each)

    def broken(self, row: dict[str, Any]) -> str:
        """Say which limit a candidate breaks, and by how much; nothing if none."""
        found = []
        if self.devices and row["devices"] > self.devices:
            found.append(f"needs {row['devices']:,} devices, {row['devices'] - self.devices:,} more than asked")
        time, price = row["latency_s"], row["usd_per_hour"]
        if self.latency_s and time is None:
            found.append("its speed is not known")
        elif self.latency_s and time > self.latency_s:
            found.append(f"takes {time:.3g} s, {time / self.latency_s:.2g} times as long as asked")
        if price is None and (self.budget or self.where):
            found.append(f"has no price{f' of {self.where}' if self.where else ''} in the catalogue")
        elif self.budget and price is not None and price > self.budget:
            found.append(f"costs {price:,.2f} USD an hour, {price - self.budget:,.2f} too much")
        return "; ".join(found)


def _candidate(
    search: Search, card: Accelerator, reserve: int | None, most: int | None, limits: _Limits, today: date
) -> dict[str, Any]:
    try:
        stand = placed(search, card, reserve=reserve, most=most)
    except Problem as problem:
        return {"accelerator": card.name, "fits": False, "why": str(problem)}
    found = offers(stand.setting, limits.prices, today)
    row = _row(stand, found[0] if found else None)
    why = limits.broken(row)
    return row | {"fits": not why, "why": why}


def _row(stand: Stand, offer: Offer | None) -> dict[str, Any]:
    layout = stand.setting.layout
    return {
        "accelerator": stand.setting.accelerator.name,
        "devices": layout.devices,
        "tensor": layout.tensor,
        "pipeline": layout.pipeline,
        "data": layout.data,
        "held_bytes": stand.held.total,
        "spare_bytes": int(stand.room - stand.held.total),
        "latency_s": _latency(stand.setting),
        "instance": offer.instance.name if offer else "",
        "instances": offer.count if offer else None,
        "usd_per_hour": offer.usd_per_hour.total if offer else None,
        "price_of": offer.dated if offer else "",
        "stale": offer.stale if offer else False,
    }


def _latency(of: Setting) -> float | None:
    """The time of an output token, or of an update; None where the rates of the device are not known."""
    try:
        time = performance(of.model, of.workload, of.accelerator, of.layout)
    except Problem:
        return None
    return float(time.time_per_output_token_s if isinstance(time, ServingTime) else time.step_s)
