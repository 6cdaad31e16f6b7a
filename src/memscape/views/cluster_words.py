"""The words and tables of the page about the cluster: the answer, the bill, offers, advice, every accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

from memscape import units
from memscape.breakdown import Breakdown
from memscape.cluster import Cluster, Line
from memscape.cluster.placement import spread_of
from memscape.views import text
from memscape.views.folds import fold
from memscape.workload import Inference, Training

GROUPS = {
    "devices": "Devices",
    "host": "Each server",
    "network": "Network",
    "power": "Power and cooling",
    "work": "What it does",
    "money": "Money and carbon",
    "reliability": "Failures",
}
MOST_OFFERS = 8
BEST = 12
WHOLE = 1000  # from so many dollars on cents are not shown
# what a manager asks first, by the names of the lines
SHORT = (
    *("devices", "nodes", "racks", "power of a node", "average power of the site"),
    *("rent per hour", "rent per month", "rent of the run", "rent per million output tokens", "hardware"),
)
NONE = "<p>None with a price in the catalogue.</p>"


def doing(asked: Inference | Training) -> str:
    """Return what is done, in a word."""
    return "Training" if isinstance(asked, Training) else "Serving"


def answer(bill: Cluster, missed: str) -> str:
    """Return the headline: how many of which device, what is left, where it stands and what it costs."""
    rent = bill.offers[0] if bill.offers else None
    money = (
        f" The cheapest instance known that holds it is {rent.count:,} × <b>{escape(rent.instance.name)}</b> "
        f"({escape(rent.instance.provider)}) for <b>{rent.usd_per_hour.total:,.2f} USD an hour</b>, "
        f"{escape(rent.dated)}."
        if rent
        else " No instance with a price in the catalogue holds it."
    )
    servers = f"{bill.nodes:,} {'server' if bill.nodes == 1 else 'servers'}"
    return (
        f"<p class='over'>{doing(bill.workload)} {escape(bill.model.label)} takes at least</p>"
        f"<p class='big'>{bill.devices:,} × {escape(bill.accelerator.name)}</p>"
        + (f"<p class='lead'><b>{escape(missed)}.</b></p>" if missed else "")
        + f"<p class='lead'>The busiest one holds <b>{units.amount(bill.held.total)}</b>; "
        f"{units.amount(bill.spare_bytes)} more may be used. They stand in {servers}.{money}</p>"
        f"{text.band(bill.held, ' for that device')}"
    )


def summary(bill: Cluster) -> str:
    """Return the lines that a manager asks for first."""
    names = [name for name in SHORT if name in bill.names]
    rows = [(escape(_title(name)), _amount(bill.amount(name))) for name in names]
    table: str = text.simple_table(("What", "Amount"), rows, "compared wraps")
    return table


def lines(bill: Cluster) -> str:
    """Return the bill, each line of which opens."""
    parts = []
    for group, title in GROUPS.items():
        found = [_line(each) for each in bill.lines if each.group == group]
        if found:
            parts.append(f"<h3>{title}</h3><div class='parts'>{''.join(found)}</div>")
    return "".join(parts)


def _line(line: Line) -> str:
    shown = f"<span>{escape(_title(line.name))}</span><span>{_amount(line.amount)}</span>"
    return fold(line.name, shown, partial(_behind, line))


def _behind(line: Line) -> str:
    """The rule of a line and its terms."""
    rows = (
        (
            escape(term.name),
            " · ".join(text.symbol_html(name) for name in term.factors),
            escape(term.substituted.partition(" = ")[0]),
            escape(said(term.amount, line.amount.unit)),
            text.source(term.source),
        )
        for term in line.amount
    )
    table = text.simple_table(("Term", "Formula", "Numbers", "Amount", "Source"), rows, "terms")
    return f"<p>{escape(line.rule)}</p>{table}"


def _amount(amount: Breakdown) -> str:
    """An amount, with its lowest and highest where the rule has a range."""
    likely = escape(said(amount.total, amount.unit))
    if amount.low == amount.high:
        return likely
    unit = amount.unit if amount.unit in ("bytes", "seconds") else ""
    return f"{likely} <small>({escape(said(amount.low, unit))} to {escape(said(amount.high, unit))})</small>"


def said(value: float, unit: str) -> str:
    """Return an amount of a bill in words: bytes in GB, money with cents, times in the unit that suits them."""
    if unit == "bytes":
        return units.amount(value)
    if unit == "seconds":
        return units.seconds(value)
    if unit.startswith("USD"):
        return f"{value:,.{0 if value >= WHOLE else 2}f} {unit}"
    number = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3g}"
    one = value == 1 and unit.isalpha() and unit.endswith("s")
    return f"{number} {_singular(unit) if one else unit}".strip()


def _singular(unit: str) -> str:
    return unit[:-2] if unit.endswith("ches") else unit[:-1]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def offers(bill: Cluster) -> str:
    """Return the cloud instances that hold it, the cheapest first, those with stale prices last and marked."""
    rows = [
        (
            f"{each.count:,} × {escape(each.instance.provider)} {escape(each.instance.name)}"
            f"<br><small>{_dated(each.usd_per_hour.notes[0], each.stale)}</small>",
            f"{each.usd_per_hour.total:,.2f}",
        )
        for each in bill.offers[:MOST_OFFERS]
    ]
    if not rows:
        return NONE
    more = len(bill.offers) - len(rows)
    rest = f"<p>{more:,} more are in the file below.</p>" if more > 0 else ""
    stale = "<p>A stale price is older than a year; look it up again.</p>" if any(o.stale for o in bill.offers) else ""
    head = ("Instances", "USD an hour")
    return f"{text.simple_table(head, rows, 'compared wraps')}{rest}{stale}"


def everywhere(rows: Sequence[dict[str, Any]]) -> str:
    """Return the plan: every accelerator that does, the best first, and in a part to open the others with their why."""
    good = [row for row in rows if row["fits"]]
    bad = [row for row in rows if not row["fits"]]
    head = ("Devices", "USD an hour", "One token or update")

    def table(found: Sequence[dict[str, Any]]) -> str:
        shown: str = text.simple_table(head, map(_candidate, found), "compared wraps")
        return shown

    reasons = ((escape(row["accelerator"]), escape(row["why"])) for row in bad)
    why = partial(text.simple_table, ("Accelerator", "Why not"), reasons, "wraps")
    more = f"<span>{len(good) - BEST} more that do</span>"
    rejected = f"<span>The {len(bad)} that do not, and why</span>"
    return (
        (table(good[:BEST]) if good else f"<p>None of {len(rows)} accelerators does.</p>")
        + (f"<div class='parts'>{fold('more', more, lambda: table(good[BEST:]))}</div>" if len(good) > BEST else "")
        + (f"<div class='parts'>{fold('rejected', rejected, why)}</div>" if bad else "")
    )


def _candidate(row: dict[str, Any]) -> tuple[str, ...]:
    price, time = row["usd_per_hour"], row["latency_s"]
    money = "not known"
    if price is not None:
        of = f"{row['instances']:,} × {row['instance']}, {row['price_of'].partition('; stale')[0]}"
        money = f"{price:,.2f}<br><small>{_dated(of, row['stale'])}</small>"
    return (
        f"{row['devices']:,} × {escape(row['accelerator'])}",
        money,
        "not known" if time is None else units.seconds(time),
    )


def _dated(words: str, stale: bool) -> str:
    """The day of a price, with a mark where it is stale."""
    return ("<b class='stale'>stale</b> " if stale else "") + escape(words)


def devices_of(bill: Cluster) -> str:
    """Return the layout in words."""
    return f"{spread_of(bill.layout)}; every tile is one of them"
