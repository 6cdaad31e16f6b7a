"""How many devices at least, which servers hold them, and what these need and cost."""

from __future__ import annotations

import math
from datetime import date

import numpy
import pytest

import memscape as ms
from memscape import tables
from memscape.cluster import rule
from memscape.hardware import check_rows

H100, A100 = ms.accelerator("H100 SXM 80GB"), ms.accelerator("A100 SXM 80GB")


@pytest.mark.parametrize(
    "name, precision, device, reserve, devices",
    [
        ("llama-3.1-405b", "bf16", A100, 0, 10),  # 811.7e9 bytes over 85.9e9 each
        ("llama-3.1-70b", "bf16", H100, 0, 2),  # 141.1e9 over 85.5e9
        ("gpt-oss-120b", "mxfp4", H100, 0, 1),  # the model card: fits one 80 GB card
        ("llama-3.1-8b", "bf16", H100, 10, 1),
    ],
)
def test_least_number_of_devices_is_the_rounded_up_quotient(name, precision, device, reserve, devices):
    """Published sizes over the memory that nvidia-smi reports; gpt-oss-120b on one card is its authors' claim."""
    asked = ms.Inference(prompt_tokens=128, output_tokens=0, weights=precision)
    served = ms.memory(ms.model(name), asked)
    assert ms.fewest_devices(served, device, reserve) == devices


def test_405b_in_bf16_does_not_fit_eight_80_gb_cards():
    """811,706,777,600 bytes of weights against 8 × 85,899,345,920: Meta serves it in FP8 on one such node."""
    model = ms.model("llama-3.1-405b")
    for precision, fits in (("bf16", False), ("fp8", True)):
        served = ms.memory(model, ms.Inference(prompt_tokens=2048, output_tokens=0, weights=precision))
        assert (ms.fewest_devices(served, A100) <= 8) is fits


@pytest.mark.parametrize("reserve", [-1, 91, 100, float("nan"), "ten", None])
def test_reserve_that_leaves_nothing_is_refused(reserve):
    with pytest.raises(ms.Problem, match="choose 0 to 90 percent"):
        ms.fewest_devices(ms.memory(ms.model("gpt2"), ms.Inference()), H100, reserve)


def test_only_bytes_are_held_by_devices():
    with pytest.raises(ms.Problem, match="devices hold bytes"):
        ms.fewest_devices(ms.parameters(ms.model("gpt2")), H100)


# data


def test_every_server_and_instance_is_there():
    """The reference tables: 32 servers, 227 instances of 12 providers."""
    assert len(ms.nodes()) == 32 and len(ms.instances()) == 227
    assert ms.instances()["provider"].nunique() == 12


@pytest.mark.parametrize(
    "table, column, value, said",
    [
        ("nodes", "source", "", 'nodes.csv, line 2: "DGX-1 .V100 32GB." has no "source"; add it'),
        ("nodes", "checked_on", "", 'has no "checked_on"'),
        ("instances", "checked_on", "", 'has no "checked_on"'),
        ("instances", "priced_from", "", "has a price without a day; add priced_from"),
        ("instances", "gpu", "H100", "which accelerators.csv does not list"),
    ],
)
def test_row_without_source_or_day_or_known_device_is_refused(table, column, value, said):
    row = dict(tables.rows(table)[0]) | {column: value}
    with pytest.raises(ms.Problem, match=said):
        check_rows(table, (row,))
    assert check_rows(table, tables.rows(table)) == tables.rows(table)


def test_rules_have_a_source_a_day_and_a_spread_in_order():
    known = tables.by_key("sources", "key")
    for row in tables.rows("sizing_rules"):
        assert row["source"] in known and row["checked_on"] and row["trust"] in ("high", "medium", "low"), row
        assert float(row["low"]) <= float(row["likely"]) <= float(row["high"]), row
    assert {row["source"] for row in tables.rows("instances")} <= set(known)


def test_price_older_than_a_year_is_stale():
    """Prices of AWS are of 2026-07-20, TPU v4 of 2024-12-23, Hyperstack of 2025-09 without a day."""
    today = date(2026, 11, 23)
    assert not ms.instance("p5.48xlarge").stale(today) and ms.instance("p5.48xlarge").stale(date(2027, 7, 21))
    assert ms.instance("n3-H100-SXM5x8").stale(today)
    assert ms.instances(today)["stale"].sum() < 30


def test_instance_without_a_price_says_so():
    """AWS publishes none for trn2.48xlarge; for p5e.48xlarge there is a spot price alone."""
    with pytest.raises(ms.Problem, match="AWS lists no price on demand for trn2.48xlarge, as of .*; give your own"):
        ms.instance("trn2.48xlarge").price()
    with pytest.raises(ms.Problem, match=r"spot was 17.48 USD per hour"):
        ms.instance("p5e.48xlarge").price()


# the cluster

DGX = ("DGX A100 640GB", "DGX H100", "DGX H200", "DGX B200")
LLAMA_RUN = ms.Training(
    micro_batch=1,
    sequence_tokens=8192,
    global_batch=2048,
    precision="bf16-mixed",
    gradients="fp32",
    implementation="megatron",
    recompute="light",
)
# Llama 3 paper, Table 4: 16,384 devices
LLAMA_LAYOUT = ms.Layout(tensor=8, pipeline=16, data=128, interleave=8, zero=2, sharding="fsdp", sequence_parallel=True)


def _served(name, **fields):
    return ms.model(name), ms.Inference(**fields)


def _eight(name):
    """A server of eight, out of two, so that the fabric is in the bill."""
    return ms.cluster(*_served("llama-3.1-8b"), accelerator=name, layout=ms.Layout(tensor=8, pipeline=2))


@pytest.mark.parametrize("name", DGX)
def test_dgx_comes_back_from_its_own_devices(name):
    """User guides: power, RAM, cores, NICs and heat lie in the stated range of the rules, by devices alone."""
    node = ms.node(name)
    ruled = _eight(node.accelerator)
    for line, published in (
        ("power of a node", node.power_kw),
        ("heat of a node", node.heat_btu_per_h),
        ("RAM of a node", node.ram_gb * 2**30),
        ("cores of a node", node.cores),
    ):
        amount = ruled.amount(line)
        assert amount.low <= published <= amount.high, (line, published, amount.low, amount.high)
    assert ruled.amount("fabric rate of a node").total == node.fabric_gbps
    assert ruled.amount("fabric NICs of a node").total == 8
    # the guides: two cards for users and storage in each of them
    assert ruled.amount("front-end NICs of a node").total == 2


@pytest.mark.parametrize("name", ["DGX-2", "HGX H100 8-way (Dell XE9680)", "HGX A100 8-way 80GB (Inspur NF5488A5)"])
def test_rule_of_power_holds_for_servers_it_was_not_made_from(name):
    """The rule was read off the four DGX above; these are from a datasheet of NVIDIA and MLCommons' system files."""
    node = ms.node(name)
    devices = ms.accelerator(node.accelerator).power_w * node.devices / 1000
    by = rule("node power to device power")
    assert by.low <= node.power_kw / devices <= by.high


def test_chosen_server_has_its_published_power():
    """DGX H100 user guide: 10.2 kW at most, 8 U: four to a rack are the 40.8 kW of a SuperPOD rack."""
    found = ms.cluster(*_served("llama-3.1-8b", sequences=32), node="DGX H100", layout=ms.Layout(tensor=8, data=4))
    assert found.amount("power of a node").total == 10.2
    assert found.amount("power of a rack").total == pytest.approx(40.8) and found.racks == 1
    assert found.line("heat of a node").rule.endswith("DGX H100 states 38,557")
    assert "rear-door" in found.amount("cooling of a rack").terms[0].name
    assert found.short == ()


def test_405b_in_bf16_does_not_fit_eight_and_says_what_does():
    """811.7e9 bytes of weights against 8 × 85.9e9; in FP8 it fits the same eight."""
    node, layout = "DGX A100 640GB", ms.Layout(tensor=8)
    with pytest.raises(ms.Problem) as said:
        ms.cluster(*_served("llama-3.1-405b"), node=node, layout=layout)
    assert "Llama 3.1 405B on 8 devices (tensor 8) of A100 SXM 80GB needs" in str(said.value)
    assert "too much; the smallest that fit are 16 devices" in str(said.value)
    assert "and 24 devices" in str(said.value)
    assert ms.cluster(*_served("llama-3.1-405b", weights="fp8"), node=node).devices == 8


@pytest.mark.parametrize(
    "name, precision, device, devices",
    [
        ("llama-3.1-70b", "bf16", "H100 SXM 80GB", 2),
        ("llama-3.1-70b", "bf16", "A100 SXM 80GB", 2),
        ("deepseek-v3", "fp8", "H200 SXM", 8),
        ("gpt-oss-120b", "mxfp4", "H100 SXM 80GB", 1),
        ("llama-3.1-405b", "bf16", "A100 SXM 80GB", 16),
        ("llama-3.1-405b", "bf16", "H200 SXM", 8),
        ("llama-3.1-8b", "bf16", "RTX 4090", 1),
    ],
)
def test_smallest_cluster_is_what_is_used_in_practice(name, precision, device, devices):
    """Issue 5 and the model cards: 70B on two 80 GB cards, DeepSeek-V3 on eight H200, gpt-oss-120b on one card."""
    found = ms.cluster(*_served(name, weights=precision), accelerator=device)
    assert found.devices == devices and found.spare_bytes >= 0
    assert found.held.total == ms.memory(found.model, found.workload, found.layout, device).total


def test_70b_on_two_cards_leaves_the_context_that_the_cache_says():
    """No more than what is left over the cache of one token on one device, and at least half of it."""
    model, asked = _served("llama-3.1-70b", output_tokens=0)
    found = ms.cluster(model, asked, accelerator="H100 SXM 80GB", reserve=0)
    # 2 · 80 · 8 · 128 · 2 bytes per token, over two devices
    more = found.spare_bytes // (2 * 80 * 8 * 128 * 2 // 2)
    longer = ms.Inference(output_tokens=0, prompt_tokens=asked.prompt_tokens + more // 2)
    assert more > 8192 and ms.cluster(model, longer, accelerator="H100 SXM 80GB", reserve=0).devices == 2
    longer = ms.Inference(output_tokens=0, prompt_tokens=asked.prompt_tokens + more + 1)
    assert ms.cluster(model, longer, accelerator="H100 SXM 80GB", reserve=0).devices > 2


def _llama(**known):
    model = ms.model("llama-3.1-405b")
    tokens = 15_600_000_000_000
    return ms.cluster(model, LLAMA_RUN, node="DGX H100", layout=LLAMA_LAYOUT, reserve=0, tokens=tokens, **known)


def test_llama_405b_takes_the_published_device_hours():
    """Model card: 30.84M hours; paper: 15.6T tokens at 41 % of the peak, effective training time above 90 %."""
    hours = _llama(utilisation=41, goodput=90).amount("device-hours of the run").total
    assert hours == pytest.approx(30.84e6, rel=0.10)
    # by our own estimate of a step, too
    ours = _llama(goodput=90).amount("device-hours of the run")
    assert ours.low <= 30.84e6 <= ours.high


def test_llama_405b_fails_and_saves_as_often_as_published():
    """Llama 3 paper, section 3.3.4: 419 unexpected stops in 54 days, effective training time above 90 %."""
    found = _llama()
    assert found.amount("failures per month").total == pytest.approx(419 / 54 * 730 / 24, rel=0.01)
    assert found.amount("time between failures").total == pytest.approx(3.1, rel=0.01)
    assert found.amount("time lost to failures").total < 10


def test_checkpoint_interval_is_young_and_daly():
    """Young 1974: the square root of twice the time to write times the time between failures."""
    found = _llama()
    write, between = found.amount("time of a checkpoint").total, found.amount("time between failures").total
    assert found.amount("checkpoint interval").total == pytest.approx(math.sqrt(2 * write * between * 3600))


@pytest.mark.parametrize("nodes, leaves, spines", [(2, 1, 0), (32, 8, 4), (64, 16, 8), (128, 32, 16), (256, 64, 32)])
def test_fabric_is_that_of_a_superpod(nodes, leaves, spines):
    """SuperPOD reference architecture: 32 nodes have 8 leaves and 4 spines, and units add up."""
    model, asked = _served("llama-3.1-8b", sequences=nodes)
    layout = ms.Layout(tensor=8, data=nodes)
    switches = ms.cluster(model, asked, node="DGX H100", layout=layout).amount("switches").by("name")
    assert (switches["leaves"], switches.get("spines", 0)) == (leaves, spines)


def test_rent_is_the_price_times_the_instances():
    """AWS list price of 2026-07-20: 55.04 USD per hour; two of them for sixteen devices."""
    asked = _served("llama-3.1-405b")
    found = ms.cluster(*asked, node="p5.48xlarge", today=date(2026, 11, 23))
    assert found.devices == 16 and found.amount("rent per hour").total == 2 * 55.04
    assert found.amount("rent per month").total == pytest.approx(2 * 55.04 * 730)
    assert "price of 2026-07-20" in found.line("rent per hour").rule
    later = ms.cluster(*asked, node="p5.48xlarge", today=date(2027, 11, 23))
    assert "stale: older than a year" in later.line("rent per hour").rule and later.offers[0].stale


def test_offers_hold_a_tensor_group_and_come_cheapest_first():
    found = ms.cluster(*_served("llama-3.1-405b", weights="fp8"), accelerator="H100 SXM 80GB", today=date(2026, 11, 23))
    fresh = [offer.usd_per_hour.total for offer in found.offers if not offer.stale]
    assert fresh == sorted(fresh) and all(offer.instance.devices >= 8 for offer in found.offers)
    assert [offer.stale for offer in found.offers] == sorted(offer.stale for offer in found.offers)
    # snapshots that may be of September 2025
    stale = {offer.instance.name for offer in found.offers if offer.stale}
    assert stale == {"n3-H100-SXM5x8", "gpu-h100-sxm_8gpu-128vcpu-1600gb"}
    only = ms.cluster(found.model, found.workload, accelerator="H100 SXM 80GB", provider="Azure")
    assert {offer.instance.provider for offer in only.offers} == {"Azure"}


def test_a_million_tokens_cost_the_hours_that_they_take():
    """The definition: rent of an hour over the tokens of an hour; tokens from the time of a request."""
    found = ms.cluster(*_served("llama-3.1-70b", sequences=16, output_tokens=512), accelerator="H200 SXM")
    time = ms.performance(found.model, found.workload, found.accelerator, found.layout)
    tokens = 3600 * 16 * 512 / time.request_s
    assert found.amount("tokens per hour").total == pytest.approx(tokens)
    cost = found.amount("rent per hour").total / tokens * 1e6
    assert found.amount("rent per million output tokens").total == pytest.approx(cost)


def test_energy_and_carbon_follow_from_power():
    """Physics: kWh are kW times hours, BTU/h 3412.14 per kW, kg CO2e kWh times the grid's intensity."""
    found = ms.cluster(*_served("llama-3.1-70b"), accelerator="H100 SXM 80GB", pue=1.2, usd_per_kwh=0.1, grid="Poland")
    site = found.amount("average power").total * 1.2
    assert found.amount("average power of the site").total == pytest.approx(site)
    assert found.amount("energy per month").total == pytest.approx(site * 730)
    assert found.amount("CO2e per month").total == pytest.approx(site * 730 * 0.65)
    assert found.amount("electricity per hour").total == pytest.approx(site * 0.1)
    assert found.amount("heat in BTU/h").total == pytest.approx(3412.14 * found.amount("heat").total)


def test_offloaded_states_are_in_the_ram():
    """ZeRO-Offload: what the devices of a node keep in RAM comes on top of the rule."""
    model = ms.model("llama-3.1-8b")
    training = ms.Training(precision="bf16-mixed", recompute="full")
    shared = {"data": 8, "zero": 2}
    plain = ms.cluster(model, training, node="DGX H100", layout=ms.Layout(**shared))
    away = ms.Layout(**shared, offload_optimizer="cpu")
    found = ms.cluster(model, training, node="DGX H100", layout=away)
    kept = ms.host_memory(model, training, away).total
    more = found.amount("RAM of a node").by("name")["offloaded from the devices"]
    assert more == pytest.approx(8 * kept * 1.1)
    assert found.amount("RAM of a node").total >= plain.amount("RAM of a node").total


@pytest.mark.parametrize("name", sorted(tables.by_key("accelerators")))
def test_every_line_opens_into_named_factors_with_a_source(name):
    """STYLE 4: each factor is in the glossary, each source resolves, the likely amount lies in its spread."""
    symbols, sources = tables.by_key("symbols"), tables.by_key("sources", "key")
    model = ms.model("llama-3.1-8b")
    for asked, known in ((ms.Inference(), {}), (ms.Training(recompute="full"), {"tokens": 10**9})):
        found = ms.cluster(model, asked, accelerator=name, **known)
        for line in found.lines:
            assert line.rule and line.amount.terms, line.name
            for term in line.amount:
                assert set(term.factors) <= set(symbols) and term.source in sources, (line.name, term)
                assert term.low <= term.amount * 1.000001 and term.amount <= term.high * 1.000001, (line.name, term)
        # what is not there says why
        missing = {"rent per hour", "hardware", "power of a node"} - set(found.names)
        assert not missing or found.unknown


@pytest.mark.parametrize("name", sorted(tables.by_key("nodes")))
def test_every_server_holds_a_small_model(name):
    found = ms.cluster(*_served("llama-3.1-8b"), node=name)
    assert found.server.name == name and found.nodes == 1
    assert found.amount("power of a node").total == ms.node(name).power_kw


def test_training_finds_a_layout_that_fits():
    """70.6e9 · 18 bytes of states (bf16 weights and gradients, fp32 master and Adam) over 85.5e9: more than 14."""
    training = ms.Training(precision="bf16-mixed", recompute="full", sequence_tokens=4096)
    found = ms.cluster(ms.model("llama-3.1-70b"), training, accelerator="H100 SXM 80GB")
    assert found.devices >= 14 and found.devices % 8 == 0
    assert found.held.total <= found.room


# what cannot be

H100_NAME = "H100 SXM 80GB"


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "a cluster needs an accelerator or a node"),
        ({"accelerator": "H100"}, 'unknown accelerator "H100"'),
        ({"node": "DGX H10"}, 'unknown node or instance "DGX H10"; did you mean "DGX H100"'),
        ({"node": "DGX A100 640GB", "accelerator": H100_NAME}, 'has A100 SXM 80GB, not H100 SXM 80GB; use "DGX H100"'),
        ({"node": "trn2.48xlarge"}, "AWS lists no price on demand for trn2.48xlarge"),
        ({"accelerator": H100_NAME, "budget": -5}, "budget is -5; use a number above 0"),
        ({"accelerator": H100_NAME, "budget": float("nan")}, "budget is nan; use a number above 0"),
        ({"accelerator": H100_NAME, "budget": 1}, "costs 2.29 USD per hour, 1.29 above the budget of 1.00"),
        ({"accelerator": "DGX Spark", "provider": "AWS"}, "unknown accelerator"),
        ({"accelerator": "MI325X", "budget": 100}, "no offer for 1 × MI325X has a price, so a budget cannot be kept"),
        ({"accelerator": H100_NAME, "provider": "Amazon"}, 'unknown provider "Amazon"'),
        ({"accelerator": H100_NAME, "tokens": 10**9}, "tokens is what a training run takes, and this is serving"),
        ({"accelerator": H100_NAME, "usd_per_hour": 3}, "usd_per_hour is the price of a cloud instance; name one"),
        ({"accelerator": H100_NAME, "reserve": 95}, "reserve is 95; use a whole number of percent from 0 to 90"),
        ({"accelerator": H100_NAME, "grid": "Atlantis"}, 'unknown grid intensity "Atlantis"'),
        ({"accelerator": H100_NAME, "pue": 0.9}, "pue is 0.9; use a number from 1"),
        ({"accelerator": H100_NAME, "usd_per_kwh": "dear"}, "usd_per_kwh is dear; use a number above 0"),
        ({"accelerator": H100_NAME, "tokens": 0}, "tokens is 0; use the whole number of tokens"),
        ({"accelerator": H100_NAME, "goodput": 101}, "goodput is 101; use percent above 0 and up to 100"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(options, said):
    with pytest.raises(ms.Problem, match=said):
        ms.cluster(*_served("llama-3.1-8b"), **options)


def test_no_cluster_fits_names_the_nearest():
    """A million tokens of one sequence keep more on each device than a T4 has, however many there are."""
    training = ms.Training(sequence_tokens=1_000_000, attention="eager")
    with pytest.raises(ms.Problem, match=r"no layout fits; the nearest: Llama 3.1 8B on .* T4 needs .* too much"):
        ms.cluster(ms.model("llama-3.1-8b"), training, accelerator="T4")


def test_what_no_device_can_do_is_refused_for_its_own_reason():
    """No layout is the reason that ALBERT cannot be trained so: the sentence of one device is said."""
    asked = ms.Training(sequence_tokens=512, method="qlora", recompute="full")
    with pytest.raises(ms.Problem) as alone:
        ms.memory(ms.model("albert-base-v2"), asked)
    with pytest.raises(ms.Problem) as said:
        ms.cluster(ms.model("albert-base-v2"), asked, accelerator=H100_NAME)
    assert str(said.value) == str(alone.value)


def test_no_users_is_refused_before_anything_is_computed():
    with pytest.raises(ms.Problem, match="sequences is 0; use whole numbers from 1"):
        ms.Inference(sequences=0)


def test_array_is_refused():
    asked = ms.Inference(prompt_tokens=numpy.array([128, 256]))
    with pytest.raises(ms.Problem, match='a cluster is worked out for one workload, and "prompt_tokens" is an array'):
        ms.cluster(ms.model("llama-3.1-8b"), asked, accelerator=H100_NAME)


def test_missing_line_says_why():
    found = ms.cluster(*_served("llama-3.1-8b"), accelerator="TPU v5e")
    with pytest.raises(ms.Problem, match="the power of TPU v5e is not published"):
        found.amount("power of a node")
    spark = ms.cluster(*_served("llama-3.1-8b"), node="DGX Spark")
    with pytest.raises(ms.Problem, match="is the RAM of its host; there is no other to plan"):
        spark.amount("RAM of a node")


def test_own_price_stands_for_an_instance_without_one():
    found = ms.cluster(*_served("llama-3.1-8b"), node="trn2.48xlarge", usd_per_hour=20)
    assert found.amount("rent per hour").total == 20
