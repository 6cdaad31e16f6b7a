"""The page about activations: what is kept from the forward to the backward pass, counted in five ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import Any

import memscape as ms
from memscape import units
from memscape.breakdown import Breakdown
from memscape.memory.rules_of_thumb import by_layer, two_tensors_a_layer
from memscape.model import Model
from memscape.problem import Problem
from memscape.views import controls, courses, exports, figures, loop, scenario, tensors, text
from memscape.views.outputs import Chart, Html
from memscape.views.steps import Steps
from memscape.workload import Training

LENGTHS = tuple(2**power for power in range(7, 18, 2))
RULE, PAPER, EAGER, FUSED, CHECKPOINTED = "Two tensors", "Paper", "Eager", "Fused kernel", "Checkpointed"
COUNTED = {
    RULE: "the simplest rule: the input and the output of each layer's activation, nothing else",
    PAPER: "Korthikanti et al. 2022, read for this model's MLP, heads and dropout: what Megatron's fused kernels keep",
    EAGER: "transformers as it is: each operator keeps what its own backward needs, the scores of attention among it",
    FUSED: "transformers with attention in one kernel, where PyTorch has one for the model: scores are computed again",
    CHECKPOINTED: "transformers keeps the input of each layer, and computes the layer again when backward comes to it",
}
LONGER = (
    "<h2>Longer sequences</h2><p>A step on either axis is a factor. A line that climbs with the grid doubles when the "
    "tokens double; one that climbs twice as fast takes four times as much.</p>"
)


@dataclass(frozen=True)
class Kept:
    """What the activations page shows."""

    model: Model
    asked: Training
    kept: Breakdown
    ways: dict[str, Breakdown]
    chosen: str
    missing: tuple[str, ...]
    curves: dict[str, dict[int, int]]


def activations() -> Any:
    """Return the page that shows what is kept from forward to backward, counted in five ways."""
    models = scenario.ModelChoice("llama-3.1-8b")
    legal = Steps(models.control)
    fields = (
        models.control,
        scenario.micro_batch(),
        legal.length(scenario.length()),
        scenario.trained_in(),
        scenario.attention(),
        scenario.checkpointing(),
        controls.switch("dropout", "Dropout at the rates of the config", True),
    )
    outputs = {
        "answer": Html("answer"),
        "asked": Html("caption"),
        "ways": Chart(height=330),
        "differ": Html("card"),
        "longer": Html("caption"),
        "growth": Chart(height=400),
        "tensors": Html("card"),
        "notes": Html("card quiet"),
    }
    files = {"ways.csv": _ways_csv, "lengths.csv": _lengths_csv}
    return loop.page(
        fields, _kept, _show_kept, outputs, models.upload, files, steps=legal, terms=lambda seen: seen.kept
    )


def _ways_csv(seen: Kept) -> str:
    return exports.sums_table("counted as", seen.ways, "group")


def _lengths_csv(seen: Kept) -> str:
    rows = ((name, tokens, size) for name, curve in seen.curves.items() for tokens, size in curve.items())
    return exports.table(("counted as", "tokens of one sequence", "bytes kept"), rows)


def _kept(
    model: Model,
    micro_batch: int,
    sequence_tokens: int,
    training_precision: str,
    attention: str,
    checkpointing: bool,
    dropout: bool,
) -> Kept:
    asked = Training(
        micro_batch=micro_batch,
        sequence_tokens=sequence_tokens,
        precision=training_precision,
        attention=attention,
        recompute="full" if checkpointing else "none",
        dropout=None if dropout else 0,
    )
    kept = ms.activations(model, asked)
    chosen = CHECKPOINTED if checkpointing else EAGER if attention == "eager" else FUSED
    ways, missing = {RULE: two_tensors_a_layer(model, asked)}, []
    for name, way in _ways(asked).items():
        try:
            ways[name] = kept if name == chosen else ms.activations(model, way)
        except Problem as problem:
            missing.append(f"{name} is not shown: {problem}")
    alone = _ways(replace(asked, micro_batch=1))
    curves = {name: _curve(model, way) for name, way in alone.items() if name in ways and name != PAPER}
    return Kept(model, asked, kept, ways, chosen, tuple(missing), curves)


def _ways(asked: Training) -> dict[str, Training]:
    """The workload in every way to count it."""
    plain = replace(asked, recompute="none")
    return {
        PAPER: replace(plain, attention="eager", implementation="megatron"),
        EAGER: replace(plain, attention="eager"),
        FUSED: replace(plain, attention="sdpa"),
        CHECKPOINTED: replace(asked, recompute="full"),
    }


def _curve(model: Model, asked: Training) -> dict[int, int]:
    """The bytes kept at every length that the model can have, and at the one that is asked for."""
    sizes = {each: _total(model, replace(asked, sequence_tokens=each)) for each in {*LENGTHS, asked.sequence_tokens}}
    return {each: size for each, size in sorted(sizes.items()) if size is not None}


@lru_cache(maxsize=512)
def _total(model: Model, asked: Training) -> int | None:
    """The bytes kept, remembered; none where the model cannot take the sequence."""
    try:
        total: int = ms.activations(model, asked).total
    except Problem:
        return None
    return total


def _show_kept(seen: Kept) -> dict[str, Any]:
    length = seen.asked.sequence_tokens
    layers = by_layer(seen.kept)
    shown = f"What a layer keeps: {seen.chosen.lower()}"
    return {
        "answer": _kept_answer(seen),
        "asked": f"<h2>One question, five answers</h2>{text.legend(seen.ways.values(), 'group')}",
        "ways": (courses.ways(seen.ways, seen.chosen), _said(seen)),
        "differ": f"<h2>Why they differ</h2>{text.compared(seen.ways, seen.chosen)}{_counted(seen)}",
        "longer": LONGER,
        "growth": (figures.lengths(seen.curves, (length, seen.curves[seen.chosen][length])), _growing(seen)),
        "tensors": f"<h2>{shown}</h2>{tensors.by_layer(layers)}{_letters(seen.kept)}",
        "notes": text.notes((*seen.kept.notes, *seen.missing, *_dropout(seen))),
    }


def _kept_answer(seen: Kept) -> str:
    asked, kept = seen.asked, seen.kept
    groups = kept.by("group")
    most = max(groups, key=lambda group: groups[group])
    return (
        f"<p class='big'>{units.amount(kept.total)}</p><p class='lead'><b>{escape(seen.model.label)}</b> keeps "
        f"<b>{units.exact(kept.total)} bytes</b> ({units.amount(kept.total, units.other())}) from the forward to the "
        f"backward pass of {scenario.sequences_of(asked)}, in {scenario.TRAINED_IN[asked.precision]}. The largest part "
        f"is <b>{text.name_of(most)}</b> with {units.amount(groups[most])}.</p>"
    )


def _dropout(seen: Kept) -> tuple[str, ...]:
    """A word where the switch for dropout has nothing to switch."""
    model = seen.model
    if model.attention_dropout or model.hidden_dropout or model.embedding_dropout:
        return ()
    return (f"the config of {model.label} has no dropout, so the switch changes nothing",)


def _counted(seen: Kept) -> str:
    """What each way counts, and its largest tensor."""
    lines = (
        f"<li><b>{name}</b>: {COUNTED[name]}. Largest: {tensors.largest(way)}.</li>" for name, way in seen.ways.items()
    )
    return f"<ul class='notes'>{''.join(lines)}</ul>"


def _letters(kept: Breakdown) -> str:
    return f"<details data-part='letters'><summary>What the letters mean</summary>{tensors.letters(kept)}</details>"


def _said(seen: Kept) -> str:
    return "; ".join(text.described(way, name, "group") for name, way in seen.ways.items())


def _growing(seen: Kept) -> str:
    ends = (
        f"{name} {units.amount(sizes[min(sizes)])} at {min(sizes):,} tokens, {units.amount(sizes[max(sizes)])} at "
        f"{max(sizes):,}"
        for name, sizes in seen.curves.items()
    )
    return f"Bytes kept of one sequence against its tokens: {'; '.join(ends)}"
