"""Words, formulas and tables as HTML: what a Breakdown says, in the letters of `data/symbols.csv`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape

from memscape import tables, units
from memscape.breakdown import Breakdown, Quantity, Term, latex
from memscape.planner.advice import HARM, Change
from memscape.views.folds import fold
from memscape.views.formulas import alone, mathml

PHASE_NAMES = {
    "weights": "Weights",
    "kv_cache": "KV cache",
    "activations": "Activations",
    "gradients": "Gradients",
    "optimizer_states": "Optimizer states",
    "buffers": "Buffers",
    "runtime": "Runtime",
}
GROUP_NAMES = {
    "embeddings": "Embeddings",
    "attention": "Attention",
    "mlp_dense": "MLP",
    "experts": "Experts",
    "router": "Router",
    "norms": "Norms",
    "lm_head": "Output head",
    "other": "Other",
}
ELSEWHERE = (
    "<a href='07_what_if.ipynb'>What if</a> tries several changes together, "
    "<a href='06_cluster.ipynb'>Cluster</a> finds the devices that hold it."
)
DEEPEST = 35  # percent of a part's colour, on which words can be read in both themes
LONGEST_NAME = 16  # letters of a name that still stands in the same line as its formula


class Html(str):
    """HTML that a notebook displays."""

    def _repr_html_(self) -> str:
        return str(self)


def name_of(part: str) -> str:
    """Return the reader's name of a phase or group."""
    return PHASE_NAMES.get(part) or GROUP_NAMES.get(part) or part.replace("_", " ")


def amount(value: float, unit: str) -> str:
    """Return an amount with its unit: bytes in GB and GiB, counts in words."""
    if unit == "bytes":
        return units.both(value)
    return f"{units.count(value)} {unit}"


def band(held: Breakdown, what: str = "") -> str:
    """Return a line with the lowest and highest that others report, where a part is an estimate; else nothing."""
    if held.low == held.high:
        return ""
    low, high = units.amount(held.low), units.amount(held.high)
    ends = f"{low} to {high}" if low != high else f"{low}, both"
    return f"<p class='band'>Lowest and highest reported{what}: {ends}</p>"


def formula(breakdown: Breakdown, left: str = "") -> Html:
    """Return the formula of every term; terms that are the same product share a line, which names them."""
    names: dict[str, list[str]] = {}
    for term in breakdown.terms:
        names.setdefault(term.formula, []).append(term.name)
    single = [left or breakdown.unit] if len(names) == 1 else None
    return Html("".join(_formula_line(", ".join(single or each), product) for product, each in names.items()))


def _formula_line(words: str, product: str) -> str:
    """One formula; words that would make it wider than a phone stand before it, where they can wrap."""
    if len(words) <= LONGEST_NAME:
        return alone(rf"\text{{{escape(words)}}} = {product}")
    return alone(product, f"{escape(words)}: ")


def worked_example(breakdown: Breakdown) -> Html:
    """Return the numbers put in, term by term, and their sum."""
    lines = [f"<li>{escape(term.name)}: <b>{term.substituted}</b> {breakdown.unit}</li>" for term in breakdown.terms]
    exact, short = f"{units.exact(breakdown.total)} {breakdown.unit}", amount(breakdown.total, breakdown.unit)
    total = f"<p>Together {exact}{'' if short == exact else f': {short}'}.</p>"
    return Html(f"<ul class='worked'>{''.join(lines)}</ul>{total}")


def symbols(breakdown: Breakdown, *more: str) -> Html:
    """Return the meaning of each letter that the breakdown's formulas use, and of more names, from the glossary."""
    used = (name for term in breakdown.terms for name in term.factors if name in tables.by_key("symbols"))
    return glossary(*dict.fromkeys((*used, *more)))


def glossary(*names: str, folded: bool = False) -> Html:
    """Return the letter and the meaning of names of `data/symbols.csv`; folded, it opens when it is asked for."""
    meant = {name: escape(tables.by_key("symbols")[name]["meaning"]) for name in names}
    rows = ((mathml(latex(name)), f"<code>{name}</code>", meaning) for name, meaning in meant.items())
    shown = simple_table(("Symbol", "Name in code", "Meaning"), rows, "symbols")
    return (
        Html(f"<details class='folded'><summary>What the letters mean</summary>{shown}</details>") if folded else shown
    )


def table(breakdown: Breakdown, by: str = "phase") -> Html:
    """Return the parts of a breakdown, each with its share; a part opens into its terms, a term into its factors."""
    totals = breakdown.by(by)
    parts = "".join(_part(breakdown, by, part, value) for part, value in totals.items())
    total = f"<div class='row total'><span>Total</span><span>{amount(breakdown.total, breakdown.unit)}</span></div>"
    return Html(f"<div class='parts'>{parts}{total}</div>")


def _part(breakdown: Breakdown, by: str, part: str, value: float) -> str:
    """One part: a line that opens into the terms behind it."""
    inner, unit = breakdown.only(**{by: part}), breakdown.unit
    share = f"{value / breakdown.total:.1%}" if breakdown.total else ""
    first = inner.terms[0]
    colour = f"group-{first.group}" if by == "group" else f"part-{first.phase}"
    line = (
        f"<span>{swatch(colour)}{escape(name_of(part))}</span><span>{amount(value, unit)}</span>"
        f"<span class='share'>{share}</span>"
    )
    head = ("Term", "Formula", "Numbers", unit.capitalize(), "Source")
    return fold(part, line, lambda: simple_table(head, (_term_row(term, unit) for term in inner.terms), "terms"))


def _term_row(term: Term, unit: str) -> Sequence[str]:
    numbers, _, _ = term.substituted.partition(" = ")
    spread = ""
    if term.spread is not None and unit == "bytes":
        spread = f"<br><small>{units.amount(term.low)} to {units.amount(term.high)} reported</small>"
    return (
        escape(term.name),
        " · ".join(symbol_html(name) for name in term.factors),
        numbers,
        units.exact(term.amount) + spread,
        source(term.source),
    )


def compared(ways: Mapping[str, Breakdown], chosen: str) -> Html:
    """Return the groups of several breakdowns side by side, one column each; the chosen one stands out."""
    columns = {name: way.by("group") for name, way in ways.items()}
    totals = {name: way.total for name, way in ways.items()}
    groups = ordered(columns.values(), GROUP_NAMES)

    def row(first: str, sizes: Mapping[str, Quantity | None]) -> list[str]:
        cells = {name: "–" if size is None else units.amount(size) for name, size in sizes.items()}
        return [first, *(f"<b>{cell}</b>" if name == chosen else cell for name, cell in cells.items())]

    rows = [
        row(f"{swatch(f'group-{group}')}{name_of(group)}", {name: way.get(group) for name, way in columns.items()})
        for group in groups
    ]
    return simple_table(("Part", *ways), [*rows, row("<b>Together</b>", totals)], "compared")


def ordered(sums: Iterable[Mapping[str, Quantity]], names: Mapping[str, str]) -> list[str]:
    """Return the parts that one of several sums has, in the order of their names."""
    found = {part for each in sums for part in each}
    return [*(name for name in names if name in found), *sorted(found - names.keys())]


def legend(breakdowns: Iterable[Breakdown], by: str = "phase") -> str:
    """Return the parts of breakdowns with their colours, for the charts that draw them."""
    names, kind = (GROUP_NAMES, "group") if by == "group" else (PHASE_NAMES, "part")
    parts = ordered((each.by(by) for each in breakdowns), names)
    return key({f"{kind}-{part}": name_of(part) for part in parts})


def key(colours: Mapping[str, str]) -> str:
    """Return what each colour of a chart stands for."""
    items = (f"<span>{swatch(colour)}{escape(words)}</span>" for colour, words in colours.items())
    return f"<p class='legend'>{''.join(items)}</p>"


def parts(title: str, breakdown: Breakdown) -> str:
    """Return the parts of a breakdown under a title, with a word on how they open."""
    return f"<h2>{title}</h2><p class='on-screen'>Open a part to see its terms.</p>{table(breakdown)}"


def on_devices(held: Breakdown, device: str, devices: int) -> str:
    """Return what stands over the bar of a device's memory: whose it is, where it ends, the colours."""
    many = f"{devices:,} × {escape(device)}" if devices > 1 else f"one {escape(device)}"
    ends = "the dotted line is its end" if devices == 1 else "a dotted line is the end of each"
    return f"<h2>On {many}</h2><p>Grey is free; {ends}.</p>{legend([held])}"


def swatch(colour: str) -> str:
    """Return a small patch of a part's colour."""
    return f"<i class='swatch' style='background:var(--{escape(colour)})'></i>"


def course(moments: Mapping[tuple[int, str], Breakdown], words: Mapping[str, str]) -> Html:
    """Return the bytes of each moment of a step, one column for each step."""
    steps = dict.fromkeys(step for step, _ in moments)
    rows = [[words[each], *(units.amount(moments[step, each].total) for step in steps)] for each in words]
    return simple_table(("Moment", "First step", "Every later step"), rows, "compared")


def shaded(part: str, size: Quantity, most: Quantity) -> str:
    """Return an amount of a part on a shade of its colour, as strong as its share of the largest amount beside it."""
    shade = f"var(--part-{escape(part)}) {DEEPEST * float(size / most):.0f}%"
    return f"<span class='shade' style='--shade:{shade}'>{units.amount(size)}</span>"


@lru_cache(maxsize=1024)
def symbol_html(name: str) -> str:
    """Return a factor's letter as HTML with subscripts: a table has too many formulas to draw each as one."""
    letters = re.sub(r"\\text\{(.*?)\}", r"\1", latex(name)).replace("\\,", " ").replace("\\%", "%")
    words = escape(tables.by_key("symbols").get(name, {}).get("meaning", name.replace("_", " ")))
    letters = re.sub(r"\^\{(.*?)\}", r"<sup>\1</sup>", letters)
    letters = re.sub(r"_\{(.*?)\}|_(\w)", lambda hit: f"<sub>{hit[1] or hit[2]}</sub>", letters)
    return f"<var title='{words}'>{letters}</var>"


def source(key: str) -> str:
    """Return a source as a link; an unknown key is shown as it is."""
    row = tables.by_key("sources", "key").get(key)
    if row is None:
        return escape(key)
    return f"<a href='{escape(row['where'])}' title='{escape(row['title'])}' rel='noreferrer'>{escape(key)}</a>"


def notes(lines: Iterable[str]) -> str:
    """Return remarks as a list; nothing for none."""
    items = "".join(f"<li>{escape(line[:1].upper() + line[1:])}.</li>" for line in lines)
    return f"<ul class='notes'>{items}</ul>" if items else ""


def described(breakdown: Breakdown, of: str = "", by: str = "phase") -> str:
    """Return what a chart of a breakdown says, for readers who do not see it."""
    parts = (f"{name_of(part)} {_short(size, breakdown.unit)}" for part, size in breakdown.by(by).items())
    return f"{of + ': ' if of else ''}{', '.join(parts)}; together {_short(breakdown.total, breakdown.unit)}"


def listed(sizes: Mapping[str, int]) -> str:
    """Return what a chart of sizes says, for readers who do not see it."""
    return ", ".join(f"{name} {units.amount(size)}" for name, size in sorted(sizes.items(), key=lambda item: item[1]))


def _short(value: float, unit: str) -> str:
    return units.amount(value) if unit == "bytes" else units.count(value)


def simple_table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> Html:
    """Return rows of HTML as a table that scrolls inside its own box; `kind` is its class."""
    titles = "".join(f"<th scope='col'>{escape(title)}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    # whether it really scrolls would have to be measured at every step of a slider
    box = "class='scroll' tabindex='0' role='group' aria-label='table, scrolls sideways'"
    table = f"<table class='{kind}'><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return Html(f"<div {box}>{table}</div>")


def advice(now: int, changes: Sequence[Change]) -> Html:
    """Return single changes with what they save, and the devices that would then do in place of those now.

    0 devices now: it does not fit.
    """
    rows = [
        (
            f"{escape(each.change[:1].upper() + each.change[1:])}<br><small>{HARM[each.harm]}</small>",
            units.amount(each.saves_bytes),
            _then(now, each.devices),
        )
        for each in changes
    ]
    head = f"<h2>{'What would need less' if now else 'What would make it fit'}</h2>"
    if not rows:
        return Html(f"{head}<p>No single change of those known needs less.{'' if now else f' {ELSEWHERE}'}</p>")
    shown = simple_table(("Change, and its price", "Saves", "Would do"), rows, "compared wraps")
    none = "" if now or any(each.devices for each in changes) else f"<p>None of them is enough alone. {ELSEWHERE}</p>"
    return Html(f"{head}<p>One change at a time, the least harm first.</p>{shown}{none}")


def _then(now: int, devices: int) -> str:
    if not devices:
        return "does not fit alone"
    words = f"{devices:,} device{'s' if devices > 1 else ''}"
    return f"<b>{words}</b>" if devices < now or not now else words
