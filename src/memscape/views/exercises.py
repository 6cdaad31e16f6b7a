"""Exercises whose answer the package works out when it is asked for: predict first, then look."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import ipywidgets as widgets

from memscape.views.controls import LOOK, html

NEAR = 0.05
ASK = "Write a number first, such as 12.5."


def ask(question: str, unit: str, answer: Callable[[], float], why: str) -> Any:
    """Return a question with a field for a prediction; a press of the button holds it against the package.

    `answer` is asked when a reader has predicted, and not before; `why` is told with it. Within 5 percent is right.
    """
    field = widgets.Text(value="", placeholder="your prediction", description=f"In {unit}", **LOOK)
    button = widgets.Button(description="Compare", tooltip="")
    said = html("exercise-said")
    check = partial(_check, field, said, unit, answer, why)
    button.on_click(check)
    row = widgets.Box([field, button])
    row.add_class("exercise-row")
    card = widgets.VBox([widgets.HTML(f"<p>{escape(question)}</p>"), row, said])
    card.add_class("memscape-exercise")
    return card


def _check(field: Any, said: Any, unit: str, answer: Callable[[], float], why: str, _pressed: Any) -> None:
    guess = _number(field.value)
    if guess is None:
        said.value = f"<p role='status'>{ASK}</p>"
        return
    right = float(answer())
    verdict = _verdict(guess, right)
    said.value = f"<p role='status'><b>{verdict}</b> It is {right:,.4g} {escape(unit)}. {escape(why)}</p>"


def _number(words: str) -> float | None:
    """A number as people write it: `1,234.5`, `1 234`; None for anything else."""
    plain = re.sub(r"(?<=\d)[, _](?=\d{3}\b)", "", words.strip())
    return float(plain) if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", plain) else None


def _verdict(guess: float, right: float) -> str:
    if abs(guess / right - 1) <= NEAR:
        return "Right."
    times = max(guess, right) / min(guess, right) if guess else float("inf")
    how = "too much" if guess > right else "too little"
    return f"{'Near' if times < 1.25 else 'Not yet'}: {how}{f', by {times:.3g} times' if 1.25 <= times < 1e6 else ''}."
