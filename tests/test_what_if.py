"""What-ifs: each number of the page and of its files is asked of the package again."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from opened import Opened

import memscape as ms
from memscape.parallelism import DEGREES
from memscape.planner import layout_of
from memscape.planner.scenarios import Scenario, changes, most, surface
from memscape.views import loop
from memscape.views.what_if_pages import EXPORTS

H100 = "H100 SXM 80GB"
SERVED = ms.Inference(sequences=16, prompt_tokens=8192, output_tokens=0)
TRAINED = ms.Training(micro_batch=2, sequence_tokens=2048, precision="bf16-mixed", recompute="full")
FILES = ("scenarios.csv", "scenarios.json", "heat_map.csv", "what_fits.csv")


def _scenario(name, asked, devices, zero=0):
    model = ms.model(name)
    return Scenario.of(model, asked, replace(layout_of(model, devices, ms.accelerator(H100)), zero=zero))


PAIRS = {
    "precision": (_scenario("llama-3.1-70b", SERVED, 2), _scenario("llama-3.1-70b", replace(SERVED, weights="fp8"), 2)),
    "model": (_scenario("llama-3.1-70b", SERVED, 2), _scenario("mixtral-8x7b", SERVED, 2)),
    "adapters": (_scenario("llama-3.1-8b", TRAINED, 1), _scenario("llama-3.1-8b", replace(TRAINED, method="lora"), 1)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=[*PAIRS])
def test_what_grows_and_shrinks_sums_to_the_difference(pair):
    """The waterfall's formula: the sum over the parts of B - A is the difference of the totals, to the byte."""
    a, b = pair
    assert sum(changes(a, b).values()) == b.held.total - a.held.total
    assert set(changes(a, b)) == {*a.held.by("phase"), *b.held.by("phase")}


@pytest.mark.parametrize("scenario, across, up", [
    (_scenario("llama-3.1-70b", SERVED, 2), "prompt_tokens", "sequences"),
    (_scenario("llama-3.1-70b", SERVED, 2), "sequences", "prompt_tokens"),
    (_scenario("gemma-2-9b", SERVED, 1), "sequences", "prompt_tokens"),
    (_scenario("llama-3.1-8b", TRAINED, 8, 1), "sequence_tokens", "micro_batch"),
    (_scenario("llama-3.1-8b", TRAINED, 8, 1), "micro_batch", "sequence_tokens"),
])  # fmt: skip
def test_edge_of_the_map_is_the_largest_value_that_solve_finds(scenario, across, up):
    """Two ways to one answer: all columns at once, and one question at a time."""
    card = ms.accelerator(H100)
    found = surface(scenario, card, across, up)
    last = found.up[1][-1]
    for column in (*found.across[1][::12], scenario.now(across)):
        asked = replace(scenario.asked, **{across: int(column)})
        try:
            largest = ms.solve(scenario.model, asked, card, scenario.layout, up)
        except ms.Problem:
            largest = 0
        assert found.most(column) == min(largest, last)
    assert most(scenario, card, up) == found.most(scenario.now(across))


@pytest.mark.parametrize("scenario, across, up", [
    (_scenario("llama-3.1-70b", SERVED, 2), "prompt_tokens", "sequences"),
    (_scenario("llama-3.1-70b", SERVED, 2), "prompt_tokens", "tensor"),
    (_scenario("deepseek-v3", SERVED, 8), "data", "sequences"),
    (_scenario("llama-3.1-8b", TRAINED, 1, 1), "sequence_tokens", "data"),
    (_scenario("llama-3.1-8b", TRAINED, 1, 1), "pipeline", "context"),
])  # fmt: skip
def test_point_of_the_map_is_what_memory_says_of_it(scenario, across, up):
    """STYLE 5: an array gives what a loop of scalars gives; the edge of a degree is the smallest that fits."""
    card = ms.accelerator(H100)
    found = surface(scenario, card, across, up, (7, 5))
    held = numpy.zeros_like(found.totals)
    for (row, column), _ in numpy.ndenumerate(held):
        values = {across: int(found.across[1][column]), up: int(found.up[1][row])}
        layout = replace(scenario.layout, **{name: each for name, each in values.items() if name in DEGREES})
        asked = replace(scenario.asked, **{name: each for name, each in values.items() if name not in DEGREES})
        held[row, column] = ms.memory(scenario.model, asked, layout, card).total
    assert (held == found.totals).all()
    if up in DEGREES:
        for column, edge in enumerate(found.edge):
            fitting = found.up[1][held[:, column] <= card.usable_bytes]
            assert edge == (fitting.min() if fitting.size else 0)


def test_map_stops_where_a_model_has_learned_its_positions():
    """GPT-2 has 1,024 of them (config.json: n_positions)."""
    found = surface(
        _scenario("gpt2", replace(SERVED, prompt_tokens=512), 1), ms.accelerator(H100), "prompt_tokens", "sequences"
    )
    assert found.across[1].max() == 1024


@pytest.mark.parametrize("across, up, message", [
    ("sequences", "sequences", "choose two that differ"),
    ("layers", "sequences", 'no axis "layers"; use'),
])  # fmt: skip
def test_map_that_cannot_be_drawn_is_refused_in_a_sentence(across, up, message):
    with pytest.raises(ms.Problem, match=message):
        surface(PAIRS["model"][0], ms.accelerator(H100), across, up)


# the page


@pytest.fixture
def page():
    return lambda query="": Opened("what_if", query)


def test_page_shows_both_scenarios_of_the_link(page):
    """A link restores the page; its headline is the package's difference, its edge is solve's answer."""
    opened = page("model=llama-3.1-8b&tokens=4096&sequences=32&devices=1&precision_b=same&sequences_b=400")
    model, asked = ms.model("llama-3.1-8b"), ms.Inference(sequences=32, prompt_tokens=4096, output_tokens=0)
    a, b = (ms.memory(model, each).total for each in (asked, replace(asked, sequences=128)))
    answer = opened.outputs["answer"].value
    assert f"{ms.units.amount(b - a)} more" in answer and "4 times the sequences at once" in answer
    largest = ms.solve(model, asked, H100, largest="sequences")
    assert f"<b>{largest:,}</b> sequences at once" in opened.outputs["map_words"].value
    assert not opened.said.value


def test_waterfall_leads_from_total_to_total(page):
    """Each step starts where the one before ended; the bars of a scenario are as long as its total."""
    opened = page("model_b=mixtral-8x7b")
    seen, spec = opened.seen, opened.outputs["steps"].spec
    (bar,) = spec["data"]
    pieces = [*zip(bar["y"], bar["base"], bar["x"], strict=True)]
    ends = {row: sum(size for each, _, size in pieces if each == row) for row in "AB"}
    assert ends["A"] == pytest.approx(seen.a.held.total / 1e9) and ends["B"] == pytest.approx(seen.b.held.total / 1e9)
    spans = {row: (start, start + size) for row, start, size in pieces if row not in ends}
    at = ends["A"]
    for row in spec["layout"]["yaxis"]["categoryarray"][1:-1]:
        low, high = spans[row]
        assert at == pytest.approx(high if "−" in row else low)
        at = low if "−" in row else high
    assert at == pytest.approx(ends["B"])


def test_work_shows_its_own_controls_alone(page):
    opened = page()
    shown = {name for name, field in opened.fields.items() if field.widget.layout.display != "none"}
    assert {"precision", "precision_b", "kv_cache", "tokens"} <= shown and "optimizer" not in shown
    opened.fields["work"].widget.value = "training"
    shown = {name for name, field in opened.fields.items() if field.widget.layout.display != "none"}
    assert {"optimizer", "optimizer_b", "checkpointing", "tokens"} <= shown and "kv_cache_b" not in shown
    assert "training Llama 3.1 70B" in opened.outputs["answer"].value and not opened.said.value


@pytest.mark.parametrize("name", ["t5-base", "gpt2", "bert-base-uncased", "deepseek-v3"])
def test_page_answers_for_models_of_every_kind(page, name):
    """Encoders, learned positions, experts: a result or a sentence, never our mistake."""
    opened = page(f"model={name}&tokens=512&devices=1")
    for work in ("serving", "training"):
        opened.fields["work"].widget.value = work
        assert loop.FAILED not in opened.said.value


def _read(text):
    return list(csv.reader(io.StringIO(text)))


def test_files_give_back_the_same_bytes(page):
    """CSV and JSON, read again: units in the heads, every digit kept."""
    seen = page("model=llama-3.1-8b&devices=1").seen
    head, *rows = _read(EXPORTS["scenarios.csv"](seen))
    assert head == ["part", "A (bytes)", "B (bytes)", "B minus A (bytes)"]
    parts = {row[0]: [int(each) for each in row[1:]] for row in rows}
    totals = parts.pop("Total")
    assert totals == [seen.a.held.total, seen.b.held.total, seen.b.held.total - seen.a.held.total]
    assert [sum(column) for column in zip(*parts.values(), strict=True)] == totals
    found = json.loads(EXPORTS["scenarios.json"](seen))
    for name, each in (("A", seen.a), ("B", seen.b)):
        assert found[name]["total_bytes"] == each.held.total == sum(term["bytes"] for term in found[name]["terms"])
        again = ms.Inference(**found[name]["asked"])
        assert (
            ms.memory(ms.model(found[name]["model"]), again, ms.Layout(**found[name]["layout"])).total
            == each.held.total
        )


def test_both_scenarios_stand_in_the_answer(page):
    """The words, the terms and the data of A and of B: the bytes of `ms.memory`, and the same page from the link."""
    opened = page("model=llama-3.1-8b&devices=1&sequences=4&tokens=4096")
    asked = ms.Inference(sequences=4, prompt_tokens=4096, output_tokens=0)
    a, b = (ms.memory(ms.model("llama-3.1-8b"), replace(asked, weights=weights)) for weights in ("bf16", "fp8"))
    words = opened.exports["answer.md"](opened.seen)
    assert "| Part | A (bytes) | A | B (bytes) | B |" in words
    for name, ends in {"Weights": [each.only(phase="weights") for each in (a, b)], "**Together**": [a, b]}.items():
        cells = [f"{each.total:,} | {ms.units.amount(each.total)}" for each in ends]
        assert f"| {name} | {' | '.join(cells)} |" in words
    assert page(words.partition("`?")[2].partition("`")[0]).answer == opened.answer
    rows = list(csv.DictReader(io.StringIO(opened.exports["terms.csv"](opened.seen))))
    found = json.loads(opened.exports["answer.json"](opened.seen))["scenarios"]
    for name, each in (("A", a), ("B", b)):
        assert sum(int(row["bytes"]) for row in rows if row["scenario"] == name) == each.total == found[name]["total"]


def test_inputs_of_the_map_always_differ(page):
    """Moved to what the other one has, a menu takes it and gives its own; no map has one input on both sides."""
    opened = page()
    across, up = opened.fields["across"], opened.fields["up"]
    up.widget.value = "tokens"
    assert (across.value, up.value) == ("sequences", "tokens") and "role='status'" in opened.said.value
    across.widget.value = "tokens"
    assert (across.value, up.value) == ("tokens", "sequences") and "role='alert'" not in opened.said.value
    for query in ("across=data&up=data", "up=tokens", "across=sequences"):
        opened = page(query)
        assert opened.fields["across"].value != opened.fields["up"].value and "role='alert'" not in opened.said.value


def test_words_of_what_fits_are_never_run_as_a_formula(page):
    """OWASP, CSV injection: this table goes the way of all others."""
    seen = page("model=llama-3.1-8b&devices=1").seen
    bad = replace(seen, fitting=[row | {"why": "=1+1\r\nnext"} for row in seen.fitting])
    assert {row[-1] for row in _read(EXPORTS["what_fits.csv"](bad))[1:]} == {"'=1+1 next"}
    assert {row[2] for row in _read(EXPORTS["what_fits.csv"](seen))[1:]} <= {"yes", "no"}


def test_map_and_what_fits_give_back_the_same_bytes(page):
    seen = page("model=llama-3.1-8b&devices=1").seen
    head, *rows = _read(EXPORTS["heat_map.csv"](seen))
    assert head == ["prompt_tokens", "sequences", "memory of the busiest device (bytes)", "fits"]
    for tokens, sequences, held, fits in rows[:: len(rows) // 50]:
        asked = ms.Inference(sequences=int(sequences), prompt_tokens=int(tokens), output_tokens=0)
        total = ms.memory(ms.model("llama-3.1-8b"), asked).total
        assert (int(held), fits) == (total, "yes" if total <= seen.device.usable_bytes else "no")
    head, *rows = _read(EXPORTS["what_fits.csv"](seen))
    assert head[3:6] == [
        "weights on the busiest device (bytes)",
        "left on the busiest device (bytes)",
        "longest context (tokens)",
    ]
    line = next(row for row in rows if row[0] == "llama-3.1-8b")
    assert int(line[3]) == ms.weights(ms.model("llama-3.1-8b"), "bf16").total
    assert int(line[5]) == min(
        ms.solve(ms.model("llama-3.1-8b"), ms.Inference(output_tokens=0), H100, largest="prompt_tokens"),
        ms.model("llama-3.1-8b").max_tokens,
    )


@pytest.mark.browser
@pytest.mark.parametrize("name", FILES)
def test_browser_saves_the_file_by_keyboard(visit, name):
    """The button is focused and pressed with Enter; the browser gets a file of that name, made of what is shown."""
    seen = visit().open("07_what_if", "model=llama-3.1-8b&devices=1")
    button = seen.tab.get_by_role("button", name=f"Download {name}", exact=True)
    button.focus()
    with seen.tab.expect_download() as waiting:
        seen.tab.keyboard.press("Enter")
    saved = waiting.value
    assert saved.suggested_filename == name
    text = Path(saved.path()).read_text(encoding="utf-8")
    if name == "scenarios.json":
        asked = ms.Inference(sequences=16, prompt_tokens=8192, output_tokens=0)
        assert json.loads(text)["A"]["total_bytes"] == ms.memory(ms.model("llama-3.1-8b"), asked).total
    elif name == "scenarios.csv":
        assert _read(text)[-1][0] == "Total"
    else:
        assert len(_read(text)) > 100
    assert seen.complaints == []
