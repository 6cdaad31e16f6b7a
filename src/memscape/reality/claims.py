"""An article of 2024 about the memory of language models, claim by claim (`data/article.csv`).

The claims are in our own words. Our number is never stored: the row names a function and its arguments, and the
package is asked each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from memscape import tables
from memscape.catalog import accelerator, model
from memscape.cluster import Place, cluster, room_of
from memscape.cluster.placement import Search
from memscape.hardware import instance, node
from memscape.memory.activations import activations
from memscape.memory.parameters import parameters
from memscape.memory.rules_of_thumb import two_tensors_a_layer
from memscape.memory.timeline import memory
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem, chosen
from memscape.units import GB
from memscape.workload import Inference, Training

VERDICTS = ("right", "imprecise", "outdated", "wrong")
NEAR = 0.05  # what "about" allows
TERA, MEGA, BILLION = 10**12, 10**6, 10**9
THREADS_PER_CORE = 2
# the shape of the article's example: the width of Llama's largest model, with fewer layers
EXAMPLE_LAYERS, EXAMPLE_TOKENS = 96, 2048
CARDS_70B = 4
# the units of a bill's lines in those of the claims
IN_UNITS = {"RAM of a node": GB, "NVMe of a node": TERA}


@dataclass(frozen=True)
class Claim:
    """A claim of the article beside our number; `theirs` and `ours` are None for one without a number.

    `relation` says how they are to be compared: "about" (within 5 %), "at most" (ours may not exceed theirs, as where
    theirs is said to be enough), "at least", or "between" `theirs` and `theirs_high`.
    """

    name: str
    section: str
    claim: str
    theirs: float | None
    theirs_high: float | None
    ours: float | None
    unit: str
    relation: str
    verdict: str
    why: str
    source: str

    @property
    def holds(self) -> bool | None:
        """Whether the numbers agree as the relation asks; None for a claim without numbers."""
        if self.ours is None or self.theirs is None:
            return None
        if self.relation == "about":
            return abs(self.ours / self.theirs - 1) <= NEAR
        if self.relation == "at most":
            return self.ours <= self.theirs
        if self.relation == "at least":
            return self.ours >= self.theirs
        return self.theirs_high is not None and self.theirs <= self.ours <= self.theirs_high


@cache
def claims() -> tuple[Claim, ...]:
    """Return every claim of the article with our number for it, in the order of the article.

    Units: as each row says. Sources: as each row says.
    """
    return tuple(_claim(row) for row in tables.rows("article"))


def _claim(row: tables.Row) -> Claim:
    theirs, high = (tables.number("article", row, column) for column in ("theirs", "theirs_high"))
    name, *arguments = row["ours"].split("|")
    ours = OURS[chosen("function", name, OURS)](*arguments) if name else None
    words = (row["unit"], row["relation"], row["verdict"], row["why"], row["source"])
    return Claim(row["id"], row["section"], row["claim"], theirs, high, ours, *words)


# our numbers, by the name that a row calls them


def _devices(name: str, precision: str, card: str) -> float:
    """The fewest devices that hold one conversation of 8,192 tokens."""
    of = accelerator(card)
    asked = Inference(prompt_tokens=8192, output_tokens=0, weights=precision)
    place = Place(of, of.devices_per_node, room_of(of, asked, 0))
    return float(Search(model(name), asked).smallest(place)[0].layout.devices)


def _line(name: str, precision: str, server: str, line: str, layout: Layout | None = None) -> float:
    """A line of the bill of a server that serves one conversation; weights of 16 bits are spread over two servers."""
    asked = Inference(prompt_tokens=8192, output_tokens=0, weights=precision)
    try:
        bill = cluster(model(name), asked, node=node(server), layout=layout)
    except Problem:
        bill = cluster(model(name), asked, accelerator=server, layout=layout)
    return float(bill.amount(line).total / IN_UNITS.get(line, 1))


def _line_of_four(name: str, precision: str, card: str, line: str) -> float:
    """A line of the bill of a server with four cards."""
    return _line(name, precision, card, line, Layout(tensor=CARDS_70B))


def _serving(name: str, precision: str, tokens: str, sequences: str) -> float:
    asked = Inference(int(sequences), prompt_tokens=int(tokens), output_tokens=0, weights=precision)
    return float(memory(model(name), asked).total / GB)


def _part_of_serving(name: str, tokens: str, sequences: str, phase: str) -> float:
    asked = Inference(int(sequences), prompt_tokens=int(tokens), output_tokens=0)
    return float(memory(model(name), asked).only(phase=phase).total / GB)


def _over_weights(name: str, phases: str) -> float:
    """Parts of training in mixed precision with AdamW, over its 16-bit weights."""
    held = memory(model(name), Training(sequence_tokens=EXAMPLE_TOKENS, precision="bf16-mixed"))
    sizes = held.by("phase")
    return float(sum(sizes[phase] for phase in phases.split(",")) / sizes["weights"])


def _checkpoint(name: str) -> float:
    """What a checkpoint of training holds: 16-bit weights, and the states with their 32-bit copy."""
    held = memory(model(name), Training(sequence_tokens=EXAMPLE_TOKENS, precision="bf16-mixed")).by("phase")
    return float((held["weights"] + held["optimizer_states"]) / TERA)


def _example(what: str, precision: str = "bf16") -> float:
    """The example's shape: its parameters, one of its tensors, two tensors in each layer, or what is really kept."""
    large = model("llama-3.1-405b")
    shape = replace(large, layers=EXAMPLE_LAYERS, layer_kinds=large.layer_kinds[:EXAMPLE_LAYERS])
    asked = Training(1, EXAMPLE_TOKENS, precision=precision)
    if what == "parameters":
        return _billions(shape)
    if what == "kept":
        return float(activations(shape, asked).total / GB)
    two = two_tensors_a_layer(shape, asked).total
    return float(two / GB if what == "layers" else two / (2 * EXAMPLE_LAYERS) / MEGA)


def _billions(of: Model) -> float:
    return float(parameters(of).total / BILLION)


def _each(name: str, precision: str) -> float:
    return float(weights(model(name), precision).total / parameters(model(name)).total)


OURS: dict[str, Callable[..., float]] = {
    "parameters": lambda name: _billions(model(name)),
    "ratio": lambda one, other: _billions(model(one)) / _billions(model(other)),
    "weights": lambda name, precision: float(weights(model(name), precision).total / GB),
    "each": _each,
    "half": lambda name: _each(name, "bf16") / _each(name, "fp32"),
    "serving": _serving,
    "part_of": _part_of_serving,
    "part": _over_weights,
    "checkpoint": _checkpoint,
    "activations": lambda name, tokens: float(activations(model(name), Training(1, int(tokens))).total / GB),
    "example": _example,
    "devices": _devices,
    "line": _line,
    "line4": _line_of_four,
    "node": lambda name, field: float(getattr(node(name), field)),
    "node_threads": lambda name: float(THREADS_PER_CORE * (node(name).cores or 0)),
    "instance": lambda name: float(instance(name).devices * accelerator(instance(name).accelerator).memory_gb),
}
