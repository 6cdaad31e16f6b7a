"""The whole bill of materials of a cluster, every line of it an amount that opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from memscape.breakdown import Breakdown, Term
from memscape.catalog import Accelerator
from memscape.cluster.host import host_lines, ram_lines, shortfalls
from memscape.cluster.money import Offer, Prices, buy_lines, check_budget, energy_lines, offers, rent_lines
from memscape.cluster.network import network_lines
from memscape.cluster.placement import Search
from memscape.cluster.power import power_lines
from memscape.cluster.reliability import reliability_lines
from memscape.cluster.server import placed
from memscape.cluster.sizing import Line, Server, Setting, line
from memscape.cluster.work import Run, work_lines
from memscape.hardware import Instance, Node
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem, chosen
from memscape.workload import Inference, Training

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Cluster:
    """What holds and runs a workload. `lines` is the bill; `amount(name)` opens one of its lines.

    `held` is what the busiest device holds and `room` what it may use. `offers` are cloud instances, the cheapest first
    and those with stale prices last. `unknown` says why a part of the bill is missing, `short` where the chosen server
    has less than the rules ask for.
    """

    model: Model
    workload: Inference | Training
    accelerator: Accelerator
    layout: Layout
    server: Server
    nodes: int
    held: Breakdown
    room: int
    lines: tuple[Line, ...]
    offers: tuple[Offer, ...]
    unknown: tuple[str, ...] = field(default=())
    short: tuple[str, ...] = field(default=())

    @property
    def devices(self) -> int:
        """The devices that the layout uses."""
        return int(self.layout.devices)

    @property
    def racks(self) -> int | None:
        """The racks; None where the power of a node is not known."""
        found = [each.amount.total for each in self.lines if each.name == "racks"]
        return int(found[0]) if found else None

    @property
    def spare_bytes(self) -> int:
        """What is left of the bytes that the busiest device may use."""
        return int(self.room - self.held.total)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the lines, in the order of the bill."""
        return tuple(each.name for each in self.lines)

    def line(self, name: str) -> Line:
        """Return a line by its name; an unknown one is refused with the nearest ones, or with why it is missing."""
        known = {each.name: each for each in self.lines}
        try:
            return known[chosen("line", name, known)]
        except Problem as problem:
            why = f"; of this cluster is not known: {'; '.join(self.unknown)}" if self.unknown else ""
            raise Problem(f"{problem}{why}") from None

    def amount(self, name: str) -> Breakdown:
        """Return the amount of a line: `cluster.amount("power of a node").total`."""
        return self.line(name).amount

    def to_frame(self) -> pandas.DataFrame:
        """Return the bill as a pandas DataFrame: group, name, amount, low, high, unit, rule, sources."""
        import pandas

        columns = ("group", "name", "amount", "low", "high", "unit", "rule", "sources")
        rows = [
            (
                *(each.group, each.name, each.amount.total, each.amount.low, each.amount.high, each.amount.unit),
                *(each.rule, ", ".join(each.amount.sources)),
            )
            for each in self.lines
        ]
        return pandas.DataFrame(rows, columns=list(columns))


def bill_of(
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
    """Work out the cluster for a workload; see `memscape.cluster`."""
    run = Run(tokens, utilisation, goodput)
    prices = Prices(usd_per_hour, usd_per_kwh, pue, grid, budget, provider, region)
    run.check(workload)
    stand = placed(Search(model, workload), accelerator, node, layout, reserve)
    setting, instance = stand.setting, stand.setting.server.instance
    if instance is not None and usd_per_hour is None:
        instance.price()
    found = offers(setting, prices, today or date.today())
    check_budget(setting, found, prices)
    lines, unknown = _bill(setting, run, prices, found)
    short = shortfalls(setting, lines)
    bill = (setting.accelerator, setting.layout, setting.server, setting.nodes, stand.held, stand.room)
    return Cluster(model, workload, *bill, tuple(lines.values()), found, unknown, short)


def _bill(of: Setting, run: Run, prices: Prices, found: tuple[Offer, ...]) -> tuple[dict[str, Line], tuple[str, ...]]:
    """Collect the parts; one that needs an unknown figure is left out and says why."""
    lines: dict[str, Line] = {}
    unknown: list[str] = []
    parts: tuple[Callable[[], Iterator[Line]], ...] = (
        lambda: _devices(of),
        lambda: ram_lines(of),
        lambda: host_lines(of, run.tokens),
        lambda: network_lines(of),
        lambda: power_lines(of, lines, prices.pue),
        lambda: work_lines(of, run),
        lambda: _renting(of, found, lines, prices),
        lambda: _paid(lines, energy_lines(of, lines, prices)),
        lambda: _paid(lines, buy_lines(of, lines)),
        lambda: reliability_lines(of),
    )
    for part in parts:
        try:
            for each in part():
                lines[each.name] = each
        except Problem as problem:
            unknown.append(str(problem))
    return lines, tuple(unknown)


def _renting(of: Setting, found: tuple[Offer, ...], lines: dict[str, Line], prices: Prices) -> Iterator[Line]:
    if not found:
        where = f" at {prices.provider}" if prices.provider else ""
        raise Problem(
            f"no instance{where} with {of.layout.tensor} or more {of.accelerator.name} has a price in the catalogue, "
            f"so renting is not known; add one to instances.csv, or name an instance and give usd_per_hour"
        )
    yield from rent_lines(found, lines)


def _paid(lines: dict[str, Line], part: Iterator[Line]) -> Iterator[Line]:
    """A part that needs power; where that is unknown, it has been said already."""
    if "average power of the site" in lines:
        yield from part


def _devices(of: Setting) -> Iterator[Line]:
    layout = of.layout
    degrees = {name: getattr(layout, name) for name in ("tensor", "pipeline", "data", "context")}
    term = Term("devices", degrees, "", "cluster", "narayanan2021")
    yield line("devices", "devices", "devices", term, why="tensor × pipeline × data × context")
    nodes = Term("nodes", {"nodes": of.nodes}, "", "cluster", "dgx_guides")
    why = f"{layout.devices:,} devices over {of.server.devices} in {of.server.name}, rounded up"
    yield line("nodes", "devices", "nodes", nodes, why=why)
    held = Term("installed", {"nodes": of.nodes, "devices_in_node": of.server.devices}, "", "cluster", "dgx_guides")
    yield line("devices installed", "devices", "devices", held, why="whole servers")
