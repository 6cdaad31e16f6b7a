"""The page that holds others' numbers against ours: rules of thumb, an article claim by claim, measurements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import memscape as ms
from memscape import units
from memscape.breakdown import Breakdown
from memscape.memory.rules_of_thumb import Rule, rules
from memscape.model import Model
from memscape.reality import Claim, Measurement, claims, measurements
from memscape.reality.claims import VERDICTS
from memscape.reality.measured import measured
from memscape.views import controls, exports, figures, scenario, text
from memscape.views.charts import Chart
from memscape.views.controls import Control
from memscape.views.steps import Steps
from memscape.workload import Inference, Training

WORK = {"serving": "Serving", "training": "Training"}
SHOWN = {"": "all claims"} | {verdict: f"those that are {verdict}" for verdict in VERDICTS}
KINDS = {
    "size": "sizes: cache, weights, training",
    "file": "files of quantised weights",
    "pool": "vLLM's cache pools on an H100",
    "run": "training runs: seconds of a step",
}
AGAINST = {"about": "about", "enough": "", "at most": "no more than", "at least": "at least", "between": ""}
COLUMNS = ("kind", "group", "what", "published", "predicted", "unit", "error", "why", "source")


@dataclass(frozen=True)
class Compared:
    """What the page shows: the exact answer, what the rules say, and the claims and figures that are looked at."""

    model: Model
    asked: Inference | Training
    exact: Breakdown
    rules: tuple[Rule, ...]
    verdict: str
    published: str


def reality_check() -> Any:
    """Return the page that holds rules of thumb, an article and measurements against the package."""
    models = scenario.ModelChoice("llama-3.1-70b")
    work = controls.choice("work", "What for", scenario.named(WORK), "serving")
    legal = Steps(models.control)
    serving = (scenario.weights_in(), legal.length(scenario.context()), scenario.sequences())
    training = (scenario.micro_batch(), legal.length(scenario.length()), scenario.checkpointing())
    controls.shown_for(work, {"serving": serving, "training": training})
    verdict = controls.choice("verdict", "Claims of the article", scenario.named(SHOWN), "")
    published = controls.choice("published", "Published figures", scenario.named(KINDS), "size")
    fields: tuple[Control, ...] = (models.control, work, *serving, *training, verdict, published)
    outputs = {
        "answer": controls.html("answer"),
        "rules": Chart(height=330),
        "table": controls.html("card"),
        "claims": controls.html("card"),
        "errors_words": controls.html("caption"),
        "errors": Chart(height=230),
        "measured": controls.html("card"),
    }
    files = {"rules.csv": _rules_csv, "article.csv": _article_csv, "measurements.csv": _measurements_csv}
    return controls.page(fields, _compared, _show, outputs, models.upload, files, legal, lambda seen: seen.exact)


def _compared(model: Model, work: str, verdict: str, published: str, **own: Any) -> Compared:
    asked: Inference | Training
    if work == "training":
        asked = Training(
            own["micro_batch"],
            own["sequence_tokens"],
            precision="bf16-mixed",
            recompute="full" if own["checkpointing"] else "none",
        )
    else:
        written = own["tokens"] if model.has_encoder else 0
        asked = Inference(
            own["sequences"], prompt_tokens=own["tokens"], output_tokens=written, weights=own["precision"]
        )
    return Compared(model, asked, ms.memory(model, asked), rules(model, asked), verdict, published)


# what is shown


def _show(seen: Compared) -> dict[str, Any]:
    bars = {each.name: each.answer for each in seen.rules} | {"Exact": seen.exact}
    found = measured(seen.published)
    return {
        "answer": _answer(seen),
        "rules": (figures.stacked(bars), "; ".join(text.described(each, name) for name, each in bars.items())),
        "table": f"<h2>What each rule gets wrong</h2>{text.legend(bars.values())}{_rules(seen)}",
        "claims": f"<h2>An article of 2024, claim by claim</h2>{_claims(seen.verdict)}",
        "errors_words": f"<h2>Published figures</h2><p>Shown: {KINDS[seen.published]}. Nothing is fitted to them. Each "
        "point is one of them: how far the prediction is above or below what was published.</p>",
        "errors": (figures.errors(_points(found)), _spread(found)),
        "measured": f"<h2>One by one</h2>{_measured(found)}",
    }


def _answer(seen: Compared) -> str:
    offs = [each.error(seen.exact) for each in seen.rules]
    doing = "Training" if isinstance(seen.asked, Training) else "Serving"
    return (
        f"<p class='over'>{doing} {escape(seen.model.label)} takes</p>"
        f"<p class='big'>{units.amount(seen.exact.total)}</p>"
        f"<p class='lead'>Common rules miss it by <b>{min(offs):+.0%}</b> to <b>{max(offs):+.0%}</b>. "
        f"An article's claims, held against our numbers: {_tally()}.</p>"
    )


def _tally() -> str:
    found = [each.verdict for each in claims()]
    return ", ".join(f"{found.count(verdict)} {verdict}" for verdict in VERDICTS)


def _rules(seen: Compared) -> str:
    parts = []
    for rule in seen.rules:
        worst = rule.worst(seen.exact)
        mine, real = (each.by("phase").get(worst, 0) for each in (rule.answer, seen.exact))
        parts.append(
            f"<details data-part='{escape(rule.name)}'><summary class='row'><span>{escape(rule.name)}</span>"
            f"<span>{units.amount(rule.answer.total)} <small>({rule.error(seen.exact):+.0%})</small></span></summary>"
            f"<p><code>{escape(rule.says)}</code></p><p>{escape(rule.errs)} Furthest off here: "
            f"<b>{escape(text.name_of(worst).lower())}</b>, {units.amount(mine)} in place of {units.amount(real)}.</p>"
            f"</details>"
        )
    total = units.amount(seen.exact.total)
    parts.append(f"<div class='row total'><span>Exact</span><span>{total}</span></div>")
    return f"<div class='parts'>{''.join(parts)}</div>"


@cache
def _claims(verdict: str) -> str:
    found = [each for each in claims() if verdict in ("", each.verdict)]
    sections = dict.fromkeys(each.section for each in found)
    return f"<p>{_tally()}. Open one for the numbers, the reason and the source.</p>" + "".join(
        f"<h3>{escape(section)}</h3><div class='parts'>"
        + "".join(_claim(each) for each in found if each.section == section)
        + "</div>"
        for section in sections
    )


def _claim(claim: Claim) -> str:
    return (
        f"<details data-part='{escape(claim.name)}'><summary class='row'><span>{escape(claim.claim)}</span>"
        f"<span class='verdict {claim.verdict}'>{claim.verdict}</span></summary>{_numbers(claim)}"
        f"<p>{escape(claim.why)} <small>Source: {text.source(claim.source)}</small></p></details>"
    )


def _numbers(claim: Claim) -> str:
    """What it says and what we compute, in words; nothing where it states nothing to compute."""
    if claim.ours is None or claim.theirs is None:
        return ""
    high = f" to {_number(claim.theirs_high)}" if claim.theirs_high is not None else ""
    said = f"{AGAINST[claim.relation]} {_number(claim.theirs)}{high} {claim.unit}".strip()
    said += " would be enough" if claim.relation == "enough" else ""
    reading = f", as we read it ({claim.read_as})" if claim.read_as else ""
    takes = "it takes" if claim.relation == "enough" else "it is"
    return (
        f"<p>It says {escape(said + reading)}. By our calculation {takes} "
        f"<b>{_number(claim.ours)} {escape(claim.unit)}</b>.</p>"
    )


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else units.exact(value)


# measurements


def _points(found: tuple[Measurement, ...]) -> dict[str, list[tuple[str, float]]]:
    groups = dict.fromkeys(each.group for each in reversed(found))
    return {group: [(each.what, each.error) for each in found if each.group == group] for group in groups}


def _measured(found: tuple[Measurement, ...]) -> str:
    far = [f"<li>{escape(each.what)}: {escape(each.why)}.</li>" for each in found if each.why]
    why = f"<p>Where we know what is missing, or do not:</p><ul class='notes'>{''.join(far)}</ul>" if far else ""
    return (
        f"<p>{_spread(found)}</p>{why}<div class='parts'><details data-part='measured'><summary class='row'>"
        f"<span>Every one</span></summary>{_measured_table(found)}</details></div>"
    )


def _spread(found: tuple[Measurement, ...]) -> str:
    offs = sorted(abs(each.error) for each in found)
    middle, last = (f"{off:.1%}" if off >= 0.01 else f"{off:.2%}" for off in (offs[len(offs) // 2], offs[-1]))
    return f"{len(found)} figures: half of them within {middle}, the furthest off by {last}."


def _measured_table(found: tuple[Measurement, ...]) -> str:
    rows = [
        (
            f"{escape(each.what)}<br><small>{_origin(each.source)}</small>",
            f"{_said(each.published, each.unit)}<br><small>ours {_said(each.predicted, each.unit)}</small>",
            f"{each.error:+.1%}" if abs(each.error) >= 0.01 else f"{each.error:+.2%}",
        )
        for each in found
    ]
    table: str = text.simple_table(("What", "Published", "Off by"), rows, "compared wraps")
    return table


def _origin(source: str) -> str:
    return text.source(source) if source.isidentifier() else escape(source)


def _said(value: float, unit: str) -> str:
    return units.seconds(value) if unit == "seconds" else units.amount(value)


# the files


def _rules_csv(seen: Compared) -> str:
    head = ("rule", "phase", "bytes", "exact_bytes")
    exact = seen.exact.by("phase")
    rows = []
    for rule in seen.rules:
        mine = rule.answer.by("phase")
        rows += [(rule.name, phase, mine.get(phase, 0), exact.get(phase, 0)) for phase in {**exact, **mine}]
    return exports.table(head, rows)


def _article_csv(seen: Compared) -> str:
    numbers = ("theirs", "theirs_high", "ours", "unit", "relation", "read_as")
    head = ("section", "claim", *numbers, "verdict", "why", "source")
    found = (each for each in claims() if seen.verdict in ("", each.verdict))
    return exports.table(head, ([getattr(each, name) for name in head] for each in found))


def _measurements_csv(_seen: Compared) -> str:
    return exports.table(COLUMNS, ([getattr(each, name) for name in COLUMNS] for each in measurements()))
