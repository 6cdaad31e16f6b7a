"""Servers and cloud instances: `data/nodes.csv` and `data/instances.csv` as Node and Instance, and as tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any

from memscape import tables
from memscape.catalog import Accelerator, accelerator, table
from memscape.problem import Problem, chosen, one_of

if TYPE_CHECKING:
    import pandas

# a provider that prices alike in all its regions
ANYWHERE = "any"
STALE_AFTER_DAYS = 365
ORIGIN = ("source", "confidence", "checked_on")


@dataclass(frozen=True)
class Node:
    """A reference server, workstation or rack, as its maker or a reference system describes it; None is unknown.

    `ram_gb` is sold like memory modules: 2048 is "2 TB". `fabric_gbps` joins the devices of nodes, one direction.
    """

    name: str
    accelerator: str
    devices: int
    ram_gb: float | None
    cores: int | None
    nvme_tb: float | None
    fabric_gbps: float | None
    power_kw: float | None
    rack_units: float | None
    heat_btu_per_h: float | None
    cpu: str
    nics: str
    cooling: str
    psu: str
    source: str
    confidence: str
    checked_on: str
    notes: str


@dataclass(frozen=True)
class Instance:
    """A cloud machine: what it has, what an hour costs, and since when that price is known to have held.

    `usd_per_hour` is the list price on demand in `region`, None where the provider lists none. `price_date` is what the
    source says; `priced_from` is the earliest day that it can mean.
    """

    name: str
    provider: str
    accelerator: str
    devices: float  # below 1: a share of one
    vcpus: float | None
    ram_gib: float | None
    nvme_gb: float | None
    fabric_gbps: float | None
    region: str
    usd_per_hour: float | None
    cheapest_region: str
    cheapest_usd_per_hour: float | None
    spot_usd_per_hour: float | None
    price_date: str
    priced_from: date | None
    source: str
    confidence: str
    checked_on: str
    notes: str

    def price(self) -> float:
        """Return the list price of an hour on demand.

        Raises: Problem where the provider lists none; it names the spot price if there is one.
        """
        if self.usd_per_hour is not None:
            return self.usd_per_hour
        spot = f" (spot was {self.spot_usd_per_hour:,.2f} USD per hour)" if self.spot_usd_per_hour else ""
        raise Problem(
            f"{self.provider} lists no price on demand for {self.name}{spot}, as of {self.checked_on}; "
            f"give your own as usd_per_hour, or take another instance"
        )

    def usd_in(self, region: str | None = None) -> float | None:
        """Return the list price of an hour in a region (None: its own); None where it is not offered or not known."""
        if region in (None, self.region) or self.region == ANYWHERE:
            return self.usd_per_hour
        return self.cheapest_usd_per_hour if region == self.cheapest_region else None

    def stale(self, today: date | None = None) -> bool:
        """Whether the price may be older than a year: then it must be looked up again."""
        if self.priced_from is None:
            return False
        return ((today or date.today()) - self.priced_from).days > STALE_AFTER_DAYS


def checked(name: str) -> tuple[tables.Row, ...]:
    """Return the rows of a table of hardware; a row without source or date, or of an unknown device, is refused.

    Raises: Problem with the line of the row and the column.
    """
    return check_rows(name, tables.rows(name))


def check_rows(name: str, rows: tuple[tables.Row, ...]) -> tuple[tables.Row, ...]:
    """Return the rows if each has a source, a confidence, a day, a known device and, with a price, the price's day."""
    known = tables.by_key("accelerators")
    for line, row in enumerate(rows, 2):
        if missing := [column for column in ORIGIN if not row.get(column)]:
            raise Problem(f'{name}.csv, line {line}: "{row["name"]}" has no {one_of(missing)}; add it')
        if row["gpu"] not in known:
            raise Problem(
                f'{name}.csv, line {line}: "{row["name"]}" has the device "{row["gpu"]}", '
                f"which accelerators.csv does not list; correct the name, or add the device"
            )
        priced = row.get("on_demand_usd_per_hour"), row.get("priced_from")
        if priced[0] and not priced[1]:
            raise Problem(f'{name}.csv, line {line}: "{row["name"]}" has a price without a day; add priced_from')
    return rows


def node(name: str) -> Node:
    """Return a server of the catalogue: `node("DGX H100")`. An unknown name is refused with the nearest ones."""
    return _nodes()[chosen("node", name, _nodes())]


def instance(name: str) -> Instance:
    """Return a cloud instance of the catalogue: `instance("p5.48xlarge")`."""
    return _instances()[chosen("instance", name, _instances())]


def nodes_with(card: Accelerator) -> tuple[Node, ...]:
    """Return the servers of the catalogue that have an accelerator, the surest and smallest first."""
    sure = {"high": 0, "medium": 1, "low": 2}
    found = [each for each in _nodes().values() if each.accelerator == card.name]
    return tuple(sorted(found, key=lambda each: (sure.get(each.confidence, 3), each.devices)))


def instances_with(card: Accelerator) -> tuple[Instance, ...]:
    """Return the cloud instances of the catalogue that have an accelerator, in file order."""
    return tuple(each for each in _instances().values() if each.accelerator == card.name)


@cache
def _nodes() -> dict[str, Node]:
    return {row["name"]: _node(row) for row in checked("nodes")}


def _node(row: tables.Row) -> Node:
    numbers = {
        "ram_gb": "ram_gb",
        "nvme_tb": "nvme_data_tb",
        "fabric_gbps": "compute_network_gbps_total",
        "power_kw": "max_power_kw",
        "heat_btu_per_h": "heat_btu_per_h",
    }
    cores, units = _number("nodes", row, "cpu_cores_total"), row["rack_units"]
    return Node(
        name=row["name"],
        accelerator=accelerator(row["gpu"]).name,
        devices=int(row["gpu_count"]),
        cores=None if cores is None else int(cores),
        # "tower" and the like take no place in a rack
        rack_units=float(units) if units.replace(".", "").isdigit() else None,
        cpu=row["cpu_model"],
        nics=row["nics"],
        cooling=row["cooling"],
        psu=row["psu"],
        notes=row["notes"],
        **_origin(row),
        **_numbers("nodes", row, numbers),
    )


@cache
def _instances() -> dict[str, Instance]:
    return {row["name"]: _instance(row) for row in checked("instances")}


def _instance(row: tables.Row) -> Instance:
    numbers = {
        "vcpus": "vcpus",
        "ram_gib": "ram_gib",
        "nvme_gb": "local_nvme_gb",
        "fabric_gbps": "network_gbps",
        "usd_per_hour": "on_demand_usd_per_hour",
        "cheapest_usd_per_hour": "cheapest_on_demand_usd_per_hour",
        "spot_usd_per_hour": "spot_usd_per_hour",
    }
    return Instance(
        name=row["name"],
        provider=row["provider"],
        accelerator=accelerator(row["gpu"]).name,
        devices=_number("instances", row, "gpu_count") or 0,
        region=row["us_region"],
        cheapest_region=row["cheapest_region"],
        price_date=row["price_date"],
        priced_from=date.fromisoformat(row["priced_from"]) if row["priced_from"] else None,
        notes=row["notes"],
        **_origin(row),
        **_numbers("instances", row, numbers),
    )


def _origin(row: tables.Row) -> dict[str, Any]:
    return {name: row[name] for name in ORIGIN}


def _numbers(name: str, row: tables.Row, columns: dict[str, str]) -> dict[str, Any]:
    return {field: _number(name, row, column) for field, column in columns.items()}


def _number(name: str, row: tables.Row, column: str) -> float | None:
    value = tables.number(name, row, column)
    return int(value) if value is not None and value.is_integer() else value


def nodes() -> pandas.DataFrame:
    """Return the servers of the catalogue, one row each."""
    return table(checked("nodes"))


def instances(today: date | None = None) -> pandas.DataFrame:
    """Return the cloud instances of the catalogue, one row each; `stale` marks prices that may be older than a year."""
    frame = table(checked("instances"))
    frame["stale"] = [_instances()[name].stale(today) for name in frame.index]
    return frame
