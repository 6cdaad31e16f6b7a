"""The pages: which controls, which calculation, what is shown. Every page is one call in a notebook."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

import memscape as ms
from memscape import units
from memscape.breakdown import Breakdown
from memscape.catalog import Accelerator, cache_precision, common_precisions
from memscape.cluster import RESERVE_PERCENT
from memscape.memory.weights import quantised_groups, title
from memscape.model import Model, scaled
from memscape.planner.advice import Change, tried, ways
from memscape.views import controls, exports, figures, loop, scenario, text
from memscape.views.outputs import Chart, Html
from memscape.views.steps import Steps
from memscape.workload import Inference

if TYPE_CHECKING:
    from memscape.views.activation_pages import activations
    from memscape.views.cluster_pages import cluster
    from memscape.views.layout_pages import parallelism
    from memscape.views.reality_pages import reality_check
    from memscape.views.training_pages import training
    from memscape.views.what_if_pages import what_if

__all__ = [
    "activations",
    "cluster",
    "index",
    "kv_cache",
    "parallelism",
    "parameters",
    "reality_check",
    "training",
    "what_if",
]

# pages with a module of their own, loaded when they are opened
ELSEWHERE = {
    "activations": "activation_pages",
    "cluster": "cluster_pages",
    "parallelism": "layout_pages",
    "reality_check": "reality_pages",
    "training": "training_pages",
    "what_if": "what_if_pages",
}

PERCENT = (25, 50, 100, 200, 400)
RESERVES = (0, 5, 10, 15, 20, 30)
BLOCKS = (1, 16, 32, 64, 128)
KEEPABLE = ("embeddings", "lm_head", "router")
CURVE = (1, *(2**power for power in range(4, 21)))
STORED_BY = {
    "an engine that keeps what is needed": "generic",
    "transformers (DynamicCache)": "transformers",
    "vLLM": "vllm",
    "llama.cpp": "llama.cpp",
}


def __getattr__(name: str) -> Any:
    """Load the page that is asked for."""
    if name not in ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"memscape.views.{ELSEWHERE[name]}"), name)


@dataclass(frozen=True)
class Overview:
    """What the first page shows."""

    model: Model
    asked: Inference
    served: Breakdown
    device: Accelerator
    devices: int
    reserve: int


def index() -> Any:
    """Return the one-screen answer: a model, a precision, a context and a device in; a sentence, a bar, a table out."""
    models = scenario.ModelChoice()
    legal = Steps(models.control)
    fields = (
        models.control,
        scenario.weights_in(),
        legal.length(scenario.context()),
        scenario.sequences(),
        scenario.cache_in(),
        *scenario.accelerator(),
        controls.slider("reserve", "Memory kept free on each device, %", RESERVES, RESERVE_PERCENT),
    )
    outputs = {
        "answer": Html("answer"),
        "bar_words": Html("caption"),
        "bar": Chart(height=150),
        "parts": Html("card"),
        "advice": Html("card"),
        "notes": Html("card quiet"),
    }
    files = {"changes.csv": _changes_csv}
    return loop.page(
        fields,
        _overview,
        _show_overview,
        outputs,
        models.upload,
        files,
        steps=legal,
        terms=lambda seen: seen.served,
        at_rest={"advice": lambda seen: text.advice(seen.devices, _changes(seen))},
    )


def _changes_csv(seen: Overview) -> str:
    return exports.changes_table(_changes(seen))


def _overview(
    model: Model, precision: str, tokens: int, sequences: int, kv_cache: str, accelerator: Accelerator, reserve: int
) -> Overview:
    asked = Inference(sequences=sequences, prompt_tokens=tokens, output_tokens=0, weights=precision, kv_cache=kv_cache)
    if model.has_encoder:
        asked = replace(asked, output_tokens=tokens)
    served = ms.memory(model, asked)
    devices = ms.fewest_devices(served, accelerator, reserve)
    return Overview(model, asked, served, accelerator, devices, reserve)


def _changes(seen: Overview) -> tuple[Change, ...]:
    """Single changes that need less in all, the least harm first, and the devices that hold it then at least."""
    return tried(
        seen.served,
        ways(seen.asked),
        lambda changed: ms.memory(seen.model, changed),
        lambda _changed, held: int(ms.fewest_devices(held, seen.device, seen.reserve)),
    )


def _show_overview(seen: Overview) -> dict[str, Any]:
    served, device = seen.served, seen.device
    bar = figures.memory_bar(served, device.usable_bytes, seen.devices, device.name)
    return {
        "answer": _headline(seen),
        "bar_words": text.on_devices(served, device.name, seen.devices),
        "bar": (bar, text.described(served, f"{seen.devices} × {device.name}")),
        "parts": text.parts("What it is made of", served),
        "notes": text.notes(_remarks(seen)),
    }


def _headline(seen: Overview) -> str:
    asked, served = seen.asked, seen.served
    parts = {part: units.amount(size) for part, size in served.by("phase").items()}
    many = f"{asked.sequences:,} conversations" if asked.sequences > 1 else "one conversation"
    cache = f", <b>{parts['kv_cache']}</b> of KV cache" if served.only(phase="kv_cache").total else ""
    return (
        f"<p class='over'>At least</p><p class='big'>{seen.devices:,} × {escape(seen.device.name)}</p>"
        f"<p class='lead'><b>{escape(seen.model.label)}</b> in {escape(title(asked.weights))} for {many} of "
        f"{asked.prompt_tokens:,} tokens needs <b>{units.amount(served.total)}</b> "
        f"({units.amount(served.total, units.other())}): <b>{parts['weights']}</b> of weights{cache}, "
        f"{parts['activations']} while it computes and {parts['runtime']} for the runtime. {_least(seen)}</p>"
        f"{text.band(served)}"
    )


def _remarks(seen: Overview) -> tuple[str, ...]:
    device = seen.device
    lines = [
        *seen.served.notes,
        f"{device.name} is sold with {device.memory_gb:g} GB; {units.both(device.usable_bytes, 4)} "
        f"can be used: {device.basis}",
    ]
    if seen.asked.prompt_tokens > seen.model.max_tokens:
        lines.append(f"{seen.model.label} was published for at most {seen.model.max_tokens:,} tokens")
    if seen.model.assumed:
        lines.append(f"not in the config, so the family's published default: {', '.join(seen.model.assumed)}")
    return tuple(lines)


def _least(seen: Overview) -> str:
    """What the number of devices means."""
    if seen.devices == 1:
        return "One device holds weights and cache, with the reserve kept free."
    return (
        f"Fewer than {seen.devices:,} devices cannot hold weights and cache with the reserve kept free on each. It "
        "may take more, as a model cannot be split in every way: <a href='06_cluster.ipynb'>Cluster</a> says how many."
    )


@dataclass(frozen=True)
class Counted:
    """What the parameters page shows."""

    model: Model
    changed: bool
    parameters: Breakdown
    active: Breakdown
    weights: Breakdown
    precision: str
    sizes: dict[str, int]


def parameters() -> Any:
    """Return the page that counts a model's parameters and weighs them in every precision."""
    models = scenario.ModelChoice()
    fields = (
        models.control,
        scenario.weights_in(),
        controls.slider("depth", "Layers, % of the model's", PERCENT, 100),
        controls.slider("width", "Width, % of the model's", PERCENT, 100),
        controls.slider("vocabulary", "Vocabulary, % of the model's", PERCENT, 100),
        *(controls.switch(f"quantise_{group}", _ask(group), False) for group in KEEPABLE),
    )
    outputs = {
        "answer": Html("answer"),
        "groups": Chart(height=300),
        "parts": Html("card"),
        "precisions": Chart(height=480),
        "weights": Html("card"),
        "notes": Html("card quiet"),
    }
    files = {"weights.csv": lambda seen: exports.terms_table(seen.weights), "precisions.csv": _precisions_csv}
    return loop.page(fields, _counted, _show_counted, outputs, models.upload, files, terms=lambda seen: seen.parameters)


def _precisions_csv(seen: Counted) -> str:
    return exports.table(("precision", "weights (bytes)"), ((title(name), size) for name, size in seen.sizes.items()))


def _ask(group: str) -> str:
    return f"Quantise the {text.name_of(group).lower()} too"


def _counted(model: Model, precision: str, depth: int, width: int, vocabulary: int, **quantise: bool) -> Counted:
    shape = scaled(model, depth, width, vocabulary)
    kept = _kept(precision, tuple(group for group in KEEPABLE if quantise[f"quantise_{group}"]))
    sizes = {name: ms.weights(shape, name).total for name in dict.fromkeys((*common_precisions(), precision))}
    weighed = ms.weights(shape, precision, kept)
    return Counted(shape, shape != model, ms.parameters(shape), ms.active_parameters(shape), weighed, precision, sizes)


def _kept(precision: str, quantised_too: tuple[str, ...]) -> tuple[str, ...] | None:
    """The groups that stay in 16 bit: the precision's own choice, less those that the reader quantises too."""
    if not quantised_too:
        return None
    applied = {*quantised_groups(precision), *quantised_too}
    return tuple(group for group in text.GROUP_NAMES if group not in applied)


def _show_counted(seen: Counted) -> dict[str, Any]:
    total, active = seen.parameters.total, seen.active.total
    used = f" One token uses <b>{units.count(active)}</b> of them." if active != total else ""
    built = _sizes(seen.model) if seen.changed else ""
    answer = (
        f"<p class='big'>{units.count(total)} parameters</p>{built}<p class='lead'><b>{escape(seen.model.label)}</b> "
        f"has exactly <b>{units.exact(total)}</b> parameters.{used} In {escape(title(seen.precision))} they take "
        f"<b>{units.amount(seen.weights.total)}</b> ({units.amount(seen.weights.total, units.other())}).</p>"
    )
    return {
        "answer": answer,
        "groups": (figures.groups(seen.parameters), text.described(seen.parameters, "", "group")),
        "parts": f"<h2>Every tensor, counted</h2>{text.table(seen.parameters, 'group')}",
        "precisions": (figures.precisions(seen.sizes, seen.precision), text.listed(seen.sizes)),
        "weights": f"<h2>The same tensors in bytes</h2>{text.table(seen.weights, 'group')}",
        "notes": text.notes(seen.parameters.notes),
    }


def _sizes(model: Model) -> str:
    """The sizes of a what-if, after rounding."""
    return (
        f"<p class='band'>What if it had {model.layers:,} layers, hidden size {model.hidden_size:,}, "
        f"{model.heads:,} heads and {model.vocab_size:,} words?</p>"
    )


@dataclass(frozen=True)
class Cached:
    """What the KV cache page shows."""

    model: Model
    asked: Inference
    cache: Breakdown
    token: int
    weights: int
    curves: dict[str, list[int]]


def kv_cache() -> Any:
    """Return the page that shows what a conversation costs: per token, per sequence, in every cache precision."""
    models = scenario.ModelChoice()
    legal = Steps(models.control)
    fields = (
        models.control,
        legal.length(scenario.context()),
        scenario.sequences(),
        scenario.cache_in(),
        controls.choice("engine", "Stored by", tuple(STORED_BY.items()), "generic"),
        controls.slider("block_tokens", "Tokens in a block (paging)", BLOCKS, 1),
    )
    outputs = {
        "answer": Html("answer"),
        "formula": Html("card"),
        "growth": Chart(height=420),
        "parts": Html("card"),
        "notes": Html("card quiet"),
    }
    files = {"growth.csv": _growth_csv}
    return loop.page(
        fields, _cached, _show_cached, outputs, models.upload, files, steps=legal, terms=lambda seen: seen.cache
    )


def _growth_csv(seen: Cached) -> str:
    rows = ((tokens, *sizes) for tokens, *sizes in zip(CURVE, *seen.curves.values(), strict=True))
    return exports.table(("tokens in each conversation", *(f"{name} (bytes)" for name in seen.curves)), rows)


def _cached(model: Model, tokens: int, sequences: int, kv_cache: str, engine: str, block_tokens: int) -> Cached:
    asked = Inference(
        sequences=sequences,
        prompt_tokens=tokens,
        output_tokens=0,
        kv_cache=kv_cache,
        engine=engine,
        block_tokens=block_tokens,
    )
    first = replace(asked, sequences=1, prompt_tokens=1, block_tokens=1)
    curves = {
        f"{cache_precision(name).title}, {sequences:,} at once": [
            ms.kv_cache(model, replace(asked, kv_cache=name, prompt_tokens=each)).total for each in CURVE
        ]
        for name in dict.fromkeys(("bf16", kv_cache))
    }
    weights = ms.weights(model).total
    return Cached(model, asked, ms.kv_cache(model, asked), ms.kv_cache(model, first).total, weights, curves)


def _show_cached(seen: Cached) -> dict[str, Any]:
    asked, total = seen.asked, seen.cache.total
    here = (asked.prompt_tokens, total)
    chart = figures.growth(CURVE, seen.curves, ("weights in BF16", seen.weights), here)
    many = f"{asked.sequences:,} conversations of {asked.prompt_tokens:,} tokens"
    answer = (
        f"<p class='big'>{units.amount(total)}</p><p class='lead'><b>{escape(seen.model.label)}</b> keeps "
        f"<b>{units.exact(total)} bytes</b> ({units.amount(total, units.other())}) for {many}. The first token of a "
        f"conversation costs <b>{units.exact(seen.token)} bytes</b>.</p>"
    )
    return {
        "answer": answer,
        "formula": f"<h2>How it is computed</h2>{text.formula(seen.cache, 'bytes')}{text.worked_example(seen.cache)}",
        "growth": (chart, text.described(seen.cache, many)),
        "parts": f"<h2>Kind by kind of layer</h2>{text.table(seen.cache, 'name')}",
        "notes": text.notes(seen.cache.notes),
    }
