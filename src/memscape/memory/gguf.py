"""GGUF: which type llama.cpp's quantiser gives each tensor of a named mix.

A mix ("Q4_K_M") is a default type and exceptions: some tensors, in some layers, of some models, get more bits. The
exceptions are `data/gguf_rules.csv`, read from top to bottom; the first row that applies decides. Types whose blocks
do not divide a row are replaced by `data/gguf_fallbacks.csv`. Vectors, routers and positions stay F32.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

from memscape import tables
from memscape.problem import unknown

UNQUANTISED = ("norm", "bias", "attn_sinks", "ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types")
NARROW = {"attn_rel_b": "F16"}
# values are the most sensitive: fused and compressed ones follow the same rows
ALIKE = {"attn_qkv": "attn_v", "attn_kv_b": "attn_v"}
# stored with a third dimension, one matrix per head, as experts are
PER_HEAD = ("attn_k_b", "attn_v_b")


@dataclass(frozen=True)
class GgufModel:
    """What the rules ask of a model; `shared_experts` are the layers with one expert beside the routed ones."""

    layers: int
    heads: int
    kv_heads: int
    experts: int
    falcon: bool
    tied: bool
    fused_qkv: bool = False
    shared_experts: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Of:
    """A tensor of a model, as the conditions see it that hold for all its layers or for none."""

    model: GgufModel
    stacked: bool
    uneven: bool
    imatrix: bool


@dataclass(frozen=True)
class _Place:
    """One tensor in one layer."""

    model: GgufModel
    layer: int
    nth: int


AtLayer = Callable[[_Place], bool]
Rules = tuple[tuple[tuple[AtLayer, ...], str], ...]
CONDITIONS: dict[str, Callable[[_Of], bool]] = {
    "falcon": lambda of: of.model.falcon,
    "not_falcon": lambda of: not of.model.falcon,
    "grouped_by_4": lambda of: of.model.heads // of.model.kv_heads >= 4,
    "seventy_b": lambda of: of.model.layers == 80 and of.model.heads != of.model.kv_heads and not of.model.falcon,
    "experts_4": lambda of: of.model.experts >= 4,
    "experts_8": lambda of: of.model.experts == 8,
    "not_experts_8": lambda of: of.model.experts != 8,
    "not_stacked": lambda of: not of.stacked,
    "uneven": lambda of: of.uneven,
    "imatrix": lambda of: of.imatrix,
    "no_imatrix": lambda of: not of.imatrix,
}
# the conditions that differ from layer to layer
LAYERED: dict[str, AtLayer] = {
    "layer_below_2": lambda at: at.layer < 2,
    "layer_below_4": lambda at: at.layer < 4,
    "first_sixteenth": lambda at: at.layer < at.model.layers // 16,
    "first_eighth": lambda at: at.layer < at.model.layers // 8,
    # the mixes below 3 bits count tensors, not layers: a shared expert beside the routed ones counts too
    "first_eighth_counted": lambda at: at.nth < at.model.layers // 8,
    "middle": lambda at: at.model.layers // 8 <= at.layer < 7 * at.model.layers // 8,
    # the first and last eighth of the layers, and every third between them
    "more_bits": lambda at: (
        at.layer < at.model.layers // 8
        or at.layer >= 7 * at.model.layers // 8
        or (at.layer - at.model.layers // 8) % 3 == 2
    ),
}


@cache
def mixes() -> tuple[str, ...]:
    """Return the names of the mixes, from the most bits to the fewest, then the types that no mix is named after."""
    named = tables.by_key("gguf_mixes")
    return (*named, *(name for name in tables.by_key("gguf_types") if name not in named))


def is_mix(name: str) -> bool:
    """Return whether a name stands for a mix; else it is one type for all tensors (llama-quantize --pure)."""
    return name in tables.by_key("gguf_mixes")


@cache
def block(type_name: str) -> tuple[int, int]:
    """Return how many elements a block of a type holds, and in how many bytes."""
    row = tables.by_key("gguf_types").get(type_name)
    if row is None:
        raise unknown("GGUF type", type_name, tables.by_key("gguf_types"))
    return int(row["block_elements"]), int(row["block_bytes"])


@lru_cache(maxsize=1 << 15)
def tensor_types(mix: str, role: str, layers: tuple[int, ...], columns: int, model: GgufModel) -> Counter[str]:
    """Return how many of these layers hold the tensor in which type; see `tensor_type`."""
    everywhere, rules = _decided(mix, role, columns, model)
    if everywhere:
        return Counter({everywhere: len(layers)})
    return Counter(_in_layer(mix, role, layer, columns, model, rules) for layer in layers)


def tensor_type(mix: str, role: str, layer: int, columns: int, model: GgufModel) -> str:
    """Return the type of one tensor.

    `role` is llama.cpp's name of the tensor without block and suffix, `columns` the length of its rows.
    Holds for: llama-quantize without overrides, from a 16-bit file, with an importance matrix for the mixes that need
    or are published with one.
    Source:    llama_cpp_quantize
    """
    everywhere, rules = _decided(mix, role, columns, model)
    return everywhere or _in_layer(mix, role, layer, columns, model, rules)


def _decided(mix: str, role: str, columns: int, model: GgufModel) -> tuple[str, Rules]:
    """The type that a tensor has in every layer; where layers differ, none, and the rules that tell them apart."""
    if mix not in mixes():
        raise unknown("GGUF mix", mix, mixes())
    default = _default(mix)
    if role in UNQUANTISED:
        return "F32", ()
    if block(default)[0] == 1:
        return default, ()
    if role in NARROW:
        return NARROW[role], ()
    rules = _left(mix, role, columns % block(default)[0] != 0, model) if is_mix(mix) else ()
    if rules and rules[0][0]:
        return "", rules
    return _fitting(_named(mix, rules[0][1] if rules else "default"), columns), ()


def _in_layer(mix: str, role: str, layer: int, columns: int, model: GgufModel, rules: Rules) -> str:
    at = _Place(model, layer, layer + bisect_left(model.shared_experts, layer) + role.endswith("_shexp"))
    given = next((name for conditions, name in rules if all(holds(at) for holds in conditions)), "default")
    return _fitting(_named(mix, given), columns)


def _named(mix: str, given: str) -> str:
    return _default(mix) if given == "default" else given


@cache
def _default(mix: str) -> str:
    return tables.by_key("gguf_mixes").get(mix, {}).get("default_type", mix)


@lru_cache(maxsize=1 << 15)
def _left(mix: str, role: str, uneven: bool, model: GgufModel) -> Rules:
    """The rules that a model and its tensor leave open, in file order: what they ask of the layer, the type they give.

    A rule that asks nothing of the layer is the last.
    """
    stacked = role.endswith("_exps") or role in PER_HEAD
    of = _Of(model, stacked, uneven, tables.by_key("gguf_mixes")[mix].get("imatrix") == "yes")
    found = []
    for row in _rows(mix, _kind(role, model)):
        names = row["when"].split()
        if not all(CONDITIONS[name](of) for name in names if name in CONDITIONS):
            continue
        found.append((tuple(LAYERED[name] for name in names if name not in CONDITIONS), row["type"]))
        if not found[-1][0]:
            break
    return tuple(found)


def _kind(role: str, model: GgufModel) -> str:
    """The name under which the rules know a tensor: experts as their dense kin, a tied embedding as the output."""
    if role == "token_embd" and model.tied:
        return "output"
    role = role.removesuffix("_exps").removesuffix("_shexp")
    if model.fused_qkv and role in ("attn_q", "attn_k", "attn_v"):
        role = "attn_qkv"
    return ALIKE.get(role, role)


@cache
def _rows(mix: str, kind: str) -> tuple[tables.Row, ...]:
    return tuple(
        row
        for row in tables.rows("gguf_rules")
        if row["tensor"] in (kind, "*") and (row["mixes"] == "*" or mix in row["mixes"].split())
    )


def _fitting(type_name: str, columns: int) -> str:
    """Return the type, or the one that takes its place in rows that its blocks do not divide."""
    if columns % block(type_name)[0] == 0:
        return type_name
    other = tables.by_key("gguf_fallbacks", "type").get(type_name, {}).get("replaced_by", "F16")
    return other if columns % block(other)[0] == 0 else "F16"
