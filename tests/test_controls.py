"""The page loop: what is said when a calculation fails, and what a page's address holds."""

from __future__ import annotations

import pytest

import memscape as ms
from memscape.views import address, controls


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
        outputs = {"answer": controls.html("answer")}
        shown = controls.page(fields, _halves, lambda result: {"answer": f"<b>{result}</b>"}, outputs)
        state, columns = shown.children
        return (
            fields,
            outputs["answer"],
            next(each for each in columns.children[0].children if "said" in each._dom_classes),
            state,
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
    assert controls.FAILED in said.value and "Zero" not in said.value
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
    page = controls.Page()
    monkeypatch.setattr(page, "send", sent.append)
    page.download("plan.csv", "a,b", "text/csv")
    assert sent == [{"type": "download", "name": "plan.csv", "text": "a,b", "kind": "text/csv"}]


def test_export_is_made_when_its_button_is_pressed_of_what_is_shown(monkeypatch):
    """Nothing is made in the loop; a file that cannot be made is a sentence."""
    monkeypatch.setenv("QUERY_STRING", "")
    made, sent = [], []
    field = controls.slider("number", "Number", (1, 2, 4), 1)
    exports = {"twice.csv": lambda result: made.append(result) or f"{2 * result}\n", "broken.json": lambda _: 1 / 0}
    outputs = {"answer": controls.html("answer")}
    shown = controls.page((field,), lambda number: number, lambda _: {"answer": "1"}, outputs, None, exports)
    _, columns = shown.children
    monkeypatch.setattr(controls.Page, "send", lambda _page, content: sent.append(content))
    good, bad = columns.children[1].children[-1].children[1].children
    field.widget.value = 4
    assert not made and good.description == "Download twice.csv"
    good.click()
    assert sent == [{"type": "download", "name": "twice.csv", "text": "8\n", "kind": "text/csv"}] and made == [4]
    bad.click()
    said = next(each for each in columns.children[0].children if "said" in each._dom_classes)
    assert controls.FAILED in said.value and len(sent) == 1
