"""Predicted beside measured: the real models of transformers, tiny, on CPU tensors and on the meta device."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from published import ROOT

import memscape as ms

ABSENT = [name for name in ("torch", "transformers") if find_spec(name) is None]
CUDA = not ABSENT and __import__("torch").cuda.is_available()


def torch(test):
    """Mark a test that runs the real model; skip it where that cannot be."""
    reason = f'needs {" and ".join(ABSENT)}: pip install "memscape[measure]"'
    return pytest.mark.torch(pytest.mark.skipif(bool(ABSENT), reason=reason)(test))


# the sizes that a catalogue's config is cut down to; which blocks it is made of stays as it is
SIZES = {
    "hidden_size": 64, "n_embd": 64, "d_model": 64, "intermediate_size": 128, "n_inner": 128, "ffn_dim": 128,
    "ffn_hidden_size": 128, "d_ff": 128, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "intermediate_size_mlp": 128, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "head_dim": 16,
    "d_kv": 16, "rotary_dim": 8, "kv_lora_rank": 16, "q_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2,
    "num_layers": 2, "num_decoder_layers": 2, "vocab_size": 96, "embedding_size": 32, "word_embed_proj_dim": 64,
    "sliding_window": 8, "attention_chunk_size": 8,
}  # fmt: skip
HEADS, KV_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads"), ("num_key_value_heads", "num_kv_heads")
BATCH, SEQUENCE, LAYERS = 2, 32, 2

DENSE = (
    "bert-base-uncased", "roberta-base", "albert-base-v2", "gpt2", "opt-125m", "bloom-560m", "pythia-160m",
    "gpt-neox-20b", "gpt-j-6b", "codegen-6b", "llama-2-7b", "llama-3.2-1b", "mistral-7b-v0.1", "qwen2.5-0.5b",
    "qwen3-0.6b", "phi-2", "phi-3-mini-4k", "gemma-2b", "gemma-2-2b", "gemma-3-1b", "t5-base", "t5-v1.1-base",
    "falcon-7b", "falcon-40b", "falcon-rw-1b", "mpt-7b", "command-r-v01", "command-r7b", "olmo-7b", "olmo-2-7b",
    "stablelm-2-1.6b", "starcoder2-7b", "granite-3.3-2b", "glm-4-9b-0414", "smollm3-3b",
)  # fmt: skip
EXPERTS = (
    "mixtral-8x7b", "deepseek-v2-lite", "deepseek-v3", "qwen2-57b-a14b", "qwen3-30b-a3b", "gpt-oss-20b", "glm-4.5",
    "phi-3.5-moe", "llama-4-scout-text",
)  # fmt: skip
NO_SDPA = ("bloom-560m", "gpt-j-6b", "codegen-6b", "mpt-7b", "gemma-2-2b", "gpt-oss-20b")
NO_CHECKPOINT = ("albert-base-v2",)
# the grouped product of experts wants 16 bits; Llama 4 multiplies all experts at once
BF16_ONLY = tuple(name for name in EXPERTS if name != "llama-4-scout-text")
GROUPED = ("llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b", "gemma-2b", "granite-3.3-2b", "smollm3-3b", "glm-4-9b-0414")
OTHER_ON_CPU = {
    "t5-base": "the CPU kernel takes no mask that is trained, so T5 goes to the math path",
    "t5-v1.1-base": "as t5-base",
    "deepseek-v2-lite": "the CPU kernel takes no values of another width, so MLA goes to the math path",
    "deepseek-v3": "as deepseek-v2-lite",
    "phi-3-mini-4k": "the result is a view of another layout, of which one more copy is made",
}
OTHER_ON_CPU_FP32 = dict.fromkeys(
    GROUPED, "CUDA's fp32 kernel repeats the keys and values of a group, the CPU's does not"
)
OTHER_ON_CPU_FP32 |= dict.fromkeys(
    ("pythia-160m", "gpt-neox-20b", "stablelm-2-1.6b"), "the result of CUDA's fp32 kernel is laid out otherwise"
)


def tiny(name):
    """Return a config of the catalogue at the smallest sizes at which every block is still there."""
    raw = json.loads((ROOT / "data" / "models" / f"{name}.json").read_text(encoding="utf-8"))
    heads = next(raw[key] for key in HEADS if key in raw)
    depth = next(raw[key] for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in raw)
    for key, value in raw.items():
        if key in SIZES and isinstance(value, int):
            raw[key] = SIZES[key]
        elif key in KV_HEADS:
            raw[key] = {1: 1, heads: 4}.get(value, 2)
        elif isinstance(value, list) and len(value) == depth:
            raw[key] = [value[0], value[-1]]
    if raw["model_type"] in ("glm", "glm4", "smollm3"):
        raw["pad_token_id"] = 0
    return raw


def training(**settings):
    return ms.Training(micro_batch=BATCH, sequence_tokens=SEQUENCE, **settings)


def kept(name, workload, device):
    """Return what autograd keeps, tensor by tensor."""
    from memscape.measure import saved_tensors

    return saved_tensors(
        tiny(name),
        BATCH,
        SEQUENCE,
        dtype="fp32" if workload.precision == "fp32" else "bf16",
        autocast=workload.precision == "bf16-autocast",
        attention=workload.attention,
        checkpointing=workload.recompute == "full",
        dropout=workload.dropout,
        device=device,
    )


def size(tensors):
    return sum(each.bytes for each in tensors)


def predicted(name, workload):
    return ms.activations(ms.read_model(tiny(name), name), workload)


def possible(name, workload):
    """Skip what transformers or PyTorch cannot run."""
    if workload.attention == "sdpa" and name in NO_SDPA:
        pytest.skip("transformers has no sdpa path for this family")
    if workload.recompute == "full" and name in NO_CHECKPOINT:
        pytest.skip("transformers has no gradient checkpointing for this family")
    if workload.precision != "bf16" and name in BF16_ONLY:
        pytest.skip("the grouped product of experts wants 16-bit weights")


CASES = {
    "bf16 eager": {"attention": "eager"},
    "bf16 sdpa": {},
    "bf16 eager without dropout": {"attention": "eager", "dropout": 0.0},
    "bf16 sdpa checkpointed": {"recompute": "full"},
    "fp32 eager": {"attention": "eager", "precision": "fp32"},
    "fp32 sdpa": {"precision": "fp32"},
    "autocast sdpa": {"precision": "bf16-autocast"},
    "autocast eager": {"precision": "bf16-autocast", "attention": "eager"},
}


@torch
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DENSE + EXPERTS)
def test_prediction_equals_what_autograd_keeps_of_cuda_operators(name, case):
    """PyTorch's own shapes, on the meta device, with the operators that CUDA would run: equal to the byte."""
    workload = training(**CASES[case])
    possible(name, workload)
    assert size(kept(name, workload, "meta")) == predicted(name, workload).total


def statistics(tensors):
    """On a CPU the LayerNorm of 16-bit numbers keeps 16-bit statistics, on CUDA 32-bit ones: 4 bytes a row more."""
    return size(each for each in tensors if "LayerNorm.result" in each.operation and each.dtype == "bfloat16")


@torch
@pytest.mark.parametrize("case", [each for each in CASES if each.startswith(("bf16 eager", "fp32 eager"))])
@pytest.mark.parametrize("name", DENSE + EXPERTS)
def test_prediction_equals_what_autograd_keeps_of_real_tensors(name, case):
    """Real numbers on the CPU, attention in single operators: equal to the byte, but for LayerNorm's statistics."""
    workload = training(**CASES[case])
    possible(name, workload)
    real = kept(name, workload, "cpu")
    assert size(real) + statistics(real) == predicted(name, workload).total


@torch
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", DENSE + EXPERTS)
def test_prediction_equals_what_the_cpu_kernel_keeps(name, precision):
    """The CPU has a fused attention of its own, which keeps what CUDA's does, less the state of the random numbers.

    With attention dropout the CPU leaves it, so it is compared without; at a multiple of 32 tokens, to which CUDA's
    fp32 kernel rounds up.
    """
    workload = training(precision=precision, dropout=0.0)
    possible(name, workload)
    others = OTHER_ON_CPU | (OTHER_ON_CPU_FP32 if precision == "fp32" else {})
    if others.get(name):
        pytest.skip(others[name])
    real, told = kept(name, workload, "cpu"), predicted(name, workload)
    random = sum(term.amount for term in told if term.because == "dropout is drawn again")
    assert size(real) + statistics(real) == told.total - random


@torch
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("name", ["bert-base-uncased", "gpt2", "llama-3.2-1b", "gemma-3-1b", "t5-base", "mixtral-8x7b"])
def test_whole_step_of_real_tensors_equals_the_meta_device(name, recompute):
    """Every storage from its birth to its end: the two devices agree on all twelve moments."""
    from memscape.measure import step_moments

    settings = {
        "dtype": "bf16" if name in BF16_ONLY else "fp32",
        "attention": "eager",
        "checkpointing": recompute == "full",
    }
    real, meta = (step_moments(tiny(name), BATCH, SEQUENCE, device=device, **settings) for device in ("cpu", "meta"))
    assert real == meta and len(real) == 12


@torch
@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "t5-base"])
def test_whole_step_of_real_tensors_equals_the_prediction(name):
    """Above weights, buffers and input ids nothing is left to explain; a peak may be off by a hundredth."""
    from memscape.measure import compare

    found = compare(tiny(name), training(precision="fp32", attention="eager"), "cpu")
    assert len(found.readings) == 13 and not found.unmatched and not found.no_prediction
    for each in found.readings:
        assert abs(each.rest) <= (each.measured / 100 if each.moment.endswith("peak") else 0), each


@torch
@pytest.mark.parametrize("optimizer", ["adamw", "sgd-momentum", "rmsprop", "adagrad", "adafactor-torch"])
def test_optimizer_states_equal_the_prediction(optimizer):
    from memscape.measure import compare

    found = compare(tiny("llama-3.2-1b"), training(precision="fp32", attention="eager", optimizer=optimizer), "cpu")
    ends = [each for each in found.readings if each.moment == "after_optimizer"]
    assert len(ends) == 2 and all(each.rest == 0 for each in ends)


@torch
@pytest.mark.skipif(find_spec("peft") is None, reason="needs peft: pip install peft")
@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast"])
def test_adapters_equal_the_prediction(precision):
    """What the library peft makes of a frozen model: tensors kept, equal to the byte."""
    from memscape.measure import compare

    found = compare(tiny("llama-3.2-1b"), training(method="lora", lora_rank=4, precision=precision))
    assert found.readings[0].moment == "kept" and found.readings[0].rest == 0


@torch
@pytest.mark.parametrize("names", [True, False])
def test_a_model_is_gone_when_its_tensors_are_listed(names):
    """What autograd's graph held on to was counted on a GPU as part of what is measured next."""
    import gc

    import torch

    from memscape.measure import saved_tensors

    def parameters():
        gc.collect()
        return sum(type(each) is torch.nn.Parameter for each in gc.get_objects())

    before = parameters()
    assert saved_tensors(tiny("gpt2"), 1, 8, names=names, device="cpu")
    assert parameters() == before


@torch
def test_serving_is_measured_from_load_to_decode():
    from memscape.measure import compare

    asked = ms.Inference(sequences=2, prompt_tokens=32, output_tokens=4, engine="transformers")
    load, prefill, decode = compare(tiny("llama-3.2-1b"), asked, "cpu").readings
    assert (load.moment, prefill.moment, decode.moment) == ("load", "prefill", "decode")
    assert load.rest == 0 and load.measured < decode.measured <= prefill.measured


@torch
def test_rows_are_appended_with_device_and_versions(tmp_path):
    from memscape.measure import compare, save, table

    found = compare(tiny("gpt2"), training())
    path = tmp_path / "measured.csv"
    save(found, path)
    assert save(found, path) == path
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * 13 and {row["device"] for row in rows} == {"meta"}
    assert all(row["torch"] and row["transformers"] and row["date"] and row["measured_bytes"] for row in rows)
    assert [row["moment"] for row in rows[:13]] == [each.moment for each in found.readings]
    assert "input ids and labels" in table(found)


@torch
@pytest.mark.parametrize(
    "words, said",
    [
        (("gpt-2-small",), "did you mean"),
        (("gpt2", "--layers", "0"), "at least 1"),
        (("gpt2", "--device", "tpu"), 'unknown device "tpu"'),
        (("gpt2", "--precision", "bf16-mixed"), "cannot be run here"),
        (("bloom-560m", "--layers", "1"), "BloomForCausalLM does not support"),
        (("albert-base-v2", "--recompute", "full"), "no gradient checkpointing"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_sentence(words, said, capsys):
    from memscape.measure.__main__ import main

    assert main(list(words)) == 1
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and not shown.out


@torch
@pytest.mark.skipif(CUDA, reason="there is a CUDA device here")
def test_a_missing_device_is_said_in_one_sentence(capsys):
    from memscape.measure.__main__ import main

    assert main(["gpt2", "--device", "cuda"]) == 1
    assert 'there is no device "cuda" here' in capsys.readouterr().err


def test_a_missing_package_is_said_in_one_sentence():
    """Without torch the module says what to install; it is blocked here, installed or not."""
    code = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv = ['measure', 'gpt2']; "
        "runpy.run_module('memscape.measure', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        'needs the package torch, which is not installed; install it with pip install "memscape[measure]"'
        in done.stderr
    )
