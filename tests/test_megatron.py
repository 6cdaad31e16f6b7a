"""Fused kernels, against Korthikanti et al. 2022 (arXiv 2205.05198)."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy
import pytest
from published import rows

import memscape as ms
from memscape.memory.megatron import megatron_activations, megatron_layer

SIZES = ("megatron-gpt-22b", "megatron-gpt3-175b", "megatron-mt-nlg-530b", "megatron-gpt-1t")
# a row of Table 2: its layout, what is recomputed, the formula as printed, its value for t and x = a·s/h
SEQUENCE = {"tensor": 8, "sequence_parallel": True}
TABLE_2 = {
    "no parallelism": ({}, "none", "sbh(34+5as/h)", lambda t, x: 34 + 5 * x),
    "tensor parallel t": ({"tensor": 8}, "none", "sbh(10+24/t+5as/(ht))", lambda t, x: 10 + 24 / t + 5 * x / t),
    "tensor + sequence parallel": (SEQUENCE, "none", "sbh(34/t+5as/(ht))", lambda t, x: 34 / t + 5 * x / t),
    "tensor parallel + selective recomputation": (
        {"tensor": 8},
        "selective",
        "sbh(10+24/t)",
        lambda t, x: 10 + 24 / t,
    ),
    "tensor + sequence parallel + selective recomputation": (SEQUENCE, "selective", "sbh 34/t", lambda t, x: 34 / t),
    "full recomputation": ({}, "full", "2sbh", lambda t, x: 2),
}


def _asked(**fields):
    return ms.Training(**{"attention": "eager", "implementation": "megatron", "micro_batch": 1, **fields})


def _layers(model, asked, layout):
    """The bytes of one layer, exactly."""
    kept = [term for term in megatron_activations(model, asked, layout) if "layers" in term.factors]
    return Fraction(sum(term.amount for term in kept), model.layers)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("row", rows("published", quantity="bytes per layer"), ids=lambda row: row["setting"])
def test_table_2_holds_to_the_byte(row, name):
    """Table 2: bytes of activations per layer, at the sizes of Table 3, t = 8 where there is tensor parallelism."""
    fields, recompute, printed, formula = TABLE_2[row["setting"]]
    assert row["value"] == printed
    model, layout = ms.model(name), ms.Layout(**fields)
    expected = formula(Fraction(layout.tensor), Fraction(model.heads * 2048, model.hidden_size))
    assert _layers(model, _asked(recompute=recompute), layout) == expected * 2048 * model.hidden_size


@pytest.mark.parametrize(
    "layout, recompute, coefficient",
    [
        ({}, "none", 114),
        ({"tensor": 8}, "none", 23),
        ({"tensor": 8, "sequence_parallel": True}, "none", Fraction(57, 4)),
        ({"tensor": 8}, "selective", 13),
        ({"tensor": 8, "sequence_parallel": True}, "selective", Fraction(17, 4)),
        ({}, "full", 2),
        ({"tensor": 8, "sequence_parallel": True}, "full", Fraction(1, 4)),
    ],
)
def test_gpt_3_keeps_what_the_paper_says(layout, recompute, coefficient):
    """PEERS 3.5, from Table 2: s·b·h per layer of GPT-3 175B at t = 8; 275.4, 55.57, 34.43, ... GB over 96 layers."""
    kept = _layers(ms.model("megatron-gpt3-175b"), _asked(recompute=recompute), ms.Layout(**layout))
    assert kept == coefficient * 2048 * 12288


@pytest.mark.parametrize("tensor", [1, 2, 8])
def test_outside_of_the_layers_follows_section_4_3(tensor):
    """Section 4.3, one stage: mask s·b·h/t, and 4·s·b·h/t · (1 + V/h) for final norm, head and fp32 logits."""
    model, asked = ms.model("megatron-gpt3-175b"), _asked(micro_batch=2)
    kept = megatron_activations(model, asked, ms.Layout(tensor=tensor, sequence_parallel=True))
    outside = sum(term.amount for term in kept if "layers" not in term.factors)
    sbh = 2048 * 2 * model.hidden_size
    assert outside == Fraction(sbh, tensor) + Fraction(4 * sbh, tensor) * (1 + Fraction(51200, model.hidden_size))


def test_parts_of_a_layer_are_those_of_section_4_1():
    """Section 4.1: attention 11·s·b·h + 5·a·s²·b, MLP 19·s·b·h, two norms 4·s·b·h."""
    model = ms.model("megatron-gpt-1t")
    parts = megatron_layer(model, _asked(micro_batch=3)).by("group")
    sbh, scores = 2048 * 3 * model.hidden_size, model.heads * 2048**2 * 3
    assert parts == {"attention": 11 * sbh + 5 * scores, "norms": 4 * sbh, "mlp_dense": 19 * sbh}


def test_a_flash_kernel_stands_for_the_scores():
    """FORMULAS 3: flash attention saves what selective recomputation does, but for one fp32 number a query."""
    model, layout = ms.model("megatron-gpt3-175b"), ms.Layout(tensor=8)
    flash = _layers(model, _asked(attention="sdpa"), layout)
    assert flash - _layers(model, _asked(recompute="selective"), layout) == 4 * 12 * 2048
    assert _layers(model, _asked(attention="sdpa", recompute="selective"), layout) == 13 * 2048 * 12288


def test_bert_large_keeps_74_and_34_sbh():
    """PEERS 3.6: BERT-large, batch 32, sequence 512, mixed precision: 74·s·b·h a layer with scores, 34 with flash."""
    model, fields = ms.model("bert-large-uncased"), {"micro_batch": 32, "sequence_tokens": 512}
    sbh = 32 * 512 * 1024
    assert _layers(model, _asked(**fields), ms.Layout()) == 74 * sbh
    assert _layers(model, _asked(recompute="selective", **fields), ms.Layout()) == 34 * sbh


def test_without_dropout_there_are_no_masks():
    """Section 4.1: masks of one byte a number, s·b·h twice and a·s²·b once, and the dropped softmax 2·a·s²·b."""
    model = ms.model("megatron-gpt3-175b")
    sbh, scores = 2048 * 12288, 96 * 2048**2
    on, off = (megatron_activations(model, _asked(dropout=rate)) for rate in (None, 0))
    assert on.total - off.total == 96 * (2 * sbh + 3 * scores) + sbh
    assert not any("mask" in term.name for term in off)


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3.1-8b", "mistral-7b-v0.1"])
def test_fused_llama_follows_the_derived_coefficient(name):
    """FORMULAS 3: a LLaMA with fused kernels keeps s·b·h·(12 + 4·k/a + 8·f/h), beside the flash kernel's numbers."""
    model = ms.model(name)
    sbh = 2048 * model.hidden_size
    share = 12 + Fraction(4 * model.kv_heads, model.heads) + Fraction(8 * model.ffn_size, model.hidden_size)
    assert _layers(model, _asked(recompute="selective"), ms.Layout()) == share * sbh


def test_fp32_doubles_all_but_masks():
    """Section 4: the paper's activations have 2 bytes; masks 1, logits 4."""
    model = ms.model("megatron-gpt-22b")
    narrow, wide = (megatron_activations(model, _asked(precision=name)) for name in ("bf16", "fp32"))
    for single, double in zip(narrow, wide, strict=True):
        fixed = "mask" in single.name or "logits" in single.name
        assert double.amount == single.amount * (1 if fixed else 2)


def test_experts_keep_their_share():
    """FORMULAS 3, MoE: dispatched input and combined output 2·e·u each, four inner tensors, 8 bytes a score."""
    model = ms.model("mixtral-8x7b")
    kept = megatron_activations(model, _asked(recompute="selective"))
    tokens = 2048 * model.layers
    inner = 4 * 2 * 2 * tokens * model.expert_ffn_size
    assert kept.by("group")["experts"] == 2 * (2 * 2 * tokens * model.hidden_size) + inner
    assert kept.by("group")["router"] == 8 * tokens * model.experts


def test_a_grid_is_a_loop():
    """Promise: an array gives what a loop of scalars gives."""
    model, lengths, degrees = ms.model("llama-3.1-8b"), [64, 1000, 4096], [1, 2, 8]
    asked = _asked(sequence_tokens=numpy.array(lengths), micro_batch=numpy.array([1, 2, 3]))
    grid = megatron_activations(model, asked, ms.Layout(tensor=numpy.array(degrees), sequence_parallel=True)).total
    loop = [
        megatron_activations(
            model,
            _asked(sequence_tokens=length, micro_batch=batch),
            ms.Layout(tensor=degree, sequence_parallel=True),
        ).total
        for length, batch, degree in zip(lengths, (1, 2, 3), degrees, strict=True)
    ]
    assert grid.tolist() == loop


def test_every_factor_has_a_symbol_and_every_source_a_row():
    """Promise "shown": no formula prints a name that symbols.csv does not explain."""
    glossary, sources = ms.tables.by_key("symbols"), ms.tables.by_key("sources", "key")
    for name in ("megatron-gpt3-175b", "llama-3.1-8b", "qwen3-30b-a3b", "qwen1.5-moe-a2.7b", "llama-4-scout-text"):
        for layout in (ms.Layout(), ms.Layout(tensor=2, sequence_parallel=True)):
            for recompute in ("none", "selective", "full"):
                kept = megatron_activations(ms.model(name), _asked(recompute=recompute), layout)
                assert {factor for term in kept for factor in term.factors} <= set(glossary)
                assert set(kept.sources) <= set(sources)


@pytest.mark.parametrize(
    "name, layout, message",
    [
        ("megatron-gpt3-175b", {"tensor": 5}, "tensor 5 cannot split 96 heads; use"),
        ("t5-base", {}, "an encoder beside its decoder"),
    ],
)
def test_what_the_formula_does_not_cover_is_refused(name, layout, message):
    with pytest.raises(ms.Problem, match=message):
        megatron_activations(ms.model(name), _asked(), ms.Layout(**layout))


def test_tensor_parallel_copies_a_head_that_it_cannot_split():
    """FORMULAS 5: below one KV head a device, each head is copied."""
    model = replace(ms.model("llama-3.1-8b"), kv_heads=4)
    (keys,) = [term for term in megatron_activations(model, _asked(), ms.Layout(tensor=8)) if term.name == "keys"]
    assert keys.factors["kv_heads_per_device"] == 1
