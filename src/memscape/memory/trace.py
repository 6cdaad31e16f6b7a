"""A training step on the tape: stage by stage forward, then backward, and how high memory stands at each event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memscape.breakdown import Quantity, maximum
from memscape.memory.blocks import Pass
from memscape.memory.forward import Stage, recipe_of, stages
from memscape.memory.tape import Block, Kept, Tensor, amount
from memscape.model import Model
from memscape.workload import Training

EMBEDDING, HEAD = "embedding", "head"


@dataclass
class Span:
    """Where a stage stands on the tape: its first node, its first event, the storage of its input, its backward."""

    name: str
    node: int
    event: int
    entry: int = -1
    backward: tuple[int, int] = (0, 0)


class Trace:
    """The events of one step. Alike layers are run once; `order` says how often each stage counts."""

    def __init__(self, model: Model, training: Training, single: bool) -> None:
        """Run a step forward and back."""
        self.tape = t = Pass(model, training, single)
        self.recipe, self.full = recipe_of(model), training.recompute == "full"
        self.spans: dict[str, Span] = {}
        layers = stages(model)
        self.order = [(EMBEDDING, 1), *((each.name, each.count) for each in layers), (HEAD, 1)]
        held = self._forward({each.name: each for each in layers})
        self.forward_end = len(t.events)
        self.kept = {name: list(self._kept(name)) for name in self.spans}
        self._backward(held)

    def _begin(self, name: str, x: Tensor | None = None) -> None:
        entry = -1 if x is None else x.storage.index
        self.tape.scope = name
        self.spans[name] = Span(name, len(self.tape.nodes), len(self.tape.events), entry)

    def _forward(self, layers: dict[str, Stage]) -> list[object]:
        """Run the stages; return what lives on to backward without being kept by the graph: logits, loss, tables."""
        t = self.tape
        self._begin(EMBEDDING)
        x = self.recipe.embed(t)
        for name, stage in layers.items():
            self._begin(name, x)
            again = self.full and self.recipe.checkpoints and stage.layer
            x = (t.checkpointed(stage.run, self.recipe.hands_mask) if again else stage.run)(t, x)
        self._begin(HEAD, x)
        shared: list[object] = [t.tables]
        if not self.full:
            self._forget()
        x = self.recipe.head(t, x)
        loss = self.recipe.loss(t, x)
        t.copies.clear()
        assert loss.node is not None
        loss.node.gradients[0] = t.storage("gradient of the loss", {"numbers": 1}, loss.dtype)
        return [x, loss, shared]

    def _forget(self) -> None:
        """Let go of what the layers shared, as the function that ran them returns."""
        t = self.tape
        t.tables, t.mask, t.position_bias, t.places = [], None, None, None

    def _backward(self, held: list[object]) -> None:
        t = self.tape
        for name, span in reversed(self.spans.items()):
            t.scope, first = name, len(t.events)
            t.backward(span.node)
            span.backward = (first, len(t.events))
        self._forget()
        held.clear()
        self.spans[EMBEDDING].backward = (self.spans[EMBEDDING].backward[0], len(t.events))

    def _kept(self, name: str) -> Iterator[tuple[Block, str]]:
        following = [span.node for span in self.spans.values()][list(self.spans).index(name) + 1 :]
        return self.tape.kept(self.spans[name].node, following[0] if following else None)

    def moments(self) -> dict[str, Quantity]:
        """Return the bytes above the parameters at the four moments of a pass forward and back."""
        ends = dict(zip(self.spans, [*(span.event for span in self.spans.values()), self.forward_end][1:], strict=True))
        forward, end = self._course([(name, count, self.spans[name].event, ends[name]) for name, count in self.order], 0)
        back = [(name, count, *self.spans[name].backward) for name, count in reversed(self.order)]
        backward, after = self._course(back, end)
        return {"forward_peak": forward, "forward_end": end, "backward_peak": backward, "after_backward": after}

    def _course(self, runs: list[tuple[str, int, int, int]], live: Quantity) -> tuple[Quantity, Quantity]:
        peak = live
        sizes = [amount(block) for block in self.tape.blocks]
        for _name, count, first, last in runs:
            net: Quantity = 0
            top: Quantity = 0
            for event in self.tape.events[first:last]:
                net = net + sizes[event] if event >= 0 else net - sizes[~event]
                top = maximum(top, net)
            peak = maximum(peak, live + top + maximum(0, (count - 1) * net))
            live = live + count * net
        return peak, live


__all__ = ["Kept"]
