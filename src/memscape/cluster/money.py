"""What it costs: renting with the day of the price, buying, electricity, CO2e."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from memscape import tables
from memscape.breakdown import Breakdown, Term, ceil_div
from memscape.cluster.sizing import Line, Setting, choice, follows, line, rule, ruled
from memscape.hardware import ANYWHERE, Instance, instances_with
from memscape.problem import Problem, chosen

GROUP = "money"


@dataclass(frozen=True)
class Offer:
    """Cloud instances that hold the devices: how many, what an hour of all costs, and how old the price is."""

    instance: Instance
    count: int
    usd_per_hour: Breakdown
    stale: bool

    @property
    def dated(self) -> str:
        """The price's day in words, with a mark where it may be older than a year."""
        return "; ".join(self.usd_per_hour.notes)


@dataclass(frozen=True)
class Prices:
    """What is known better than the rules: USD per hour of an instance, per kWh, PUE, the grid, a budget per hour."""

    usd_per_hour: float | None = None
    usd_per_kwh: float | None = None
    pue: float | None = None
    grid: str = "US average"
    budget: float | None = None
    provider: str | None = None
    region: str | None = None

    def __post_init__(self) -> None:
        """Refuse a price or a budget that cannot be."""
        for name in ("usd_per_hour", "usd_per_kwh", "budget", "pue"):
            value, least = getattr(self, name), 1 if name == "pue" else 0
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not (least if least else 1e-9) <= value < float("inf"):
                raise Problem(f"{name} is {str(value)[:20]}; use a number {'from 1' if least else 'above 0'}")
        choice("grid intensity", self.grid)
        if self.provider is not None:
            known = {row["provider"] for row in tables.rows("instances")}
            object.__setattr__(self, "provider", chosen("provider", self.provider, known))
        if self.region is not None:
            regions = {row[name] for row in tables.rows("instances") for name in ("us_region", "cheapest_region")}
            object.__setattr__(self, "region", chosen("region", self.region, regions - {"", ANYWHERE}))

    def of(self, instance: Instance) -> float | None:
        """What an hour of an instance costs: as given, or by the catalogue, in the region if one is asked for."""
        if self.provider not in (None, instance.provider):
            return None
        return self.usd_per_hour or instance.usd_in(self.region)


def offers(of: Setting, prices: Prices, today: date) -> tuple[Offer, ...]:
    """Return the instances that hold the layout with a price, the cheapest first; those with stale prices come last.

    An instance must hold a whole tensor-parallel group: these devices speak in every layer.
    """
    asked = of.server.instance
    if prices.usd_per_hour is not None and asked is None:
        raise Problem("usd_per_hour is the price of a cloud instance; name one as node, as in p5.48xlarge")
    there = (asked,) if asked else instances_with(of.accelerator)
    least = min(of.layout.tensor, of.accelerator.devices_per_node)
    priced = ((each, prices.of(each)) for each in there if each.devices >= max(1, least))
    found = [_offer(of, each, price, prices, today) for each, price in priced if price is not None]
    return tuple(sorted(found, key=lambda offer: (offer.stale, float(offer.usd_per_hour.total))))


def _offer(of: Setting, instance: Instance, price: float, prices: Prices, today: date) -> Offer:
    count = int(ceil_div(of.layout.devices, int(instance.devices)))
    stale = prices.usd_per_hour is None and instance.stale(today)
    note = "as given" if prices.usd_per_hour else f"price of {instance.price_date}"
    cost = {"instances": count, "usd_per_instance_hour": price}
    term = Term(f"{instance.provider} {instance.name}", cost, instance.provider, "cluster", instance.source)
    notes = (note, *(("stale: older than a year; look it up again",) if stale else ()))
    return Offer(instance, count, Breakdown("USD/h", (term,), notes), stale)


def check_budget(of: Setting, found: tuple[Offer, ...], prices: Prices) -> None:
    """Refuse a budget that the cheapest offer exceeds, saying by how much."""
    if prices.budget is None or (found and found[0].usd_per_hour.total <= prices.budget):
        return
    if not found:
        raise Problem(
            f"no offer for {of.layout.devices:,} × {of.accelerator.name} has a price, so a budget cannot be kept; "
            f"leave budget out, or take another accelerator{' or provider' if prices.provider else ''}"
        )
    first = found[0]
    raise Problem(
        f"the cheapest offer for {of.layout.devices:,} × {of.accelerator.name}, {first.count:,} × "
        f"{first.instance.provider} {first.instance.name} ({first.dated}), costs {first.usd_per_hour.total:,.2f} USD "
        f"per hour, {first.usd_per_hour.total - prices.budget:,.2f} above the budget of {prices.budget:,.2f}; "
        f"raise it, or use a smaller precision or another accelerator"
    )


def rent_lines(found: tuple[Offer, ...], lines: dict[str, Line]) -> Iterator[Line]:
    """Yield what renting costs per hour, month, million tokens or run, by the cheapest offer."""
    first, month = found[0], rule("hours of a month")
    hourly = first.usd_per_hour
    yield Line("rent per hour", GROUP, hourly, "; ".join(hourly.notes))
    source = first.instance.source
    dated = f"on demand, every hour; {first.dated}"
    monthly = follows("rent", hourly, {"hours_of_a_month": month.likely}, source, "usd_per_hour")
    yield line("rent per month", GROUP, "USD/month", monthly, why=dated)
    yield from per_result("rent", hourly, source, lines, dated)


def per_result(word: str, hourly: Breakdown, source: str, lines: dict[str, Line], why: str) -> Iterator[Line]:
    """Yield the cost of a million tokens, and of a training run, at a cost per hour."""
    if "tokens per hour" in lines:
        speed = lines["tokens per hour"].amount
        factors = {"usd_per_hour": hourly.total, "tokens_in_a_million": 10**6, "hours_per_token": 1 / speed.total}
        span = hourly.low * 10**6 / speed.high, hourly.high * 10**6 / speed.low
        term = Term(word, factors, "", "cluster", source, span)
        name = f"{word} per million output tokens"
        yield line(name, GROUP, "USD per million tokens", term, why=f"{why}; busy all the time")
    if "hours of the run" in lines:
        hours = lines["hours of the run"].amount
        span = hours.low * hourly.low, hours.high * hourly.high
        term = Term(word, {"hours": hours.total, "usd_per_hour": hourly.total}, "", "cluster", source, span)
        yield line(f"{word} of the run", GROUP, "USD", term, why=why)


def energy_lines(of: Setting, lines: dict[str, Line], prices: Prices) -> Iterator[Line]:
    """Yield energy, electricity and CO2e of a month, and of a training run."""
    site = lines["average power of the site"].amount
    month, cost, grid = rule("hours of a month"), rule("electricity"), choice("grid intensity", prices.grid)
    energy = follows("energy", site, {"hours_of_a_month": month.likely}, site.terms[0].source, "kilowatts")
    yield line("energy per month", GROUP, "kWh", energy, why="average power of the site")
    paid = {"kilowatts": site.total}
    price = ruled("electricity", paid, "usd_per_kwh", cost, site)
    if prices.usd_per_kwh:
        price = follows("electricity", site, {"usd_per_kwh": prices.usd_per_kwh}, cost.source, "kilowatts")
    yield line(
        "electricity per hour", GROUP, "USD/h", price, why="price as given" if prices.usd_per_kwh else cost.basis
    )
    carbon = ruled("CO2e", {"kilowatt_hours": energy.amount}, "kilograms_per_kwh", grid, site)
    why = f"{grid.applies_to}: {grid.basis} ({grid.trust} trust); what making the hardware emits is not in it"
    yield line("CO2e per month", GROUP, "kg CO2e", carbon, why=why)
    if "hours of the run" in lines:
        hours = lines["hours of the run"].amount.total
        emitted = ruled("CO2e", {"kilowatts": site.total, "hours": hours}, "kilograms_per_kwh", grid, site)
        yield line("CO2e of the run", GROUP, "kg CO2e", emitted, why=why)


def buy_lines(of: Setting, lines: dict[str, Line]) -> Iterator[Line]:
    """Yield the price of the hardware, its cost per hour over its life, and when buying has paid off.

    Raises: Problem where the device has no indicative price.
    """
    card = of.accelerator
    if card.price_usd is None:
        raise Problem(f"no price of {card.name} is known, so buying cannot be set against renting; ask for an offer")
    capital = line(
        "hardware", GROUP, "USD", *_capital(of, card.price_usd), why="a guess for a budget, no offer: low trust"
    )
    yield capital
    yield (owned := _owned(capital.amount, lines))
    yield from per_result("own", owned.amount, "trade_press", lines, owned.rule)
    if "rent per hour" in lines:
        yield from _paid_off(capital.amount, owned.amount, lines["rent per hour"].amount)


def _capital(of: Setting, usd: float) -> Iterator[Term]:
    server, beside = rule("server over its devices"), rule("network and storage over servers")
    one = {"devices_installed": of.installed, "usd_per_device": usd}
    if of.accelerator.unified_memory:
        yield Term("machines", one, "", "cluster", "accelerator_sheets")
        return
    machines = ruled("servers", one, "server_ratio", server)
    yield machines
    if of.nodes >= rule("nodes from which a fabric is bought").likely:
        yield ruled("network and storage", {"usd_of_servers": machines.amount, "one_percent": 0.01}, "percent", beside)


def _owned(capital: Breakdown, lines: dict[str, Line]) -> Line:
    life, floor, month = rule("depreciation"), rule("colocation"), rule("hours of a month")
    over = {"usd_of_hardware": capital.total, "over_hours_of_life": 1 / (life.likely * 12 * month.likely)}
    share = capital.total * over["over_hours_of_life"]
    ends = share * capital.low / capital.total * life.likely / life.high
    worst = share * capital.high / capital.total * life.likely / life.low
    power = lines["power at most"].amount.total
    room = {"kilowatts": power, "over_hours_of_a_month": 1 / month.likely}
    electricity = lines["electricity per hour"].amount
    terms = (
        Term("depreciation", over, "", "cluster", life.source, (ends, worst)),
        ruled("space and cooling", room, "usd_per_kilowatt_month", floor),
        *electricity.terms,
    )
    return line("own per hour", GROUP, "USD/h", *terms, why=f"{life.basis}; {floor.basis}; people are not in it")


def _paid_off(capital: Breakdown, owned: Breakdown, rent: Breakdown) -> Iterator[Line]:
    """Months after which the hardware has cost less than renting it would have, running costs included."""
    running = owned.total - owned.only(name="depreciation").total
    saved = rent.total - running
    if saved <= 0:
        return
    month = rule("hours of a month")
    factors = {
        "usd_of_hardware": capital.total,
        "over_usd_saved_per_hour": 1 / saved,
        "over_hours_of_a_month": 1 / month.likely,
    }
    amount = Term("", factors).amount
    span = amount * capital.low / capital.total, amount * capital.high / capital.total
    term = Term("hardware over what it saves", factors, "", "cluster", "trade_press", span)
    yield line("buying has paid off after", GROUP, "months", term, why="if it is busy all the time")
