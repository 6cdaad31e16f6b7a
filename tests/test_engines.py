"""Serving engines, against start-up logs that others published."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
from published import rows

import memscape as ms
from memscape import tables
from memscape.memory.engines import startup_peak, vllm_runtime
from memscape.memory.llama_cpp import device_memory_llama_cpp, host_memory_llama_cpp
from memscape.memory.pool import cache_in_blocks, kv_pool
from memscape.memory.weights import weights
from memscape.parallelism import shard_model
from memscape.serving import fact

GIB, MIB = 2**30, 2**20
H100 = ms.accelerator("H100 SXM 80GB")
VLLM = ms.Inference(engine="vllm", prompt_tokens=8192, output_tokens=0, gpu_memory_utilization=0.95)
LLAMA = ms.model("llama-3.1-8b")
STARTUP = tables.rows("vllm_startup")
DIVIDED = ("heads", "ffn_size", "expert_ffn_size", "shared_ffn_size")


def _share(row):
    """What the first device has: sizes over the tensor degree; the first of several stages has no head."""
    model, tensor, stages = ms.model(row["model"]), int(row["tensor"]), int(row["pipeline"])
    share = replace(model, kv_heads=max(1, model.kv_heads // tensor))
    share = replace(share, **{name: getattr(model, name) // tensor for name in DIVIDED})
    if stages == 1:
        return share
    layers = model.layers // stages
    return replace(share, layers=layers, layer_kinds=model.layer_kinds[:layers], last_stage=False)


def _error(row):
    """The start-up peak that is predicted, over the one that was logged."""
    asked = replace(VLLM, weights=row["weights"])
    peak = startup_peak(_share(row), asked, ms.model(row["model"]), H100).total
    return peak / (float(row["peak_gib"]) * GIB) - 1


def _named(row):
    return f"{row['report_name']}-tp{row['tensor']}pp{row['pipeline']}"


# vLLM: the start-up peak


def test_startup_peaks_are_within_two_percent_of_the_published_logs_on_average():
    """llm-d-planner, vLLM 0.19 on H100: text models, dense and mixtures, with tensor and pipeline parallelism."""
    errors = [abs(_error(row)) for row in STARTUP if row["encoder"] == "none"]
    assert len(errors) >= 16
    assert sum(errors) / len(errors) < 0.02


@pytest.mark.parametrize("row", [row for row in STARTUP if row["encoder"] == "none"], ids=_named)
def test_startup_peak_of_a_text_model(row):
    """The log prints two decimals; no row is further off than 4 percent."""
    assert abs(_error(row)) < 0.04


@pytest.mark.parametrize("row", [row for row in STARTUP if row["encoder"] == "images"], ids=_named)
def test_startup_peak_of_a_model_with_an_image_encoder_lacks_what_the_encoder_needs(row):
    """Not modelled: pixels and outputs of the encoder, 4 to 6 percent of the peak in the logs."""
    assert -0.06 < _error(row) < -0.03


def test_one_row_of_logits_per_sequence_costs_14_bytes_a_word_and_the_scratch_of_132_programs():
    """vLLM's sampler by hand, 1024 rows: 2 + 4 + 4 + 4 bytes, and 132 fp32 rows; T·h and S·h in 16 bit; 32 MiB."""
    by_hand = 14 * 1024 * 128256 + 4 * 132 * 128256 + 2 * (8192 + 1024) * 4096 + 32 * MIB
    assert startup_peak(LLAMA, VLLM, None, H100).total == by_hand


@pytest.mark.parametrize("version", ["0.15.0", "0.16.0"])
def test_the_sort_before_version_17_took_5_64_gib(version):
    """llm-d-planner, version study: Qwen3-14B 5.64 GiB in 0.15 and 0.16."""
    qwen = replace(ms.model("qwen3-8b"), hidden_size=5120, ffn_size=17408)
    peak = startup_peak(qwen, replace(VLLM, engine_version=version), None, H100)
    assert peak.total / GIB == pytest.approx(5.64, rel=0.01)


@pytest.mark.parametrize("row", STARTUP, ids=_named)
def test_non_torch_memory_lies_in_its_spread(row):
    """The same logs: 0.24 to 0.46 GiB alone, 2.06 to 2.21 with tensor parallelism, 0.07 for a stage."""
    layout = ms.Layout(tensor=int(row["tensor"]), pipeline=int(row["pipeline"]))
    (term,) = vllm_runtime(_share(row), VLLM, layout, ms.model(row["model"]), H100).only(name="non-torch memory")
    assert term.low - 0.005 * GIB <= float(row["non_torch_gib"]) * GIB <= term.high + 0.005 * GIB


@pytest.mark.parametrize(
    ("card", "tokens", "sequences"),
    [("H100 SXM 80GB", 8192, 1024), ("A100 SXM 80GB", 2048, 256), ("L4", 2048, 256), ("MI300X", 8192, 1024)],
)
def test_defaults_by_card(card, tokens, sequences):
    """vLLM, get_batch_defaults: from 70 GiB on 8192 tokens and 1024 sequences, but not on A100."""
    accelerator = ms.accelerator(card)
    for name, expected in (("tokens in a pass", tokens), ("sequences", sequences)):
        assert int(fact("vllm", name, accelerator=accelerator)["likely"]) == expected


def test_a_smaller_batch_lowers_the_peak():
    """Rows are sampled for min(max_num_seqs, max_num_batched_tokens) sequences; for few the MLP is higher."""
    few = startup_peak(LLAMA, replace(VLLM, most_sequences=64), None, H100)
    assert few.only(name="widest operator").total == 8192 * 3 * 14336 * 2 and not few.only(name="logits").terms
    narrow = startup_peak(LLAMA, replace(VLLM, prefill_tokens=512), None, H100).only(name="logits")
    assert narrow.total == 512 * 128256 * 2


# vLLM: the pool


@pytest.mark.parametrize("row", [row for row in STARTUP if row["pool_gib"]], ids=_named)
def test_pool_is_what_the_log_says(row):
    """`Available KV cache memory` and `GPU KV cache size`, at 0.95: Llama-8B 58.11 GiB. Within 1 percent."""
    cache = {"fp32": "fp32"}.get(row["weights"], "bf16")
    pool = kv_pool(ms.model(row["model"]), replace(VLLM, weights=row["weights"], kv_cache=cache), H100)
    assert pool.bytes / GIB == pytest.approx(float(row["pool_gib"]), rel=0.01)
    assert pool.tokens == pytest.approx(int(row["tokens"]), rel=0.01)
    assert pool.concurrency == pytest.approx(int(row["tokens"]) / 8192, rel=0.01)


@pytest.mark.parametrize(
    ("layout", "weights_gib", "peak_gib", "non_torch_gib"),
    [
        (ms.Layout(tensor=2), 7.51, 1.89, 2.07),
        (ms.Layout(tensor=4), 3.77, 1.89, 2.13),
        (ms.Layout(pipeline=2), 7.51, 1.10, 0.07),
        (ms.Layout(pipeline=4), 4.26, 1.05, 0.07),
    ],
)
def test_pool_of_a_shard(layout, weights_gib, peak_gib, non_torch_gib):
    """llm-d-planner, sensitivity tables of Llama-8B: 75.23 GiB less the three that the first device logged."""
    pool = kv_pool(shard_model(LLAMA, layout, 0), VLLM, H100, layout, LLAMA)
    assert pool.bytes / GIB == pytest.approx(75.23 - weights_gib - peak_gib - non_torch_gib, rel=0.01)


def test_concurrency_of_gemma_3_27b():
    """The start-up log: 19.53 GiB (image encoder and its peak taken off), 36,560 tokens, 4.46 at 8,192 tokens."""
    pool = kv_pool(ms.model("gemma-3-27b-text"), VLLM, H100)
    less = 19.53 * GIB / pool.bytes
    assert pool.concurrency * less == pytest.approx(4.46, abs=0.01)
    assert pool.tokens * less == pytest.approx(36560, rel=0.002)
    assert pool.sequences == 4


def test_blocks_of_the_asked_sequences():
    """vLLM: whole blocks of 16; a local layer of gemma-3 keeps window - 1 + 8192 tokens and a block, 60 layers for 52.

    At 32,768 tokens: 1 group of full layers, 2048 blocks; 6 of local ones, ceil(9215 / 16) + 1 = 577 blocks.
    """
    asked = replace(VLLM, sequences=3, prompt_tokens=32768)
    held = cache_in_blocks(ms.model("gemma-3-27b-text"), asked, H100)
    assert held.total == 3 * (2048 + 6 * 577) * 10 * (2 * 16 * 16 * 128 * 2)
    plain = replace(VLLM, sequences=3, prompt_tokens=100)
    assert cache_in_blocks(LLAMA, plain).total == ms.kv_cache(LLAMA, plain).total == 3 * 7 * 16 * 131072


def test_fp8_cache_doubles_the_tokens_and_not_the_pool():
    """The same report: 476,016 tokens in 16 bit, 952,032 in fp8, 58.11 GiB both."""
    wide, narrow = (kv_pool(LLAMA, replace(VLLM, kv_cache=each), H100) for each in ("bf16", "fp8"))
    assert wide.bytes == narrow.bytes
    assert narrow.tokens // 16 in (2 * wide.tokens // 16, 2 * wide.tokens // 16 + 1)


@pytest.mark.parametrize(
    ("name", "pool_error", "concurrency_error"),
    [
        ("gemma-3-4b-text", -0.0027, 0.0284),
        ("gemma-3-12b-text", -0.0015, 0.0000),
        ("gemma-3-27b-text", -0.0142, 0.1143),
        ("gemma-2-2b", -0.0149, -0.0139),
        ("gemma-2-9b", -0.0182, -0.0175),
        ("gemma-2-27b", -0.0464, -0.0461),
    ],
)
def test_groups_of_layers_cost_what_the_log_says(name, pool_error, concurrency_error):
    """llm-d-planner divides its pool by full length for all layers: its two errors give vLLM's own share of that."""
    hybrid = kv_pool(ms.model(name), VLLM, H100)
    plain = kv_pool(ms.model(name), replace(VLLM, hybrid_cache=False), H100)
    logged = (1 + pool_error) / (1 + concurrency_error)
    assert hybrid.concurrency / plain.concurrency == pytest.approx(logged, abs=0.002)


def test_graphs_enter_the_budget_with_version_21():
    """vLLM PR 30515; the notice of the start-up log names 0.21.0."""
    before, after = (kv_pool(LLAMA, replace(VLLM, engine_version=each), H100) for each in ("0.20.2", "0.21.0"))
    graphs = vllm_runtime(LLAMA, VLLM, accelerator=H100).only(name="CUDA graphs").total
    assert before.bytes - after.bytes == pytest.approx(graphs, abs=1)
    assert "CUDA graphs" in before.beside.by("name") and "CUDA graphs" not in after.beside.by("name")
    eager = kv_pool(LLAMA, replace(VLLM, engine_version="0.21.0", cuda_graphs=False), H100)
    assert eager.bytes == before.bytes


def test_nothing_left_says_by_how_much():
    """STYLE 7: what was found, what was expected, what to do."""
    with pytest.raises(ms.Problem, match=r"Llama 3.1 70B leaves no room .* 62.3 GiB too much; quantise"):
        kv_pool(ms.model("llama-3.1-70b"), replace(VLLM, gpu_memory_utilization=None), H100)
    with pytest.raises(ms.Problem, match="sizes no pool"):
        kv_pool(LLAMA, ms.Inference(), H100)
    with pytest.raises(ms.Problem, match="reads in both directions"):
        kv_pool(ms.model("bert-base-uncased"), VLLM, H100)


def test_pool_answers_arrays_as_a_loop_of_scalars():
    """DESIGN: the same function answers both."""
    lengths = numpy.array([100.0, 8192.0, 40000.0])
    many = kv_pool(ms.model("gemma-3-27b-text"), replace(VLLM, prompt_tokens=lengths), H100)
    for length, answer in zip(lengths, many.concurrency, strict=True):
        one = kv_pool(ms.model("gemma-3-27b-text"), replace(VLLM, prompt_tokens=int(length)), H100)
        assert answer == pytest.approx(one.concurrency)


# llama.cpp


def _llama_cpp(row, **fields):
    return ms.Inference(
        sequences=int(row["slots"]),
        prompt_tokens=int(row["context"]) // int(row["slots"]),
        output_tokens=0,
        weights=row["weights"] or "Q4_K_M",
        kv_cache="fp16",
        engine="llama.cpp",
        attention="sdpa" if row["flash"] == "yes" else "eager",
        **fields,
    )


@pytest.mark.parametrize("row", rows("llama_cpp_logs"), ids=lambda row: f"{row['model']}-{row['weights']}")
def test_buffers_are_what_llama_cpp_prints(row):
    """`model buffer size`, `KV buffer size` and `compute buffer size` of start-up logs, in MiB."""
    model, asked = ms.model(row["model"]), _llama_cpp(row)
    gpu, host = device_memory_llama_cpp(model, asked), host_memory_llama_cpp(model, asked)
    inputs = host.only(phase="activations").total - host.only(name="logits that are read").total
    found = {
        "gpu_weights_mib": gpu.only(phase="weights").total,
        "cpu_weights_mib": host.only(phase="weights").total,
        "gpu_cache_mib": gpu.only(phase="kv_cache").total,
        "gpu_compute_mib": gpu.only(phase="activations").total,
        "host_compute_mib": inputs,
    }
    for column, size in found.items():
        if row[column]:
            tolerance = float(row["tolerance_percent"]) / 100
            assert size / MIB == pytest.approx(float(row[column]), rel=tolerance, abs=0.02), column


def test_layers_of_a_mix_are_counted_one_by_one():
    """A log of llama.cpp with 20 of 33 layers of Mistral 7B Q4_K_M: layers 12 to 31 take 2495.31 MiB (id 10707478535).

    That build offloaded the output last; here it is the first, so 21 layers hold the same 20 of the stack.
    """
    row = {"slots": 1, "context": 768, "weights": "Q4_K_M", "flash": "yes"}
    gpu = device_memory_llama_cpp(ms.model("mistral-7b-v0.1"), _llama_cpp(row, gpu_layers=21)).only(phase="weights")
    stack = sum(term.amount for term in gpu if "layers_here" in term.factors)
    assert stack / MIB == pytest.approx(2495.31, abs=0.01)


def test_cache_stands_where_its_layer_stands():
    """The same log, 768 cells: 60.00 MiB for the 20 layers of the GPU, 36.00 for the 12 of the host."""
    row = {"slots": 1, "context": 768, "weights": "Q4_K_M", "flash": "yes"}
    asked = _llama_cpp(row, gpu_layers=21)
    mistral = ms.model("mistral-7b-v0.1")
    sides = device_memory_llama_cpp(mistral, asked), host_memory_llama_cpp(mistral, asked)
    assert [side.only(phase="kv_cache").total / MIB for side in sides] == [60, 36]


def test_without_a_gpu_all_is_on_the_host():
    """A log of llama.cpp, Llama-2-7B Q8_0 without a GPU: 6828.64 MiB, cache 256.00, compute 70.50 (id 7823459216)."""
    row = {"slots": 1, "context": 512, "weights": "Q8_0", "flash": "no"}
    host = host_memory_llama_cpp(ms.model("llama-2-7b"), _llama_cpp(row, gpu_layers=0))
    assert host.only(phase="weights").total / MIB == pytest.approx(6828.64, abs=0.01)
    assert host.only(phase="kv_cache").total / MIB == 256
    computed = host.only(phase="activations").total - host.only(name="logits that are read").total
    assert computed / MIB == pytest.approx(70.50, abs=0.01)


@pytest.mark.parametrize(("gpu_layers", "logged_mib"), [(16, 304.75), (0, 548.18)])
def test_matrices_of_the_host_are_copied_for_a_long_prompt(gpu_layers, logged_mib):
    """A log of llama.cpp, Qwen2.5-3B Q4_K_M: compute buffers with 16 layers on the GPU, and with none (id 55671803009).

    With none the output, in Q6_K, is copied too. The sizes are those of the model's config.json.
    """
    sizes = {"layers": 36, "layer_kinds": (), "hidden_size": 2048, "heads": 16, "kv_heads": 2, "ffn_size": 11008}
    qwen = replace(ms.model("qwen2.5-7b"), vocab_size=151936, tied=True, **sizes)
    row = {"slots": 1, "context": 4096, "weights": "Q4_K_M", "flash": "yes"}
    gpu = device_memory_llama_cpp(qwen, _llama_cpp(row, gpu_layers=gpu_layers))
    assert gpu.only(phase="activations").total / MIB == pytest.approx(logged_mib, abs=0.01)
    assert (gpu.only(phase="weights").total == 0) == (gpu_layers == 0)


@pytest.mark.parametrize("name", ["llama-3.2-1b", "deepseek-v2-lite", "gemma-3-4b-text", "qwen1.5-moe-a2.7b", "phi-2"])
@pytest.mark.parametrize("mix", ["Q4_K_M", "bf16"])
@pytest.mark.parametrize("gpu_layers", [None, 0, 1, 7])
def test_both_sides_together_hold_the_whole_model(name, mix, gpu_layers):
    """Promise: the shards hold at least the whole; a tied embedding is stored a second time as the output."""
    model = ms.model(name)
    asked = ms.Inference(engine="llama.cpp", weights=mix, gpu_layers=gpu_layers)
    sides = device_memory_llama_cpp(model, asked), host_memory_llama_cpp(model, asked)
    terms = [term for side in sides for term in side.only(phase="weights")]
    once = sum(term.amount for term in terms if not term.name.endswith("stored again as the output"))
    assert once == weights(model, mix).total
    assert (len(terms) > 0) and (any("again" in term.name for term in terms) == (model.tied and gpu_layers != 0))
    cached = sum(side.only(phase="kv_cache").total for side in sides)
    assert cached >= ms.kv_cache(model, asked).total


# what is refused


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"engine": "vllm", "weights": "Q4_K_M"}, "is a GGUF type"),
        ({"engine": "llama.cpp", "weights": "nf4"}, "is no GGUF type"),
        ({"gpu_layers": 3}, 'engine "generic" has no gpu_layers; use engine "llama.cpp"'),
        ({"engine": "vllm", "gpu_layers": 3}, 'engine "vllm" has no gpu_layers'),
        ({"engine": "llama.cpp", "gpu_layers": -1}, "gpu_layers is -1; use whole numbers from 0"),
        ({"engine": "llama.cpp", "gpu_layers": 2.5}, "gpu_layers is 2.5"),
        ({"gpu_memory_utilization": 0.9}, "has no gpu_memory_utilization"),
        ({"engine": "vllm", "gpu_memory_utilization": 0}, "use a share above 0 and up to 1"),
        ({"engine": "vllm", "gpu_memory_utilization": 1.01}, "use a share above 0 and up to 1"),
        ({"engine": "vllm", "gpu_memory_utilization": True}, "use a share above 0 and up to 1"),
        ({"engine": "vllm", "most_sequences": 0}, "most_sequences is 0; use whole numbers from 1"),
        ({"engine": "vllm", "most_sequences": 4, "sequences": 5}, "raise most_sequences"),
        ({"engine": "vllm", "most_sequences": 4, "sequences": numpy.array([1, 5])}, "raise most_sequences"),
        ({"engine": "vllm", "engine_version": "newest"}, "write it as in"),
        ({"engine": "vllm", "cuda_graphs": 1}, "cuda_graphs is 1; use"),
        ({"engine": "vllm", "hybrid_cache": "no"}, "hybrid_cache is no; use"),
        ({"hybrid_cache": False}, "has no hybrid_cache"),
        ({"engine": "sglang"}, 'unknown engine "sglang"'),
    ],
)
def test_what_cannot_run_is_one_sentence(fields, words):
    """STYLE 7."""
    with pytest.raises(ms.Problem, match=words) as found:
        ms.Inference(**fields)
    assert "\n" not in str(found.value)


def test_more_gpu_layers_than_there_are_is_refused():
    """The model decides how many there are: its layers and the output layer."""
    asked = ms.Inference(engine="llama.cpp", gpu_layers=34)
    for side in (device_memory_llama_cpp, host_memory_llama_cpp):
        with pytest.raises(ms.Problem, match="gpu_layers is 34, and Llama 3.1 8B has 32 layers and the output layer"):
            side(LLAMA, asked)
        with pytest.raises(ms.Problem, match="leaves no layers to the CPU"):
            side(LLAMA, ms.Inference())
        with pytest.raises(ms.Problem, match="is no plain decoder"):
            side(ms.model("t5-small"), asked)


def test_blocks_of_each_engine():
    """vLLM: 16 tokens a block; llama.cpp pads a slot to 256; the others have no blocks."""
    found = {engine: ms.Inference(engine=engine).block_tokens for engine in ms.serving.ENGINES}
    assert found == {"generic": 1, "transformers": 1, "vllm": 16, "llama.cpp": 256}


def test_every_factor_and_source_is_explained():
    """Promise "shown": no formula prints a name that symbols.csv does not explain, no row lacks its source."""
    glossary, sources = tables.by_key("symbols"), tables.by_key("sources", "key")
    asked = ms.Inference(engine="llama.cpp", weights="Q4_K_M", gpu_layers=5, attention="eager")
    mixture = ms.model("qwen3-30b-a3b")
    shown = [vllm_runtime(mixture, VLLM, accelerator=H100), kv_pool(mixture, VLLM, H100).pool]
    shown += [cache_in_blocks(mixture, VLLM)]
    shown += [vllm_runtime(replace(LLAMA, last_stage=False), replace(VLLM, engine_version="0.16.0"))]
    shown += [startup_peak(LLAMA, replace(VLLM, engine_version="0.16.0"))]
    for gpu_layers in (0, 5, None):
        asked = replace(asked, gpu_layers=gpu_layers)
        shown += [side(LLAMA, asked) for side in (device_memory_llama_cpp, host_memory_llama_cpp)]
    for breakdown in shown:
        assert set(breakdown.sources) <= set(sources)
        assert {name for term in breakdown for name in term.factors} <= set(glossary)
        assert breakdown.low <= breakdown.total <= breakdown.high
    assert {row["source"] for row in tables.rows("engines")} <= set(sources)
