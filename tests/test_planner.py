"""The plan, the largest input, grids: each answer is asked of the package again."""

from __future__ import annotations

from dataclasses import replace

import pytest

import memscape as ms
from memscape import tables
from memscape.planner import advice, layout_of

H100 = "H100 SXM 80GB"
CHAT = ms.Inference(sequences=16, prompt_tokens=8192)


def test_a_sweep_is_memory_asked_for_each_combination():
    """DESIGN: a grid as a table; each row is what `memory` says of it."""
    model = ms.model("llama-3.1-8b")
    frame = ms.sweep(model, ms.Training(), tensor=[1, 2, 4], sequence_tokens=[1024, 2048], recompute=["none", "full"])
    assert len(frame) == 12 and list(frame.columns) == ["tensor", "sequence_tokens", "recompute", "bytes"]
    for row in frame.itertuples():
        asked = ms.Training(sequence_tokens=int(row.sequence_tokens), recompute=row.recompute)
        assert row.bytes == ms.memory(model, asked, ms.Layout(tensor=int(row.tensor))).total


@pytest.mark.parametrize(
    "name, workload, largest, layout",
    [
        ("llama-3.1-8b", ms.Inference(), "prompt_tokens", None),
        ("llama-3.1-70b", CHAT, "sequences", ms.Layout(tensor=4)),
        ("llama-3.1-8b", ms.Training(recompute="full", optimizer="adamw-8bit"), "micro_batch", None),
        ("gpt2", ms.Training(), "sequence_tokens", None),
    ],
)
def test_the_largest_value_fits_and_the_next_one_does_not(name, workload, largest, layout):
    """DESIGN: any one input that just fits."""
    model, card = ms.model(name), ms.accelerator(H100)
    found = ms.solve(model, workload, card, layout, largest)
    fits = [ms.memory(model, replace(workload, **{largest: found}), layout).total <= card.usable_bytes]
    try:
        fits.append(ms.memory(model, replace(workload, **{largest: found + 1}), layout).total <= card.usable_bytes)
    except ms.Problem:
        fits.append(False)
    assert fits == [True, False]


def test_the_precision_of_most_bits_that_fits():
    """Issue 5: 70B in BF16 is 141 GB, which one 80 GB card does not hold; 8 bits are 75 GB."""
    assert ms.solve(ms.model("llama-3.1-70b"), ms.Inference(), H100, largest="weights") == "Q8_0"
    assert ms.solve(ms.model("llama-3.1-8b"), ms.Inference(), H100, largest="weights") == "fp32"


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_what_fits_says_what_memory_says(devices):
    """Issue 5: models × precisions, longest context, most sequences; each held against `memory`."""
    card = ms.accelerator(H100)
    frame = ms.what_fits(card, devices, ["bf16", "fp8"]).set_index(["model", "precision"])
    for name in ("llama-3.1-8b", "llama-3.1-70b", "gpt-oss-120b", "deepseek-v3", "gemma-2-9b"):
        row, model = frame.loc[name, "bf16"], ms.model(name)
        layout = layout_of(model, devices, card)
        held = ms.memory(model, ms.Inference(output_tokens=0), layout, card).total
        assert row.fits == (held <= card.usable_bytes)
        if not row.fits:
            assert "too much" in row.why
            continue
        for tokens in (int(row.longest_context), int(row.longest_context) + 2):
            asked = ms.Inference(prompt_tokens=tokens, output_tokens=0)
            there = ms.memory(model, asked, layout, card).total <= card.usable_bytes
            assert there == (tokens <= row.longest_context) or tokens > model.max_tokens


def test_what_matters_most_comes_first():
    """Raising and lowering each number by a tenth: weights are fixed, so that the cache decides."""
    model = ms.model("llama-3.1-8b")
    frame = ms.sensitivity(model, replace(CHAT, sequences=100))
    assert list(frame.swing) == sorted(frame.swing, reverse=True)
    first = frame.iloc[0]
    ends = [ms.memory(model, replace(CHAT, sequences=count)).total for count in (90, 110)]
    assert (first.input, first.lower, first.higher) == ("sequences", *ends)


def test_a_plan_ranks_what_fits_and_says_why_the_rest_does_not():
    """Issue 5: ranked by cost; each rejected candidate has its reason in words; prices carry their day."""
    model, names = ms.model("llama-3.1-70b"), [H100, "H200 SXM", "A100 SXM 80GB", "L4", "Apple M3 Max"]
    frame = ms.plan(model, CHAT, accelerators=names, budget=20, latency_s=0.1)
    assert set(frame.accelerator) == set(names)
    good, bad = frame[frame.fits], frame[~frame.fits]
    assert list(good.usd_per_hour) == sorted(good.usd_per_hour)
    assert (good.usd_per_hour <= 20).all() and (good.latency_s <= 0.1).all() and good.price_of.str.len().min() > 0
    assert len(bad) and (bad.why.str.len() > 10).all()
    fastest = ms.plan(model, CHAT, accelerators=names[:3], rank="latency")
    assert list(fastest.latency_s) == sorted(fastest.latency_s)


def test_a_405b_does_not_fit_eight_a100_in_bf16_but_does_in_fp8():
    """Issue 5, must reach."""
    model, one = ms.model("llama-3.1-405b"), ["A100 SXM 80GB"]
    assert not ms.plan(model, ms.Inference(), accelerators=one, devices=8).fits[0]
    assert ms.plan(model, ms.Inference(weights="fp8"), accelerators=one, devices=8).fits[0]


def test_a_plan_keeps_to_a_region_and_to_small_servers():
    """Issue 5: subject to provider, region and node size; each limit is read again in the row that was accepted."""
    model, names = ms.model("llama-3.1-70b"), [H100, "A100 SXM 80GB", "MI300X"]
    regions = {row["name"]: row["us_region"] + row["cheapest_region"] for row in tables.rows("instances")}
    frame = ms.plan(model, CHAT, accelerators=names, provider="AWS", region="us-east-1")
    good, bad = frame[frame.fits], frame[~frame.fits]
    assert len(good) and all("us-east-1" in regions[name] for name in good.instance)
    assert bad.why.str.contains("has no price of AWS in us-east-1").any()
    small = ms.plan(model, CHAT, accelerators=names, node_devices=2)
    assert (small[small.fits].tensor <= 2).all() and (small.devices > 2).any()


def test_a_plan_that_no_server_can_hold_names_the_nearest():
    """A sentence with the amount that is missing, even where weights alone are too much for every layout."""
    model, training = ms.model("llama-3.1-405b"), ms.Training(sequence_tokens=1 << 17, attention="eager")
    why = ms.plan(model, training, accelerators=["T4"]).why[0]
    assert why.startswith("no layout fits; the nearest: Llama 3.1 405B on ") and "too much" in why


def test_advice_saves_what_it_says_and_harms_least_first():
    """Issue 5: single changes, least harm first, with what they save."""
    found = ms.cluster(ms.model("llama-3.1-70b"), CHAT, accelerator=H100)
    frame = ms.advise(found)
    assert list(frame.harm) == sorted(frame.harm)
    row = frame[frame.change == "a KV cache in 8 bit"].iloc[0]
    less = ms.memory(found.model, replace(CHAT, kv_cache="fp8"), found.layout).total
    assert row.saves_bytes == found.held.total - less
    assert frame[frame.change == "weights in FP8"].devices.iloc[0] < found.devices


def test_single_changes_of_one_device_say_which_makes_it_fit():
    """What is saved is the difference of two answers of `ms.memory`; one device where the change fits, else none."""
    model, asked = ms.model("llama-3.1-8b"), ms.Training(precision="bf16-mixed")
    card, held = ms.accelerator(H100), ms.memory(model, asked)
    found = {each.change: each for each in advice.on_one(model, asked, held, card)}
    assert held.total > card.usable_bytes
    changed = {words: option for words, _, option in advice.ways(asked)}
    for words, each in found.items():
        then = ms.memory(model, changed[words]).total
        assert (each.saves_bytes, each.devices) == (held.total - then, int(then <= card.usable_bytes))
    # the notebook about training: its highest moment is the update, where checkpointing changes nothing
    assert found["8-bit states of AdamW"].devices == 1 and "gradient checkpointing of every layer" not in found


def test_single_changes_of_a_layout_name_its_sharing_too():
    """ZeRO, wider and longer layouts; each saves what two answers differ by, and says how many devices it takes."""
    model, layout = ms.model("llama-3.1-70b"), ms.Layout(tensor=8, data=4)
    asked, card = ms.Training(global_batch=32, precision="bf16-mixed", implementation="megatron"), ms.accelerator(H100)
    held = ms.memory(model, asked, layout, card)
    found = {each.change: each for each in advice.on_layout(model, asked, layout, held, card)}
    shared = ms.memory(model, asked, replace(layout, zero=3, sharding="fsdp"), card).total
    assert found["copies share weights too (ZeRO stage 3)"].saves_bytes == held.total - shared
    longer = found["layers shared by 2 stages, not 1"]
    then = ms.memory(model, asked, replace(layout, pipeline=2), card).total
    assert (longer.saves_bytes, longer.devices) == (held.total - then, 64 if then <= card.usable_bytes else 0)
    assert [each.harm for each in found.values()] == sorted(each.harm for each in found.values())


@pytest.mark.parametrize("optimizer", [row["name"] for row in tables.rows("optimizers")])
def test_every_optimizer_has_changes_to_try(optimizer):
    """A change that cannot be made of it is left out; the others are there."""
    words = [each for each, _, _ in advice.ways(ms.Training(optimizer=optimizer))]
    fused = "fused" in tables.by_key("optimizers")[optimizer]["updates"].split()
    assert ("an optimizer update in one fused kernel" in words) is fused
    assert "QLoRA adapters on 4-bit weights" in words


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda m: ms.sweep(m, CHAT), "needs at least one axis"),
        (lambda m: ms.sweep(m, CHAT, users=[1]), 'no axis "users"; use'),
        (lambda m: ms.sweep(m, CHAT, sequences="1"), "list its values, as in sequences="),
        (lambda m: ms.solve(m, CHAT, H100, largest="layers"), 'cannot solve for "layers"; use'),
        (lambda m: ms.solve(m, CHAT, "T4", largest="sequences"), "too much; use more devices"),
        (lambda m: ms.plan(m, CHAT, budget=-1), "budget is -1; use a number above 0"),
        (lambda m: ms.plan(m, CHAT, rank="beauty"), 'unknown rank "beauty"'),
        (lambda m: ms.plan(m, CHAT, region="Atlantis"), 'unknown region "Atlantis"'),
        (lambda m: ms.plan(m, CHAT, node_devices=0), "node_devices is 0; use a number above 0"),
        (lambda m: ms.what_fits(H100, 0), "at least one device"),
    ],
)
def test_a_question_without_an_answer_is_refused_in_a_sentence(ask, message):
    with pytest.raises(ms.Problem, match=message):
        ask(ms.model("llama-3.1-70b"))
