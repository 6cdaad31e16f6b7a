"""The files that a page hands out; the text of each is made when it is asked for."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import unescape
from typing import Any
from urllib.parse import parse_qsl

from memscape import units
from memscape.breakdown import Breakdown, Quantity, Term
from memscape.planner.advice import HARM, Change
from memscape.views.text import name_of

TRUTH = {"True": True, "False": False}
Exports = Mapping[str, Callable[[Any], str]]
KINDS = {"csv": "text/csv", "json": "application/json", "md": "text/markdown"}


def kind_of(name: str) -> str:
    """Return the media type of a file, by the end of its name."""
    return KINDS.get(name.rpartition(".")[2], "text/plain")


def with_json(exports: Exports) -> dict[str, Callable[[Any], str]]:
    """Return files, and each table as JSON too, which follows it."""
    every: dict[str, Callable[[Any], str]] = {}
    for name, text in exports.items():
        stem, _, kind = name.rpartition(".")
        every[name] = text
        if kind == "csv" and f"{stem}.json" not in exports:
            every[f"{stem}.json"] = partial(_rows_of, text)
    return every


def _rows_of(text: Callable[[Any], str], result: Any) -> str:
    """A table as a list of objects, one a line; what is a number in it is one here, an empty cell is null."""
    rows = csv.DictReader(io.StringIO(text(result)))
    lines = (json.dumps({name: _valued(cell) for name, cell in row.items()}) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _valued(cell: str) -> Any:
    if cell in TRUTH:
        return TRUTH[cell]
    if re.fullmatch("-?(0|[1-9][0-9]*)", cell):
        return int(cell)
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+|(\.[0-9]+)?e[+-]?[0-9]+)", cell):
        return float(cell)
    return cell.removeprefix("'") if re.match("'[=+@-]", cell) else cell or None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; the unit of a column belongs into its head. Numbers keep every digit.

    Words that a spreadsheet would run as a formula are preceded by an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_plain(cell) for cell in row] for row in rows)
    return text.getvalue()


def _plain(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    words = " ".join(cell.split())  # what ends a line would begin a row
    return f"'{words}" if words[:1] in ("=", "+", "-", "@") else words


# the answer of a page


@dataclass(frozen=True)
class Answer:
    """What a page says: its headline as HTML, the settings in words, their address, and the terms behind them.

    `sides` are the scenarios that are compared, by name, in one unit; one that stands alone has no name.
    """

    headline: str
    settings: Mapping[str, str]
    query: str
    sides: Mapping[str, Breakdown]

    @property
    def unit(self) -> str:
        """The unit of every amount."""
        return next(iter(self.sides.values())).unit


def answer_files(answer: Callable[[Any], Answer]) -> dict[str, Callable[[Any], str]]:
    """Return the files that every page hands out: the answer in words, its terms as a table, both as data."""
    return {
        "answer.md": lambda result: _markdown(answer(result)),
        "terms.csv": lambda result: _terms_table(answer(result).sides),
        "answer.json": lambda result: _json(answer(result)),
    }


def _markdown(answer: Answer) -> str:
    """The answer for pasting: headline, settings, parts, sources."""
    parts = {side: terms.by("phase") for side, terms in answer.sides.items()}
    heads = [f"{side} ({answer.unit}) | {side}" if side else f"{answer.unit.capitalize()} | Amount" for side in parts]
    sources = dict.fromkeys(source for terms in answer.sides.values() for source in terms.sources)
    lines = [
        *(f"{line}\n" for line in _marked(answer.headline)),
        "| Setting | Value |\n|---|---|",
        *(f"| {_literal(name)} | {_literal(value)} |" for name, value in answer.settings.items()),
        f"\n| Part | {' | '.join(heads)} |\n|---|{'---:|---:|' * len(heads)}",
        *(
            _row(name_of(part), [each.get(part, 0) for each in parts.values()], answer.unit)
            for part in dict.fromkeys(part for each in parts.values() for part in each)
        ),
        _row("**Together**", [terms.total for terms in answer.sides.values()], answer.unit),
        f"\nThe same settings: `?{answer.query}`",
        f"\nSources: {', '.join(sources)}. Worked out by memscape.\n",
    ]
    return "\n".join(lines)


def _row(name: str, sizes: Sequence[Quantity], unit: str) -> str:
    return f"| {name} | {' | '.join(f'{units.exact(size)} | {_amount(size, unit)}' for size in sizes)} |"


def _words(headline: str) -> list[str]:
    """The paragraphs of a headline as plain text."""
    return [unescape(re.sub(r"<[^>]*>", "", each)).strip() for each in _paragraphs(headline)]


def _marked(headline: str) -> list[str]:
    """The paragraphs of a headline as Markdown: what is bold stays so, all other signs stand for themselves."""
    found = []
    for each in _paragraphs(headline):
        pieces = re.split(r"(<[^>]*>)", each)
        kept = (
            "**" * (piece in ("<b>", "</b>")) if piece[:1] == "<" else _literal(unescape(piece)) for piece in pieces
        )
        found.append("".join(kept).strip())
    return found


def _paragraphs(headline: str) -> list[str]:
    return re.findall(r"<p[^>]*>(.*?)</p>", headline, re.DOTALL)


def _literal(words: str) -> str:
    """Words in which Markdown sees no sign of its own: a file's name may hold any."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", re.sub(r"\s+", " ", words))


def _amount(size: Quantity, unit: str) -> str:
    return units.amount(size) if unit == "bytes" else units.count(size)


def terms_table(terms: Breakdown) -> str:
    """Return every term as CSV: its amount, its factors with their numbers, its source."""
    return _terms_table({"": terms})


def _terms_table(sides: Mapping[str, Breakdown]) -> str:
    unit = next(iter(sides.values())).unit
    head = ("part", "group", "term", unit, "lowest", "highest", "factors", "numbers", "source")
    rows = [(side, _term_row(term, unit)) for side, terms in sides.items() for term in terms]
    if [*sides] == [""]:
        return table(head, (row for _, row in rows))
    return table(("scenario", *head), ((side, *row) for side, row in rows))


def _term_row(term: Term, unit: str) -> tuple[object, ...]:
    amounts = (term.amount, term.low, term.high)
    return (
        *(name_of(term.phase), name_of(term.group), term.name),
        *(round(each) if unit == "bytes" else each for each in amounts),  # shares of a ring make floats of bytes
        *(" * ".join(term.factors), term.substituted, term.source),
    )


def _json(answer: Answer) -> str:
    found: dict[str, Any] = {
        "answer": " ".join(_words(answer.headline)),
        "settings": dict(parse_qsl(answer.query, keep_blank_values=True)),
    }
    sides = {name: _side(terms) for name, terms in answer.sides.items()}
    found |= sides.get("") or {"scenarios": sides}
    return json.dumps(found, indent=2, default=str) + "\n"


def _side(terms: Breakdown) -> dict[str, Any]:
    return {
        "unit": terms.unit,
        "total": terms.total,
        "lowest": terms.low,
        "highest": terms.high,
        "terms": [
            {
                "part": term.phase,
                "group": term.group,
                "name": term.name,
                "factors": dict(term.factors),
                "amount": term.amount,
                "source": term.source,
            }
            for term in terms
        ],
        "notes": list(terms.notes),
    }


def changes_table(changes: Iterable[Change]) -> str:
    """Return single changes as CSV, with what they save."""
    head = ("change", "harm", "saves (bytes)", "devices then")
    return table(head, ((each.change, HARM[each.harm], each.saves_bytes, each.devices) for each in changes))


def sums_table(what: str, sums: Mapping[str, Breakdown], by: str = "phase") -> str:
    """Return several breakdowns in bytes as CSV, a line for each part of each; `what` heads their names."""
    rows = ((name, name_of(part), size) for name, breakdown in sums.items() for part, size in breakdown.by(by).items())
    return table((what, "part", "bytes"), rows)
