"""Exercises: every answer is the package's, and a prediction is held against it."""

from __future__ import annotations

import inspect
import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from published import ROOT

import memscape as ms
from memscape import Problem, tables
from memscape.views import answers, exercises, text

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SYMBOLS = ("text.symbols(", "text.glossary(")

# each worked out by hand from a model's published shape, or with the paper that the notebook names
BY_HAND = {
    "weights_of_405b": 405_853_388_800 * 2 / 1e9,
    "cache_of_64_conversations": 64 * 8192 * (2 * 126 * 8 * 128 * 2) / 1e9,
    # a byte of each weight but the two tables of words, over half of the cache of 16
    "half_the_bits_over_half_the_conversations": (405_853_388_800 - 2 * 128_256 * 16_384) / (8 * 8192 * 516_096),
    # Jiang et al. 2024: two experts of eight are used, so six of each layer are not
    "active_in_mixtral": (46_702_792_704 - 32 * 6 * 3 * 4096 * 14_336) / 1e9,
    "layers_of_twice_the_width": 4,
    "file_in_q4_k_m": 42.52,  # published_files.csv: the card of a file of Llama 3.1 70B
    "layer_of_gpt3": 2048 * 12_288 * (34 + 5 * 96 * 2048 / 12_288) / 1e9,  # Korthikanti et al. 2022, equation 1
    # the scores are 4 + 2 bytes for each head, the rest is what the question leaves of 40.8 GB
    "eager_at_twice_the_tokens": 32 * 32 * 6 * 4096**2 / 1e9 + 2 * (40.8 - 32 * 32 * 6 * 2048**2 / 1e9),
    "largest_tensor_with_checkpointing": 4 * 8192 * 128_256 / 1e9,
    "cache_of_a_token": 2 * 80 * 8 * 128 * 2 / 1e3,
    "tokens_that_weigh_the_weights": 2 * 8_030_261_248 / (2 * 32 * 8 * 128 * 2) / 1e3,
    "cache_with_windows": 2 * 16 * 128 * 2 * (10 * 131_072 + 52 * 1024) / 1e9,  # Gemma team 2025: 5 local to 1 global
    "states_over_weights": (4 + 4 + 4) / 2,  # Rajbhandari et al. 2020
    # 85.5 GB hold weights and states of 48.2 and two sequences of 14.3 and more, not three
    "sequences_that_fit": (85.5 - 6 * 8.03) // 14.3,
    # 7 matrices a layer: rank times rows and columns, each with a gradient and two states in 32 bit
    "states_of_rank_64": 32 * 64 * (2 * 8192 + 2 * 5120 + 3 * 18_432) * (4 + 4 + 4) / 1e9,
    "cache_on_one_of_16": 2 * 126 * 1 * 128 * 2 / 1e3,  # one KV head of 8, which is there twice
    "layers_of_the_first_of_16_stages": 7,  # Llama team 2024
    # 20 layers and the table of words over 8 devices, 12 bytes a parameter over 16 copies
    "states_shared_by_16_copies": (20 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28_672) + 8192 * 128_256)
    / 8 * 12 / 16 / 1e9,
    "a100_for_405b": 16,  # 811.7 GB over nine tenths of 85.9: eleven, and servers of eight
    "h100_for_128_conversations": -(-(811.7 + 541.2) // (8 * 0.9 * 85.5)) * 8,
    "heat_of_a_node": 8 * 0.7 * 1.9 * 3412.14,
    "saved_by_fp8": (70_553_706_496 - 2 * 128_256 * 8192) / 1e9,
    # one device of two: half of the weights, 2.3 GB for a prompt in work and the runtime, half of a cache of 2.68 GB
    "conversations_on_two_h100": (85.5 - 141.1 / 2 - 2.3) // 1.342,
    "shorter_conversations_in_fp8": (85.5 - (141.1 - 68.5) / 2 - 2.3) // 0.671,
    "parameters_of_the_example": 12 * 96 * 16_384**2 / 1e9,  # 12·L·h²
    "conversations_of_a_fifth_more": 8,  # a fifth of 141.1 GB is 28.2, and a conversation has 2.68 of cache: ten
    "cache_of_heads_over_latent": 2 * 128 * 192 / (512 + 64),  # DeepSeek-AI 2024: latent 512 and rotated key 64
}  # fmt: skip


def _cells(path, kind="code"):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def _of(path):
    """The exercises that a notebook's one call shows."""
    (call,) = [source for source in _cells(path) if "exercises.ask" in source]
    return exercises.ask(re.search(r'exercises\.ask\("(\w+)"\)', call)[1])


@pytest.fixture
def told(monkeypatch):
    """What tells the widget something, as a browser does, and returns what it answers: verdict and words together."""
    sent = []
    monkeypatch.setattr(exercises.Exercises, "send", lambda _widget, content: sent.append(content))

    def tell(widget, content):
        sent.clear()
        widget._handle_custom_msg(content, [])
        return [f"{each['verdict']} {each['words']}".strip() for each in sent]

    return tell


@pytest.fixture
def one():
    asked = []
    exercise = exercises.Exercise("How many?", "GB", lambda: asked.append(1) or 3.0, "So.")
    return exercises.Exercises(exercise), asked


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_two_or_three_exercises_and_one_to_be_set_on_the_page(path):
    """Issue: predict first, then reveal; one at least is seen on the page. What is sent to it holds no answer."""
    widget = _of(path)
    assert len(widget.exercises) in (2, 3)
    assert [sorted(each) for each in widget.asked] == [["question", "unit"]] * len(widget.exercises)
    assert any(re.search(r"\b(set|move|choose)\b.*\blook\b", each.question, re.I) for each in widget.exercises)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_says_what_its_letters_mean(path):
    """Issue: a symbol list from symbols.csv on every page."""
    assert any(call in source for source in _cells(path) for call in SYMBOLS)


@pytest.mark.parametrize("row", tables.rows("exercises"), ids=lambda row: row["answer"])
def test_exercise_is_answered_by_the_package(told, row):
    """The right number is right, twice of it is not, words are asked for a number; the answer is the one by hand."""
    exercise = exercises._exercise(row)
    widget, right = exercises.Exercises(exercise), exercise.answer()
    assert right == pytest.approx(BY_HAND[row["answer"]], rel=0.01)

    def compare(words):
        return told(widget, {"exercise": 0, "words": words})[0]

    assert compare("many") == exercises.ASK
    shown = compare(f"{right:,.3f}")
    assert shown.startswith("Right. It is ") and f"{exercises.written(right)} {row['unit']}. {row['why']}" in shown
    assert compare(f"{2 * right:.3f}").startswith("Not yet: too much, by 2 times.")
    assert compare(f"{right / 1.1:.3f}").startswith("Near: too little.")


def test_every_row_has_an_answer_and_every_answer_a_row():
    """Nothing is stored: a row names a function of the package, and there is no other."""
    known = {
        name for name, each in vars(answers).items() if inspect.isfunction(each) and each.__module__ == answers.__name__
    }
    named = {name for name in known if not name.startswith("_")}
    assert {row["answer"] for row in tables.rows("exercises")} == named == set(BY_HAND)
    assert not {"right", "number", "value"} & set(tables.rows("exercises")[0])


def _gb(amount):
    return f"{amount / 1e9:.3g}"


def test_numbers_in_the_words_are_the_packages():
    """What questions and reasons quote beside the answers, where no other test reads it."""
    words = {row["answer"]: f"{row['question']} {row['why']}" for row in tables.rows("exercises")}
    large, fast = ms.model("llama-3.1-405b"), "H100 SXM 80GB"
    cache = [ms.kv_cache(large, _served(sequences)).total for sequences in (16, 128)]
    assert f"take {_gb(cache[0])} GB of cache" in words["cache_of_64_conversations"]
    assert f"against {_gb(cache[0] / 2)}: " in words["half_the_bits_over_half_the_conversations"]
    assert f"{_gb(cache[1])} GB of cache" in words["h100_for_128_conversations"]
    assert f"{_gb(ms.weights(large).total)} GB of weights" in words["h100_for_128_conversations"]
    assert ms.cluster(large, _served(16), accelerator=fast).devices == 16
    assert ms.cluster(large, _served(1, weights="fp8"), accelerator="A100 SXM 80GB").devices == 8
    held = ms.memory(ms.model("llama-3.1-70b"), _served(1), ms.Layout(tensor=2), fast)
    left, each = ms.accelerator(fast).usable_bytes - held.total, held.only(phase="kv_cache").total
    assert f"leave {_gb(left + each)} GB, and a conversation takes {_gb(each)}" in words["conversations_on_two_h100"]
    sliding, full = (term.amount for term in ms.kv_cache(ms.model("gemma-3-27b-text"), _served(1, 131_072)))
    assert f"hold {_gb(full)} GB; the other 52 stop at {_gb(sliding)} GB" in words["cache_with_windows"]
    assert f"would be {_gb(full / 10 * 62)} GB" in words["cache_with_windows"]
    copies = ms.Layout(tensor=8, pipeline=4, data=4, zero=1, sequence_parallel=True)
    asked = ms.Training(1, 2048, global_batch=128, precision="bf16-mixed", implementation="megatron")
    states = ms.memory(ms.model("llama-3.1-70b"), asked, copies).by("phase")["optimizer_states"]
    assert f"take {_gb(states)} GB" in words["states_shared_by_16_copies"]


def _served(sequences, tokens=8192, **other):
    return ms.Inference(sequences=sequences, prompt_tokens=tokens, output_tokens=0, **other)


@pytest.mark.parametrize(
    "words", ["", "-3", "1e9", "<b>7</b>", "1,2,3", "12,5 GB", "7" * 300 + "x", "7" * 10**6, "nan", "٣"]
)
def test_what_is_no_number_is_asked_again(told, one, words):
    widget, asked = one
    assert told(widget, {"exercise": 0, "words": words}) == [exercises.ASK]
    assert not asked


@pytest.mark.parametrize("words", ["3", "3.0", "3,0", " 2,95 ", "3,1"])
def test_comma_that_cannot_part_thousands_parts_decimals(told, one, words):
    """ISO 80000-1: the decimal sign is a comma or a point on the line."""
    assert told(one[0], {"exercise": 0, "words": words})[0].startswith("Right.")


@pytest.mark.parametrize("content", [
    None, 5, "words", [], {}, {"exercise": 0}, {"words": "3"}, {"exercise": 1, "words": "3"},
    {"exercise": -1, "words": "3"}, {"exercise": True, "words": "3"}, {"exercise": 0.0, "words": "3"},
    {"exercise": "0", "words": "3"}, {"exercise": [0], "words": "3"}, {"exercise": 10**30, "words": "3"},
    {"exercise": 0, "words": 3}, {"exercise": 0, "words": ["3"]}, {"exercise": 0, "words": {"a": "3"}},
    {"exercise": 0, "words": None},
], ids=str)  # fmt: skip
def test_message_that_no_page_sends_is_not_answered(told, one, caplog, capsys, content):
    """A visitor may send anything: nothing is worked out, nothing is said, and nothing fails."""
    widget, asked = one
    assert told(widget, content) == [] and not asked
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_nothing_is_worked_out_before_a_prediction(told, one):
    widget, asked = one
    told(widget, {"exercise": 0, "words": ""})
    assert not asked
    assert told(widget, {"exercise": 0, "words": "0"}) == ["Not yet: too little. It is 3 GB. So."]
    assert asked == [1]


def test_page_without_exercises_is_refused_in_a_sentence():
    with pytest.raises(Problem, match='unknown page "kv_cash"; did you mean "kv_cache"'):
        exercises.ask("kv_cash")


def test_folded_letters_are_asked_for():
    """The list of the overview is long, and most readers know the letters."""
    shown = text.glossary("layers", "keys_and_values", folded=True)
    assert shown.startswith("<details") and text.glossary("layers", "keys_and_values") in shown


# in a browser


@pytest.mark.browser
@pytest.mark.parametrize("name, right, answer", [("index", "812", "811.7 GB"), ("03_kv_cache", "327.7", "327.7 kB")])
@pytest.mark.parametrize("width", [1440, 390])
def test_prediction_is_typed_and_its_verdict_read(visit, name, right, answer, width):
    """By keyboard alone; a verdict is spoken (role status), nothing is wider than the page, axe-core finds nothing."""
    seen = visit(width).open(name)
    tab = seen.tab
    form = tab.locator(".memscape-exercises form").first
    field, said = form.get_by_role("textbox"), form.get_by_role("status")
    assert tab.locator(".memscape-exercises form").count() == 3
    assert said.inner_text() == ""
    field.focus()
    for words, key, expected in (
        ("1", "Enter", "Not yet: too little"),
        (right, "Tab", "Right."),
        ("many", "Enter", "Write"),
    ):
        tab.keyboard.press("Control+a")
        tab.keyboard.type(words)
        tab.keyboard.press(key)
        if key == "Tab":
            assert tab.evaluate("document.activeElement.textContent") == "Compare"
            tab.keyboard.press("Space")
        seen.until(
            "([form, words]) => form.querySelector('.said').innerText.startsWith(words)",
            [form.element_handle(), expected],
        )
        assert (answer in said.inner_text()) is (expected != "Write")
        field.focus()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert seen.answer
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        seen.until("(scheme) => document.documentElement.dataset.theme === scheme", scheme)
        tab.wait_for_timeout(300)
        assert [each["id"] for each in Axe().run(tab).response["violations"]] == []
    assert seen.complaints == []
