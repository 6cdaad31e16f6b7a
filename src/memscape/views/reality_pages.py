"""The page that holds others' numbers against ours: rules of thumb, an article claim by claim, measurements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import memscape as ms
from memscape import units
from memscape.breakdown import Breakdown
from memscape.memory.rules_of_thumb import Rule, rules
from memscape.model import Model
from memscape.reality import claims, measurements
from memscape.reality.claims import VERDICTS
from memscape.reality.measured import measured
from memscape.views import controls, exports, figures, loop, scenario, text
from memscape.views import reality_words as words
from memscape.views.controls import Control
from memscape.views.folds import fold
from memscape.views.outputs import Chart, Html
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
        "answer": Html("answer"),
        "rules_words": Html("caption"),
        "rules": Chart(height=330),
        "table": Html("card"),
        "claims": Html("card"),
        "errors_words": Html("caption"),
        "errors": Chart(height=230),
        "measured": Html("card"),
    }
    files = {"rules.csv": _rules_csv, "article.csv": _article_csv, "measurements.csv": _measurements_csv}
    return loop.page(fields, _compared, _show, outputs, models.upload, files, legal, lambda seen: seen.exact)


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
        "rules_words": "<h2>What each rule counts</h2><p>The memory that common rules give, beside the exact one.</p>"
        f"{text.legend(bars.values())}",
        "rules": (figures.stacked(bars), "; ".join(text.described(each, name) for name, each in bars.items())),
        "table": f"<h2>What each rule gets wrong</h2>{_rules(seen)}",
        "claims": f"<h2>An article of 2024, claim by claim</h2>{words.claims_by_section(seen.verdict)}",
        "errors_words": f"<h2>Published figures</h2><p>Shown: {KINDS[seen.published]}. Nothing is fitted to them. Each "
        "point is one of them: how far the prediction is above or below what was published.</p>",
        "errors": (figures.errors(words.points(found)), words.spread(found)),
        "measured": f"<h2>One by one</h2>{words.one_by_one(found)}",
    }


def _answer(seen: Compared) -> str:
    offs = [each.error(seen.exact) for each in seen.rules]
    doing = "Training" if isinstance(seen.asked, Training) else "Serving"
    return (
        f"<p class='over'>{doing} {escape(seen.model.label)} takes</p>"
        f"<p class='big'>{units.amount(seen.exact.total)}</p>"
        f"<p class='lead'>Common rules miss it by <b>{_off(min(offs))}</b> to <b>{_off(max(offs))}</b>. "
        f"An article's claims, held against our numbers: {words.tally(claims())}.</p>"
        f"{text.band(seen.exact)}"
    )


def _off(error: float) -> str:
    return f"{error:+.0%}" if abs(error) >= 0.005 else "under 1%"


def _rules(seen: Compared) -> str:
    parts = []
    for rule in seen.rules:
        off = _off(rule.error(seen.exact))
        line = f"<span>{escape(rule.name)}</span><span>{units.amount(rule.answer.total)} <small>({off})</small></span>"
        parts.append(fold(rule.name, line, partial(_why, rule, seen.exact)))
    total = units.amount(seen.exact.total)
    parts.append(f"<div class='row total'><span>Exact</span><span>{total}</span></div>")
    return f"<div class='parts'>{''.join(parts)}</div>"


def _why(rule: Rule, exact: Breakdown) -> str:
    """What a rule says, and where it errs most."""
    worst = rule.worst(exact)
    mine, real = (each.by("phase").get(worst, 0) for each in (rule.answer, exact))
    return (
        f"<p><code>{escape(rule.says)}</code></p><p>{escape(rule.errs)} Furthest off here: "
        f"<b>{escape(text.name_of(worst).lower())}</b>, {units.amount(mine)} in place of {units.amount(real)}.</p>"
    )


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
