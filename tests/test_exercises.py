"""Exercises: every answer is the package's, and a prediction is held against it."""

from __future__ import annotations

import json
import re

import pytest
from published import ROOT

from memscape.views import exercises

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# by hand, or from the source that the notebook's own words give
BY_HAND = {
    "index": 405_853_388_800 * 2 / 1e9,
    "01_parameters": 12.879925248,  # 2 of 8 experts: Jiang et al. 2024
    "03_kv_cache": 2 * 80 * 8 * 128 * 2 / 1e3,
    "04_training": 6,  # Rajbhandari et al. 2020: 12 bytes over 2
    "05_parallelism": 64.512,  # 516,096 bytes over 8 heads, each of which is there twice
    "06_cluster": 16,
    "08_reality_check": 12 * 96 * 16384**2 / 1e9,
}


def _asked(path):
    """The card of a notebook's exercise, as its cell builds it, and the arguments it was built with."""
    given = []
    original = exercises.ask
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "exercises.ask" in "".join(cell["source"])]
    try:
        exercises.ask = lambda *arguments: given.extend(arguments) or original(*arguments)
        names = {}
        exec(source.replace("exercises.ask(", "card = exercises.ask("), names)
    finally:
        exercises.ask = original
    return names["card"], given


def _compare(card, words):
    row, said = card.children[1], card.children[2]
    field, button = row.children
    field.value = words
    button.click()
    return re.sub("<[^>]*>", "", said.value)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercise_of_every_notebook_is_answered_by_the_package(path):
    """Predict first, then look: the right number is right, twice of it is not, words are asked for a number."""
    card, (_question, unit, answer, why) = _asked(path)
    right = answer()
    if path.stem in BY_HAND:
        assert right == pytest.approx(BY_HAND[path.stem], rel=0.01)
    assert _compare(card, "many") == exercises.ASK
    said = _compare(card, f"{right:,.3f}")
    assert said.startswith("Right.") and f"{right:,.4g} {unit}" in said and why in said
    assert _compare(card, f"{2 * right:.3f}").startswith("Not yet: too much, by 2 times.")
    assert _compare(card, f"{right / 1.1:.3f}").startswith("Near: too little.")


@pytest.mark.parametrize("words", ["", "-3", "1e9", "<b>7</b>", "12,5", "7" * 300 + "x", "nan"])
def test_what_is_no_number_is_asked_again(words):
    card = exercises.ask("How many?", "GB", lambda: 1.0, "So.")
    assert _compare(card, words) == exercises.ASK


def test_nothing_is_worked_out_before_a_prediction():
    asked = []
    card = exercises.ask("How many?", "GB", lambda: asked.append(1) or 3.0, "So.")
    _compare(card, "")
    assert not asked
    _compare(card, "0")
    assert asked == [1]
