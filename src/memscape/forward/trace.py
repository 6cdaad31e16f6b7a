"""A training step on the tape, stage by stage forward and back, and how high memory stands at each event.

Alike layers are run once. Each run of a stage changes what is alive by the same amount, so the height anywhere in a
stack of n layers follows from one layer: it is highest in the first or in the last of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product as combinations
from typing import NamedTuple

from memscape.breakdown import Quantity, ceil_div, chosen_by, product
from memscape.forward.passes import Pass
from memscape.forward.recipes import recipe_of, stages
from memscape.forward.stage import Stage
from memscape.forward.tape import Block, Node, Tensor, amount
from memscape.model import Model
from memscape.problem import Problem
from memscape.workload import Training

EMBEDDING, HEAD = "embedding", "head"
FORWARD, BACKWARD = "forward", "backward"


class Case(NamedTuple):
    """What decides which tensors there are, beside the model and the settings.

    `single`: a micro-batch is one sequence. `windowed`: sequences reach the window of the local layers. `accumulates`:
    gradients of earlier micro-batches are there already. `serves`: nothing is learned, a prompt is read.
    Of a layout: `tokens_over` devices have a part of the tokens each outside attention and MLP (sequence parallelism);
    a gradient is shared over `gradients_over` devices, one of experts over `experts_over`.
    """

    single: bool
    windowed: bool = False
    accumulates: bool = False
    serves: bool = False
    tokens_over: int = 1
    gradients_over: int = 1
    experts_over: int = 1


def cases(model: Model, training: Training) -> list[tuple[Case, Quantity]]:
    """Return the cases that a workload falls into, each with where it applies: True, or a share of 0 or 1 per element.

    A workload of plain numbers falls into one case; one of arrays may fall into several.
    """
    batch = training.micro_batch
    more = False if training.global_batch is None else training.global_batch > batch
    if training.gradient_precision != training.weights:
        more = True
    asked = (batch == 1, bool(model.window) and training.sequence_tokens >= (model.window or 0), more)
    if not any(hasattr(each, "shape") for each in asked):
        return [(Case(*(bool(each) for each in asked)), True)]
    import numpy

    each_asked = numpy.broadcast_arrays(*asked)
    found: list[tuple[Case, Quantity]] = []
    for flags in combinations((False, True), repeat=3):
        where = numpy.logical_and.reduce([each == flag for each, flag in zip(each_asked, flags, strict=True)])
        if where.any():
            found.append((Case(*flags), True if where.all() else where.astype("float64")))
    return found


@dataclass
class Span:
    """Where a stage stands on the tape: its first node, the storage of its input, its events in both directions."""

    node: int
    entry: int
    first: int
    events: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Peak:
    """The highest point of one direction: the bytes above the parameters, and the place on the tape."""

    bytes: Quantity
    place: Quantity


class Trace:
    """The events of one step. `order` names the stages as they run, with the number of alike layers of each."""

    def __init__(self, model: Model, training: Training, case: Case) -> None:
        """Run a step forward and back, in the case that it is."""
        self.tape = Pass(model, training, case.single, case.windowed)
        self.tape.accumulates, self.tape.learning = case.accumulates, not case.serves
        self.recipe, self.full = recipe_of(model), training.recompute == "full"
        if self.full and not self.recipe.checkpoints:
            raise Problem(
                f"transformers cannot checkpoint the layers of {model.label}; train it without gradient checkpointing"
            )
        self.tape.sdpa = self.tape.sdpa and self.recipe.sdpa
        self.spans: dict[str, Span] = {}
        layers = list(self._stages(model))
        self.order = [(EMBEDDING, 1), *((each.name, each.count) for each in layers), (HEAD, 1)]
        logits, loss, shared = self._forward({each.name: each for each in layers})
        self._close()
        self.kept = {name: list(self._kept(name)) for name in self.spans}
        held: list[object] = [logits, loss, self.tape.outputs, shared]
        self.tape.outputs = []
        ends = [loss.node] if loss.node else []
        del logits, loss, shared
        self._backward(held, ends)
        if case[-3:] != (1, 1, 1):
            self.tape.blocks = [_shared(block, case) for block in self.tape.blocks]
        self.sizes = [amount(block) for block in self.tape.blocks]

    # running

    def _stages(self, model: Model) -> Iterator[Stage]:
        """The stages of the model; the first layer stands apart where nothing before it is trained."""
        found = stages(model)
        t = self.tape
        t.part = EMBEDDING
        if t.is_trained("") or self.takes_gradient or found[0].count == 1:
            return iter(found)
        first = found[0]
        return iter(
            [replace(first, name=f"first {first.name}", count=1), replace(first, count=first.count - 1), *found[1:]]
        )

    @property
    def takes_gradient(self) -> bool:
        """Whether a frozen embedding's result takes a gradient all the same, as PEFT arranges for checkpointing."""
        return self.full or self.tape.training.method == "qlora"

    def _begin(self, name: str, entry: int = -1) -> None:
        self._close()
        self.tape.scope = name
        self.spans[name] = Span(len(self.tape.nodes), entry, len(self.tape.events))

    def _close(self) -> None:
        """End the events of the stage that ran last."""
        if self.spans:
            last = list(self.spans.values())[-1]
            last.events[FORWARD] = (last.first, len(self.tape.events))

    def _forward(self, layers: dict[str, Stage]) -> tuple[Tensor, Tensor, list[object]]:
        """Run the stages; return what lives on to backward without being kept by the graph: logits, loss, tables."""
        t = self.tape
        self._begin(EMBEDDING)
        x = self.recipe.embed(t)
        if not t.model.first_stage:
            t.nodes.clear()
            x = Tensor(t.storage("received", x.sizes, x.dtype), x.rows, x.columns, x.dtype, Node(()))
        if x.node is None and self.takes_gradient:
            x.node = Node(())
        # the model's own variable holds the words; the traced layer must let go of its input as every later one does
        words = None if t.learning else t.storage("embedded words", x.sizes, x.dtype)
        for name, stage in layers.items():
            self._begin(name, x.storage.index)
            again = self.full and self.recipe.checkpoints and stage.layer
            x = (t.checkpointed(stage.run, self.recipe.hands_mask) if again else stage.run)(t, x)
        self._begin(HEAD, x.storage.index)
        del words
        shared: list[object] = [t.tables]
        if not self.full:
            self._forget()
        if not t.model.last_stage:
            t.frame = []
            t.copies.clear()
            return x, x, shared
        last = [x]
        del x
        x = self.recipe.head(t, last.pop())
        loss = self.recipe.loss(t, x) if t.learning else x
        t.frame = []
        t.copies.clear()
        return x, loss, shared

    def _forget(self) -> None:
        """Let go of what the layers shared, as the function that ran them returns."""
        t = self.tape
        t.tables, t.base_tables, t.mask, t.masks, t.position_bias, t.places = [], [], None, {}, None, None

    def _backward(self, held: list[object], ends: list[Node]) -> None:
        t = self.tape
        for name, span in reversed(self.spans.items()):
            t.scope, first = name, len(t.events)
            if name == HEAD and ends:
                end = ends.pop()
                label = "gradient of the loss" if t.model.last_stage else "received gradient"
                end.gradients[0] = t.storage(label, *end.result)
                if t.model.last_stage:
                    held.insert(0, end.gradients[0])
                del end
            if name == EMBEDDING:
                self._forget()
                held.pop()
            t.backward(span.node)
            if name == EMBEDDING:
                held.clear()
            span.events[BACKWARD] = (first, len(t.events))

    def _kept(self, name: str) -> Iterator[tuple[int, str]]:
        names = list(self.spans)
        following = names[names.index(name) + 1 :]
        return self.tape.kept(self.spans[name].node, self.spans[following[0]].node if following else None)

    def kept_blocks(self) -> Iterator[tuple[str, int, int, str]]:
        """Go through what is kept to backward: the stage, the block, how many layers keep one, why."""
        counts: Counter[str] = Counter()
        for name, count in self.order:
            counts[name] += count
        seen = set[int]()
        for name, count in counts.items():
            entry = self.spans[name].entry
            for index, reason in self.kept[name]:
                own = self.tape.blocks[index].scope == name or index == entry
                if own or index not in seen:
                    seen.add(index)
                    yield name, index, count if own and name not in (EMBEDDING, HEAD) else 1, reason

    # how high memory stands

    def end(self, direction: str) -> Quantity:
        """Return the bytes alive when a direction has run."""
        live: Quantity = 0
        for way in (FORWARD, BACKWARD)[: 2 if direction == BACKWARD else 1]:
            for name, count in self.order:
                live = live + count * self._curve(name, way)[0]
        return live

    def peak(self, direction: str) -> Peak:
        """Return the highest point of a direction."""
        live = 0 if direction == FORWARD else self.end(FORWARD)
        best, place = live, -1
        for run, (name, count) in enumerate(self._runs(direction)):
            net, top, at = self._curve(name, direction)
            for repeat in {0, count - 1}:
                height = live + repeat * net + top
                higher = height > best
                best = chosen_by(higher, height, best)
                place = chosen_by(higher, (2 * run + (repeat > 0)) * len(self.tape.events) + at, place)
            live = live + count * net
        return Peak(best, place)

    def _runs(self, direction: str) -> list[tuple[str, int]]:
        return self.order if direction == FORWARD else self.order[::-1]

    def _curve(self, name: str, direction: str) -> tuple[Quantity, Quantity, Quantity]:
        """What one run of a stage adds, its highest point above its start, and the event of that point."""
        first, last = self.spans[name].events[direction]
        net: Quantity = 0
        top, at = net, first
        for place in range(first, last):
            event = self.tape.events[place]
            if event < 0:
                net = net - self.times(~event, name) * self.sizes[~event]
                continue
            net = net + self.sizes[event]
            higher = net > top
            top, at = chosen_by(higher, net, top), chosen_by(higher, place, at)
        return net, top, at

    def times(self, index: int, name: str) -> int:
        """How often a stage frees a block: autocast's copies of the weights of all layers go together at the end."""
        block = self.tape.blocks[index]
        if block.role != "copy" or block.scope == name:
            return 1
        return sum(count for stage, count in self.order if stage == block.scope)

    # what is alive

    def alive(self, direction: str, place: int | None) -> Counter[int]:
        """Return how many of each block are alive at a place; None: at the end of the direction."""
        found = self._changes(FORWARD, self.order if direction == BACKWARD else [])
        runs = self._runs(direction)
        if place is None:
            return _settled(self._changes(direction, runs, found), self.tape.blocks)
        if place < 0:
            return _settled(found, self.tape.blocks)
        step, at = divmod(place, len(self.tape.events))
        run, last = divmod(step, 2)
        name, count = runs[run]
        self._changes(direction, [*runs[:run], (name, (count - 1) * last)], found)
        for event in self.tape.events[self.spans[name].events[direction][0] : at + 1]:
            found[event if event >= 0 else ~event] += 1 if event >= 0 else -self.times(~event, name)
        return _settled(found, self.tape.blocks)

    def _changes(self, direction: str, runs: list[tuple[str, int]], found: Counter[int] | None = None) -> Counter[int]:
        found = Counter() if found is None else found
        totals: Counter[str] = Counter()
        for name, count in runs:
            totals[name] += count
        for name, count in totals.items():
            first, last = self.spans[name].events[direction]
            for event in self.tape.events[first:last]:
                found[event if event >= 0 else ~event] += count if event >= 0 else -count * self.times(~event, name)
        return found


def _shared(block: Block, case: Case) -> Block:
    """The share of one device: of the tokens, for a tensor of the residual stream; of a gradient's numbers."""
    if block.role == "gradient":
        over = case.experts_over if "experts" in block.sizes else case.gradients_over
        return (
            block
            if over == 1
            else block._replace(sizes={"elements_per_device": ceil_div(product(block.sizes.values()), over)})
        )
    tokens = next((name for name in ("sequence_tokens", "target_tokens") if name in block.sizes), "")
    if case.tokens_over == 1 or not tokens or not {"hidden_size", "micro_batch"} <= set(block.sizes):
        return block
    share = {"tokens_per_device": ceil_div(block.sizes[tokens], case.tokens_over)}
    sizes = {name: size for name, size in block.sizes.items() if name != tokens}
    return block._replace(sizes=share | sizes)


def _settled(found: Counter[int], blocks: list[Block]) -> Counter[int]:
    """Balance blocks of the same sizes: a layer frees the result of the layer before it, which has another number."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for index, count in found.items():
        if count:
            kinds.setdefault((tuple(blocks[index].sizes), blocks[index].dtype, blocks[index].role), []).append(index)
    settled: Counter[int] = Counter()
    for alike in kinds.values():
        owed = -sum(found[index] for index in alike if found[index] < 0)
        for index in alike:
            here = max(0, found[index])
            paid = min(owed, here)
            owed -= paid
            settled[index] = here - paid
    return +settled


def trace(model: Model, training: Training, case: Case) -> Trace:
    """Return the trace of a step; the last ones are remembered, since one answer asks for several moments."""
    arrays = (training.micro_batch, training.sequence_tokens, training.target_tokens)
    return (
        Trace(model, training, case)
        if any(hasattr(each, "shape") for each in arrays)
        else _known(model, training, case)
    )


@lru_cache(maxsize=16)
def _known(model: Model, training: Training, case: Case) -> Trace:
    return Trace(model, training, case)
