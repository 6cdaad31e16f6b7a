"""Gradients, optimizer states, trained weights and the update's temporaries, against PyTorch, PEFT and the papers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy
import pytest
from published import FOLDER, rows

import memscape as ms
from memscape.breakdown import product
from memscape.families import FAMILIES
from memscape.memory.adapters import adapters
from memscape.memory.modules import runs, stored
from memscape.memory.optimizers import optimizer, optimizer_states
from memscape.memory.scratch import update_scratch
from memscape.memory.training_states import check, trained_weights, training_states

TINY = json.loads((FOLDER / "tiny_models.json").read_text(encoding="utf-8"))
COUNTERS = "counters of the optimizer"
LLAMA2 = ms.model("llama-2-7b")

# one `step()` on these, at the precisions of the table
SHAPES = [(64, 48), (48,), (6, 16, 16), (40, 20)]
SHAPES_BITSANDBYTES = [(512, 1024), (512,), (169, 224)]
NAMES = {
    "AdamW": "adamw",
    "AdamW foreach=False": "adamw",
    "AdamW fused=True": "adamw",
    "AdamW amsgrad=True": "adamw-amsgrad",
    "Adam": "adam",
    "Adamax": "adamax",
    "NAdam": "nadam",
    "RAdam": "radam",
    "SGD": "sgd",
    "SGD momentum=0.9": "sgd-momentum",
    "RMSprop": "rmsprop",
    "RMSprop momentum=0.9": "rmsprop-momentum",
    "RMSprop centered=True": "rmsprop-centered",
    "Adagrad": "adagrad",
    "Adadelta": "adadelta",
    "ASGD": "asgd",
    "Rprop": "rprop",
    "torch Adafactor": "adafactor-torch",
    "torch Muon (2-D tensors only)": "muon",
    "transformers Adafactor": "adafactor",
    "transformers Adafactor beta1=0.9": "adafactor-momentum",
    "bitsandbytes AdamW8bit (tensors >= 4096 elements)": "adamw-8bit",
    "bitsandbytes AdamW8bit min_8bit_size=1": "adamw-8bit",
    "bitsandbytes Lion8bit min_8bit_size=1": "lion-8bit",
}


def _model(name):
    return ms.read_model(TINY[name]) if name in TINY else ms.model(name)


def _count(tensors):
    return sum(product(tensor.copies.values()) * tensor.elements for tensor in tensors)


# what each optimizer keeps


@pytest.mark.parametrize(
    "row", rows("optimizer_state_bytes"), ids=lambda row: f"{row['optimizer']} {row['param_dtype']}"
)
def test_states_equal_one_real_step(row):
    """optimizer_state_bytes.csv, all 48 rows: the state tensors and, apart, the counters."""
    rules = optimizer(NAMES[row["optimizer"]])
    if "min_8bit_size=1" in row["optimizer"]:
        rules = replace(rules, least_elements=1)
    shapes = SHAPES_BITSANDBYTES if "bitsandbytes" in row["optimizer"] else SHAPES
    shapes = [shape for shape in shapes if "2-D" not in row["optimizer"] or len(shape) == 2]
    assert sum(map(product, shapes)) == int(row["elements"]) and len(shapes) == int(row["tensors"])
    kept = optimizer_states(shapes, rules, {"float32": "fp32", "bfloat16": "bf16"}[row["param_dtype"]])
    counters = kept.only(name=COUNTERS).total
    assert (kept.total - counters, counters) == (int(row["state_tensor_bytes"]), int(row["scalar_bytes"]))


def test_every_optimizer_of_the_catalogue_was_run():
    """No row of optimizers.csv is without a real step behind it."""
    run = set(NAMES.values()) | {row["optimizer"] for row in rows("optimizer_steps")}
    assert run == set(ms.tables.by_key("optimizers"))


@pytest.mark.parametrize("model", sorted({row["model"] for row in rows("optimizer_steps")}))
def test_states_and_temporaries_equal_real_steps_on_whole_models(model):
    """optimizer_steps.csv: two real steps on all parameters of a model; states equal, temporaries but for Adafactor's.

    Adafactor's and ASGD's single numbers (12 bytes at most) and what Adafactor leaves of the tensor before are not
    counted: 0.1 % of a small model.
    """
    for row in rows("optimizer_steps", model=model):
        asked = ms.Training(precision=row["precision"], optimizer=row["optimizer"], update=row["update"])
        kept = training_states(_model(model), asked).only(phase="optimizer_states")
        counters = kept.only(name=COUNTERS).total
        assert (kept.total - counters, counters) == (int(row["state_bytes"]), int(row["scalar_bytes"])), row
        scratch = update_scratch(_model(model), asked).total
        if row["optimizer"].startswith("adafactor") or row["optimizer"] == "asgd":
            assert scratch == pytest.approx(int(row["scratch_bytes"]), rel=0.001, abs=12), row
        elif (row["optimizer"], row["update"]) == ("rprop", "foreach"):
            assert 0 <= int(row["scratch_bytes"]) - scratch <= 4, row
        else:
            assert scratch == int(row["scratch_bytes"]), row


@pytest.mark.parametrize("row", rows("parameter_order"), ids=lambda row: row["model"])
def test_stored_tensors_are_those_of_transformers_in_their_order(row):
    """parameter_order.csv: the shapes of model.parameters(), one after the other."""
    model = ms.model(row["model"])
    shapes = []
    for run in runs(model):
        alike = lambda tensor: product(n for name, n in tensor.copies.items() if not name.endswith("layers"))  # noqa: E731
        shapes += [sorted(t.shape) for t in run.tensors for _ in range(alike(t))] * run.repeats
    assert len(shapes) == int(row["tensors"]) == int(rows("parameter_counts", model=row["model"])[0]["n_tensors"])
    assert _count(stored(model)) == ms.parameters(model).total
    text = "\n".join(" ".join(map(str, shape)) for shape in shapes)
    known_differences = model.family == "albert"  # the norm of its head stands two places earlier
    assert (hashlib.sha256(text.encode()).hexdigest() == row["sha256"]) != known_differences


def test_every_family_has_a_layout():
    """A family that config.json can name can be trained."""
    assert set(FAMILIES) == set(ms.tables.by_key("module_layouts", "family"))


STEPS = {(row["model"], row["dtype"]): row for row in rows("training_step_bytes")}


@pytest.mark.parametrize("row", STEPS.values(), ids=lambda row: f"{row['model']} {row['dtype']}")
def test_weights_gradients_states_and_update_equal_a_traced_step(row):
    """training_step_bytes.csv: AdamW, one tensor at a time; the figures do not depend on batch, length or kernel."""
    model, asked = ms.model(row["model"]), ms.Training(precision=row["dtype"], update="single")
    held = training_states(model, asked)
    assert trained_weights(model, asked).total == int(row["param_bytes"])
    assert held.only(phase="gradients").total == int(row["step1_after_backward"])
    peak = held.total + update_scratch(model, asked).total
    for same in (each for each in rows("training_step_bytes", model=row["model"], dtype=row["dtype"])):
        for step in ("step1", "step2"):
            assert (held.total, peak) == (int(same[f"{step}_after_optimizer"]), int(same[f"{step}_optimizer_peak"]))


# bytes per parameter


@pytest.mark.parametrize(
    "precision, gradients, weights, per_gradient, per_state",
    [
        ("fp32", None, 4, 4, 8),
        ("bf16", None, 2, 2, 4),
        ("bf16", "fp32", 2, 4, 4),
        ("bf16-autocast", None, 4, 4, 8),
        ("bf16-mixed", None, 2, 2, 12),
        ("bf16-mixed", "fp32", 2, 4, 12),
    ],
)
def test_bytes_per_parameter_follow_the_precision(precision, gradients, weights, per_gradient, per_state):
    """ZeRO (Rajbhandari et al. 2020) section 3.1: 2 + 2 + 12 bytes; Megatron: 2 + 4 + 12; one type: 4 × 4."""
    asked = ms.Training(precision=precision, gradients=gradients)
    count, held = ms.parameters(LLAMA2).total, training_states(LLAMA2, asked)
    counters = 4 * int(rows("parameter_counts", model="llama-2-7b")[0]["n_tensors"])
    assert trained_weights(LLAMA2, asked).total == weights * count
    assert held.by("phase") == {"gradients": per_gradient * count, "optimizer_states": per_state * count + counters}


def _of_billions(billions):
    """A model that is one matrix, so that it has a round number of parameters."""
    width = 10_000
    sizes = {"hidden_size": width, "heads": 1, "kv_heads": 1, "head_dim": 1, "ffn_size": 1, "max_tokens": 1}
    vocabulary = int(billions * 10**9) // width
    return ms.Model("one matrix", "llama", "", 0, **sizes, vocab_size=vocabulary, tied=True, final_norm=False)


ZERO = [row for row in rows("published", topic="zero") if "P" in row["setting"] or "partition" in row["setting"]]
STAGES = {"no partitioning": 0, "Pos": 1, "Pos+g": 2, "Pos+g+p": 3}


@pytest.mark.parametrize("row", ZERO, ids=lambda row: f"{row['subject']} {row['setting']}")
def test_zero_equals_figure_1_and_table_1(row):
    """ZeRO (arXiv 1910.02054) Figure 1 and Table 1: GB per device in mixed precision; printed figures are cut."""
    degree, _, setting = row["setting"].rpartition(", ")
    devices = int(degree.removeprefix("DP ")) if degree else 64
    layout = ms.Layout(data=devices, zero=STAGES[setting])
    model, asked = _of_billions(float(row["subject"].split("B")[0])), ms.Training(precision="bf16-mixed")
    held = trained_weights(model, asked, layout) + training_states(model, asked, layout)
    digit = 10 ** -len(row["value"].partition(".")[2])
    assert abs(held.total / 1e9 - float(row["value"])) < digit


def test_zero_shares_hold_at_least_the_whole():
    """A law: the devices together hold every state, and at most one number a tensor more."""
    asked = ms.Training(precision="bf16-mixed", optimizer="adamw-8bit")
    whole = training_states(LLAMA2, asked).total
    for devices in (3, 7, 64):
        shares = devices * training_states(LLAMA2, asked, ms.Layout(data=devices, zero=2)).total
        assert whole <= shares < whole * 1.001


# adapters


@pytest.mark.parametrize(
    "row", rows("lora_parameters"), ids=lambda row: f"{row['model']} {row['targets']} {row['rank']}"
)
def test_adapters_equal_peft(row):
    """lora_parameters.csv: trainable parameters of PEFT 0.21.2."""
    if row["model"] == "kimi-k2":
        pytest.skip("PEFT knows it by a name of its own and adapts no expert")
    targets = row["targets"] if row["targets"] == "all-linear" else tuple(row["targets"].split())
    asked = ms.Training(method="lora", lora_rank=int(row["rank"]), lora_targets=targets)
    assert _count(adapters(ms.model(row["model"]), asked)) == int(row["trainable"])


def test_gpt_3_adapters_of_queries_and_values_take_35_mb():
    """Hu et al. 2021, section 4.2: rank 4 on queries and values of GPT-3 175B is a checkpoint of 35 MB in 16 bit."""
    apart = replace(ms.model("megatron-gpt3-175b"), family="llama")  # queries and values as matrices of their own
    asked = ms.Training(method="lora", lora_rank=4, lora_targets=("q_proj", "v_proj"))
    assert 2 * _count(adapters(apart, asked)) / 2**20 == pytest.approx(35, rel=0.03)


def test_lora_trains_the_adapters_alone():
    """FORMULAS 9: adapters in fp32 take 4 + 4 + 8 bytes a parameter; the frozen base 2 bytes and nothing else."""
    asked = ms.Training(method="lora", lora_targets=("q_proj", "v_proj"))
    weights, held = trained_weights(LLAMA2, asked), training_states(LLAMA2, asked)
    assert weights.total == 2 * ms.parameters(LLAMA2).total + 4 * 8_388_608
    assert held.by("phase") == {"gradients": 4 * 8_388_608, "optimizer_states": 8 * 8_388_608 + 4 * 32 * 4}


def test_qlora_of_llama_2_7b_is_itemised_as_its_peers_are():
    """PEERS 3.7: 6,476,005,376 linear parameters at 4.127 bits, the rest in bf16, adapters of 16 bytes, one matrix."""
    asked = ms.Training(method="qlora", lora_rank=16)
    held = trained_weights(LLAMA2, asked) + training_states(LLAMA2, asked)
    linear = 6_476_005_376
    whole = held.only(phase="weights").total - 4 * 39_976_960 - 2 * (ms.parameters(LLAMA2).total - linear)
    assert whole * 8 / linear == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), rel=1e-5)
    adapters_held = held.total - held.only(phase="weights").total + 4 * 39_976_960
    assert adapters_held == 16 * 39_976_960 + 4 * 2 * 7 * 32


def test_qlora_of_llama_2_7b_adds_up_to_6_2_gib_and_peaks_below():
    """PEERS 3.7: items of 6.61 GB, each at its own highest. They are not alive at once: the peak is the loss."""
    asked = ms.Training(method="qlora", lora_rank=16, recompute="full")
    kept = ms.activations(LLAMA2, asked).by("name")
    assert kept["layer: input"] == 32 * 2048 * 4096 * 2
    one = ms.activations(LLAMA2, replace(asked, recompute="none"))
    live = sum(term.amount // term.factors["layers"] for term in one if "layers" in term.factors)
    loss, matrix = 14 * 2048 * 32_000, 2 * 4096 * 11008
    held = trained_weights(LLAMA2, asked).total + training_states(LLAMA2, asked).total
    items = held + kept["layer: input"] + live + loss + matrix
    assert items / 2**30 == pytest.approx(6.16, abs=0.01)
    highest = ms.memory(LLAMA2, asked)
    assert highest.total < items and highest.notes[0] == "the highest moment is backward_peak of step 2"


def test_frozen_groups_have_neither_gradient_nor_state():
    """A law: what is frozen is held and not trained."""
    model = ms.model("bert-base-uncased")
    frozen = training_states(model, ms.Training(freeze=("embeddings",)))
    assert "embeddings" not in frozen.by("group")
    whole = training_states(model, ms.Training()).only(phase="gradients").total
    missing = 2 * ms.parameters(model).by("group")["embeddings"]
    assert frozen.only(phase="gradients").total == whole - missing
    assert trained_weights(model, ms.Training(freeze=("embeddings",))).total == ms.weights(model).total


# arrays


@pytest.mark.parametrize("method, optimizer_name", [("full", "adamw-8bit"), ("lora", "adamw"), ("qlora", "adafactor")])
def test_a_grid_is_a_loop(method, optimizer_name):
    """Promise: an array gives what a loop of scalars gives."""
    degrees, ranks = [1, 2, 3, 64], [4, 8, 16, 32]
    asked = ms.Training(method=method, optimizer=optimizer_name, lora_rank=numpy.array(ranks))
    for function in (training_states, trained_weights, update_scratch):
        grid = function(LLAMA2, asked, ms.Layout(data=numpy.array(degrees), zero=3)).total
        loop = [
            function(LLAMA2, replace(asked, lora_rank=rank), ms.Layout(data=degree, zero=3)).total
            for degree, rank in zip(degrees, ranks, strict=True)
        ]
        assert numpy.array_equal(numpy.broadcast_to(grid, 4), loop)


def test_every_factor_has_a_symbol_and_every_source_a_row():
    """Promise "shown": no formula prints a name that symbols.csv does not explain."""
    glossary, sources = ms.tables.by_key("symbols"), ms.tables.by_key("sources", "key")
    for name in ("gpt2", "deepseek-v3", "t5-base", "gpt-oss-20b", "albert-base-v2", "stablelm-2-12b", "command-r-plus"):
        model = ms.model(name)
        for method, chosen in (("full", "adamw"), ("full", "muon"), ("qlora", "adafactor"), ("lora", "adamw-8bit")):
            asked = ms.Training(precision="bf16-mixed", optimizer=chosen, method=method)
            for layout in (ms.Layout(), ms.Layout(data=4, zero=3)):
                held = training_states(model, asked, layout) + trained_weights(model, asked, layout)
                held += update_scratch(model, asked, layout)
                assert {factor for term in held for factor in term.factors} <= set(glossary), (name, chosen)
                assert set(held.sources) <= set(sources)


# what is refused


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"precision": "fp16"}, 'precision "fp16" needs a loss scaler.*use "bf16-mixed"'),
        (
            {"precision": "fp16-mixed", "optimizer": "adamw-8bit"},
            'with optimizer|and optimizer "adamw-8bit" needs a loss',
        ),
        ({"precision": "bf17"}, 'unknown precision "bf17"; did you mean "bf16"'),
        ({"optimizer": "adamx"}, 'unknown optimizer "adamx"; did you mean "adam'),
        ({"optimizer": "rmsprop", "update": "fused"}, 'has no fused update; use "single" or "foreach"'),
        ({"lora_rank": 0}, "lora_rank is 0; use whole numbers from 1"),
        ({"micro_batch": 0}, "micro_batch is 0; use whole numbers from 1"),
        ({"sequence_tokens": 1.5}, "sequence_tokens is 1.5; use whole numbers"),
        ({"micro_batch": numpy.array([1, 0])}, "micro_batch is an array from 0"),
        ({"micro_batch": 4, "global_batch": 6}, "global_batch 6 is no multiple of micro_batch 4; use one that is"),
        ({"dropout": 1.0}, "dropout is 1.0; use a rate of at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"lora_dropout": "much"}, "lora_dropout is much"),
        ({"recompute": "selective"}, 'recompute "selective" is Megatron\'s; use implementation "megatron"'),
        ({"recompute": "half"}, 'unknown recompute "half"; did you mean "full", "light", "none"'),
        ({"implementation": "deepspeed"}, 'unknown implementation "deepspeed"'),
        ({"attention": "flash"}, 'unknown attention "flash"'),
        ({"method": "dora"}, 'unknown method "dora"; did you mean "lora"'),
        ({"method": "qlora", "base_precision": "bf16"}, 'base_precision "bf16" is not quantised; use "nf4-dq"'),
        ({"base_precision": "nf5"}, 'unknown base precision "nf5"; did you mean "nf4"'),
        ({"gradients": "bf16", "precision": "fp32"}, "a gradient has the type of its weight"),
        ({"gradients": "fp8"}, 'unknown gradients "fp8"'),
        ({"freeze": "embeddings"}, "freeze is 'embeddings'; list the names"),
        ({"freeze": ("embedding",)}, 'unknown group "embedding"; did you mean "embeddings"'),
        ({"freeze": ("embeddings",), "method": "lora"}, "trains the adapters alone"),
        ({"lora_targets": "q_proj"}, "lora_targets is 'q_proj'; list the names"),
        ({"lora_targets": ()}, 'lora_targets is empty; use "all-linear"'),
        ({"objective": "next"}, 'unknown objective "next"'),
        ({"adapter_precision": "fp8"}, 'unknown adapter precision "fp8"'),
    ],
)
def test_a_training_that_cannot_run_is_refused_in_a_sentence(fields, message):
    with pytest.raises(ms.Problem, match=message):
        ms.Training(**fields)


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("gpt2", {"sequence_tokens": 2048}, "GPT-2 small has learned 1,024 positions, and sequence_tokens is 2,048"),
        ("gpt2", {"sequence_tokens": numpy.array([512, 1025])}, "sequence_tokens is 1,025; use at most 1,024"),
        ("opt-125m", {"sequence_tokens": 2049}, "learned 2,048 positions"),
        ("roberta-base", {"sequence_tokens": 513}, "learned 512 positions"),
        (
            "bert-base-uncased",
            {"sequence_tokens": 512, "objective": "causal"},
            'both directions.*use objective "masked"',
        ),
        ("llama-2-7b", {"objective": "masked"}, 'left to right; use objective "causal" in place of "masked"'),
        ("t5-base", {"objective": "causal"}, 'use objective "sequence"'),
        ("llama-2-7b", {"target_tokens": 5}, "no decoder beside an encoder; leave target_tokens out"),
        (
            "llama-2-7b",
            {"method": "lora", "lora_targets": ("c_attn",)},
            'no linear layer "c_attn"; it has "q_proj", "k_',
        ),
        ("gpt-oss-20b", {"method": "lora", "lora_targets": ("up_proj",)}, 'no linear layer "up_proj"; it has "q_proj"'),
        ("qwen3-30b-a3b", {"method": "lora", "lora_targets": ("up_proj",)}, 'adapted together; add "gate_proj"'),
        ("llama-3.1-8b", {"method": "lora", "lora_rank": 1025}, r"smaller side of self_attn.k_proj \(1,024\)"),
        ("llama-2-7b", {"freeze": ("experts",)}, 'no "experts" to freeze; its groups are "embeddings"'),
        (
            "llama-2-7b",
            {"freeze": ("embeddings", "attention", "mlp_dense", "norms", "lm_head")},
            "all groups are frozen and nothing is trained",
        ),
    ],
)
def test_a_training_that_does_not_fit_the_model_is_refused_in_a_sentence(name, fields, message):
    with pytest.raises(ms.Problem, match=message):
        check(ms.model(name), ms.Training(**fields))


def test_the_longest_sequence_of_learned_positions_is_taken():
    """OPT's table has two rows more than positions, RoBERTa's too."""
    for name, most in (("gpt2", 1024), ("opt-125m", 2048), ("roberta-base", 512), ("bert-base-uncased", 512)):
        check(ms.model(name), ms.Training(sequence_tokens=most))
    check(LLAMA2, ms.Training(sequence_tokens=1_000_000))


def test_training_has_no_kv_cache():
    with pytest.raises(ms.Problem, match="keeps no KV cache; give an Inference, or ask memory"):
        ms.kv_cache(LLAMA2, ms.Training())
