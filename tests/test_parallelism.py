"""Layouts: what one device has of a model and a workload, and the laws that hold for any of them."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import memscape as ms
from memscape.memory.step import highest
from memscape.memory.timeline import host_memory, stage_moments
from memscape.parallelism import (
    busy_stages,
    check,
    expert_degrees,
    in_flight,
    pieces_in_flight,
    pipeline_degrees,
    shard_model,
    shard_workload,
    stage_layers,
    tensor_degrees,
)

GPT3 = "megatron-gpt3-175b"
SEVERAL = (
    "llama-3.2-1b",
    "gpt2",
    "qwen3-0.6b",
    "gemma-2-2b",
    "qwen1.5-moe-a2.7b",
    "bert-base-uncased",
    "deepseek-v2-lite",
    "falcon-7b",
    "opt-350m",
)
STATES = ("weights", "gradients", "optimizer_states")


def test_a_layout_is_one_device_unless_asked():
    """DESIGN: every degree is 1, no stage of ZeRO, no sequence parallelism."""
    layout = ms.Layout()
    degrees = ("tensor", "pipeline", "data", "context", "expert", "interleave")
    assert [getattr(layout, name) for name in degrees] == [1] * 6
    assert (layout.zero, layout.sequence_parallel) == (0, False)


def test_degrees_may_be_arrays():
    """DESIGN: every quantity in a layout may be a number or a numpy array."""
    assert ms.Layout(data=numpy.array([1, 8, 64])).data.tolist() == [1, 8, 64]
    assert ms.Layout(tensor=numpy.int64(8)).tensor == 8


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"tensor": 0}, "tensor is 0; use whole numbers from 1"),
        ({"data": 2.5}, "data is 2.5; use whole numbers"),
        ({"pipeline": "two"}, "pipeline is two"),
        ({"context": numpy.array([1, -1])}, "context is an array from -1"),
        ({"zero": 4}, "zero is 4; use stage 0, 1, 2 or 3"),
        ({"zero": True}, "zero is True; use stage"),
        ({"sequence_parallel": 1}, "sequence_parallel is 1; use True or False"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ms.Problem, match=message):
        ms.Layout(**fields)


# published figures


def _states(held):
    return sum(held.only(phase=phase).total for phase in STATES)


@pytest.mark.parametrize(
    "gradients, per_parameter, quoted", [("fp32", Fraction(15, 2), 20.98), ("bf16", Fraction(11, 2), 15.40)]
)
def test_gpt3_on_512_devices_holds_its_states(gradients, per_parameter, quoted):
    """PEERS 3.4, TP8 PP8 DP8 ZeRO-1: 2 + 4 + 12/8 bytes a parameter (Megatron), 2 + 2 + 12/8 (ZeRO).

    The parameters of the first stage by the algebra of Narayanan et al. 2021, eq. 2: twelve layers, the vocabulary in
    51,200 words, all positions. The peers' 20.98 and 15.40 GB leave out that positions, norms and two biases are copied
    on every device, which is 0.9 % more.
    """
    h, layers = 12288, 12
    split = layers * (12 * h**2 + 7 * h) // 8 + 51200 * h // 8
    copied = layers * 6 * h + 2048 * h
    asked = ms.Training(precision="bf16-mixed", gradients=gradients, implementation="megatron", attention="eager")
    layout = ms.Layout(tensor=8, pipeline=8, data=8, zero=1)
    held = ms.memory(ms.model(GPT3), asked, layout)
    assert "stage 1 of 8" in held.notes[0]
    assert _states(held) == pytest.approx(float((split + copied) * per_parameter), rel=1e-6)
    assert _states(held) / 1e9 == pytest.approx(quoted, rel=0.01)


def test_an_interleaved_pipeline_keeps_124_layers():
    """Korthikanti et al. 2022: L·(1 + (p - 1)/(p·v)) layers of 23·s·b·h on the first stage; GPT-3: 66.84 GiB."""
    asked = ms.Training(implementation="megatron", attention="eager", precision="bf16-mixed", micro_batch=1)
    held = ms.memory(ms.model(GPT3), asked, ms.Layout(tensor=8, pipeline=8, interleave=3))
    layers = sum(term.amount for term in held.only(phase="activations") if "layers" in term.factors)
    assert layers == 96 * Fraction(31, 24) * 23 * 2048 * 12288
    assert round(layers / 2**30, 2) == 66.84


@pytest.mark.parametrize("tensor", [8, 16])
def test_kv_heads_are_copied_where_they_run_out(tensor):
    """PEERS 3.3: Llama 3.1 405B has 8 KV heads, so a device holds 64,512 bytes a token at TP8 and at TP16."""
    shard = shard_model(ms.model("llama-3.1-405b"), ms.Layout(tensor=tensor))
    assert ms.kv_cache(shard, ms.Inference(prompt_tokens=1, output_tokens=0)).total == 64_512


def test_a_latent_vector_is_copied_on_every_device():
    """vLLM, FORMULAS 5: the cache of MLA does not shrink with tensor parallelism."""
    model, asked = ms.model("deepseek-v3"), ms.Inference(prompt_tokens=1, output_tokens=0)
    assert ms.kv_cache(shard_model(model, ms.Layout(tensor=8)), asked).total == 70_272


def test_uneven_layers_leave_the_ends_short():
    """Llama 3 paper, 3.3.2: 126 layers on 16 stages, one less on the first and on the last. BLOOM: 70 on 12."""
    for name, stages, expected in (
        ("llama-3.1-405b", 16, [7, *[8] * 14, 7]),
        ("bloom-176b", 12, [5, *[6] * 10, 5]),
    ):
        model = ms.model(name)
        cut = [stage_layers(model, ms.Layout(pipeline=stages), stage) for stage in range(stages)]
        assert [len(places) for places in cut] == expected
        assert sum(cut, ()) == tuple(range(model.layers))


def test_micro_batches_in_flight():
    """Narayanan et al. 2021, section 2.2: GPipe keeps all m, 1F1B p on the first stage and one on the last."""
    assert [in_flight(ms.Layout(pipeline=4), stage, 32) for stage in range(4)] == [4, 3, 2, 1]
    assert [in_flight(ms.Layout(pipeline=4), stage, 2) for stage in range(4)] == [2, 2, 2, 1]
    assert [in_flight(ms.Layout(pipeline=4, schedule="gpipe"), stage, 32) for stage in range(4)] == [32] * 4


def test_llama_405b_does_not_leave_a_part_out():
    """The parts of all devices are the model, once more for what is copied: the norms and nothing else."""
    model, tensor = ms.model("llama-3.1-405b"), 8
    layout = ms.Layout(tensor=tensor, pipeline=16, vocab_multiple=1)
    parts = [ms.parameters(shard_model(model, layout, stage)) for stage in range(16)]
    norms = sum(part.only(group="norms").total for part in parts)
    assert norms == ms.parameters(model).only(group="norms").total
    assert tensor * sum(part.total for part in parts) == ms.parameters(model).total + (tensor - 1) * norms


def test_a_tied_head_is_copied_on_the_last_stage():
    """Narayanan et al. 2021: the embedding stands on the first stage, its copy on the last one."""
    model = ms.model("gpt2-xl")
    parts = [ms.parameters(shard_model(model, ms.Layout(pipeline=4), stage)).total for stage in range(4)]
    assert sum(parts) == ms.parameters(model).total + model.vocab_size * model.hidden_size


@pytest.mark.parametrize("expert, tensor, data", [(8, 1, 8), (64, 1, 128), (8, 8, 1), (4, 8, 2), (1, 8, 1)])
def test_experts_are_shared_over_the_devices_that_there_are(expert, tensor, data):
    """DeepSeek-V3: 256 experts; expert parallelism takes data-parallel devices first, then tensor-parallel ones."""
    model = ms.model("deepseek-v3")
    layout = ms.Layout(expert=expert, tensor=tensor, data=data)
    held = ms.parameters(shard_model(model, layout))
    routed = sum(term.amount for term in held if "experts" in term.factors and term.group == "experts")
    whole = sum(t.amount for t in ms.parameters(model) if "experts" in t.factors and t.group == "experts")
    assert routed * layout.expert_tensor * expert == whole
    assert layout.expert_replicas * layout.expert_tensor * expert == tensor * data


def test_offloaded_states_are_in_ram():
    """Ren et al. 2021: 12 bytes a parameter of states leave the device; RAM also holds gradients in 32 and 16 bit."""
    model = ms.model("llama-3.1-8b")
    asked = ms.Training(precision="bf16-mixed", recompute="full")
    away = ms.Layout(data=8, zero=2, offload_optimizer="cpu")
    held, there = ms.memory(model, asked, away), host_memory(model, asked, away)
    share = -(-ms.parameters(model).total // 8)
    assert held.only(phase="optimizer_states").total == 0
    assert there.total == pytest.approx(share * (12 + 4 + 2), rel=1e-5)
    disks = replace(away, zero=3, offload_optimizer="nvme", offload_weights="nvme")
    assert host_memory(model, asked, disks, "nvme").total == pytest.approx(share * (12 + 2), rel=1e-5)


def test_experts_on_tensor_parallel_devices_are_a_share_of_all():
    """Eight experts on eight tensor-parallel devices: one whole expert each holds what an eighth of each would."""
    model, asked = ms.model("mixtral-8x7b"), ms.Training(sequence_tokens=2048, optimizer="sgd")
    whole, shares = (
        ms.memory(model, asked, ms.Layout(tensor=8, expert=expert, sequence_parallel=True)).by("phase")
        for expert in (8, 1)
    )
    assert {part: whole[part] for part in ("weights", "gradients")} == {
        part: shares[part] for part in ("weights", "gradients")
    }
    assert whole["activations"] == shares["activations"]


def test_gradients_that_are_offloaded_leave_the_device_whatever_the_batch():
    """Ren et al. 2021: gradients go to the host as they are reduced, with one micro-batch as with several."""
    layout = ms.Layout(data=8, zero=2, offload_optimizer="cpu")
    for batch in (None, 16):
        asked = ms.Training(precision="bf16-mixed", recompute="full", sequence_tokens=128, global_batch=batch)
        assert "gradients" not in ms.memory(ms.model("llama-3.1-8b"), asked, layout).by("phase")


def test_buckets_of_ddp_are_there_while_the_optimizer_works():
    """PyTorch, DistributedDataParallel: buckets live as long as the module, gradient_as_bucket_view is off."""
    model, asked = ms.model("llama-3.2-1b"), ms.Training(sequence_tokens=128, update="foreach")
    alone, copies = (ms.timeline(model, asked, ms.Layout(data=data))[2, "optimizer_peak"].total for data in (1, 2))
    assert copies - alone == 2 * ms.parameters(model).total


def test_vllm_pads_the_vocabulary_to_64_words():
    """vLLM, DEFAULT_VOCAB_PADDING_SIZE: 64 words in all; Llama 3.1 has 128,256, which are 16,032 on each of eight."""
    held = ms.memory(ms.model("llama-3.1-8b"), ms.Inference(engine="vllm"), ms.Layout(tensor=8))
    (words,) = [term.amount for term in held if term.name == "token embedding"]
    assert words == 16_032 * 4096 * 2


def test_pieces_in_flight_add_up():
    """Narayanan et al. 2021: the pieces of a stage keep together what an interleaved stage keeps."""
    for stages, pieces in ((4, 2), (8, 3), (16, 8)):
        layout = ms.Layout(pipeline=stages, interleave=pieces)
        for stage in range(stages):
            assert sum(pieces_in_flight(layout, stage, 10**6)) == in_flight(layout, stage, 10**6)
            assert sum(pieces_in_flight(layout, stage, stages)) == in_flight(layout, stage, stages)


# laws


@some.composite
def _cases(draw, zero=True):
    """A small model of some kind, a layout that splits it, a workload that fits the layout."""
    name = draw(
        some.sampled_from(
            [
                "llama-3.2-1b",
                "gpt2",
                "qwen3-0.6b",
                "gemma-2-2b",
                "qwen1.5-moe-a2.7b",
                "bert-base-uncased",
                "deepseek-v2-lite",
                "falcon-7b",
                "opt-350m",
            ]
        )
    )
    model = ms.model(name)
    model = replace(model, layers=6, layer_kinds=model.layer_kinds[:6])
    stages = draw(some.sampled_from(pipeline_degrees(model)))
    even = [pieces for pieces in (1, 2, 3) if stages > 1 and 6 % (stages * pieces) == 0]
    data = draw(some.sampled_from([1, 2, 4]))
    layout = ms.Layout(
        tensor=draw(some.sampled_from(tensor_degrees(model, 16))),
        pipeline=stages,
        data=data,
        context=draw(some.sampled_from([1, 2])) if model.causal else 1,
        expert=draw(some.sampled_from([each for each in expert_degrees(model) if data % each == 0])),
        sequence_parallel=draw(some.booleans()),
        interleave=draw(some.sampled_from(even or [1])),
        sharding="fsdp",
        zero=draw(some.integers(0, 3)) if zero else 0,
    )
    training = ms.Training(
        micro_batch=draw(some.integers(1, 3)),
        sequence_tokens=draw(some.sampled_from([64, 128, 500])),
        precision=draw(some.sampled_from(["fp32", "bf16", "bf16-mixed"])),
        recompute=draw(some.sampled_from(["none", "full"])),
        implementation=draw(some.sampled_from(["transformers", "megatron"])),
        method=draw(some.sampled_from(["full", "full", "lora", "qlora"])),
        optimizer=draw(some.sampled_from(["adamw", "adamw-8bit", "adafactor"])),
    )
    batches = draw(some.sampled_from([None, 1, 3, 8]))
    if batches:
        training = replace(training, global_batch=training.micro_batch * data * batches)
    inference = ms.Inference(
        sequences=draw(some.integers(1, 9)), prompt_tokens=draw(some.integers(1, 500)), output_tokens=10
    )
    return model, layout, draw(some.sampled_from([training, inference]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_cases())
def test_all_devices_together_hold_at_least_the_whole(case):
    """Law: nothing is lost by dividing it."""
    model, layout, workload = case
    alone = _alone(workload, layout)
    together = sum(highest(stage_moments(model, workload, layout, stage)) for stage in range(layout.pipeline))
    assert together * layout.tensor * layout.replicas >= ms.memory(model, alone).total


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_cases())
def test_the_busiest_device_is_that_of_the_busiest_stage(case):
    """Law: the maximum over the stages that can be it is the maximum over all stages, computed one by one."""
    model, layout, workload = case
    each = [highest(stage_moments(model, workload, layout, stage)) for stage in range(layout.pipeline)]
    assert ms.memory(model, workload, layout).total == max(each)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_cases())
def test_a_layout_of_ones_is_the_single_device(case):
    """Law: dividing by one changes nothing, to the byte and to the term."""
    model, _, workload = case
    alone = _alone(workload, ms.Layout())
    ones = ms.Layout(tensor=1, sharding="fsdp", zero=3)
    assert ms.memory(model, alone, ones).total == ms.memory(model, alone).total
    assert ms.memory(model, alone, ms.Layout()) == ms.memory(model, alone)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_cases(zero=False), some.sampled_from(["fsdp", "deepspeed"]))
def test_more_zero_is_never_more_memory(case, sharding):
    """Law: each stage of ZeRO shares what the stage before it copies."""
    model, layout, workload = case
    pipeline = layout.pipeline if sharding == "fsdp" else 1
    layout = replace(layout, sharding=sharding, pipeline=pipeline, interleave=1 if pipeline == 1 else layout.interleave)
    totals = [ms.memory(model, workload, replace(layout, zero=stage)).total for stage in range(4)]
    assert totals == sorted(totals, reverse=True)


def _alone(workload, layout):
    """What a single device would be asked for: all sequences of an Inference, one micro-batch of a Training."""
    if isinstance(workload, ms.Inference) or workload.global_batch is None:
        return workload
    return replace(workload, global_batch=workload.global_batch // layout.data)


# bad input


@pytest.mark.parametrize(
    "name, layout, message",
    [
        ("llama-3.1-8b", {"tensor": 3}, "does not split evenly over tensor 3 devices; use 1, 2, 4 or 8"),
        ("llama-3.1-8b", {"tensor": 12}, "use 2, 4, 8 or 16"),
        ("llama-3.1-8b", {"pipeline": 33}, "33 stages are more than the 32 layers of Llama 3.1 8B; use at most 32"),
        ("llama-3.1-8b", {"expert": 2}, "Llama 3.1 8B has no experts; use expert 1"),
        ("mixtral-8x7b", {"expert": 3}, "expert 3 devices .8 experts.; use 1, 2, 4 or 8"),
        ("mixtral-8x7b", {"expert": 8, "data": 4}, "does not divide the 4 devices of tensor × data × context; use"),
        ("llama-3.1-8b", {"pipeline": 2, "zero": 3}, 'use zero 1, pipeline 1, or sharding "fsdp"'),
        ("llama-3.1-8b", {"interleave": 2}, 'is for schedule "1f1b" with pipeline 2 or more'),
        ("llama-3.1-8b", {"pipeline": 4, "interleave": 3}, "32 layers do not divide into 4 stages of 3 pieces; use"),
        ("bert-base-uncased", {"context": 2}, "context parallelism is for decoders; use context 1"),
        ("t5-base", {"pipeline": 2}, "has an encoder beside its decoder and is not cut into stages"),
        ("albert-base-v2", {"pipeline": 2}, "shares one layer's weights among all"),
        ("llama-3.1-8b", {"offload_optimizer": "cpu"}, "offload_optimizer is part of ZeRO"),
        ("llama-3.1-8b", {"offload_weights": "cpu", "zero": 2}, "use zero 3 in place of 2"),
        ("llama-3.1-8b", {"offload_optimizer": "nvme", "zero": 2, "data": 2}, "to NVMe with zero 3 alone"),
        ("llama-3.1-8b", {"offload_weights": "cpu", "zero": 3}, 'use offload_optimizer "cpu" too'),
        ("mixtral-8x22b", {"tensor": 24}, "does not split evenly over tensor 24 devices; use 2, 4, 8 or 16"),
        ("llama-3.1-8b", {"tensor": numpy.array([1, 2])}, "give one number for each degree"),
        ("llama-3.1-8b", {"vocab_multiple": 0}, "vocab_multiple is 0; use one whole number from 1"),
        ("llama-3.1-8b", {"schedule": "zigzag"}, 'unknown schedule "zigzag"'),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_those_that_can(name, layout, message):
    with pytest.raises(ms.Problem, match=message):
        check(ms.model(name), ms.Layout(**layout))


@pytest.mark.parametrize(
    "training, layout, message",
    [
        ({"global_batch": 12}, {"data": 8}, "global_batch 12 is no multiple of micro_batch 1 × data 8"),
        ({"attention": "eager"}, {"context": 2}, 'use attention "sdpa", or context 1'),
    ],
)
def test_a_workload_that_does_not_divide_is_refused(training, layout, message):
    with pytest.raises(ms.Problem, match=message):
        ms.memory(ms.model("llama-3.1-8b"), ms.Training(**training), ms.Layout(**layout))


@pytest.mark.parametrize(
    "training, layout, message",
    [
        ({"attention": "eager"}, {"context": numpy.array([1, 2])}, 'use attention "sdpa", or context 1'),
        ({}, {"tensor": numpy.array([1, 2]), "data": numpy.array([1, 2, 4])}, "the arrays do not go together: tensor"),
        ({}, {"tensor": numpy.array([1, 10**12])}, "a degree is 1,000,000,000,000; use at most"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(training, layout, message):
    with pytest.raises(ms.Problem, match=message):
        ms.memory(ms.model("llama-3.2-1b"), ms.Training(**training), ms.Layout(**layout))


def test_a_stage_that_is_not_there_is_refused():
    with pytest.raises(ms.Problem, match="stage is 5; count from 0 to 1"):
        shard_model(ms.model("llama-3.1-8b"), ms.Layout(pipeline=2), 5)


def test_uneven_routing_is_a_term_of_training_alone():
    """Issue: load imbalance as a named factor; a fifth more tokens keep a fifth more of what routed experts keep."""
    model, asked = ms.model("mixtral-8x7b"), ms.Training(sequence_tokens=1024, recompute="none")
    layout = ms.Layout(data=8, expert=8, expert_load_percent=120)
    held = ms.timeline(model, asked, layout)[2, "forward_end"]
    (term,) = [term for term in held if term.name == "uneven routing"]
    routed = sum(each.amount for each in held.only(group="experts", phase="activations") if each is not term)
    assert term.factors["percent_above_mean"] == 20
    assert term.amount == pytest.approx(routed / 5, rel=1e-6)
    with pytest.raises(ms.Problem, match="expert_load_percent is for training"):
        ms.memory(model, ms.Inference(), layout)


def test_learned_positions_are_checked_before_the_sequence_is_cut():
    with pytest.raises(ms.Problem, match="has learned 1,024 positions"):
        ms.memory(ms.model("gpt2"), ms.Training(sequence_tokens=2048), ms.Layout(context=2))


def test_the_first_alike_stage_is_the_busiest_of_them():
    """1F1B: an earlier stage keeps more micro-batches, so that of alike stages only the first can be the maximum."""
    assert list(busy_stages(ms.model("llama-3.1-405b"), ms.Layout(pipeline=16))) == [0, 1, 15]


def test_a_share_of_the_work():
    """DESIGN: sequences are divided over data-parallel copies, tokens over context-parallel devices."""
    share = shard_workload(ms.Inference(sequences=10, prompt_tokens=1001), ms.Layout(data=4, context=2))
    assert (share.sequences, share.prompt_tokens) == (3, 501)
    share = shard_workload(ms.Training(sequence_tokens=1001, global_batch=64), ms.Layout(data=4, context=2))
    assert (share.sequence_tokens, share.global_batch) == (501, 16)


# grids


GRIDS = [
    ({"zero": 0}, {}),
    ({"zero": 1}, {"implementation": "megatron", "precision": "bf16-mixed"}),
    ({"zero": 2, "sharding": "fsdp"}, {"recompute": "full", "precision": "bf16-mixed"}),
    ({"zero": 3, "sharding": "fsdp"}, {"method": "lora", "precision": "bf16-autocast"}),
]


@pytest.mark.parametrize("choices, fields", GRIDS, ids=lambda each: "-".join(map(str, each.values())) or "plain")
@pytest.mark.parametrize("name", ["llama-3.2-1b", "gpt2", "qwen1.5-moe-a2.7b", "gemma-2-2b", "deepseek-v2-lite"])
def test_a_grid_of_layouts_is_a_loop_over_them(name, choices, fields):
    """Promise: an array gives what a loop of scalars gives, degrees and quantities mixed."""
    model, chance = ms.model(name), random.Random(7)
    points = [_point(model, chance) for _ in range(25)]
    layout = ms.Layout(**_columns(points, 0), **choices, sequence_parallel=True)
    grid = ms.memory(model, ms.Training(**_columns(points, 1), **fields), layout).total
    for total, (degrees, sizes) in zip(grid.tolist(), points, strict=True):
        one = ms.Layout(**degrees, **choices, sequence_parallel=True)
        assert total == ms.memory(model, ms.Training(**sizes, **fields), one).total, (degrees, sizes)


@pytest.mark.parametrize("engine", ["generic", "transformers", "vllm"])
def test_a_grid_of_layouts_that_serve_is_a_loop_over_them(engine):
    """Promise: an array gives what a loop of scalars gives."""
    model, chance = ms.model("llama-3.2-1b"), random.Random(7)
    points = [_point(model, chance) for _ in range(25)]
    asked = {"sequences": 3, "engine": engine}
    tokens = numpy.array([sizes["sequence_tokens"] for _, sizes in points])
    grid = ms.memory(model, ms.Inference(prompt_tokens=tokens, **asked), ms.Layout(**_columns(points, 0))).total
    for total, (degrees, sizes) in zip(grid.tolist(), points, strict=True):
        one = ms.Inference(prompt_tokens=sizes["sequence_tokens"], **asked)
        assert total == pytest.approx(ms.memory(model, one, ms.Layout(**degrees)).total, abs=1)


def test_axes_of_a_grid_are_broadcast():
    """Promise: a grid of three axes, and a layout in it that cannot be is named."""
    model = ms.model("llama-3.1-8b")
    asked = ms.Training(micro_batch=numpy.array([1, 2])[:, None], sequence_tokens=numpy.array([512, 1024, 2048]))
    layout = ms.Layout(tensor=numpy.array([1, 2, 4, 8])[:, None, None])
    assert ms.memory(model, asked, layout).total.shape == (4, 2, 3)
    with pytest.raises(ms.Problem, match="does not split evenly over tensor 3 devices"):
        ms.memory(model, asked, ms.Layout(tensor=numpy.array([1, 3])[:, None, None]))


def _point(model, chance):
    """A layout and the sizes of a training that fit each other."""
    stages = chance.choice([each for each in pipeline_degrees(model) if each <= 8])
    pieces = chance.choice([1, 2]) if stages > 1 and model.layers % (2 * stages) == 0 else 1
    data, batch = chance.choice([1, 2, 4]), chance.choice([1, 1, 2, 5])
    degrees = {
        "tensor": chance.choice(tensor_degrees(model, 8)),
        "pipeline": stages,
        "interleave": pieces,
        "data": data,
    }
    degrees |= {
        "data": data,
        "context": chance.choice([1, 2]),
        "expert": chance.choice([1, data] if model.experts else [1]),
    }
    sizes = {"micro_batch": batch, "sequence_tokens": chance.choice([16, 100, 511])}
    return degrees, sizes | {"global_batch": batch * data * chance.choice([1, 2, 16])}


def _columns(points, part):
    return {name: numpy.array([point[part][name] for point in points]) for name in points[0][part]}


@pytest.mark.parametrize("kind", [ms.Training, ms.Inference])
def test_many_points_are_answered_by_their_totals(kind):
    """SCALE 4: totals, not terms; a hundred thousand points of one layout are what scalars are."""
    model, count = ms.model("gpt2"), 100_000
    batch, tokens = 1 + numpy.arange(count) % 7, 1 + numpy.arange(count) % 1000
    grid = ms.memory(model, kind(batch, tokens)).total
    for place in (0, 1234, count - 1):
        one = ms.memory(model, kind(int(batch[place]), int(tokens[place]))).total
        assert grid[place] == pytest.approx(one, abs=1)
