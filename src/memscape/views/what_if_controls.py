"""The controls of a what-if: those of A, what B changes, the two inputs of the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from memscape import tables
from memscape.catalog import common_precisions
from memscape.memory.weights import title
from memscape.views import controls, scenario
from memscape.views.controls import Control
from memscape.views.steps import Steps

SAME = "same"
AS_IN_A = ("the same as in A", SAME)
WHAT = {"serving": "Serving", "training": "Training"}
DEVICES = {str(2**power): f"{2**power}" for power in range(7)}
# what B changes at first
FIRST = {"precision": "fp8", "checkpointing": "yes"}
TIMES = {"100": "the same as in A", "25": "a quarter of A's", "50": "half of A's", "200": "twice A's"} | {
    "400": "4 times A's",
    "800": "8 times A's",
    "1600": "16 times A's",
}
PERCENT = {"10": "10 %", "25": "25 %", "50": "50 %"}
AXES = {
    "tokens": "tokens in each sequence",
    "sequences": "sequences at once",
    "tensor": "tensor-parallel devices",
    "pipeline": "pipeline stages",
    "context": "context-parallel devices",
    "data": "copies of the model",
}
FIELDS = {
    "serving": {"tokens": "prompt_tokens", "sequences": "sequences"},
    "training": {"tokens": "sequence_tokens", "sequences": "micro_batch"},
}
ONLY = {
    "serving": ("precision", "kv_cache"),
    "training": ("training_precision", "optimizer", "method", "checkpointing"),
}
LABELS = {
    "precision": "weights in",
    "kv_cache": "KV cache in",
    "training_precision": "precision",
    "optimizer": "optimizer",
    "method": "what is trained",
    "checkpointing": "gradient checkpointing",
    "tokens": "tokens in each sequence",
    "sequences": "sequences at once",
}


class Axes:
    """The two inputs of the map, which differ: the menu that is not moved takes what the other one had."""

    def __init__(self, legal: Steps, *menus: Control) -> None:
        """Follow two menus beside the sliders that follow the model."""
        self.legal, self.menus = legal, menus
        self.before = [menu.value for menu in menus]

    def adapt(self) -> str:
        """Offer what is possible now; return in words what had to move."""
        said = [self.legal.adapt()]
        first, second = (menu.value for menu in self.menus)
        if first == second:
            moved = int(first != self.before[0])
            menu = self.menus[moved].widget
            menu.value = self.before[1 - moved]
            said.append(f'"{menu.description}" moved to "{menu.label}": the two inputs of the map differ.')
        self.before = [menu.value for menu in self.menus]
        return " ".join(filter(None, said))


def fields(model: Control, legal: Steps) -> tuple[Control, ...]:
    """Return the controls; those that the chosen work does not have are hidden."""
    work = controls.choice("work", "What for", scenario.named(WHAT), "serving")
    own = {
        "precision": scenario.weights_in(),
        "kv_cache": scenario.cache_in(),
        "training_precision": scenario.trained_in(),
        "optimizer": scenario.optimizers(),
        "method": controls.choice("method", "What is trained", scenario.named(scenario.METHODS), "full"),
        "checkpointing": scenario.checkpointing(),
    }
    sizes = (
        legal.length(controls.slider("tokens", "Tokens in each sequence", scenario.CONTEXTS, 8192)),
        controls.slider("sequences", "Sequences at once (in training: micro-batch)", scenario.SEQUENCES, 16),
        *scenario.accelerator(),
        controls.choice("devices", "Devices", scenario.named(DEVICES), "2"),
    )
    changes = {f"{name}_b": _changed(name, own[name]) for name in own}
    times = [
        controls.choice(f"{name}_b", f"In B: {LABELS[name]}", scenario.named(TIMES), "100")
        for name in ("tokens", "sequences")
    ]
    found = (model, work, *own.values(), *sizes, _other_model(), *changes.values(), *times, *_looks())
    every = own | changes
    kinds = {kind: [every[each] for name in names for each in (name, f"{name}_b")] for kind, names in ONLY.items()}
    controls.shown_for(work, kinds)
    return found


def _other_model() -> Control:
    titles = [(row["title"], name) for name, row in tables.by_key("models", "id").items()]
    field = controls.search("model_b", "In B: model", [AS_IN_A, *titles], SAME)
    field.widget.add_class("apart")
    return field


def _changed(name: str, of_a: Control) -> Control:
    """The choice of what B has in place of A's."""
    if name == "checkpointing":
        options: Sequence[tuple[str, str]] = (AS_IN_A, ("on", "yes"), ("off", "no"))
    else:
        options = (AS_IN_A, *of_a.widget.options)
    return controls.choice(f"{name}_b", f"In B: {LABELS[name]}", options, FIRST.get(name, SAME))


def _looks() -> tuple[Control, ...]:
    axes = [(words, name) for name, words in AXES.items()]
    across = controls.choice("across", "Map, from left to right", axes, "tokens")
    across.widget.add_class("apart")
    precisions = [(title(name), name) for name in common_precisions()]
    return (
        across,
        controls.choice("up", "Map, from bottom to top", axes, "sequences"),
        controls.choice("percent", "Which input matters: lower and raise each by", scenario.named(PERCENT), "10"),
        controls.choice("fits_in", "What else fits: weights in", precisions, "bf16"),
    )


def changed(work: str, model_b: str, asked: dict[str, Any]) -> tuple[str, ...]:
    """Return in words what B changes."""
    models = tables.by_key("models", "id")
    lines = [] if model_b == SAME else [f"{models[model_b]['title']} as its model"]
    for name in ONLY[work]:
        value = asked[f"{name}_b"]
        if value != SAME:
            lines.append(f"{LABELS[name]} {_words(name, value)}")
    for name in ("tokens", "sequences"):
        if asked[f"{name}_b"] != "100":
            times = TIMES[asked[f"{name}_b"]].replace("A's", "the")
            lines.append(f"{times} {LABELS[name]}")
    return tuple(lines)


def _words(name: str, value: str) -> str:
    """A choice as it is shown."""
    known: dict[str, Callable[[str], object]] = {
        "precision": title,
        "kv_cache": lambda each: tables.by_key("cache_precisions")[each]["title"],
        "training_precision": scenario.TRAINED_IN.get,
        "optimizer": lambda each: tables.by_key("optimizers")[each]["title"],
        "method": scenario.METHODS.get,
        "checkpointing": {"yes": "on", "no": "off"}.get,
    }
    return str(known[name](value))
