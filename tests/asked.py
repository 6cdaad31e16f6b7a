"""What the package answers to the scenario of an address, page by page: asked of its functions, without the pages."""

from __future__ import annotations

import memscape as ms
from memscape.memory.weights import quantised_groups
from memscape.model import scaled
from memscape.planner import layout_of
from memscape.units import amount, exact


def figures(page, asked):
    """Return the figures that the headline of a page must hold, for the values of an address by name."""
    with ms.units.shown_in(asked["unit"]):
        return _FIGURES[page](ms.model(asked["model"]), asked)


def _card(asked):
    card = ms.accelerator(asked["accelerator"])
    return card.as_sold() if asked["memory_as"] == "sold" else card


def _served(model, asked, tokens=None, **more):
    tokens = int(tokens or asked["tokens"])
    written = tokens if model.has_encoder else 0
    return ms.Inference(int(asked["sequences"]), prompt_tokens=tokens, output_tokens=written, **more)


def _trained(asked, **more):
    sizes = {name: int(asked[name]) for name in ("micro_batch", "sequence_tokens")}
    return ms.Training(**sizes, recompute="full" if asked["checkpointing"] == "1" else "none", **more)


def _index(model, asked):
    card = _card(asked)
    held = ms.memory(model, _served(model, asked, weights=asked["precision"], kv_cache=asked["kv_cache"]))
    return f"{ms.fewest_devices(held, card, int(asked['reserve'])):,} × {card.name}", amount(held.total)


def _parameters(model, asked):
    shape = scaled(model, *(int(asked[name]) for name in ("depth", "width", "vocabulary")))
    counted, chosen = (
        ms.parameters(shape),
        {n for n in ("embeddings", "lm_head", "router") if asked[f"quantise_{n}"] == "1"},
    )
    whole = set(counted.by("group")) - {*quantised_groups(asked["precision"]), *chosen}
    weighed = ms.weights(shape, asked["precision"], tuple(whole) if chosen else None)
    return f"{exact(counted.total)} parameters", amount(weighed.total)


def _kv_cache(model, asked):
    stored = {"kv_cache": asked["kv_cache"], "engine": asked["engine"], "block_tokens": int(asked["block_tokens"])}
    served = ms.Inference(int(asked["sequences"]), prompt_tokens=int(asked["tokens"]), output_tokens=0, **stored)
    return (f"{exact(ms.kv_cache(model, served).total)} bytes",)


def _activations(model, asked):
    how = {"precision": asked["training_precision"], "attention": asked["attention"]}
    kept = ms.activations(model, _trained(asked, **how, dropout=None if asked["dropout"] == "1" else 0))
    return amount(kept.total), f"{exact(kept.total)} bytes"


def _training(model, asked):
    how = {name: asked[name] for name in ("method", "optimizer", "update", "attention")}
    how |= {"precision": asked["training_precision"], "lora_rank": int(asked["lora_rank"])}
    card, held = _card(asked), ms.memory(model, _trained(asked, **how))
    fits = f"on one {card.name}" if held.total > card.usable_bytes else f"fits on one {card.name}"
    return amount(held.total), f"{exact(held.total)} bytes", fits


def _parallelism(model, asked):
    degrees = {n: int(asked[n]) for n in ("tensor", "pipeline", "interleave", "data", "context", "expert")}
    zero = int(asked["zero"]) if asked["work"] == "training" else 0
    shared = {"zero": zero, "sharding": "fsdp" if zero > 1 else "deepspeed"}
    layout = ms.Layout(**degrees, **shared, sequence_parallel=asked["sequence_parallel"] == "1")
    sequences, tokens = int(asked["batch"]) * layout.data, int(asked["sequence_tokens"])
    if asked["work"] == "serving":
        work = _served(model, {"sequences": sequences}, tokens)
    else:
        again = "none" if model.has_encoder and asked["recomputed"] == "selective" else asked["recomputed"]
        kernels = "transformers" if model.has_encoder else "megatron"
        how = {"precision": "bf16-mixed", "implementation": kernels, "recompute": again}
        work = ms.Training(sequence_tokens=tokens, global_batch=sequences, **how)
    held = ms.memory(model, work, layout, _card(asked))
    return f"{layout.devices:,} devices", amount(held.total)


def _cluster(model, asked):
    card, training = _card(asked), asked["work"] == "training"
    known = {"reserve": int(asked["reserve"]), "tokens": int(asked["millions"]) * 10**6 if training else None}
    known |= {"provider": asked.get("provider"), "pue": float(asked["pue"]) if "pue" in asked else None}
    known["usd_per_kwh"] = int(asked["cents"]) / 100 if "cents" in asked else None
    work = (
        _run(model, asked)
        if training
        else _served(model, asked, weights=asked["precision"], kv_cache=asked["kv_cache"])
    )
    layout = layout_of(model, int(asked["devices"]), card) if "devices" in asked and not training else None
    try:
        bill = ms.cluster(model, work, accelerator=card, layout=layout, **known)
    except ms.Problem:
        if layout is None:
            raise
        bill = ms.cluster(model, work, accelerator=card, **known)
    return f"{bill.devices:,} × {card.name}", amount(bill.held.total)


def _run(model, asked):
    full = asked["method"] == "full"
    how = {"precision": "bf16-mixed" if full else "bf16", "method": asked["method"]}
    how["implementation"] = "megatron" if full and not model.has_encoder else "transformers"
    return _trained(asked, **how, global_batch=max(int(asked["batch"]), int(asked["micro_batch"])))


def _what_if(model, asked):
    changed = {n[:-2]: text for n, text in asked.items() if n.endswith("_b") and text != "same"}
    times = {name: max(1, int(asked[name]) * int(changed[name]) // 100) for name in ("tokens", "sequences")}
    if "checkpointing" in changed:
        changed["checkpointing"] = "1" if changed["checkpointing"] == "yes" else "0"
    a = _side(model, asked)
    b = _side(ms.model(changed["model"]) if "model" in changed else model, asked | changed | times)
    difference = f"{amount(abs(b - a))} {'less' if b < a else 'more'}" if a != b else "No difference"
    return difference, amount(a), amount(b)


def _side(model, asked):
    layout = layout_of(model, int(asked["devices"]), _card(asked))
    if asked["work"] == "serving":
        work = _served(model, asked, weights=asked["precision"], kv_cache=asked["kv_cache"])
        return ms.memory(model, work, layout).total
    how = {"precision": asked["training_precision"], "optimizer": asked["optimizer"], "method": asked["method"]}
    sizes = {"micro_batch": asked["sequences"], "sequence_tokens": asked["tokens"]}
    return ms.memory(
        model, _trained(asked | sizes, **how), ms.Layout(tensor=layout.tensor, pipeline=layout.pipeline, zero=1)
    ).total


def _reality_check(model, asked):
    if asked["work"] == "training":
        work = _trained(asked, precision="bf16-mixed")
    else:
        work = _served(model, asked, weights=asked["precision"])
    return (amount(ms.memory(model, work).total),)


_FIGURES = {
    "index": _index,
    "parameters": _parameters,
    "activations": _activations,
    "kv_cache": _kv_cache,
    "training": _training,
    "parallelism": _parallelism,
    "cluster": _cluster,
    "what_if": _what_if,
    "reality_check": _reality_check,
}
