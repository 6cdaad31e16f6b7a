"""Weight bytes, against checkpoints on the Hub, model cards and the papers of each format."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy
import pytest
from published import rows

import memscape as ms
from memscape.memory.weights import GROUPS, bits_per_weight

CHECKPOINTS = rows("published", topic="checkpoint", quantity="total_size")
ROTARY_BUFFERS = {"llama-2-7b": 32 * 64 * 4}  # the file stores 64 fp32 rotary frequencies for each of 32 layers


@pytest.mark.parametrize("row", CHECKPOINTS, ids=lambda row: row["subject"])
def test_bf16_weights_equal_the_checkpoint(row):
    """metadata.total_size of model.safetensors.index.json: two bytes a parameter, and buffers if any."""
    name = row["subject"].split(" / ")[0]
    assert ms.weights(ms.model(name), "bf16").total + ROTARY_BUFFERS.get(name, 0) == int(row["value"])


def test_small_qwen3_file_stores_its_tied_head_twice():
    """Hub element count of qwen3-0.6b: 751,632,384, one vocabulary × hidden matrix more than the model has."""
    model = ms.model("qwen3-0.6b")
    (row,) = rows("published", subject="qwen3-0.6b", quantity="elements")
    assert ms.parameters(model).total + model.vocab_size * model.hidden_size == int(row["value"])


@pytest.mark.parametrize(
    "name, subject, projector",
    [
        ("gemma-3-4b-text", "gemma-3-4b with vision", 2_950_272),
        ("gemma-3-27b-text", "gemma-3-27b with vision", 6_194_304),
    ],
)
def test_gemma_3_file_is_text_tower_and_vision_tower(name, subject, projector):
    """Hub element counts: the text tower, the SigLIP tower (416,866,032, the same for all sizes) and its projector."""
    (row,) = rows("published", subject=subject)
    assert ms.parameters(ms.model(name)).total + 416_866_032 + projector == int(row["value"])


@pytest.mark.parametrize("name, gib", [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)])
def test_gpt_oss_in_mxfp4_equals_its_model_card(name, gib):
    """gpt-oss model card (arXiv 2508.10925), Table 1, checkpoint: experts in MXFP4, the rest in BF16; within 1 %."""
    assert ms.weights(ms.model(name), "mxfp4").total / 2**30 == pytest.approx(gib, rel=0.01)


def test_deepseek_v3_in_fp8_blocks_equals_its_scales():
    """DeepSeek-V3 report, section 3.3: an fp32 scale per 128 × 128 block; 576 rows make 5 rows of blocks."""
    down = [term for term in ms.weights(ms.model("deepseek-v3"), "fp8-block128") if term.name == "latent down: scales"]
    assert [term.amount for term in down] == [61 * 5 * 56 * 4]


@pytest.mark.parametrize(
    "name, bits",
    [
        ("fp32", 32),
        ("bf16", 16),
        ("fp16", 16),
        ("fp8-block128", 8 + Fraction(32, 128 * 128)),
        ("gptq-4bit-g128", 4 + Fraction(16, 128) + Fraction(4, 128)),
        ("gptq-4bit-g64", 4 + Fraction(16, 64) + Fraction(4, 64)),
        ("gptq-4bit-g32", 4 + Fraction(16, 32) + Fraction(4, 32)),
        ("gptq-3bit-g128", 3 + Fraction(16, 128) + Fraction(3, 128)),
        ("awq-4bit-g128", 4 + Fraction(16, 128) + Fraction(4, 128)),
        ("nf4", 4 + Fraction(32, 64)),
        ("nf4-dq", 4 + Fraction(8, 64) + Fraction(32, 64 * 256)),
        ("mxfp4", Fraction(17, 4)),
        ("mxfp8", Fraction(33, 4)),
    ],
)
def test_bits_per_weight_follow_the_papers(name, bits):
    """Frantar 2022, Lin 2023 (fp16 scale and packed zero point per group), Dettmers 2023 section 3, OCP MX 1.0."""
    assert bits_per_weight(name) == bits


def test_nvfp4_is_four_and_a_half_bits_and_one_scale_per_tensor():
    """NVIDIA: 16 numbers share an FP8 scale, and each tensor has one FP32 scale."""
    assert bits_per_weight("nvfp4") == 4.5 + 32 / 2**28


def test_llama_7b_in_4_bit_is_5048_mb():
    """Dettmers et al. 2023, section 2: the 4-bit base of LLaMA 7B takes 5,048 MB; head and embedding stay in 16 bit.

    The paper's figure is a measurement of a whole process; the weights alone must lie below it and above the 4-bit
    values alone.
    """
    held = ms.weights(ms.model("llama-7b"), "nf4-dq").total
    assert 0.5 * 6.476e9 < held < 5048e6


def test_guanaco_sizes_follow_dettmers_2023_table_6():
    """Table 6: 21 GB for the 33B in 4 bits, printed to whole GB; binary or decimal is not said, so both bound it."""
    held = ms.weights(ms.model("llama-33b"), "nf4").total
    assert 17e9 < held < 21.5 * 2**30


def test_what_stays_in_16_bit_is_explicit():
    """bitsandbytes leaves the head alone; a choice of groups decides, and a kept group costs two bytes a number."""
    model = ms.model("llama-3.1-8b")
    published, everything = ms.weights(model, "nf4"), ms.weights(model, "nf4", kept=())
    head = model.vocab_size * model.hidden_size
    assert published.by("group")["lm_head"] == 2 * head
    assert everything.by("group")["lm_head"] == head // 2 + head // 64 * 4
    assert ms.weights(model, "nf4", kept=GROUPS).total == ms.weights(model, "bf16").total
    assert published.by("group")["norms"] == everything.by("group")["norms"]


def test_router_corrections_are_a_term_of_their_own():
    """parameter_counts.csv: DeepSeek-V3 stores 59,392 bytes of fp32 router corrections, which are not parameters."""
    (row,) = rows("parameter_counts", model="deepseek-v3")
    (term,) = [term for term in ms.weights(ms.model("deepseek-v3")) if "correction" in term.name]
    assert term.amount == int(row["persistent_buffer_bytes"])


@pytest.mark.parametrize(
    "name, message", [("fp7", "unknown precision"), ("Q4_K_X", "Q4_K_M"), ("", "unknown precision")]
)
def test_unknown_precision_is_refused_with_the_nearest(name, message):
    with pytest.raises(ms.Problem, match=message):
        ms.weights(ms.model("gpt2"), name)


def test_unknown_group_is_refused_with_the_known():
    with pytest.raises(ms.Problem, match='"heads" in 16 bit; the groups are "embeddings"'):
        ms.weights(ms.model("gpt2"), "nf4", kept=("heads",))
    with pytest.raises(ms.Problem, match="kept is 'embeddings'; list the groups"):
        ms.weights(ms.model("gpt2"), "nf4", kept="embeddings")


def test_every_model_has_weights_in_every_precision():
    """A law: fewer bits never cost more, and no precision loses a tensor: at least one bit for each parameter."""
    for name in ("gpt2", "albert-base-v2", "t5-base", "deepseek-v3", "gpt-oss-20b", "falcon-7b"):
        model = ms.model(name)
        whole, count = ms.weights(model, "fp32").total, ms.parameters(model).total
        for precision in ms.precisions().index:
            assert count / 8 < ms.weights(model, precision).total <= whole * 1.001, (name, precision)


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_sizes_may_be_arrays(precision):
    """A sweep over vocabularies is each of them, element by element."""
    model, sizes = ms.model("llama-3.1-8b"), (32_000, 128_256)
    swept = ms.weights(replace(model, vocab_size=numpy.array(sizes)), precision).total
    assert swept.tolist() == [ms.weights(replace(model, vocab_size=size), precision).total for size in sizes]
