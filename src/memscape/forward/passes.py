"""Pass: a forward pass of a model on one micro-batch, with checkpointing, frozen parts and adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from memscape.catalog import precision
from memscape.forward.operators import BF16, FP32, NEW, Operators
from memscape.forward.tape import Node, Parameter, Sizes, Storage, Tensor
from memscape.memory.adapters import adapted
from memscape.model import Model
from memscape.workload import Training

AGAIN = "the layer is computed again from it"
# the projections of a pass under the names that a checkpoint knows them by
ADAPTED = {"output": "attention output"}
# the parts of the passes, by the groups of the model that they belong to
GROUPS = {
    "embedding": "embeddings",
    "position": "embeddings",
    "attention": "attention",
    "cross-attention": "attention",
    "mask": "attention",
    "rotary": "attention",
    "mlp": "mlp_dense",
    "expert": "experts",
    "experts": "experts",
    "shared": "experts",
    "router": "router",
    "head": "lm_head",
    "loss": "lm_head",
}


def group_of(part: str) -> str:
    """Return the group of the model that a part of a pass belongs to."""
    return "norms" if part.endswith("norm") else GROUPS.get(part.partition(" ")[0], "other")


class Input(NamedTuple):
    """How a checkpointed layer sees one of its inputs; the first has no name."""

    name: str
    rows: Sizes
    columns: Sizes
    dtype: str
    trained: bool
    layout: str


class Pass(Operators):
    """A forward pass of a model on one micro-batch: the operators, and the sizes that every block reads."""

    def __init__(self, model: Model, training: Training, single: bool, windowed: bool = False) -> None:
        """Take the sizes of the model and of the micro-batch; `windowed`: it is longer than the local layers see."""
        compute = FP32 if training.precision in ("fp32", "bf16-autocast") else BF16
        super().__init__(compute, training.precision == "bf16-autocast", single)
        self.model, self.training, self.windowed = model, training, windowed
        self.rows: Sizes = {"micro_batch": training.micro_batch, "sequence_tokens": training.sequence_tokens}
        self.tokens: Sizes = {"sequence_tokens": training.sequence_tokens}
        written = training.sequence_tokens if training.target_tokens is None else training.target_tokens
        self.written: Sizes = {"target_tokens": written} if model.has_encoder else self.tokens
        self.hidden: Sizes = {"hidden_size": model.hidden_size}
        self.queries: Sizes = {"heads": model.heads, "head_dim": model.head_dim}
        self.keys: Sizes = {"kv_heads": model.kv_heads, "head_dim": model.head_dim}
        self.grouped = model.heads != model.kv_heads
        self.sdpa = training.attention == "sdpa"
        self.tables: list[Tensor] = []
        self.base_tables: list[Tensor] = []  # what each layer makes its own tables from
        self.places: Storage | None = None
        self.ids = self.storage("token ids", self.rows, "int64")
        self.labels = self.storage("labels", {"micro_batch": training.micro_batch, **self.written}, "int64")
        self.mask: Tensor | None = None
        self.masks: dict[str, Tensor] = {}  # of each kind of layer, where kinds differ
        self.position_bias: Tensor | None = None
        self.cross_bias: Tensor | None = None
        self.memory: Tensor | None = None
        self.hands: tuple[str, ...] = ()  # what a layer is handed beside its input, so that a checkpoint keeps it
        self.frame: list[Tensor] = []  # what the model's own function holds while its layers run
        self.outputs: list[Tensor] = []  # what lives as long as the logits

    @property
    def tied(self) -> Parameter | None:
        """The table of the words, where the head is the same matrix."""
        return self.embedded if self.model.tied and self.model.first_stage else None

    # what is trained

    @cached_property
    def adapters(self) -> frozenset[str]:
        """The linear layers that have an adapter, by the matrices they hold."""
        return frozenset(tensor.name for tensor in adapted(self.model, self.training)) if self.lora else frozenset()

    @property
    def lora(self) -> bool:
        """Whether adapters are trained, and nothing else."""
        return self.training.method != "full"

    @cached_property
    def quantised(self) -> tuple[str, ...]:
        """The groups whose matrices are unpacked for each use (QLoRA)."""
        return precision(self.training.base_precision).quantises if self.training.method == "qlora" else ()

    def is_trained(self, name: str) -> bool:
        """Whether a weight of the running part takes a gradient."""
        return not self.lora and group_of(self.part) not in self.training.freeze

    def linear(self, x: Tensor, out: Sizes, name: str, bias: bool = False, matrix: Parameter | None = None) -> Tensor:
        """Multiply by a weight, unpacked first where it is quantised, and add the adapter's share where it has one."""
        packed = group_of(self.part) in self.quantised
        if packed:
            unpacked = self.storage(f"{name} weight, unpacked", {**x.columns, **out}, BF16)
        result = super().linear(x, out, name, bias, matrix)
        if packed:
            del unpacked
            if result.node is not None:
                result.node.scratch = (*result.node.scratch, ({**x.columns, **out}, BF16))
        named = ADAPTED.get(name, name.replace(", ", " + ").replace(" and ", " + "))
        if not {named, f"{self.part} {named}", f"{self.part.removesuffix('s')} {named}"} & self.adapters:
            return result
        return self._adapted(x, result, out, name, packed)

    def _adapted(self, x: Tensor, result: Tensor, out: Sizes, name: str, packed: bool) -> Tensor:
        """Add (alpha / r) · B · A · x, computed in the type of the adapter."""
        dtype, training = result.dtype, self.training
        if packed:
            result = self.copy(result, f"{name}, copied")
        if not (packed and self.autocast):
            x = self.cast(x, training.adapter_precision, f"{name} input for the adapter")
        thin = self.dropout(x, training.lora_dropout, f"{name} adapter dropout")
        rank: Sizes = {"lora_rank": training.lora_rank}
        thin = self._side(thin, rank, f"{name} adapter A")
        wide = self.scaled(self._side(thin, out, f"{name} adapter B"), f"{name} adapter, scaled")
        del thin
        if packed:
            return self.add(result, self.cast(wide, dtype, f"{name} adapter result"), name)
        return self.cast(self.add(result, wide, f"{name} and adapter"), dtype, name)

    def _side(self, x: Tensor, out: Sizes, name: str) -> Tensor:
        sizes = {**x.columns, **out}
        weight = Parameter(name, self.part, sizes, self.training.adapter_precision, True, self.owner or self.scope)
        return super().linear(x, out, name, matrix=weight)

    # checkpointing

    def checkpointed(
        self, layer: Callable[[Pass, Tensor], Tensor], hands_mask: bool
    ) -> Callable[[Pass, Tensor], Tensor]:
        """Keep only the inputs of a layer; backward runs the layer again before it goes back through it.

        Inputs are also the tensors named in `hands`; those that the layer makes are results of the checkpoint too.
        """

        def run(t: Pass, x: Tensor) -> Tensor:
            named = {name: each for name in t.hands if (each := getattr(t, name)) is not None}
            first, t.keeping = len(t.nodes), False
            output = layer(t, x)
            t.keeping = True
            del t.nodes[first:]
            named = {"": x, **named}
            kept = [(each.storage, AGAIN) for each in named.values()]
            if t.mask is not None and hands_mask:
                kept.append((t.mask.storage, AGAIN))
            output.node = t.noted(x.sizes, x.dtype, [(each, NEW) for each in named.values()], kept)
            if output.node is not None:
                inputs = [Input(name, y.rows, y.columns, y.dtype, y.trained, y.layout) for name, y in named.items()]
                output.node.recompute = partial(t.again, layer, inputs)
                t._also_made(output.node, named)
            return output

        return run

    def _also_made(self, node: Node, handed: Mapping[str, Tensor]) -> None:
        """Note what a checkpointed layer made for the next ones as further results of its node."""
        for place, name in enumerate(self.hands, 1):
            made = getattr(self, name)
            if name not in handed and made is not None and made.node is not None and made.node.ways:
                made.node, made.place = node, place

    def again(self, layer: Callable[[Pass, Tensor], Tensor], inputs: Sequence[Input], node: Node) -> Storage:
        """Run a layer again from its kept inputs and go back through it; return the gradient of the first."""
        start, first, begin = Node(()), len(self.nodes), len(self.events)
        self._take(inputs, node)
        _, rows, columns, dtype, *_ = inputs[0]
        results = [layer(self, Tensor(node.kept[0].storage, rows, columns, dtype, start))]
        results += [getattr(self, name) for name in self.hands]
        for place in list(node.gradients):
            end = results[place].node
            assert end is not None
            end.gradients[0] = node.gradients.pop(place)
            del end
        for name in self.hands:
            setattr(self, name, None)
        del results
        self.copies.clear()
        self._cut(max(begin, self.last_kept))
        self.recomputed = True
        self.backward(first)
        self.recomputed = False
        return start.gradients[0]

    def _take(self, inputs: Sequence[Input], node: Node) -> None:
        """Give a layer what it was handed beside its first input; gradients of it go where they went before."""
        ways = iter(node.ways[1:])
        for each, kept in zip(inputs[1:], node.kept[1:], strict=False):
            tensor = Tensor(kept.storage, each.rows, each.columns, each.dtype, None, each.layout)
            if each.trained:
                way = next(ways)
                assert isinstance(way.to, Node)
                tensor.node, tensor.place = way.to, way.place
            setattr(self, each.name, tensor)

    def _cut(self, at: int) -> None:
        """Leave out what comes after the last tensor kept: a layer runs again only until all is there for backward."""
        rest = self.events[at:]
        never = {event for event in rest if event >= 0}
        self.events[at:] = [event for event in rest if not {event, ~event} & never]

    def rate(self, site: str) -> float:
        """Return the dropout rate of a site: "embedding", "attention", "hidden"."""
        given = self.training.dropout if self.learning else 0
        rate: float = getattr(self.model, f"{site}_dropout")
        return rate if given is None else (given if given == 0 or rate else 0.0)

    def free(self, name: str, rows: Sizes, columns: Sizes, dtype: str) -> Tensor:
        """Make a tensor that takes no gradient: a table, a mask, ids."""
        return Tensor(self.storage(name, {**rows, **columns}, dtype), rows, columns, dtype)
