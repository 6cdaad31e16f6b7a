"""Exercises whose answer the package works out when it is asked for: predict first, then look.

The words are in `data/exercises.csv`; a row names the function of `memscape.views.answers` that knows its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from memscape import tables
from memscape.breakdown import Quantity
from memscape.problem import chosen
from memscape.views.looks import looks

NEAR = 0.05
ASK = "Write a number first, such as 12.5."


@dataclass(frozen=True)
class Exercise:
    """A question with the unit of its answer; `answer` is called when a reader has predicted, `why` is told with it."""

    question: str
    unit: str
    answer: Callable[[], Quantity]
    why: str


class Exercises(anywidget.AnyWidget):
    """A list of questions, each with a field; a prediction is held against the package. Within 5 percent is right.

    The page gets the questions alone: neither an answer nor its reason is there before somebody has predicted.
    """

    _esm = Path(__file__).with_name("exercises.js")
    asked: Any = traitlets.List().tag(sync=True)

    def __init__(self, *exercises: Exercise) -> None:
        """Take the exercises in their order."""
        questions = [{"question": each.question, "unit": each.unit} for each in exercises]
        super().__init__(**looks(Exercises), asked=questions)
        self.exercises = exercises
        self.on_msg(self._compare)

    def _compare(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Answer a prediction; what is none of ours is not answered."""
        place, words = (content.get(key) for key in ("exercise", "words")) if type(content) is dict else (None, None)
        if type(place) is int and 0 <= place < len(self.exercises) and type(words) is str:
            verdict, reason = said(self.exercises[place], words)
            self.send({"exercise": place, "verdict": verdict, "words": reason})


def ask(page: str) -> Exercises:
    """Return the exercises of a page, as `data/exercises.csv` has them.

    Raises: Problem for a page without exercises.
    """
    rows = tables.rows("exercises")
    name = chosen("page", page, dict.fromkeys(row["page"] for row in rows))
    return Exercises(*(_exercise(row) for row in rows if row["page"] == name))


def said(exercise: Exercise, words: str) -> tuple[str, str]:
    """Return the verdict on a prediction, and the answer with its reason; a word in place of them for no number."""
    guess = _number(words)
    if guess is None:
        return ASK, ""
    right = float(exercise.answer())
    return _verdict(guess, right), f"It is {written(right)} {exercise.unit}. {exercise.why}"


def written(number: float) -> str:
    """Return a number with four digits, or more where it is whole thousands: `12.88`, `36,305`."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"


def _exercise(row: tables.Row) -> Exercise:
    def answer() -> Quantity:
        # what the answers rest on is loaded when the first reader asks
        return getattr(import_module("memscape.views.answers"), row["answer"])()

    return Exercise(row["question"], row["unit"], answer, row["why"])


def _number(words: str) -> float | None:
    """A number as people write it: `1,234.5`, `1 234`, `12,5`; None for anything else."""
    if len(words) >= 50:
        return None
    plain = re.sub(r"^(0|\d+(?=,\d{1,2}$)),", r"\1.", words.strip())  # a comma that cannot part thousands
    plain = re.sub(r"(?<=\d)[, _](?=\d{3}\b)", "", plain)
    return float(plain) if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", plain) else None


def _verdict(guess: float, right: float) -> str:
    if abs(guess / right - 1) <= NEAR:
        return "Right."
    times = max(guess, right) / min(guess, right) if guess else float("inf")
    how = "too much" if guess > right else "too little"
    return f"{'Near' if times < 1.25 else 'Not yet'}: {how}{f', by {times:.3g} times' if 1.25 <= times < 1e6 else ''}."
