"""What the page of claims and measurements says: claims by section, how far off each published figure is."""

from __future__ import annotations

from functools import cache, partial
from html import escape

from memscape import units
from memscape.reality import Claim, Measurement, claims
from memscape.reality.claims import VERDICTS
from memscape.views import text
from memscape.views.folds import fold

AGAINST = {"about": "about", "enough": "", "at most": "no more than", "at least": "at least", "between": ""}
EXACT = 1e-12  # what rounding of floats leaves


def tally(among: tuple[Claim, ...]) -> str:
    """Return how many claims have each verdict, in words."""
    found = [each.verdict for each in among]
    return ", ".join(f"{found.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in found)


@cache
def claims_by_section(verdict: str) -> str:
    """Return the claims by section, which are open where only one verdict is asked for."""
    found = [each for each in claims() if verdict in ("", each.verdict)]
    sections = dict.fromkeys(each.section for each in found)
    told = "Open a section for its claims, and a claim for the numbers, the reason and the source."
    return (
        f"<p>{tally(claims())}. {told}</p><div class='parts sections'>"
        + "".join(
            _section(section, tuple(each for each in found if each.section == section), bool(verdict))
            for section in sections
        )
        + "</div>"
    )


def _section(name: str, found: tuple[Claim, ...], opened: bool) -> str:
    title = f"<span>{escape(name)}</span><span><small>{tally(found)}</small></span>"
    return fold(name, title, lambda: "".join(map(_claim, found)), opened)


def _claim(claim: Claim) -> str:
    line = f"<span>{escape(claim.claim)}</span><span class='verdict {claim.verdict}'>{claim.verdict}</span>"
    return fold(claim.name, line, partial(_reason, claim))


def _reason(claim: Claim) -> str:
    return f"{_numbers(claim)}<p>{escape(claim.why)} <small>Source: {text.source(claim.source)}</small></p>"


def _numbers(claim: Claim) -> str:
    """What it says and what we compute, in words; nothing where it states nothing to compute."""
    if claim.ours is None or claim.theirs is None:
        return ""
    high = f" to {_number(claim.theirs_high)}" if claim.theirs_high is not None else ""
    said = f"{AGAINST[claim.relation]} {_number(claim.theirs)}{high} {claim.unit}".strip()
    enough = claim.relation == "enough"
    if claim.read_as:
        heard = f"We read it as {f'saying that {said} are enough' if enough else said} ({claim.read_as})"
    else:
        heard = f"It says {f'that {said} are enough' if enough else said}"
    found = f"{_number(claim.ours)} {claim.unit}"
    return f"<p>{escape(heard)}. By our calculation it {'takes' if enough else 'is'} <b>{escape(found)}</b>.</p>"


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else units.exact(value)


# figures


def points(found: tuple[Measurement, ...]) -> dict[str, list[tuple[str, float]]]:
    """Return the error of each figure with its name, by group, the first group last as a chart draws them."""
    groups = dict.fromkeys(each.group for each in reversed(found))
    return {group: [(each.what, each.error) for each in found if each.group == group] for group in groups}


def one_by_one(found: tuple[Measurement, ...]) -> str:
    """Return every figure beside the prediction, and what is known of those that are off."""
    far = [f"<li>{escape(each.what)}: {escape(each.why)}.</li>" for each in found if each.why]
    why = f"<p>Where we know what is missing, or do not:</p><ul class='notes'>{''.join(far)}</ul>" if far else ""
    every = fold("measured", "<span>Every one</span>", lambda: _measured_table(found))
    return f"<p>{spread(found)}</p>{why}<div class='parts'>{every}</div>"


def spread(found: tuple[Measurement, ...]) -> str:
    """Return in words how far off the figures are."""
    offs = sorted(abs(each.error) for each in found)
    middle, last = (f"{off:.1%}" if off >= 0.01 else f"{off:.2%}" for off in (offs[len(offs) // 2], offs[-1]))
    return f"{len(found)} figures: half of them within {middle}, the furthest off by {last}."


def _measured_table(found: tuple[Measurement, ...]) -> str:
    rows = [
        (
            f"{escape(each.what)}<br><small>{_origin(each.source)}</small>",
            f"{_said(each.published, each.unit)}<br><small>ours {_said(each.predicted, each.unit)}</small>",
            _percent(each.error),
        )
        for each in found
    ]
    table: str = text.simple_table(("What", "Published", "Off by"), rows, "compared wraps")
    return table


def _percent(error: float) -> str:
    if abs(error) < 5e-5:
        return "exact" if abs(error) < EXACT else "below 0.01%"
    return f"{error:+.1%}" if abs(error) >= 0.01 else f"{error:+.2%}"


def _origin(source: str) -> str:
    return text.source(source) if source.isidentifier() else escape(source)


def _said(value: float, unit: str) -> str:
    return units.seconds(value) if unit == "seconds" else units.amount(value)
