"""Sliders whose steps follow the model and other controls: only what is possible is offered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from memscape.memory.adapters import most_rank
from memscape.memory.training_states import most_tokens
from memscape.model import Model
from memscape.problem import Problem
from memscape.views import controls
from memscape.views.controls import Control

Legal = Callable[[Model, Mapping[str, int]], Sequence[int]]


class Steps:
    """Sliders that follow a model; one whose value is gone moves to the nearest, and back when it can."""

    def __init__(self, model: Control) -> None:
        """Follow the model that a control holds."""
        self.model = model
        self._rules: dict[str, Legal] = {}
        self._fields: dict[str, Control] = {}
        self._asked: dict[str, int] = {}
        self._placed: dict[str, int] = {}

    def slider(self, name: str, label: str, legal: Legal, value: int) -> Control:
        """Return a slider over the steps that are legal now; `legal` gets the model and the other such sliders."""
        return self.follow(controls.slider(name, label, (value, value + 1), value), legal)

    def length(self, field: Control) -> Control:
        """Let a slider over numbers of tokens end where the model's positions do."""
        return self._up_to(field, most_tokens)

    def rank(self, field: Control) -> Control:
        """Let a slider over ranks of adapters end where the smallest matrix of the model does."""
        return self._up_to(field, most_rank)

    def _up_to(self, field: Control, highest: Callable[[Model], int | None]) -> Control:
        every = [step for _, step in field.widget.options]

        def legal(model: Model, _others: Mapping[str, int]) -> Sequence[int]:
            most = highest(model)
            return every if most is None else [step for step in every if step <= most] or [most]

        return self.follow(field, legal)

    def follow(self, field: Control, legal: Legal) -> Control:
        """Let a slider offer what is legal; return it for the page."""
        name = field.name
        self._rules[name] = legal
        self._asked[name] = self._placed[name] = field.widget.value
        self._fields[name] = replace(field, find=lambda words: self._nearest(name, words))
        return self._fields[name]

    def adapt(self) -> str:
        """Offer what is legal now; return in words what had to move."""
        try:
            model = self.model.value
        except Problem:
            return ""
        moved = []
        for name, legal in self._rules.items():
            bar = self._fields[name].widget
            before = bar.value
            if before != self._placed[name]:
                self._asked[name] = before
            others = {other: int(field.widget.value) for other, field in self._fields.items()}
            try:
                steps = list(legal(model, others))
            except Problem:  # the calculation says it
                continue
            self._placed[name] = _offer(bar, steps, self._asked[name])
            if bar.value != before and bar.layout.display != "none":
                what = str(bar.description).partition(":")[0]
                moved.append(f"{what} moved from {before:,} to {bar.value:,}")
        return f"{'; '.join(moved)}: that is what {model.label} allows." if moved else ""

    def _nearest(self, name: str, words: str) -> int | None:
        self.adapt()
        steps = [value for _, value in self._fields[name].widget.options]
        return controls.nearest(steps, words)


def _offer(bar: Any, steps: list[int], asked: int) -> int:
    """Give a slider its steps, and the one that is nearest to what was asked for; one step alone cannot be moved."""
    options = [(f"{step:,}", step) for step in steps]
    if len(steps) == 1:
        options.append((f"{steps[0]:,} (no other fits)", steps[0]))
    value = min(steps, key=lambda step: abs(step - asked))
    if list(bar.options) != options:
        with bar.hold_sync():
            bar.options = options
            bar.value = value
        bar.disabled = len(steps) == 1
    elif bar.value != value:
        bar.value = value
    return value
