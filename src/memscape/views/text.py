"""Words, formulas and tables as HTML: what a Breakdown says, in the letters of `data/symbols.csv`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from memscape import tables, units
from memscape.breakdown import Breakdown, Quantity, Term, latex

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
        return f"{units.amount(value)} ({units.amount(value, 'GiB')})"
    return f"{units.count(value)} {unit}"


def formula(breakdown: Breakdown, left: str = "") -> Html:
    """Return the formula of every term as LaTeX; terms that are the same product share a line, which names them."""
    names: dict[str, list[str]] = {}
    for term in breakdown.terms:
        names.setdefault(term.formula, []).append(term.name)
    alone = [left or breakdown.unit] if len(names) == 1 else None
    lines = (rf"\text{{{', '.join(alone or each)}}} = {product}" for product, each in names.items())
    return Html("".join(f"<div class='formula'>$${line}$$</div>" for line in lines))


def worked_example(breakdown: Breakdown) -> Html:
    """Return the numbers put in, term by term, and their sum."""
    lines = [f"<li>{escape(term.name)}: <b>{term.substituted}</b> {breakdown.unit}</li>" for term in breakdown.terms]
    total = (
        f"<p>Together {units.exact(breakdown.total)} {breakdown.unit}: {amount(breakdown.total, breakdown.unit)}.</p>"
    )
    return Html(f"<ul class='worked'>{''.join(lines)}</ul>{total}")


def symbols(breakdown: Breakdown) -> Html:
    """Return the meaning of each letter that the breakdown's formulas use, from the glossary."""
    glossary = tables.by_key("symbols")
    used = dict.fromkeys(name for term in breakdown.terms for name in term.factors)
    rows = [
        (f"${glossary[name]['latex']}$", f"<code>{name}</code>", escape(glossary[name]["meaning"]))
        for name in used
        if name in glossary
    ]
    return _table(("Symbol", "Name in code", "Meaning"), rows, "symbols")


def table(breakdown: Breakdown, by: str = "phase") -> Html:
    """Return the parts of a breakdown, each with its share; a part opens into its terms, a term into its factors."""
    totals = breakdown.by(by)
    parts = "".join(_part(breakdown, by, part, value) for part, value in totals.items())
    total = f"<div class='row total'><span>Total</span><span>{amount(breakdown.total, breakdown.unit)}</span></div>"
    return Html(f"<div class='parts'>{parts}{total}</div>")


def _part(breakdown: Breakdown, by: str, part: str, value: float) -> str:
    """One part: a line that opens into the terms behind it."""
    inner = breakdown.only(**{by: part})
    rows = [_term_row(term, breakdown.unit) for term in inner.terms]
    share = f"{value / breakdown.total:.1%}" if breakdown.total else ""
    opened = _table(("Term", "Formula", "Numbers", breakdown.unit.capitalize(), "Source"), rows, "terms")
    first = inner.terms[0]
    colour = f"group-{first.group}" if by == "group" else f"part-{first.phase}"
    return (
        f"<details data-part='{escape(part)}'><summary class='row'><span>{swatch(colour)}{escape(name_of(part))}"
        f"</span><span>{amount(value, breakdown.unit)}</span><span class='share'>{share}</span></summary>"
        f"{opened}</details>"
    )


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


def tensors(layers: Mapping[tuple[str, Quantity], Breakdown]) -> Html:
    """Return kept tensors as tables, one for each kind of layer: shape, type, bytes, why each is kept."""
    tables_of_layers = []
    for (name, count), kept in layers.items():
        rows = [
            (escape(tensor_name(term)), shape(term), term.dtype, units.exact(term.amount), escape(term.because))
            for term in kept
        ]
        body = _table(("Tensor", "Shape", "Type", "Bytes", "Why it is kept"), rows, "tensors")
        tables_of_layers.append(f"<h3>{_layer_title(name, count)}: {amount(kept.total, kept.unit)}</h3>{body}")
    return Html("".join(tables_of_layers))


def _layer_title(name: str, count: Quantity) -> str:
    if not name:
        return "Once for the whole model"
    return escape(f"Each of the {count:,} {name.replace('_', ' ')}" if count > 1 else f"The one of {name}")


def tensor_name(term: Term) -> str:
    """Return the name of a tensor, with the part that makes it where it has one."""
    return term.name.removeprefix(": ")


def shape(term: Term) -> str:
    """Return the sizes of a tensor in the letters of the glossary; a plain number shows itself."""
    sizes = {name: size for name, size in term.factors.items() if name != "bytes_per_element"}
    known = tables.by_key("symbols")
    return " × ".join(symbol_html(name) if name in known else units.exact(size) for name, size in sizes.items())


def letters(breakdown: Breakdown) -> Html:
    """Return the letters of a breakdown's shapes with their numbers here and their meaning."""
    glossary = tables.by_key("symbols")
    used = {name: size for term in breakdown for name, size in term.factors.items() if name in glossary}
    used.pop("bytes_per_element", None)
    rows = [(symbol_html(name), units.exact(size), escape(glossary[name]["meaning"])) for name, size in used.items()]
    return _table(("Letter", "Here", "Meaning"), rows, "symbols")


def compared(ways: Mapping[str, Breakdown], chosen: str) -> Html:
    """Return the groups of several breakdowns side by side, one column each; the chosen one stands out."""
    columns = {name: way.by("group") for name, way in ways.items()}
    totals = {name: way.total for name, way in ways.items()}
    present = {group for way in columns.values() for group in way}
    groups = [*(group for group in GROUP_NAMES if group in present), *sorted(present - GROUP_NAMES.keys())]

    def row(first: str, sizes: Mapping[str, Quantity | None]) -> list[str]:
        cells = {name: "–" if size is None else units.amount(size) for name, size in sizes.items()}
        return [first, *(f"<b>{cell}</b>" if name == chosen else cell for name, cell in cells.items())]

    rows = [
        row(f"{swatch(f'group-{group}')}{name_of(group)}", {name: way.get(group) for name, way in columns.items()})
        for group in groups
    ]
    return _table(("Part", *ways), [*rows, row("<b>Together</b>", totals)], "compared")


def swatch(colour: str) -> str:
    """Return a small patch of a part's colour."""
    return f"<i class='swatch' style='background:var(--{escape(colour)})'></i>"


def largest(breakdown: Breakdown) -> str:
    """Return the largest term in words: its name, its shape and type where it is a tensor, its amount."""
    term = max(breakdown, key=lambda term: float(term.amount))
    what = f", {shape(term)} in {term.dtype}" if term.dtype else ""
    return f"{escape(tensor_name(term))}{what}, {units.amount(term.amount)}"


def symbol_html(name: str) -> str:
    """Return a factor's letter as HTML with subscripts: a table has too many formulas for a typesetter."""
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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> Html:
    titles = "".join(f"<th scope='col'>{escape(title)}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return Html(
        f"<div class='scroll'><table class='{kind}'><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )
