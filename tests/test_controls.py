"""The page loop: what is said when a calculation fails, and what a page's address holds."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor

import ipywidgets
import pytest
from opened import Opened

import memscape as ms
from memscape import tables
from memscape.views import address, controls, exports, loop, text
from memscape.views.outputs import Html, Page


def _halves(number, exact):
    if number == 4:
        raise ms.Problem("4 <b>is</b> taken; choose another")
    return 8 // (number - 2) if exact else 8 / number


@pytest.fixture
def opened(monkeypatch):
    """What opens a small page, as from the link with this query: its fields, its loop's answer, its said, its state."""

    def start(query=""):
        monkeypatch.setenv("QUERY_STRING", query)
        fields = (controls.slider("number", "Number", (1, 2, 4, 8), 1), controls.switch("exact", "Exact", False))
        outputs = {"answer": Html("answer")}
        shown = loop.page(fields, _halves, lambda result: {"answer": f"<b>{result}</b>"}, outputs)
        (columns,) = shown.children
        settings, results = columns.children
        return (
            fields,
            outputs["answer"],
            next(each for each in settings.children if "said" in each._dom_classes),
            results.children[-1],
        )

    return start


def test_problem_is_said_escaped_and_the_last_result_stays(opened):
    (number, _), answer, said, _ = opened()
    number.widget.value = 4
    assert "4 &lt;b&gt;is&lt;/b&gt; taken; choose another." in said.value and "role='alert'" in said.value
    assert answer.value == "<b>8.0</b>"
    number.widget.value = 8
    assert answer.value == "<b>1.0</b>" and not said.value


def test_other_failure_is_a_sentence_without_a_traceback(opened, capsys):
    """STYLE 7: pages show a message, never a traceback; the settings stay as they are."""
    (number, exact), answer, said, _ = opened("exact=1&number=1")
    number.widget.value = 2
    assert loop.FAILED in said.value and "Zero" not in said.value
    assert (answer.value, number.value, exact.value) == ("<b>-8</b>", 2, True)
    assert capsys.readouterr() == ("", "")


def test_link_that_cannot_be_computed_opens_the_usual_page(opened):
    (number, exact), answer, said, state = opened("exact=1&number=2")
    assert (answer.value, number.value, exact.value) == ("<b>8.0</b>", 1, False)
    assert "usual settings are shown" in said.value and state.query == "number=1&exact=0&unit=GB"


@pytest.mark.parametrize("text, value, word", [
    ("2", 2, ""),
    ("7", 8, "nearest"),
    ("-99999999999999999999", 1, "nearest"),
    ("02", 2, "nearest"),
    ("1e9", 1, "usual"),
    ("", 1, "usual"),
    ("٣", 1, "usual"),
    ("9" * 500, 1, "usual"),
])  # fmt: skip
def test_number_of_a_link_is_taken_or_replaced_with_a_word(opened, text, value, word):
    (number, _), _, said, _ = opened(f"number={text}")
    assert number.value == value and word in said.value
    assert bool(said.value) == bool(word)


def test_address_keeps_what_other_pages_asked_and_drops_what_is_no_setting(opened):
    (number, _), _, _, state = opened("depth=200&%3Cscript%3E=1&number=2")
    number.widget.value = 8
    assert state.query == "number=8&exact=0&unit=GB&depth=200"


def test_step_is_one_message_with_all_that_it_changes(opened, monkeypatch):
    """Kernel, server and page handle each message: of all outputs it is one, of those that changed."""
    (number, _), answer, said, _ = opened("number=2")
    sent = []
    monkeypatch.setattr(Page, "send", lambda _page, content: sent.append(content))
    number.widget.value = 8
    outputs = {"answer": {"value": answer.value}}
    assert sent == [{"type": "changes", "outputs": outputs, "query": "number=8&exact=0&unit=GB"}] and not said.value


def test_front_end_that_is_there_first_is_told_all(opened, monkeypatch):
    """JupyterLab follows messages from the first on, and asks for no state: words, classes and outputs are in them."""
    heard = {}

    def note(widget, message, buffers=None):
        heard.setdefault(id(widget), {}).update(message.get("state", {}))

    monkeypatch.setattr(ipywidgets.Widget, "_send", note)
    _, answer, _, state = opened("number=2")
    headline = heard[id(state.headlines["answer"])]
    assert headline["value"] == answer.value and "output-answer" in headline["_dom_classes"]
    assert heard[id(state)]["shown"]["outputs"]["answer"]["value"] == answer.value


def test_page_without_a_link_leaves_the_address_alone(opened):
    """The bare address stays bare until something is chosen."""
    *_, state = opened()
    assert state.query == ""


def test_unreadable_address_is_no_address(monkeypatch):
    """Too many fields are refused by urllib.parse, whose limit we set."""
    monkeypatch.setenv("QUERY_STRING", "&".join(f"a{place}=1" for place in range(200)))
    assert address.read() == {}


def test_download_sends_the_text_to_the_browser_alone(monkeypatch):
    sent = []
    page = Page({}, [], str)
    monkeypatch.setattr(page, "send", sent.append)
    page.download("plan.csv", "a,b", "text/csv")
    assert sent == [{"type": "download", "name": "plan.csv", "text": "a,b", "kind": "text/csv"}]


def test_export_is_made_when_its_button_is_pressed_of_what_is_shown(monkeypatch):
    """Nothing is made in the loop; a file that cannot be made is a sentence."""
    monkeypatch.setenv("QUERY_STRING", "")
    made, sent = [], []
    field = controls.slider("number", "Number", (1, 2, 4), 1)
    files = {"twice.csv": lambda result: made.append(result) or f"{2 * result}\n", "broken.json": lambda _: 1 / 0}
    outputs = {"answer": Html("answer")}
    shown = loop.page((field,), lambda number: number, lambda _: {"answer": "1"}, outputs, None, files)
    (columns,) = shown.children
    monkeypatch.setattr(Page, "download", lambda _page, *given: sent.append(given))
    page = columns.children[1].children[-1]
    field.widget.value = 4
    assert not made and page.now()["files"] == ["twice.csv", "twice.json", "broken.json"]
    page._handle_custom_msg({"name": "twice.csv"}, [])
    assert sent == [("twice.csv", "8\n", "text/csv")] and made == [4]
    for nonsense in ({"name": "../secret.csv"}, {"name": ["twice.csv"]}, "twice.csv", {}, None):
        page._handle_custom_msg(nonsense, [])
    page._handle_custom_msg({"name": "broken.json"}, [])
    assert page.said == loop.FAILED and len(sent) == 1
    page._handle_custom_msg({"name": "twice.csv"}, [])
    assert not page.said and len(sent) == 2


def test_widgets_of_a_page_share_what_they_look_like():
    """Each style and layout is a message and an object more; what is not shown shares one too."""
    opened = Opened("training")
    fields, rank = opened.fields.values(), opened.fields["lora_rank"].widget
    assert {id(each.widget.layout) for each in fields} == {id(opened.state.layout), id(rank.layout)}
    sliders = [each.widget for each in fields if type(each.widget) is type(rank)]
    assert len(sliders) == 3 and len({id(each.style) for each in sliders}) == 1
    closed = rank.style
    closed.close()
    assert Opened("training").fields["lora_rank"].widget.style is not closed


def test_every_table_is_json_too_with_its_numbers():
    """RFC 8259: a number is a number; a word that a spreadsheet would run is a word again."""
    rows = [("llama", 5, 2.5), ("=1+1", -3, 1e-7), ("007", 0, None), ("no", False, True)]
    files = exports.with_json({"rows.csv": lambda _: exports.table(("name", "whole", "real"), rows), "answer.md": str})
    assert [*files] == ["rows.csv", "rows.json", "answer.md"]
    found = json.loads(files["rows.json"](None))
    assert [tuple(each.values()) for each in found] == rows
    assert [type(value) for value in found[0].values()] == [str, int, float]


def test_what_takes_longer_follows_when_the_controls_have_come_to_rest():
    """There as the page opens; after three moves in succession made once, from the last; until then it is dimmed."""

    async def moved():
        field, made = controls.slider("number", "Number", (1, 2, 4, 8), 1), []
        outputs = {"answer": Html("answer"), "rest": Html("card")}
        later = {"rest": lambda result: made.append(result) or f"<p>{result}</p>"}
        loop.page((field,), lambda number: number, lambda _: {"answer": "1"}, outputs, at_rest=later)
        for number in (2, 4, 8):
            field.widget.value = number
        waited = made == [1] and outputs["rest"].waits
        await asyncio.sleep(2 * loop.REST)
        return waited, made, outputs["rest"]

    with ThreadPoolExecutor(1) as beside:  # a browser that other tests keep has a loop in this thread
        waited, made, rest = beside.submit(lambda: asyncio.run(moved())).result()
    assert waited and made == [1, 8]
    assert rest.value == "<p>8</p>" and not rest.waits


FILES = {"answer.md", "terms.csv", "answer.json"}


def _rows(opened, name):
    return list(csv.DictReader(io.StringIO(opened.exports[name](opened.seen))))


def _sum(rows, column="bytes", **wanted):
    return sum(float(row[column]) for row in rows if all(row[name] == value for name, value in wanted.items()))


def _handed_out(query):
    """What a page hands out for Llama 3.1 8B, and what the package computes for the same settings."""
    model, asked = ms.model("llama-3.1-8b"), ms.Training(micro_batch=2, sequence_tokens=1024)
    served = ms.Inference(sequences=4, prompt_tokens=8192, output_tokens=0)
    alone = ms.Inference(sequences=4, prompt_tokens=1024, output_tokens=0)
    name, _, settings = query.partition("?")
    expected = {
        "index": lambda: ms.memory(model, served),
        "parameters": lambda: ms.parameters(model),
        "kv_cache": lambda: ms.kv_cache(model, served),
        "activations": lambda: ms.activations(model, asked),
        "training": lambda: ms.memory(model, asked),
        "parallelism": lambda: ms.memory(model, alone, ms.Layout(tensor=2)),
    }
    return Opened(name, f"model=llama-3.1-8b&{settings}"), expected[name]()


@pytest.mark.parametrize("query", [
    "index?tokens=8192&sequences=4",
    "parameters?",
    "kv_cache?tokens=8192&sequences=4",
    "activations?micro_batch=2&sequence_tokens=1024",
    "training?micro_batch=2&sequence_tokens=1024",
    "parallelism?work=serving&tensor=2&pipeline=1&data=1&batch=4&sequence_tokens=1024&sequence_parallel=0&zero=0",
])  # fmt: skip
def test_files_of_a_page_add_up_to_what_the_package_computes(query):
    """The terms, the data and the words hold the same exact total; the address in them opens the same page."""
    opened, expected = _handed_out(query)
    assert set(opened.exports) > FILES
    assert _sum(_rows(opened, "terms.csv"), expected.unit) == expected.total
    found = json.loads(opened.exports["answer.json"](opened.seen))
    assert found["total"] == sum(term["amount"] for term in found["terms"]) == expected.total
    assert {term["source"] for term in found["terms"]} == set(expected.sources) <= set(tables.by_key("sources", "key"))
    words = opened.exports["answer.md"](opened.seen)
    assert f"| **Together** | {expected.total:,} |" in words
    again = Opened(query.partition("?")[0], words.partition("`?")[2].partition("`")[0])
    assert again.answer == opened.answer and not again.said.value


def test_tables_of_a_page_are_what_the_package_computes():
    """Each table that is shown is a file as well: sums by moment, way and stage, sizes by precision and length."""
    llama = ms.model("llama-3.1-8b")
    opened, _ = _handed_out("training?micro_batch=2&sequence_tokens=1024")
    asked = ms.Training(micro_batch=2, sequence_tokens=1024)
    moments = {row["moment"]: 0 for row in _rows(opened, "course.csv")}
    sums = [_sum(_rows(opened, "course.csv"), moment=moment) for moment in moments]
    assert sums == [alive.total for alive in ms.timeline(llama, asked).values()]
    opened, kept = _handed_out("activations?micro_batch=2&sequence_tokens=1024")
    assert _sum(_rows(opened, "ways.csv"), **{"counted as": "Fused kernel"}) == kept.total
    opened, _ = _handed_out("parameters?")
    sizes = {row["precision"]: int(row["weights (bytes)"]) for row in _rows(opened, "precisions.csv")}
    assert ms.weights(llama).total in sizes.values()
    assert _sum(_rows(opened, "weights.csv")) == ms.weights(llama).total
    opened, cache = _handed_out("kv_cache?tokens=8192&sequences=4")
    (row,) = [row for row in _rows(opened, "growth.csv") if row["tokens in each conversation"] == "8192"]
    assert str(cache.total) in row.values()
    opened, busiest = _handed_out("parallelism?work=serving&tensor=2&pipeline=1&data=1&batch=4&sequence_tokens=1024")
    assert _sum(_rows(opened, "stages.csv"), stage="1") == _sum(_rows(opened, "terms.csv"))
    assert _sum(_rows(opened, "traffic.csv")) > 0 and busiest.total


@pytest.mark.parametrize("before", ["", "\t", "\r", "\n", " \u2028"])
@pytest.mark.parametrize("sign", ["=", "+", "-", "@"])
def test_words_in_a_table_are_never_run_as_a_formula(sign, before):
    """OWASP, CSV injection: a spreadsheet runs a cell that begins with one of these signs; numbers stay numbers."""
    text = exports.table(("name", "bytes"), [(f"{before}{sign}HYPERLINK(1)", -5), (f"a\r{sign}1", 5)])
    assert text.splitlines()[1:] == [f"'{sign}HYPERLINK(1),-5", f"a {sign}1,5"]


def test_words_of_a_reader_stand_for_themselves_in_markdown():
    """CommonMark, backslash escapes: no markup, no link, no cell of a table comes out of a name that somebody chose."""
    opened = Opened("index", "model=gpt2&name=" + "%3Cimg+src%3Dx%3E+%5Ba%5D(b)+%7C+%2A%2Ac")
    words = opened.exports["answer.md"](opened.seen)
    assert r"| Name of this scenario | \<img src=x\> \[a\](b) \| \*\*c |" in words
    assert "**GPT-2" in words and " needs **" in words
    data = json.loads(opened.exports["answer.json"](opened.seen))
    assert data["settings"]["name"] == "<img src=x> [a](b) | **c" and "**" not in data["answer"]


@pytest.mark.parametrize("name", ["training", "activations", "reality_check", "what_if"])
def test_link_that_is_refused_opens_the_usual_page_whatever_its_model_allows(name):
    """transformers, AlbertModel: no gradient checkpointing. ALBERT's 512 positions narrow a slider that goes back."""
    opened = Opened(name, "work=training&model=albert-base-v2&sequence_tokens=512&tokens=512&checkpointing=1")
    assert "train it without gradient checkpointing. The address asks for this" in opened.said.value
    assert opened.answer == Opened(name).answer
    fresh = Opened(name).fields
    assert {each: field.written for each, field in opened.fields.items()} == {
        each: fresh[each].written for each in fresh
    }


def test_rank_of_adapters_is_asked_for_and_moves_in_sight_only_where_there_are_adapters():
    """A control that changes nothing is not shown, and what happens to it is not said."""
    opened = Opened("training", "sequence_tokens=512&lora_rank=256")
    rank = opened.fields["lora_rank"].widget
    assert rank.layout.display == "none"
    opened.set(model="ALBERT base v2")
    assert rank.value == 128 and not opened.said.value
    for method in ("lora", "qlora"):
        opened.set(model="Llama 3.1 8B", method=method)
        assert rank.layout.display is None and rank.value == 256
        opened.set(model="ALBERT base v2")
        assert "Rank of the adapters moved from 256 to 128" in opened.said.value


def test_controls_of_training_are_hidden_where_a_model_is_served():
    opened = Opened("parallelism", "work=serving")
    hidden = {name for name, field in opened.fields.items() if field.widget.layout.display == "none"}
    assert hidden == {"zero", "recomputed"}
    opened.set(work="training")
    assert all(field.widget.layout.display is None for field in opened.fields.values())


@pytest.mark.parametrize("query", ["", "tensor=6&model=albert-base-v2&sequence_tokens=512", "work=serving"])
def test_bytes_in_a_file_are_whole_numbers(query):
    """A ring sends 2·(t - 1)/t of a tensor; what goes over the wire is bytes all the same."""
    opened = Opened("parallelism", query)
    rows = _rows(opened, "traffic.csv")
    assert rows and all(row[name].isdigit() for row in rows for name in ("bytes", "lowest", "highest"))
    assert _sum(rows) == pytest.approx(opened.seen.sent.total)


def test_settings_in_a_file_are_called_by_names_that_differ():
    """A label ends where its explanation begins, unless two would then be alike: "In B: ..." are several."""
    words = Opened("what_if").exports["answer.md"](Opened("what_if").seen)
    names = [line.split(" | ")[0] for line in words.partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()]
    assert len(names) == len(set(names)) and "| In B: weights in" in names and "| Which input matters" in names


def test_what_is_behind_a_line_is_sent_when_it_is_opened():
    """Most parts stay closed, and would be most of a page; one that is open follows the controls like the rest."""
    opened = Opened("index", "model=llama-3.1-8b&tokens=1024")
    parts = opened.outputs["parts"]
    assert "data-part='kv_cache'" in parts.value and "<table" not in parts.value
    opened.state.opened = ["kv_cache"]
    assert parts.value.count("<table") == 1 and " × 1,024 × " in parts.value
    opened.set(tokens=2048)
    assert parts.value.count("<table") == 1 and " × 2,048 × " in parts.value
    opened.state.opened = []
    assert "<table" not in parts.value


def test_a_notebook_that_shows_a_table_shows_all_of_it():
    """Nobody answers there when a part is opened."""
    held = ms.memory(ms.model("gpt2"), ms.Inference(sequences=1, prompt_tokens=8, output_tokens=0))
    assert text.table(held).count("<table") == len(held.by("phase"))
