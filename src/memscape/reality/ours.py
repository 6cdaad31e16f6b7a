"""Our number for what others say: a row of data names a function of this module and its arguments.

    weights|llama-3.1-70b|fp32        →  282,214,825,984 bytes

Nothing is stored: each function asks the package. Amounts of memory are bytes, rates and counts are as the name says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from memscape.catalog import accelerator, model
from memscape.cluster import Place, cluster, room_of
from memscape.cluster.placement import Search
from memscape.hardware import instance, node
from memscape.memory.activations import activations
from memscape.memory.kv_cache import kv_cache
from memscape.memory.parameters import parameters
from memscape.memory.rules_of_thumb import two_tensors_a_layer
from memscape.memory.timeline import memory
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem, chosen
from memscape.units import GB, GIB
from memscape.workload import Inference, Training

# how many of ours are one of the unit that a row is written in; any other unit is as it stands
SCALES = {
    "KB": 10**3,
    "KiB": 2**10,
    "MB": 10**6,
    "GB": GB,
    "GB as sold": GB,
    "GiB": GIB,
    "TB": 10**12,
    "billion parameters": 10**9,
    "percent of the growth": 1 / 100,
}
THREADS_PER_CORE = 2
CONVERSATION = 8192  # tokens, where a claim names none
STATES = ("weights", "gradients", "optimizer_states")
# the shape of the article's example: the width of Llama's largest model, with fewer layers
EXAMPLE_LAYERS, EXAMPLE_TOKENS = 96, 2048
CARDS_70B = 4


def ours(call: str, unit: str) -> float:
    """Return what the named function answers, in the unit.

    Raises: Problem for a name that is none of the functions.
    """
    name, *arguments = call.split("|")
    return FUNCTIONS[chosen("function", name, FUNCTIONS)](*arguments) / SCALES.get(unit, 1)


# what is served


def _conversation(precision: str = "bf16", tokens: int | str = CONVERSATION, sequences: int | str = 1) -> Inference:
    return Inference(int(sequences), prompt_tokens=int(tokens), output_tokens=0, weights=precision)


def _serving(name: str, precision: str, tokens: str, sequences: str) -> float:
    return float(memory(model(name), _conversation(precision, tokens, sequences)).total)


def _part_of_serving(name: str, tokens: str, sequences: str, phase: str) -> float:
    held = memory(model(name), _conversation("bf16", tokens, sequences))
    return float(held.by("phase").get(phase, 0))


def _growth(name: str, tokens: str, sequences: str, phase: str) -> float:
    """The share of a part in what more conversations add."""
    few, many = (memory(model(name), _conversation("bf16", tokens, count)) for count in (1, sequences))
    part = many.by("phase").get(phase, 0) - few.by("phase").get(phase, 0)
    return float(part / (many.total - few.total))


def _cache(name: str, tokens: str) -> float:
    return float(kv_cache(model(name), _conversation(tokens=tokens)).total)


# what is trained


def _trained(precision: str = "bf16-mixed") -> Training:
    return Training(sequence_tokens=EXAMPLE_TOKENS, precision=precision)


def _states(name: str, precision: str) -> float:
    held = memory(model(name), _trained(precision)).by("phase")
    return float(sum(held.get(phase, 0) for phase in STATES))


def _over_weights(name: str, phases: str) -> float:
    """Parts of training in mixed precision with AdamW, over its 16-bit weights."""
    sizes = memory(model(name), _trained()).by("phase")
    return float(sum(sizes[phase] for phase in phases.split(",")) / sizes["weights"])


def _checkpoint(name: str) -> float:
    """What a checkpoint of training holds: 16-bit weights, and the states with their 32-bit copy."""
    held = memory(model(name), _trained()).by("phase")
    return float(held["weights"] + held["optimizer_states"])


def _zero(name: str, devices: str, stage: str) -> float:
    """Weights, gradients and optimizer states on each device, in mixed precision under Megatron."""
    asked = Training(sequence_tokens=EXAMPLE_TOKENS, precision="bf16-mixed", implementation="megatron")
    held = memory(model(name), asked, Layout(data=int(devices), zero=int(stage))).by("phase")
    return float(sum(held[phase] for phase in STATES))


def _kept(name: str, sequences: str, tokens: str, recompute: str) -> float:
    asked = Training(int(sequences), int(tokens), precision="bf16-mixed", recompute=recompute, attention="eager")
    return float(activations(model(name), asked).total)


def _lengthened(name: str, tokens: str) -> float:
    """Activations of twice the tokens, over those of the tokens."""
    once, twice = (activations(model(name), Training(1, count * int(tokens))).total for count in (1, 2))
    return float(twice / once)


def _checkpointed(name: str, tokens: str) -> float:
    """Activations with all layers computed again, over those without."""
    full, none = (activations(model(name), Training(1, int(tokens), recompute=each)) for each in ("full", "none"))
    return float(full.total / none.total)


# the article's example


def _example_shape() -> Model:
    large = model("llama-3.1-405b")
    return replace(large, layers=EXAMPLE_LAYERS, layer_kinds=large.layer_kinds[:EXAMPLE_LAYERS])


def _example(what: str, precision: str = "bf16") -> float:
    """One tensor of the example, those of a layer or of all layers, as the article counts them; or what is kept."""
    shape, asked = _example_shape(), Training(1, EXAMPLE_TOKENS, precision=precision)
    if what == "kept":
        return float(activations(shape, asked).total)
    two = two_tensors_a_layer(shape, asked).total
    return float(two / {"layers": 1, "layer": EXAMPLE_LAYERS, "tensor": 2 * EXAMPLE_LAYERS}[what])


# devices and servers


def _devices(name: str, precision: str, card: str) -> float:
    """The fewest devices that hold one conversation."""
    of, asked = accelerator(card), _conversation(precision)
    place = Place(of, of.devices_per_node, room_of(of, asked, 0))
    return float(Search(model(name), asked).smallest(place)[0].layout.devices)


def _line(name: str, precision: str, server: str, line: str, layout: Layout | None = None) -> float:
    """A line of the bill of a server, or of an accelerator's own, that serves one conversation."""
    try:
        bill = cluster(model(name), _conversation(precision), node=node(server), layout=layout)
    except Problem:
        bill = cluster(model(name), _conversation(precision), accelerator=server, layout=layout)
    return float(bill.amount(line).total)


def _line_of_four(name: str, precision: str, card: str, line: str) -> float:
    """A line of the bill of a server with four cards."""
    return _line(name, precision, card, line, Layout(tensor=CARDS_70B))


def _instance(name: str) -> float:
    """The memory of a cloud machine's devices, as it is sold."""
    machine = instance(name)
    return float(machine.devices * accelerator(machine.accelerator).memory_gb * GB)


# parameters and weights


def _parameters(name: str) -> float:
    return float(parameters(model(name)).total)


def _weights(name: str, precision: str) -> float:
    return float(weights(model(name), precision).total)


FUNCTIONS: dict[str, Callable[..., float]] = {
    "parameters": _parameters,
    "ratio": lambda one, other: _parameters(one) / _parameters(other),
    "weights": _weights,
    "each": lambda name, precision: _weights(name, precision) / _parameters(name),
    "each_over": lambda name, precision, other: _weights(name, precision) / _weights(name, other),
    "serving": _serving,
    "part_of": _part_of_serving,
    "growth": _growth,
    "cache": _cache,
    "states": _states,
    "part": _over_weights,
    "checkpoint": _checkpoint,
    "zero": _zero,
    "kept": _kept,
    "lengthened": _lengthened,
    "checkpointed": _checkpointed,
    "activations": lambda name, tokens: float(activations(model(name), Training(1, int(tokens))).total),
    "example": _example,
    "example_parameters": lambda: float(parameters(_example_shape()).total),
    "kept_over_two": lambda: _example("kept") / _example("layers"),
    "devices": _devices,
    "line": _line,
    "line4": _line_of_four,
    "node": lambda name, field: float(getattr(node(name), field)),
    "node_threads": lambda name: float(THREADS_PER_CORE * (node(name).cores or 0)),
    "instance": _instance,
}
