"""The parameters as transformers stores them: which matrices are one tensor, in which order, and what users call them.

An optimizer works on stored tensors: the number of its counters, a factored state and the scratch of an update depend
on which matrices are fused. `data/modules.csv` lists the modules of each family in the order of `model.parameters()`;
the sizes are those of `memory/tensors.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from itertools import groupby
from typing import ParamSpec, TypeVar

from memscape import tables
from memscape.breakdown import Quantity, product
from memscape.memory.tensors import Sizes, Tensor, tensors
from memscape.model import Model
from memscape.problem import Problem

P = ParamSpec("P")
R = TypeVar("R")
LAYER = ("first", "layer", "dense", "moe")


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Remember the last answers, since one question asks for the same list several times; a grid is not remembered."""
    known = lru_cache(maxsize=64)(function)

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return known(*args, **kwargs)  # type: ignore[arg-type]
        except TypeError:  # an array has no hash
            return function(*args, **kwargs)

    return answer


@dataclass(frozen=True)
class Stored:
    """`copies` alike tensors of `stack` × `rows` × `columns`: a vector has no rows, only experts have a stack.

    `module` is the path inside a layer or model ("self_attn.q_proj"), `kind` "linear", "embedding", "norm" or
    "parameter" (a tensor of its own, such as stacked experts). `former_names` are the linear layers that a tensor was
    before transformers 5 stacked them; PEFT still takes adapters by these names.
    """

    name: str
    module: str
    kind: str
    group: str
    columns: Sizes
    rows: Sizes = field(default_factory=dict)
    stack: Sizes = field(default_factory=dict)
    copies: Sizes = field(default_factory=dict)
    place: str = "start"
    former_names: tuple[str, ...] = ()

    @property
    def sizes(self) -> Sizes:
        """The named sizes of one tensor."""
        return self.stack | self.rows | self.columns

    @property
    def elements(self) -> Quantity:
        """The numbers of one tensor."""
        return product(self.sizes.values())

    @property
    def shape(self) -> tuple[Quantity, ...]:
        """The lengths of its dimensions; an output's row first, also where transformers stores the transpose."""
        return tuple(product(sizes.values()) for sizes in (self.stack, self.rows, self.columns) if sizes)


@dataclass(frozen=True)
class Run:
    """A list of tensors that stands `repeats` times in a row: the layers of one kind, or what is before or after."""

    tensors: tuple[Stored, ...]
    repeats: Quantity = 1


@remembered
def stored(model: Model) -> tuple[Stored, ...]:
    """Return every stored tensor of a model once, with the layers that hold one as `copies`."""
    return tuple(tensor for _, part in _parts(model) for tensor in part)


@remembered
def runs(model: Model) -> tuple[Run, ...]:
    """Return the stored tensors in the order in which an optimizer meets them."""
    found: list[Run] = []
    for stack, part in _parts(model):
        if part and part[0].place not in LAYER:
            found.append(Run(part))
            continue
        for moe, first, repeats in _layers(model, stack, any(tensor.place == "first" for tensor in part)):
            places = {"layer", "moe" if moe else "dense"} | ({"first"} if first else set())
            found.append(Run(tuple(tensor for tensor in part if tensor.place in places), repeats))
    return tuple(found)


def _layers(model: Model, stack: str, first_differs: bool) -> Iterator[tuple[bool, bool, Quantity]]:
    """Runs of layers of one kind: whether they have experts, whether it is the first one, how many."""
    layers = _copies(model, stack)
    (count,) = layers.values()
    if not isinstance(count, int):
        yield False, False, count
        return
    kinds = [kind.moe for kind in model.layer_kinds] if "layers" in layers else [False] * count
    numbered = [(moe, first_differs and position == 0) for position, moe in enumerate(kinds)]
    for (moe, first), group in groupby(numbered):
        yield moe, first, len(list(group))


def _copies(model: Model, stack: str) -> Sizes:
    if stack:
        return {f"{stack}_layers": model.encoder_layers if stack == "encoder" else model.layers}
    return {"stored_layers" if model.shared_layers else "layers": model.stored_layers}


@remembered
def _parts(model: Model) -> tuple[tuple[str, tuple[Stored, ...]], ...]:
    """What is stored before the layers, of the layers, and after them, in the family's order."""
    known = tables.by_key("module_layouts", "family")
    if model.family not in known:
        raise Problem(f'the order of the tensors of family "{model.family}" is not known; add it to module_layouts.csv')
    family = known[model.family]
    given = {_key(tensor): tensor for tensor in tensors(model)}
    parts = groupby(_rows(family["layout"]), key=lambda row: (row["stack"], row["place"] in LAYER))
    return tuple((stack, tuple(_stored_of(model, given, family, rows))) for (stack, _), rows in parts)


def _rows(layout: str) -> tuple[tables.Row, ...]:
    return tuple(row for row in tables.rows("modules") if row["layout"] == layout)


def _key(tensor: Tensor) -> str:
    # the one number that weighs the shared expert has the name of that expert's gate matrix
    return "shared expert output gate" if tensor.role == "ffn_gate_inp_shexp" else tensor.name


def _stored_of(
    model: Model, given: dict[str, Tensor], family: tables.Row, rows: Iterator[tables.Row]
) -> Iterator[Stored]:
    """Weight and bias of each module that the model has; the first row that names a tensor holds it."""
    norms, taken = 0, set[str]()
    for row in rows:
        names = row["tensors"]
        if names in ("query head norm", "key head norm"):
            yield from _head_norm(model, given, row, family["head_norms"])
            continue
        norms += names == "layer norms"
        if names == "layer norms" and norms > model.norms_per_layer - (row["stack"] == "encoder"):
            continue
        if row["only"] == "gated" and not model.gated:
            continue
        for suffix in ("", " bias"):
            parts = [given[name + suffix] for name in names.split(" + ") if name + suffix in given]
            if parts and (names + suffix not in taken or {"norms_per_layer", "in_and_out"} & set(parts[0].copies)):
                taken.add(names + suffix)
                yield _fused(model, row, parts, suffix)


def _fused(model: Model, row: tables.Row, parts: list[Tensor], suffix: str) -> Stored:
    """One stored tensor of one or several matrices (or vectors) that lie side by side."""
    name = " + ".join(part.name.removesuffix(" bias") for part in parts) + suffix
    first = parts[0]
    inside = {key: size for key, size in first.copies.items() if key in ("experts",)}
    own = {key: size for key, size in first.copies.items() if key in ("weight_and_bias", "bias_and_norm")}
    along = [part.columns if first.is_vector else part.rows for part in parts]
    side = _joined(along)
    columns, rows = (side, {}) if first.is_vector else (first.columns, side)
    copies = _places(model, row) | own
    if first.is_vector and inside:
        inside, rows = {}, inside
    former = tuple(row["former_names"].split()) if not suffix else ()
    return Stored(name, row["module"], row["kind"], first.group, columns, rows, inside, copies, row["place"], former)


def _joined(along: list[Sizes]) -> Sizes:
    """The rows of matrices side by side: what they share stays a factor, the rest is added up."""
    first = along[0]
    if len(along) == 1:
        return first
    if all(sizes == first for sizes in along):
        return {"matrices_in_one": len(along)} | first
    shared = {key: size for key, size in first.items() if all(key in sizes for sizes in along)}
    rest = sum(product(size for key, size in sizes.items() if key not in shared) for sizes in along)
    return {"rows_in_one": rest} | shared


def _places(model: Model, row: tables.Row) -> Sizes:
    """How many layers hold it."""
    if row["place"] not in ("layer", "dense", "moe"):
        return {}
    if row["place"] == "layer" or not model.moe_layers:
        return _copies(model, row["stack"])
    routed = row["place"] == "moe"
    return {f"{row['place']}_layers": model.moe_layers if routed else model.layers - model.moe_layers}


def _head_norm(model: Model, given: dict[str, Tensor], row: tables.Row, form: str) -> Iterator[Stored]:
    """The norms of queries and keys: one head wide, or over all heads as a vector, a matrix, or a vector per head."""
    if "query and key norm" not in given:
        return
    both = given["query and key norm"]
    heads: Sizes = {"heads": model.heads} if row["tensors"].startswith("query") else {"kv_heads": model.kv_heads}
    width: Sizes = {"head_dim": model.head_dim}
    copies = _places(model, row) | {key: size for key, size in both.copies.items() if key == "weight_and_bias"}
    rows: Sizes = {}
    if model.qk_norm == "heads":
        rows = heads if form == "matrix" else {}
        copies = copies | (heads if form == "one per head" else {})
        width = heads | width if form == "vector" else width
    yield Stored(row["tensors"], row["module"], row["kind"], both.group, width, rows, {}, copies, row["place"])
