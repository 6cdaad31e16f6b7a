"""Optimizers, tensor by tensor: what each keeps between updates, and what it takes during one.

The rules of an optimizer are a row of `data/optimizers.csv`: how many numbers of a tensor's size it keeps and in which
type, whether it factors a matrix into rows and columns, what it does with small tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from memscape import tables
from memscape.breakdown import Breakdown, Term, ceil_div, product
from memscape.memory.modules import LAYER, Stored
from memscape.memory.tensors import Sizes
from memscape.problem import chosen

BYTES = {"fp32": 4, "bf16": 2}
PHASE = "optimizer_states"


@dataclass(frozen=True)
class Optimizer:
    """A row of `data/optimizers.csv`; sizes are bytes.

    `states`          numbers kept of each number of a tensor; `state_bytes` None: in the parameter's type
    `factored`        a matrix keeps one number per row and per column, a vector all of them
    `scalar_bytes`    counters of each tensor
    `block_elements`  8 bit: numbers that share a scale; a tensor below `least_elements` stays fp32
    `otherwise`       the optimizer of what this one does not take (Muon: all but the matrices of the layers)
    `single`          update one tensor at a time: pairs of copies (of the tensor before, of this tensor) alive at once
    `foreach`         update all at once: copies of every tensor; `largest` more copies and masks of the largest one
    `extra_bytes`     bytes more per number of the tensor at hand, `cast_bytes` where it is not fp32; `gram_bytes` per
                      number of a square matrix of its smaller side
    """

    name: str
    states: int
    factored: bool
    state_bytes: int | None
    scalar_bytes: int
    block_elements: int
    scale_bytes: int
    least_elements: int
    table_bytes: int
    otherwise: str
    single: tuple[tuple[int, int], ...]
    foreach: int
    largest: int
    extra_bytes: int
    cast_bytes: int
    gram_bytes: int
    source: str


def optimizer(name: str) -> Optimizer:
    """Return an optimizer of the catalogue; an unknown name is refused with the nearest ones."""
    return _optimizer(chosen("optimizer", name, tables.by_key("optimizers")))


@cache
def _optimizer(name: str) -> Optimizer:
    row = tables.by_key("optimizers")[name]
    sizes = ("scalar_bytes", "scale_bytes", "least_elements", "table_bytes", "extra_bytes", "cast_bytes", "gram_bytes")
    return Optimizer(
        name=name,
        factored=row["factored"] == "yes",
        state_bytes=int(row["state_bytes"]) if row["state_bytes"] else None,
        otherwise=row["otherwise"],
        single=tuple((int(left), int(alive)) for left, alive in (pair.split(":") for pair in row["single"].split())),
        source=row["source"],
        **{column: int(row[column] or 0) for column in ("states", "block_elements", "foreach", "largest", *sizes)},
    )


def optimizer_states(
    shapes: Iterable[Sequence[int]], chosen_optimizer: str | Optimizer, dtype: str = "fp32"
) -> Breakdown:
    """Return what an optimizer keeps of tensors of these shapes, as `torch.optim` counts it after one step.

    `dtype` is the type of the parameters, "fp32" or "bf16". Counters ("counters of the optimizer") are apart.
    """
    rules = optimizer(chosen_optimizer) if isinstance(chosen_optimizer, str) else chosen_optimizer
    tensors = [_of_shape(tuple(shape)) for shape in shapes]
    return Breakdown("bytes", tuple(state_terms(tensors, rules, BYTES[chosen("precision", dtype, BYTES)])))


def _of_shape(shape: tuple[int, ...]) -> Stored:
    stack, matrix = shape[:-2], shape[-2:]
    sizes = ({"experts": product(stack)} if stack else {}, {"hidden_size": matrix[-1]})
    rows = {"ffn_size": matrix[0]} if len(matrix) == 2 else {}
    kind = "parameter" if stack else "linear"
    return Stored(" × ".join(map(str, shape)), "", kind, "other", sizes[1], rows, sizes[0], {}, "layer")


def state_terms(tensors: Sequence[Stored], rules: Optimizer, parameter_bytes: int) -> Iterator[Term]:
    """One term for each kind of number that is kept of each tensor, then the counters and the tables of 8-bit codes."""
    quantised = 0
    for part, kept in divided(tensors, rules):
        for tensor in kept:
            yield from _kept(tensor, part, parameter_bytes)
            quantised += part.block_elements > 0 and tensor.elements >= part.least_elements
        count = sum(product(tensor.copies.values()) for tensor in kept)
        if part.scalar_bytes and kept:
            factors = {"tensors": count, "scalar_bytes": part.scalar_bytes}
            yield Term("counters of the optimizer", factors, "other", PHASE, part.source)
    if quantised:
        factors = {"states": rules.states, "table_bytes": rules.table_bytes}
        yield Term("tables of the 8-bit codes", factors, "other", PHASE, rules.source)


def divided(tensors: Iterable[Stored], rules: Optimizer) -> Iterator[tuple[Optimizer, list[Stored]]]:
    """The tensors that an optimizer takes, and those that another one takes for it."""
    own: list[Stored] = []
    rest: list[Stored] = []
    for tensor in tensors:
        (own if takes(rules, tensor) else rest).append(tensor)
    yield rules, own
    if rest:
        yield optimizer(rules.otherwise), rest


def takes(rules: Optimizer, tensor: Stored) -> bool:
    """Whether an optimizer updates a tensor itself; Muon takes the linear layers inside the stack."""
    return not rules.otherwise or (len(tensor.shape) == 2 and tensor.kind == "linear" and tensor.place in LAYER)


def _kept(tensor: Stored, rules: Optimizer, parameter_bytes: int) -> Iterator[Term]:
    size = {"bytes_per_element": rules.state_bytes or parameter_bytes}

    def term(suffix: str, sizes: Sizes) -> Term:
        return Term(f"{tensor.name}{suffix}", tensor.copies | sizes, tensor.group, PHASE, rules.source)

    if rules.block_elements:
        yield from _blocks(tensor, rules)
        return
    if rules.states:
        yield term("", {"states": rules.states} | tensor.sizes | size)
    if rules.factored and tensor.rows:
        yield term(": rows", tensor.stack | tensor.rows | size)
        yield term(": columns", tensor.stack | tensor.columns | size)
    elif rules.factored:
        yield term(": second moment", tensor.sizes | size)


def _blocks(tensor: Stored, rules: Optimizer) -> Iterator[Term]:
    """8-bit states and a scale per block; a small tensor in fp32."""
    small = tensor.elements < rules.least_elements
    states = {"states": rules.states}
    size = {"bytes_per_element": BYTES["fp32"] if small else rules.state_bytes or 1}
    yield Term(tensor.name, tensor.copies | states | tensor.sizes | size, tensor.group, PHASE, rules.source)
    if not small:
        blocks = {"blocks": ceil_div(tensor.elements, rules.block_elements), "scale_bytes": rules.scale_bytes}
        yield Term(f"{tensor.name}: scales", tensor.copies | states | blocks, tensor.group, PHASE, rules.source)
