"""What attention remembers of every token it has seen."""

from __future__ import annotations

from dataclasses import replace

from memscape.breakdown import Breakdown, Quantity, Term, ceil_div, maximum, minimum, product
from memscape.catalog import CachePrecision, cache_precision
from memscape.memory.tensors import Sizes
from memscape.model import Model
from memscape.problem import Problem
from memscape.workload import Inference

SOURCES = {"heads": "ainslie2023", "latent": "deepseek_v2", "window": "jiang2023", "cross": "raffel2020"}


def kv_cache(model: Model, inference: Inference) -> Breakdown:
    """Keys and values kept for the prompt and the output of every sequence.

        2 · L · k · d · s · b · w      [bytes], per kind of layer

    A layer with a window or a chunk keeps at most that many tokens; latent attention (MLA) keeps one vector of
    latent_rank + rope_dim per token and layer; an encoder-decoder keeps its own tokens and, once, the encoder's.
    With `engine="transformers"` it is what DynamicCache(config) stores: window - 1 tokens in a local layer, and for
    Falcon's grouped heads one copy per query head. `notes` names where the two differ for this model.
    Holds for: attention layers. Encoders keep no cache: no terms.
    Not for:   recurrent layers; copies that an engine makes while it computes.
    Raises:    Problem for training, which keeps no cache.
    Sources:   ainslie2023, deepseek_v2, jiang2023, raffel2020
    """
    if not isinstance(inference, Inference):
        raise Problem(
            "training computes all tokens of a sequence at once and keeps no KV cache; "
            "give an Inference, or ask memory(model, training) for what training holds"
        )
    precision = cache_precision(inference.kv_cache)
    if not model.causal:
        return Breakdown("bytes", (), ("an encoder reads its text once and keeps no KV cache",))
    if model.has_encoder:
        terms = _encoder_decoder(model, inference, precision)
    else:
        terms = _decoder(model, inference, precision)
    return Breakdown("bytes", terms, _differences(model))


def cut_off(model: Model, inference: Inference) -> Breakdown:
    """Keys and values of a prompt that a local layer has left, and that stay until the first token is written.

        2 · L · k · d · (s - (W - 1)) · b · w      [bytes], per kind of local layer, for prompts of s > W - 1 tokens

    transformers' dynamic cache keeps the last window - 1 tokens of a prompt as a view of the tensor with all of them,
    so that the whole tensor stays; the next token makes a new one. Beside it every local layer holds its window as a
    number of 8 bytes.
    Holds for: `engine="transformers"` with a growing cache. Other engines: no terms.
    Source:    transformers_cache
    """
    local = {kind: layers for kind, layers in model.attention_layers.items() if kind != "full"}
    if not _grows(inference) or model.window is None:
        return Breakdown("bytes", ())
    precision, terms = cache_precision(inference.kv_cache), tuple[Term, ...]()
    tokens = {"tokens_cut_off": maximum(inference.prompt_tokens - (model.window - 1), 0)}
    for kind, layers in local.items():
        counted = _counted(model, kind, layers)
        held = _stored(model, inference, precision, f"{kind}, cut off", counted, tokens)
        index = counted | {"bytes_per_index": 8}
        window = Term(f"window, {kind}", index, "attention", "kv_cache", "transformers_cache")
        terms += (*(replace(term, source="transformers_cache") for term in held), window)
    return Breakdown("bytes", terms)


def _decoder(model: Model, inference: Inference, precision: CachePrecision) -> tuple[Term, ...]:
    """One term for each kind of layer: those that see everything, and those that see a window or a chunk."""
    terms: tuple[Term, ...] = ()
    for kind, layers in model.attention_layers.items():
        tokens = {"tokens_kept" if kind != "full" else "tokens": _tokens_kept(model, inference, kind)}
        terms += _stored(model, inference, precision, kind, _counted(model, kind, layers), tokens)
    return terms


def _encoder_decoder(model: Model, inference: Inference, precision: CachePrecision) -> tuple[Term, ...]:
    """The decoder's own tokens, and keys and values of the encoder's tokens, projected once per decoder layer."""
    layers = {"decoder_layers": model.layers}
    own = {"output_tokens": _in_blocks(inference, inference.output_tokens)}
    read = {"prompt_tokens": _in_blocks(inference, inference.prompt_tokens)}
    return _stored(model, inference, precision, "self-attention", layers, own) + _stored(
        model, inference, precision, "cross-attention", layers, read
    )


def _stored(
    model: Model, inference: Inference, precision: CachePrecision, kind: str, layers: Sizes, tokens: Sizes
) -> tuple[Term, ...]:
    """The keys and values of some layers, and the scales beside them where the precision has any."""
    source = SOURCES["latent" if model.attention == "latent" else {"full": "heads"}.get(kind, "window")]
    source = SOURCES["cross"] if model.has_encoder else source
    latent = model.attention == "latent"
    pair: Sizes = {} if latent else {"keys_and_values": 2}
    held = tokens | {"sequences": inference.sequences}
    factors = pair | layers | _vector(model, inference, precision) | held | _bytes(precision)
    name = "latent vectors" if latent else f"keys and values, {kind}"
    stored = Term(name, factors, "attention", "kv_cache", source)
    if not precision.bytes_per_head:
        return (stored,)
    heads: Sizes = {} if latent else {"kv_heads": _heads(model, inference)}
    scales = pair | layers | heads | held | {"scale_bytes": precision.bytes_per_head}
    return stored, Term(f"scales, {kind}", scales, "attention", "kv_cache", precision.source)


def _vector(model: Model, inference: Inference, precision: CachePrecision) -> Sizes:
    """What one layer keeps of one token: named sizes, or whole blocks where the precision stores blocks."""
    if model.attention == "latent":
        width: Sizes = {"latent_and_rope_dim": model.latent_rank + model.rope_dim}
    else:
        width = {"kv_heads": _heads(model, inference), "head_dim": model.head_dim}
    if precision.block_elements == 1:
        return width
    return {"blocks_per_token": ceil_div(product(width.values()), precision.block_elements)}


def _bytes(precision: CachePrecision) -> Sizes:
    return {"bytes_per_element" if precision.block_elements == 1 else "bytes_per_block": precision.block_bytes}


def _heads(model: Model, inference: Inference) -> Quantity:
    repeated = model.cache_repeats_heads and inference.engine == "transformers"
    return model.heads if repeated else model.kv_heads


def _tokens_kept(model: Model, inference: Inference, kind: str) -> Quantity:
    """The tokens of one sequence that a layer of this kind holds."""
    tokens = inference.tokens if inference.reserved_tokens is None else inference.reserved_tokens
    if kind != "full" and model.window is not None:
        # transformers' dynamic sliding layer drops the oldest token before the next one comes; a static one does not.
        tokens = minimum(tokens, model.window - 1 if _grows(inference) else model.window)
    return _in_blocks(inference, tokens)


def _grows(inference: Inference) -> bool:
    """Whether it is transformers' dynamic cache."""
    return inference.engine == "transformers" and inference.reserved_tokens is None


def _counted(model: Model, kind: str, layers: int) -> Sizes:
    """The layers of a kind; where there is one kind alone, it needs no name."""
    return {"layers" if len(model.attention_layers) == 1 else f"{kind}_layers": layers}


def _in_blocks(inference: Inference, tokens: Quantity) -> Quantity:
    """Whole blocks of tokens, as a paged cache hands them out."""
    if inference.block_tokens == 1:
        return tokens
    return ceil_div(tokens, inference.block_tokens) * inference.block_tokens


def _differences(model: Model) -> tuple[str, ...]:
    """Where transformers stores something else than the architecture needs."""
    notes = []
    if model.cache_repeats_heads and model.heads != model.kv_heads:
        notes.append(
            f"transformers stores keys and values once per query head, {model.heads // model.kv_heads} times what "
            f"the {model.kv_heads} KV heads need"
        )
    if model.window is not None and set(model.attention_layers) - {"full"}:
        notes.append(
            f"a local layer needs {model.window:,} tokens; transformers keeps {model.window - 1:,}, and drops the "
            "oldest before the next one comes"
        )
    return tuple(notes)
