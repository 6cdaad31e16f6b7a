"""How many devices at least, which servers hold them, and what these need and cost."""

from __future__ import annotations

from datetime import date

import pytest

import memscape as ms
from memscape import tables
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
