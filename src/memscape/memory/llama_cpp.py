"""llama.cpp: which layers stand on the GPU and which in the host's memory, and the buffers that a pass needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, ceil_div, product
from memscape.catalog import weight_precisions
from memscape.memory import gguf
from memscape.memory.kv_cache import kv_cache
from memscape.memory.tensors import Sizes, Tensor, tensors
from memscape.memory.weights import gguf_facts, weights
from memscape.model import Model
from memscape.problem import Problem, chosen
from memscape.serving import fact
from memscape.units import MIB
from memscape.workload import Inference

FP32 = {"bytes_per_element": 4}
# how the names of factors end that count layers
COUNTED = ("layers", "layers_in_this_type")


def device_memory_llama_cpp(model: Model, inference: Inference) -> Breakdown:
    """Count what llama.cpp holds on the GPU: weights and cache of its layers, one compute buffer, the context.

    `gpu_layers` counts from the end of the stack: the output layer is the first of them, as in 2026 (before, it was the
    last); None takes all. The token embedding stays on the CPU; a tied one is stored a second time as the output. All
    of it is reserved when the model is loaded, so it is the same at every moment. With 0 layers the GPU still computes
    long prompts, with matrices that are copied to it one by one: a buffer and the context remain.
    Holds for: one GPU, one stream per slot, --ubatch-size 512 or `prefill_tokens`.
    Not for:   tensors placed by name, a draft model, several GPUs (a copy of the buffer each).
    Sources:   llama_cpp_offload, llama_cpp_quantize, ollama_graph
    """
    split = _split(model, inference)
    held = (*_weights(split, inference, gpu=True), *_cache(split, inference, gpu=True))
    row = tables.by_key("runtime")["CUDA context"]
    low, likely, high = (each * MIB for each in tables.spread(row))
    sizes = {"mebibytes": likely // MIB, "bytes_per_mebibyte": MIB}
    context = Term("CUDA context", sizes, "other", "runtime", row["source"], (low, high))
    return Breakdown("bytes", (*held, *_buffer(split, inference, partial=split.start > 0), context))


def host_memory_llama_cpp(model: Model, inference: Inference) -> Breakdown:
    """Count what llama.cpp holds in the host's memory: the token embedding, the other layers, their cache, buffers.

    Not for: pages of a mapped file, which the system keeps while there is room.
    Sources: llama_cpp_offload, llama_cpp_quantize, ollama_graph
    """
    split = _split(model, inference)
    held = (*_weights(split, inference, gpu=False), *_cache(split, inference, gpu=False))
    passed = {"tokens_in_pass": _tokens_in_pass(inference)} | FP32
    inputs = (
        _scratch("embedded tokens", {"hidden_size": model.hidden_size} | passed),
        _scratch("attention mask", {"context_tokens": _context(inference)} | passed),
    )
    rows = {"sequences": inference.sequences, "vocab_size": model.vocab_size} | FP32
    buffers = _buffer(split, inference, partial=False) if split.start else inputs
    return Breakdown("bytes", (*held, *buffers, _scratch("logits that are read", rows, "lm_head")))


@dataclass(frozen=True)
class _Split:
    """A model and the first position of the stack that is on the GPU; the output layer stands at `model.layers`."""

    model: Model
    start: int

    def holds(self, position: int, gpu: bool) -> bool:
        return (position >= self.start) == gpu


def _split(model: Model, inference: Inference) -> _Split:
    if inference.engine != "llama.cpp":
        raise Problem(f'engine "{inference.engine}" leaves no layers to the CPU; use engine "llama.cpp"')
    if not model.causal or model.has_encoder or model.shared_layers:
        raise Problem(f"{model.label} is no plain decoder; layers are divided for decoders alone, use another engine")
    most = int(model.layers) + 1
    asked = most if inference.gpu_layers is None else inference.gpu_layers
    if asked > most:
        raise Problem(
            f"gpu_layers is {asked:,}, and {model.label} has {model.layers} layers and the output layer; "
            f"use 0 to {most}, or None for all"
        )
    return _Split(model, most - asked)


def _weights(split: _Split, inference: Inference, gpu: bool) -> Iterator[Term]:
    """The share of each term that stands on one side: whole layers, each in the type that the mix gives it."""
    for term in weights(split.model, inference.weights, inference.kept):
        counted = next((key for key in term.factors if key.endswith(COUNTED)), None)
        if counted is None:
            yield from _once(split, term, gpu)
            continue
        places = (place for place in _places(split.model, counted) if split.holds(place, gpu))
        here = sum(_counted(split.model, inference, term, place) for place in places)
        if here:
            sizes = {key: size for key, size in term.factors.items() if key != counted}
            yield term.of({"layers_here": here} | sizes)


def _once(split: _Split, term: Term, gpu: bool) -> Iterator[Term]:
    """What stands beside the stack: embeddings on the CPU, the final norm and the head where the output layer is."""
    output = split.holds(int(split.model.layers), gpu)
    embedded = term.group == "embeddings"
    if (not gpu) if embedded else output:
        yield term
    if gpu and output and split.model.tied and term.name.startswith("token embedding"):
        yield replace(term, name=f"{term.name}, stored again as the output", group="lm_head")


def _places(model: Model, counted: str) -> tuple[int, ...]:
    """The positions in the stack of the layers that a factor counts."""
    routed = {"moe": True, "dense": False}.get(counted.partition("_")[0])
    return tuple(place for place, kind in enumerate(model.layer_kinds) if routed is None or kind.moe is routed)


def _counted(model: Model, inference: Inference, term: Term, place: int) -> bool:
    """Whether a term counts the tensor of this layer: its type is the one in the term's name, if it names one."""
    mix = chosen("precision", inference.weights, weight_precisions())
    name, _, type_name = term.name.rpartition(" in ")
    alike = [tensor for tensor in tensors(model) if tensor.name == name]
    if not alike or mix not in gguf.mixes():
        return True
    return any(_type(model, mix, tensor, place) == type_name for tensor in alike)


def _type(model: Model, mix: str, tensor: Tensor, place: int) -> str:
    columns = model.nope_dim if tensor.role == "attn_k_b" else product(tensor.columns.values())
    role = "norm" if tensor.is_vector else tensor.role
    return gguf.tensor_type(mix, role, place, columns, gguf_facts(model))


def _cache(split: _Split, inference: Inference, gpu: bool) -> tuple[Term, ...]:
    """The cache stands where its layer stands; a local layer keeps its window and the tokens of one pass."""
    model = split.model
    kinds = tuple(kind for place, kind in enumerate(model.layer_kinds) if split.holds(place, gpu))
    if not kinds:
        return ()
    window = None if model.window is None else model.window + _tokens_in_pass(inference)
    return kv_cache(replace(model, layers=len(kinds), layer_kinds=kinds, window=window), inference).terms


def _buffer(split: _Split, inference: Inference, partial: bool) -> tuple[Term, ...]:
    """The compute buffer: the larger of one layer's graph and the head's.

        layer: 4·T·(1 + c·h + s·(1 + a));  head: 4·T·(h + V);  a fused kernel keeps the mask and no scores      [bytes]

    Where layers stand on both sides, hidden states are copied between them, and for a long prompt one matrix of the
    host at a time is copied to the GPU: a layer's largest, with keys of its cache, or the output's.
    """
    passed: Sizes = {"tokens_in_pass": _tokens_in_pass(inference)} | FP32
    hidden: Sizes = {"hidden_size": split.model.hidden_size} | passed
    layer, head = _layer_graph(split.model, inference, passed), _head_graph(split.model, passed)
    if not partial:
        return _higher(layer, head)
    layer = (*layer, *_copied_layer(split.model, inference))
    if not split.holds(int(split.model.layers), gpu=True):
        head = (*head, *_copied_output(split.model, inference))
    return (*_higher(layer, head), _scratch("hidden states that change sides", hidden))


def _higher(first: tuple[Term, ...], second: tuple[Term, ...]) -> tuple[Term, ...]:
    """The larger of two graphs, which share one buffer; for arrays both, with a factor of 0 or 1."""
    ahead = Breakdown("bytes", first).total > Breakdown("bytes", second).total
    if not hasattr(ahead, "shape"):
        return first if ahead else second
    sides = ((first, ahead.astype("float64")), (second, 1.0 - ahead))
    return tuple(replace(t, factors={**t.factors, "at_its_highest": here}) for side, here in sides for t in side)


def _head_graph(model: Model, passed: Sizes) -> tuple[Term, ...]:
    return (
        _scratch("hidden states", {"hidden_size": model.hidden_size} | passed),
        _scratch("logits", {"vocab_size": model.vocab_size} | passed, "lm_head"),
    )


def _layer_graph(model: Model, inference: Inference, passed: Sizes) -> tuple[Term, ...]:
    context: Sizes = {"context_tokens": _context(inference)}
    copies = {"residual_copies": int(fact("llama.cpp", "residual copies")["likely"])}
    terms = (
        _scratch("positions", passed),
        _scratch("residual stream", copies | {"hidden_size": model.hidden_size} | passed),
        _scratch("attention mask", context | passed),
    )
    if inference.attention == "eager":
        return (*terms, _scratch("attention scores", {"heads": model.heads} | context | passed))
    return terms


def _copied_layer(model: Model, inference: Inference) -> Iterator[Term]:
    """The largest matrix of a layer, all experts of one kind together, and the keys of one layer in fp32."""
    sizes = (
        term.amount // size
        for term in weights(model, inference.weights, inference.kept)
        for key, size in term.factors.items()
        if key.endswith(COUNTED)
    )
    yield _scratch("largest matrix of a layer, copied from the host", {"largest_matrix_bytes": max(sizes)})
    keys = {"kv_heads": model.kv_heads, "head_dim": model.head_dim, "context_tokens": _context(inference)}
    yield _scratch("keys copied from the host", keys | FP32)


def _copied_output(model: Model, inference: Inference) -> Iterator[Term]:
    for term in weights(model, inference.weights, inference.kept):
        if term.group == "lm_head" or (model.tied and term.name.startswith("token embedding")):
            yield replace(term, name=f"{term.name}, copied from the host", group="lm_head", phase="activations")


def _scratch(name: str, factors: Sizes, group: str = "other") -> Term:
    return Term(name, factors, group, "activations", "ollama_graph")


def _tokens_in_pass(inference: Inference) -> int:
    return inference.prefill_tokens or int(fact("llama.cpp", "tokens in a pass")["likely"])


def _context(inference: Inference) -> Quantity:
    """The cells of all slots together, each slot padded to whole blocks."""
    tokens = inference.tokens if inference.reserved_tokens is None else inference.reserved_tokens
    block = inference.block_tokens or 1
    return inference.sequences * (ceil_div(tokens, block) * block)
