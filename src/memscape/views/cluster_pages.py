"""The page about the cluster: from a goal to a bill of materials, each line of which opens its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import memscape as ms
from memscape import tables, units
from memscape.catalog import MARKETED, Accelerator
from memscape.cluster import RESERVE_PERCENT, Cluster
from memscape.model import Model
from memscape.planner import layout_of
from memscape.planner.advice import changes
from memscape.planner.plans import COLUMNS, candidates
from memscape.problem import Problem
from memscape.views import cluster_words as words
from memscape.views import controls, devices, exports, figures, loop, scenario, text
from memscape.views.controls import Control
from memscape.views.outputs import Chart, Html
from memscape.views.steps import Steps
from memscape.workload import Inference, Training

WORK = {"serving": "Serving", "training": "Training"}
RESERVES = (0, 5, 10, 15, 20, 30)
COUNTS = {"": "as few as hold it"} | {str(2**power): f"{2**power:,}" for power in range(8)}
UPDATES = tuple(2**power for power in range(13))
MILLIONS = tuple(10**power for power in range(8))
CENTS = {"": "by rule"} | {str(cents): f"{cents} US cents" for cents in (4, 6, 8, 10, 12, 15, 20, 25, 30, 40)}
PUES = {"": "by rule"} | {each: each for each in ("1.05", "1.1", "1.2", "1.3", "1.4", "1.56", "1.8", "2.0")}
RANKS = {"": "not now", "cost": "the cheapest first", "latency": "the fastest first", "devices": "the fewest first"}
ANYWHERE = {"": "any provider"}
OPEN = "<p class='on-screen'>Open a line to see where it comes from.</p>"
MOST_DRAWN = 64
MOST_STAGES = 16


@dataclass(frozen=True)
class Billed:
    """What the page shows; `missed` says why it did not fit on the devices that were asked for."""

    bill: Cluster
    missed: str
    plan: tuple[dict[str, Any], ...]


def cluster() -> Any:
    """Return the page that turns a model and a goal into devices, servers, network, power and money."""
    models = scenario.ModelChoice("llama-3.1-70b")
    work = controls.choice("work", "What for", scenario.named(WORK), "serving")
    legal = Steps(models.control)
    serving, training = _serving(legal), _training(legal)
    controls.shown_for(work, {"serving": serving, "training": training})
    providers = ANYWHERE | {row["provider"]: row["provider"] for row in tables.rows("instances")}
    fields = (
        models.control,
        work,
        *serving,
        *training,
        *scenario.accelerator(),
        controls.slider("reserve", "Memory kept free on each device, %", RESERVES, RESERVE_PERCENT),
        controls.choice("provider", "Rented from", scenario.named(providers), ""),
        controls.choice("cents", "Electricity for a kWh", scenario.named(CENTS), ""),
        controls.choice("pue", "PUE: power of the site over power of its servers", scenario.named(PUES), ""),
        controls.choice("rank", "Compare every accelerator", scenario.named(RANKS), ""),
    )
    files = {
        "bill.csv": _bill_csv,
        "offers.csv": _offers_csv,
        "plan.csv": _plan_csv,
        "changes.csv": lambda seen: exports.changes_table(changes(seen.bill)),
    }
    return loop.page(
        fields,
        _billed,
        _show,
        _outputs(),
        models.upload,
        files,
        legal,
        lambda seen: seen.bill.held,
        {"advice": lambda seen: text.advice(seen.bill.devices, changes(seen.bill))},
    )


def _serving(legal: Steps) -> tuple[Control, ...]:
    counts = controls.choice("devices", "Devices that there are", scenario.named(COUNTS), "")
    return scenario.weights_in(), scenario.cache_in(), legal.length(scenario.context()), scenario.sequences(), counts


def _training(legal: Steps) -> tuple[Control, ...]:
    return (
        controls.choice("method", "What is trained", scenario.named(scenario.METHODS), "full"),
        scenario.checkpointing(),
        scenario.micro_batch(),
        legal.length(scenario.length()),
        controls.slider("batch", "Sequences in an update, over all devices", UPDATES, 1024),
        controls.slider("millions", "Tokens of the run, in millions", MILLIONS, 10_000),
    )


def _outputs() -> dict[str, Any]:
    return {
        "answer": Html("answer"),
        "bar_words": Html("caption"),
        "bar": Chart(height=150),
        "summary": Html("card"),
        "advice": Html("card"),
        "offers": Html("card"),
        "plan": Html("card"),
        "tiles_words": Html("caption"),
        "tiles": Chart(height=300),
        "bill": Html("card"),
        "notes": Html("card quiet"),
    }


# the calculation


def _billed(
    model: Model,
    work: str,
    accelerator: Accelerator,
    reserve: int,
    provider: str,
    cents: str,
    pue: str,
    rank: str,
    **own: Any,
) -> Billed:
    asked = _trained(model, own) if work == "training" else _served(model, own)
    known = {
        "reserve": reserve,
        "tokens": own["millions"] * 10**6 if work == "training" else None,
        "provider": provider or None,
        "usd_per_kwh": float(cents) / 100 if cents else None,
        "pue": float(pue) if pue else None,
    }
    count = own["devices"] if work == "serving" else ""
    bill, missed = _held_by(model, asked, accelerator, count, known)
    plan = _plan(model, asked, accelerator, rank, known) if rank else ()
    return Billed(bill, missed, tuple(plan))


def _held_by(
    model: Model, asked: Inference | Training, card: Accelerator, count: str, known: dict[str, Any]
) -> tuple[Cluster, str]:
    """The cluster of as many devices as there are; the smallest, and why, where these do not hold it."""
    if not count:
        return ms.cluster(model, asked, accelerator=card, **known), ""
    try:
        layout = layout_of(model, int(count), card)
        return ms.cluster(model, asked, accelerator=card, layout=layout, **known), ""
    except Problem as problem:
        return ms.cluster(model, asked, accelerator=card, **known), str(problem)


def _plan(
    model: Model, asked: Inference | Training, like: Accelerator, rank: str, known: dict[str, Any]
) -> list[dict[str, Any]]:
    """Every accelerator, its memory counted as that of the chosen one."""
    cards = map(ms.accelerator, tables.by_key("accelerators"))
    every = [card.as_sold() for card in cards] if like.basis == MARKETED else None
    return candidates(model, asked, accelerators=every, rank=rank, provider=known["provider"], reserve=known["reserve"])


def _served(model: Model, own: dict[str, Any]) -> Inference:
    return Inference(
        sequences=own["sequences"],
        prompt_tokens=own["tokens"],
        output_tokens=own["tokens"] if model.has_encoder else 0,
        weights=own["precision"],
        kv_cache=own["kv_cache"],
    )


def _trained(model: Model, own: dict[str, Any]) -> Training:
    fused = own["method"] == "full" and not model.has_encoder
    return Training(
        micro_batch=own["micro_batch"],
        sequence_tokens=own["sequence_tokens"],
        global_batch=max(own["batch"], own["micro_batch"]),
        precision="bf16-mixed" if own["method"] == "full" else "bf16",
        implementation="megatron" if fused else "transformers",
        recompute="full" if own["checkpointing"] else "none",
        method=own["method"],
    )


# what is shown


def _show(seen: Billed) -> dict[str, Any]:
    bill = seen.bill
    stages, columns = [bill.held] * bill.layout.pipeline, bill.layout.tensor * bill.layout.data
    name, capacity = bill.accelerator.name, bill.accelerator.usable_bytes
    shown = min(columns, MOST_DRAWN)
    left = "" if shown == columns else f", {shown} of {columns:,} drawn"
    tiles = devices.tiles(stages[:MOST_STAGES], shown, capacity, f"{columns:,} devices on each stage{left}")
    return {
        "answer": words.answer(bill, seen.missed),
        "bar_words": text.on_devices(bill.held, name, 1),
        "bar": (figures.memory_bar(bill.held, capacity, 1, name), text.described(bill.held, f"The busiest {name}")),
        "summary": f"<h2>In short</h2>{words.summary(bill)}",
        "offers": f"<h2>Cloud instances that hold it</h2>{words.offers(bill)}",
        "plan": f"<h2>Every accelerator</h2>{words.everywhere(seen.plan)}" if seen.plan else "",
        "tiles_words": f"<h2>The devices</h2><p>{words.devices_of(bill)}</p>{text.legend([bill.held])}",
        "tiles": (tiles, f"{bill.devices:,} devices, each with {units.amount(bill.held.total)} at most"),
        "bill": f"<h2>The bill of materials</h2>{OPEN}{words.lines(bill)}",
        "notes": text.notes([*bill.held.notes, *bill.unknown, *bill.short]),
    }


# the files


def _bill_csv(seen: Billed) -> str:
    head = ("group", "line", "amount", "low", "high", "unit", "rule", "sources")
    lines = ((each.group, each.name, each.amount, each.rule) for each in seen.bill.lines)
    rows = (
        (group, name, amount.total, amount.low, amount.high, amount.unit, rule, ", ".join(amount.sources))
        for group, name, amount, rule in lines
    )
    return exports.table(head, rows)


def _offers_csv(seen: Billed) -> str:
    head = ("provider", "instance", "count", "usd_per_hour", "price", "stale")
    rows = (
        (each.instance.provider, each.instance.name, each.count, each.usd_per_hour.total, each.dated, each.stale)
        for each in seen.bill.offers
    )
    return exports.table(head, rows)


def _plan_csv(seen: Billed) -> str:
    if not seen.plan:
        raise Problem('nothing has been compared yet; choose an order under "Compare every accelerator"')
    return exports.table(COLUMNS, ([row.get(name, "") for name in COLUMNS] for row in seen.plan))
