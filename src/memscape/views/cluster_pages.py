"""The page about the cluster: from a goal to a bill of materials, each line of which opens its reason."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import memscape as ms
from memscape import units
from memscape.breakdown import Breakdown
from memscape.cluster import RESERVE_PERCENT, Cluster, Line
from memscape.model import Model
from memscape.views import controls, devices, figures, scenario, text
from memscape.views.charts import Chart
from memscape.workload import Inference, Training

WORK = {"serving": "Serving", "training": "Training (mixed precision, AdamW)"}
RESERVES = (0, 5, 10, 15, 20, 30)
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


@dataclass(frozen=True)
class Billed:
    """What the page shows."""

    bill: Cluster
    asked: Inference | Training


def cluster() -> Any:
    """Return the page that turns a model and a goal into devices, servers, network, power and money."""
    models = scenario.ModelChoice("llama-3.1-70b")
    fields = (
        models.control,
        controls.choice("work", "What for", scenario.named(WORK), "serving"),
        scenario.weights_in(),
        scenario.context(),
        scenario.sequences(),
        scenario.accelerator(),
        controls.slider("reserve", "Memory kept free on each device, %", RESERVES, RESERVE_PERCENT),
    )
    outputs = {
        "answer": controls.html("answer"),
        "bar": Chart(height=150),
        "bill": controls.html("card"),
        "offers": controls.html("card"),
        "tiles_words": controls.html("caption"),
        "tiles": Chart(height=300),
        "notes": controls.html("card quiet"),
    }
    return controls.page(fields, _billed, _show, outputs, models.upload)


def _billed(
    model: Model, work: str, precision: str, tokens: int, sequences: int, accelerator: str, reserve: int
) -> Billed:
    asked: Inference | Training
    if work == "training":
        fused = "transformers" if model.has_encoder else "megatron"
        asked = Training(sequence_tokens=tokens, precision="bf16-mixed", implementation=fused, recompute="full")
    else:
        written = tokens if model.has_encoder else 0
        asked = Inference(sequences=sequences, prompt_tokens=tokens, output_tokens=written, weights=precision)
    return Billed(ms.cluster(model, asked, accelerator=accelerator, reserve=reserve), asked)


def _show(seen: Billed) -> dict[str, Any]:
    bill = seen.bill
    stages, columns = [bill.held] * bill.layout.pipeline, bill.layout.tensor * bill.layout.data
    name = bill.accelerator.name
    bar = figures.memory_bar(bill.held, bill.accelerator.usable_bytes, 1, name)
    shown = min(columns, 64)
    left = "" if shown == columns else f", {shown} of {columns:,} drawn"
    tiles = devices.tiles(stages[:16], shown, bill.accelerator.usable_bytes, f"{columns:,} devices on each stage{left}")
    return {
        "answer": _answer(seen),
        "bar": (bar, text.described(bill.held, f"The busiest {name}")),
        "bill": f"<h2>The bill of materials</h2><p>Open a line to see where it comes from.</p>{_bill(bill)}",
        "offers": f"<h2>Cloud instances that hold it</h2>{_offers(bill)}",
        "tiles_words": f"<h2>The devices</h2>{text.legend([bill.held])}",
        "tiles": (tiles, f"{bill.devices:,} devices, each with {units.amount(bill.held.total)} at most"),
        "notes": text.notes([*bill.held.notes, *bill.unknown, *bill.short]),
    }


def _answer(seen: Billed) -> str:
    bill = seen.bill
    doing = "Training" if isinstance(seen.asked, Training) else "Serving"
    rent = bill.offers[0] if bill.offers else None
    money = (
        f" The cheapest instance known that holds it is {rent.count:,} × <b>{escape(rent.instance.name)}</b> for "
        f"<b>{rent.usd_per_hour.total:,.2f} USD an hour</b> ({escape(rent.dated)})."
        if rent
        else " No instance with a price in the catalogue holds it."
    )
    return (
        f"<p class='over'>{doing} {escape(bill.model.label)} takes at least</p>"
        f"<p class='big'>{bill.devices:,} × {escape(bill.accelerator.name)}</p><p class='lead'>"
        f"The busiest one holds <b>{units.amount(bill.held.total)}</b>; {units.amount(bill.spare_bytes)} more may be "
        f"used. They stand in {bill.nodes:,} {'server' if bill.nodes == 1 else 'servers'}.{money}</p>"
    )


def _bill(bill: Cluster) -> str:
    parts = []
    for group, title in GROUPS.items():
        lines = [_line(each) for each in bill.lines if each.group == group]
        if lines:
            parts.append(f"<h3>{title}</h3><div class='parts'>{''.join(lines)}</div>")
    return "".join(parts)


def _line(line: Line) -> str:
    rows = [
        (
            escape(term.name),
            " · ".join(text.symbol_html(name) for name in term.factors),
            escape(term.substituted.partition(" = ")[0]),
            escape(said(term.amount, line.amount.unit)),
            text.source(term.source),
        )
        for term in line.amount
    ]
    opened = text.simple_table(("Term", "Formula", "Numbers", "Amount", "Source"), rows, "terms")
    amount = escape(said(line.amount.total, line.amount.unit))
    return (
        f"<details><summary class='row'><span>{escape(line.name)}</span><span>{amount}{_range(line.amount)}</span>"
        f"</summary><p>{escape(line.rule)}</p>{opened}</details>"
    )


def _range(amount: Breakdown) -> str:
    """The lowest and highest, where the rule has a range."""
    if amount.low == amount.high:
        return ""
    unit = amount.unit if amount.unit in ("bytes", "seconds") else ""
    return f" <small>({escape(said(amount.low, unit))} to {escape(said(amount.high, unit))})</small>"


def said(value: float, unit: str) -> str:
    """Return an amount of a bill in words: bytes in GB, money with cents, times in the unit that suits them."""
    if unit == "bytes":
        return units.amount(value)
    if unit == "seconds":
        return units.seconds(value)
    if unit.startswith("USD"):
        return f"{value:,.2f} {unit}"
    number = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3g}"
    return f"{number} {unit}".strip()


def _offers(bill: Cluster) -> str:
    rows = [
        (
            escape(each.instance.provider),
            escape(each.instance.name),
            f"{each.count:,}",
            f"{each.usd_per_hour.total:,.2f}",
            escape(each.dated),
        )
        for each in bill.offers[:MOST_OFFERS]
    ]
    if not rows:
        return "<p>None with a price in the catalogue.</p>"
    table: str = text.simple_table(("Provider", "Instance", "Count", "USD an hour", "Price"), rows, "compared")
    return table
