"""GGUF mixes, against the sizes that llama.cpp publishes and prints."""

from __future__ import annotations

from math import prod

import pytest
from gguf.constants import GGML_QUANT_SIZES
from published import rows

import memscape as ms
from memscape import tables
from memscape.memory import gguf

LLAMA = gguf.GgufModel(layers=32, heads=32, kv_heads=8, experts=0, falcon=False, tied=False)
README = rows("published", subject="Llama-3.1-8B GGUF")


def test_blocks_equal_those_of_llama_cpp():
    """gguf, llama.cpp's own package: elements and bytes of a block of every type."""
    sizes = {kind.name: size for kind, size in GGML_QUANT_SIZES.items()}
    assert {row["name"]: gguf.block(row["name"]) for row in tables.rows("gguf_types")}.items() <= sizes.items()


@pytest.mark.parametrize("row", README, ids=lambda row: row["setting"])
def test_bits_per_weight_equal_the_published_digits(row):
    """llama.cpp, tools/quantize/README.md: bits per weight and GiB of Llama 3.1 8B in 23 types, as printed."""
    model = ms.model("llama-3.1-8b")
    bits, gib = map(float, row["value"].split(";"))
    size = ms.weights(model, row["setting"]).total
    assert size * 8 / ms.parameters(model).total == pytest.approx(bits, abs=6e-5)
    assert round(size / 2**30, 2) == gib


@pytest.mark.parametrize("row", rows("gguf_sizes"), ids=lambda row: f"{row['model']}-{row['mix']}")
def test_size_equals_what_llama_bench_prints(row):
    """gguf_sizes.csv: real files, as llama.cpp prints their size."""
    assert round(ms.weights(ms.model(row["model"]), row["mix"]).total / 2**30, 2) == float(row["gib"])


@pytest.mark.parametrize("row", tables.rows("published_files"), ids=lambda row: f"{row['model']}-{row['mix']}")
def test_size_is_that_of_a_published_file(row):
    """published_files.csv: files on the Hub; the file also holds the tokenizer, and its size is rounded: 0.1 %."""
    assert ms.weights(ms.model(row["model"]), row["mix"]).total / 1e9 == pytest.approx(float(row["gb"]), rel=1e-3)


def test_rounded_table_of_the_readme_holds_within_its_own_rounding():
    """llama.cpp's README also lists Q4_K_M as 43.1 GB for 70B and 249.1 GB for 405B, 4.89 and 4.91 bits a weight.

    A larger model gives less of its bits to the vocabulary, so it cannot have more bits a weight than the 4.8944 of 8B
    in the same README: that table is an estimate (its fp32 column is no model's size either). What the files have is
    in gguf_sizes.csv; this only bounds the estimate.
    """
    for size in ("70B", "405B"):
        (row,) = rows("published", subject=f"Llama 3.1 {size} GGUF")
        whole, mixed = (float(each) * 1e9 for each in row["value"].split(" / "))
        model = ms.model(f"llama-3.1-{size.lower()}")
        assert ms.parameters(model).total * 4 == pytest.approx(whole, rel=0.006)
        assert ms.weights(model, "Q4_K_M").total == pytest.approx(mixed, rel=0.025)


@pytest.mark.parametrize("role, layer, name", [
    ("attn_v", 0, "Q6_K"),  # the first eighth of the layers
    ("attn_v", 4, "Q4_K"),
    ("attn_v", 6, "Q6_K"),  # every third between
    ("attn_v", 31, "Q6_K"),  # the last eighth
    ("ffn_down", 28, "Q6_K"),
    ("attn_q", 0, "Q4_K"),
    ("output", 0, "Q6_K"),
    ("token_embd", 0, "Q4_K"),
    ("norm", 0, "F32"),
    ("ffn_gate_inp", 0, "F32"),
])  # fmt: skip
def test_q4_k_m_gives_more_bits_where_llama_cpp_does(role, layer, name):
    """llama.cpp, llama-quant.cpp, commit 007dbbf3: use_more_bits, and what is not quantised."""
    assert gguf.tensor_type("Q4_K_M", role, layer, 4096, LLAMA) == name


@pytest.mark.parametrize("mix, columns, name", [
    ("Q4_K_M", 4096 + 32, "Q5_0"),
    ("Q5_K_M", 4096 + 32, "Q5_1"),
    ("Q6_K", 4096 + 32, "Q8_0"),
    ("Q2_K", 4096 + 32, "Q4_0"),
    ("IQ4_XS", 4096 + 32, "IQ4_NL"),
    ("Q4_K_M", 4096 + 1, "F16"),
])  # fmt: skip
def test_rows_that_blocks_do_not_divide_fall_back(mix, columns, name):
    """llama.cpp, llama-quant.cpp: tensor_type_fallback, and F16 where 32 does not divide the row either."""
    assert gguf.tensor_type(mix, "attn_q", 5, columns, LLAMA) == name


def test_tied_embedding_is_stored_as_an_output():
    """llama.cpp: a model without output.weight gives its embedding the output's type."""
    tied = gguf.GgufModel(layers=32, heads=32, kv_heads=8, experts=0, falcon=False, tied=True)
    assert gguf.tensor_type("Q4_K_M", "token_embd", 0, 4096, tied) == "Q6_K"


@pytest.mark.parametrize("role, layer, name", [
    ("ffn_down", 2, "Q2_K"),
    ("ffn_down_exps", 4, "Q2_K"),  # the sixth such tensor
    ("ffn_down_shexp", 4, "Q2_K"),  # the seventh, 61 // 8
    ("ffn_down_exps", 5, "IQ1_S"),
])  # fmt: skip
def test_low_bit_mixes_count_tensors_and_not_layers(role, layer, name):
    """llama.cpp, llama-quant.cpp: below 3 bits i_ffn_down counts every ffn_down tensor, experts and shared expert."""
    model = gguf.GgufModel(61, 128, 128, 256, falcon=False, tied=False, shared_experts=tuple(range(3, 61)))
    assert gguf.tensor_type("IQ1_S", role, layer, 2048, model) == name


def test_matrices_per_head_are_stacked_as_experts_are():
    """llama.cpp, llama-quant.cpp: MXFP4_MOE takes every tensor with a third dimension, attn_k_b and attn_v_b too."""
    assert [gguf.tensor_type("MXFP4_MOE", role, 0, 512, LLAMA) for role in ("attn_k_b", "ffn_up_exps", "attn_q_b")] == [
        "MXFP4",
        "MXFP4",
        "Q8_0",
    ]


def test_falcon_180b_has_no_rule_of_the_70b():
    """llama.cpp names a model 70B by its architecture: LLaMA and Qwen2 with 80 layers do, Falcon with 80 does not."""
    falcon = gguf.GgufModel(80, 232, 8, 0, falcon=True, tied=True, fused_qkv=True)
    assert gguf.tensor_type("Q4_K_S", "attn_v", 40, 14848, falcon) == "Q4_K"


def test_layers_of_a_mix_are_counted_once_each():
    """A law: the types of a tensor cover each of its layers."""
    for mix in gguf.mixes():
        for role in ("attn_v", "ffn_down", "ffn_gate", "attn_q"):
            types = gguf.tensor_types(mix, role, tuple(range(32)), 4096, LLAMA)
            assert sum(types.values()) == 32
            assert types == {
                name: sum(gguf.tensor_type(mix, role, layer, 4096, LLAMA) == name for layer in range(32))
                for name in types
            }


def test_plain_type_is_the_same_for_all_matrices():
    """llama-quantize --pure: Q4_K is 144 bytes for 256 numbers, 4.5 bits; vectors stay F32."""
    model = ms.model("llama-3.1-8b")
    norms = ms.parameters(model).by("group")["norms"]
    matrices = ms.parameters(model).total - norms
    assert ms.weights(model, "Q4_K").total == matrices // 256 * 144 + 4 * norms
    assert ms.precisions().loc["Q4_K", "bits_per_weight"] == 4.5


@pytest.mark.parametrize("name", ["q4_k_m", "Q4_k_M", "BF16", "Nf4"])
def test_case_of_a_precision_does_not_matter(name):
    model = ms.model("gpt2")
    known = {each.lower(): each for each in ms.precisions().index}
    assert ms.weights(model, name).total == ms.weights(model, known[name.lower()]).total


def test_every_rule_names_types_mixes_and_conditions_that_exist():
    types = {*tables.by_key("gguf_types"), "default"}
    for row in tables.rows("gguf_rules"):
        assert row["type"] in types
        assert row["mixes"] == "*" or set(row["mixes"].split()) <= set(gguf.mixes())
        assert set(row["when"].split()) <= {*gguf.CONDITIONS, *gguf.LAYERED}


def test_blocks_hold_every_parameter():
    """A law: no mix loses a tensor; what its blocks hold is at least the model."""
    model = ms.model("llama-3.1-8b")
    for mix in gguf.mixes():
        held = 0
        for term in ms.weights(model, mix):
            elements, _ = gguf.block(term.name.rpartition(" in ")[2])
            held += prod(value for name, value in term.factors.items() if not name.startswith("bytes_")) * (
                elements if "blocks_per_row" in term.factors else 1
            )
        assert held >= ms.parameters(model).total


@pytest.mark.parametrize("call", [
    lambda: gguf.block("Q4_K_M"),
    lambda: gguf.tensor_type("Q4K", "attn_q", 0, 4096, LLAMA),
])  # fmt: skip
def test_unknown_name_is_refused_with_the_nearest(call):
    with pytest.raises(ms.Problem, match='did you mean "Q4_K'):
        call()
