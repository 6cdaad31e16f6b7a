"""The bytes of a model's weights, in any precision of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memscape.breakdown import Breakdown, Term, ceil_div, product
from memscape.catalog import ALL, Part, Precision, precision, weight_precisions
from memscape.memory import gguf
from memscape.memory.tensors import Sizes, Tensor, tensors
from memscape.model import Model, remembered
from memscape.problem import Problem, chosen, one_of

GROUPS = ("embeddings", "attention", "mlp_dense", "experts", "router", "norms", "lm_head", "other")
KEPT_PRECISION = "bf16"
# llama.cpp stores their queries, keys and values as one tensor
FUSED_QKV = ("gpt2", "gpt_neox", "falcon", "bloom", "mpt", "phi", "phi3")


def weights(model: Model, name: str = "bf16", kept: tuple[str, ...] | None = None) -> Breakdown:
    """Count the bytes of the weights in a precision.

        Σ over tensors: copies · rows · columns · bytes per element, or blocks · bytes per block      [bytes]

    Scales and zero points are terms of their own. `kept` names the groups that stay in 16 bit; None takes what the
    precision's authors publish (usually embeddings, head, norms and router; for MXFP4 attention too). Norms and biases
    are never quantised. A GGUF mix ("Q4_K_M", ...) gives each tensor the type that llama.cpp's quantiser gives it.
    Correction biases of a router (DeepSeek, GLM) are fp32 buffers, listed apart.
    Holds for: the distinct tensors of the model; a tied head is stored once.
    Not for:   the file around them: tokenizer, metadata, a second copy of a tied head, prediction layers (MTP).
    Raises:    Problem for an unknown precision or group.
    """
    _check(kept)
    name = chosen("precision", name, weight_precisions())
    return _weights(model, name, None if kept is None else frozenset(kept))


@remembered
def _weights(model: Model, name: str, kept: frozenset[str] | None) -> Breakdown:
    """Asked again with every length and every number of sequences."""
    stored = _gguf(model, name, kept or frozenset()) if name in gguf.mixes() else _stored(model, precision(name), kept)
    return Breakdown("bytes", (*stored, *_buffers(model)), model.notes)


def quantised_groups(name: str) -> tuple[str, ...]:
    """Return the groups that a precision is applied to unless `kept` says otherwise."""
    if name in gguf.mixes() or precision(name).plain:
        return GROUPS
    return precision(name).quantises


def title(name: str) -> str:
    """Return the words a reader knows a precision by."""
    if name not in gguf.mixes():
        return precision(name).title
    return f"GGUF {name}" if gguf.is_mix(name) else f"GGUF {name}, all tensors alike"


def bits_per_weight(name: str) -> float | None:
    """Return the bits per quantised weight of a large square matrix; None for a mix, which depends on the model."""
    if gguf.is_mix(name):
        return None
    if name in gguf.mixes():
        elements, size = gguf.block(name)
        return 8 * size / elements
    matrix = Tensor("matrix", "", "", {"columns": 1 << 14}, {"rows": 1 << 14})
    total: int = sum(term.amount for term in _parts(matrix, precision(name)))
    return 8 * total / (1 << 28)


def _check(kept: tuple[str, ...] | None) -> None:
    if kept is not None and not isinstance(kept, tuple | list | set | frozenset):
        raise Problem(f'kept is {str(kept)[:40]!r}; list the groups, as in ("embeddings", "lm_head")')
    if wrong := set(kept or ()) - set(GROUPS):
        raise Problem(f"cannot keep {one_of(sorted(wrong))} in 16 bit; the groups are {one_of(GROUPS)}")


def _stored(model: Model, chosen: Precision, kept: frozenset[str] | None) -> Iterator[Term]:
    groups = GROUPS if chosen.plain or kept is not None else chosen.quantises
    for tensor in tensors(model):
        applies = tensor.group in groups and tensor.group not in (kept or ())
        applies = applies and (chosen.plain or not tensor.is_vector)
        yield from _parts(tensor, chosen if applies else precision(KEPT_PRECISION))


def _parts(tensor: Tensor, stored: Precision) -> Iterator[Term]:
    """One term for each kind of number that the precision stores of a tensor."""
    for part in stored.parts:
        name = tensor.name if part.name == "packed" else f"{tensor.name}: {part.name}s"
        factors = tensor.copies | _blocks(tensor, part, stored.flat)
        yield Term(name, factors, tensor.group, "weights", stored.source)


def _blocks(tensor: Tensor, part: Part, flat: bool) -> Sizes:
    """The factors of one part: every element where blocks are single elements, else whole blocks per row or column."""
    if part.rows == part.columns == 1:
        return tensor.rows | tensor.columns | {"bytes_per_element": part.bytes}
    if flat and isinstance(part.columns, int):
        return {
            "blocks": ceil_div(product([*tensor.rows.values(), *tensor.columns.values()]), part.columns),
            "bytes_per_block": part.bytes,
        }
    rows = tensor.rows if part.rows == 1 else _spans("row_blocks", tensor.rows, part.rows)
    return rows | _spans("blocks_per_row", tensor.columns, part.columns) | {"bytes_per_block": part.bytes}


def _spans(name: str, sizes: Sizes, span: int | str) -> Sizes:
    return {} if span == ALL or not isinstance(span, int) else {name: ceil_div(product(sizes.values()), span)}


def _gguf(model: Model, mix: str, kept: frozenset[str]) -> Iterator[Term]:
    """Each tensor in the type that the mix gives it; the layers of one tensor that share a type are one term."""
    facts = gguf_facts(model)
    for tensor in map(_as_llama_cpp_stores, tensors(model)):
        if tensor.group in kept:
            yield from _parts(tensor, precision(KEPT_PRECISION))
            continue
        places = tensor.layers or (0,)
        columns = product(tensor.columns.values())
        role = "norm" if tensor.is_vector else tensor.role
        types = gguf.tensor_types(mix, role, places, columns, facts)
        for type_name, share in types.items():
            yield _gguf_term(tensor, type_name, share if len(types) > 1 else None)


def _as_llama_cpp_stores(tensor: Tensor) -> Tensor:
    """Turn the one matrix whose rows run the other way: latent attention's keys, along the head."""
    if tensor.role != "attn_k_b":
        return tensor
    rows = {name: size for name, size in tensor.rows.items() if name != "nope_dim"} | tensor.columns
    return replace(tensor, rows=rows, columns={"nope_dim": tensor.rows["nope_dim"]})


def _gguf_term(tensor: Tensor, type_name: str, layers: int | None) -> Term:
    elements, size = gguf.block(type_name)
    copies = dict(tensor.copies)
    if layers is not None:
        first = next(name for name in copies if name.endswith("layers"))
        copies = {f"{first}_in_this_type": layers} | {name: n for name, n in copies.items() if name != first}
    factors = copies | _blocks(tensor, Part("packed", size, 1, elements), flat=False)
    return Term(f"{tensor.name} in {type_name}", factors, tensor.group, "weights", "llama_cpp_quantize")


def gguf_facts(model: Model) -> gguf.GgufModel:
    """Return what llama.cpp's rules ask of a model."""
    routed = tuple(position for position, kind in enumerate(model.layer_kinds) if kind.moe)
    return gguf.GgufModel(
        layers=model.layers,
        experts=model.experts,
        heads=model.heads,
        kv_heads=model.kv_heads,
        falcon=model.family == "falcon",
        tied=model.tied,
        fused_qkv=model.family in FUSED_QKV,
        shared_experts=routed if model.shared_ffn_size else (),
    )


def _buffers(model: Model) -> tuple[Term, ...]:
    """The router's correction biases: fp32 numbers that are stored and loaded, though no gradient trains them."""
    if not model.router_correction:
        return ()
    factors = {"moe_layers": model.moe_layers, "experts": model.experts, "bytes_per_element": 4}
    return (Term("router correction bias (buffer)", factors, "router", "weights", "deepseek_v3"),)
