"""A tape that follows tensors as PyTorch does: when each is made, why it is kept for backward, when it goes.

Nothing is computed but sizes. A forward pass is written in the operators of `operators.py`; each notes on the tape what
autograd keeps of it. A tensor lives as long as something holds it: a variable of the running function, or a node of the
graph. So lifetimes follow from the code, as they do in PyTorch, and the tape knows what is alive at every moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from memscape.breakdown import Quantity, product

Sizes = Mapping[str, Quantity]
BYTES = {"fp32": 4, "bf16": 2, "bool": 1, "int32": 4, "int64": 8, "uint64": 8}


class Block(NamedTuple):
    """What is known of one storage: where it was made, its sizes and its type."""

    name: str
    part: str
    sizes: Sizes
    dtype: str
    scope: str
    role: str  # "activation", "gradient" of a parameter, "copy" of a weight

    @property
    def factors(self) -> dict[str, Quantity]:
        """The sizes and the bytes of one element: what a term shows."""
        return {**self.sizes, "bytes_per_element": BYTES[self.dtype]}


class Storage:
    """Memory that is alive as long as this object is."""

    __slots__ = ("events", "index")

    def __init__(self, tape: Tape, block: Block) -> None:
        """Note the block as made."""
        self.events = tape.events
        self.index = len(tape.blocks)
        tape.blocks.append(block)
        self.events.append(self.index)

    def __del__(self) -> None:
        """Note the block as freed: the complement of its index."""
        self.events.append(~self.index)


class Parameter(NamedTuple):
    """A weight of the model: its sizes, whether it is trained. It is not memory of the pass itself."""

    name: str
    part: str
    sizes: Sizes
    dtype: str
    trained: bool = True
    scope: str = ""


class Tensor:
    """A view of a storage: rows (tokens) and columns (features), and the node whose result it is.

    `layout` says how the storage is ordered: "rows" token after token, "heads" head after head, "part" a stretch of a
    wider tensor. `trained` says whether a gradient flows back through it.
    """

    __slots__ = ("columns", "dtype", "layout", "node", "place", "rows", "storage")

    def __init__(
        self,
        storage: Storage,
        rows: Sizes,
        columns: Sizes,
        dtype: str,
        node: Node | None = None,
        layout: str = "rows",
        place: int = 0,
    ) -> None:
        """Hold the storage."""
        self.storage, self.rows, self.columns, self.dtype = storage, rows, columns, dtype
        self.node, self.layout, self.place = node, layout, place

    @property
    def trained(self) -> bool:
        """Whether a gradient flows back through it."""
        return self.node is not None

    @property
    def sizes(self) -> Sizes:
        """Rows and columns."""
        return {**self.rows, **self.columns}


class Kept(NamedTuple):
    """One reason to keep a storage from forward to backward."""

    storage: Storage
    reason: str


class Way(NamedTuple):
    """How a gradient goes back from a node to one of its inputs.

    `how`: "same" hands on the gradient itself, "new" makes one of the input's size, "reduced" makes one of the result's
    size first, "cast" one of the result's type first. An input without sizes takes no gradient.
    """

    to: Node | Parameter
    how: str
    sizes: Sizes
    dtype: str
    place: int = 0


@dataclass(slots=True, eq=False)
class Node:
    """One operator of the graph: what it keeps, and the ways back."""

    ways: tuple[Way, ...]
    kept: list[Kept] = field(default_factory=list)
    scratch: tuple[tuple[Sizes, str], ...] = ()
    result: tuple[Sizes, str] = ({}, "bf16")
    gradients: dict[int, Storage] = field(default_factory=dict)
    recompute: Callable[[Node], Storage] | None = None


class Tape:
    """The events of a pass in order, the graph it built, the gradients of the parameters."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.nodes: list[Node] = []
        self.gradients: dict[tuple[str, str, str], Storage] = {}
        self.part = ""
        self.scope = ""
        self.owner = ""  # whose weights the running layer reads, where several layers share them
        self.accumulates = False
        self.recomputed = False  # whether backward goes through what a checkpoint has made again

    def storage(self, name: str, sizes: Sizes, dtype: str, role: str = "activation") -> Storage:
        """Make a storage; it belongs to the part of the model that is running."""
        return Storage(self, Block(name, self.part, sizes, dtype, self.scope, role))

    def kept(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, str]]:
        """Go through the distinct blocks that the nodes keep, by index, in the order in which they were first kept."""
        seen: set[int] = set()
        for node in self.nodes[first:last]:
            for storage, reason in node.kept:
                if storage.index not in seen:
                    seen.add(storage.index)
                    yield storage.index, reason

    def backward(self, down_to: int = 0) -> None:
        """Run the graph back, newest node first, down to a node."""
        while len(self.nodes) > down_to:
            node = self.nodes.pop()
            if node.gradients:
                self._back(node)

    def _back(self, node: Node) -> None:
        if node.recompute is not None:
            self._accumulate(node.ways[0], node.recompute(node))
            node.kept.clear()
            return
        made = [self.storage("scratch of backward", *each) for each in node.scratch]
        first = [self._wide(node, way) for way in node.ways]
        del made
        if self.recomputed:
            node.kept.clear()
        handed = [self._gradient(node, way, first.pop(0)) for way in node.ways]
        node.gradients.clear()
        node.kept.clear()
        for way, gradient in zip(node.ways, handed, strict=True):
            self._accumulate(way, gradient)
        del handed, gradient

    def _wide(self, node: Node, way: Way) -> Storage:
        """Make a gradient as the operator's derivative leaves it: not yet summed up, or still in the result's type."""
        if way.how == "same":
            return next(iter(node.gradients.values()))
        if way.how == "new":
            return self._made(way)
        sizes, dtype = node.result
        return self.storage("gradient before its sum", sizes if way.how == "reduced" else way.sizes, dtype)

    def _made(self, way: Way) -> Storage:
        if isinstance(way.to, Parameter):
            return Storage(self, Block(way.to.name, way.to.part, way.sizes, way.dtype, self.scope, "gradient"))
        return self.storage("gradient", way.sizes, way.dtype)

    def _gradient(self, node: Node, way: Way, first: Storage) -> Storage:
        """Bring a gradient into the size and type of the input, once the derivatives for all inputs are there."""
        return self._made(way) if way.how in ("reduced", "cast") else first

    def _accumulate(self, way: Way, gradient: Storage) -> None:
        """Keep a gradient, or add it: in place on its way, in a third tensor for a weight that is used twice."""
        if not isinstance(way.to, Parameter):
            way.to.gradients.setdefault(way.place, gradient)
            return
        key = (way.to.scope, way.to.part, way.to.name)
        if self.accumulates:
            return
        if key in self.gradients:
            gradient = Storage(self, self.blocks[gradient.index])
        self.gradients[key] = gradient


def amount(block: Block) -> Quantity:
    """Return the bytes of a block."""
    return product(block.sizes.values()) * BYTES[block.dtype]
