"""The page of the cluster: each number on it is asked of the package again."""

from __future__ import annotations

import csv
import io
import re

import pytest
from opened import Opened

import memscape as ms
from memscape.views import cluster_words, loop


@pytest.fixture
def page():
    return lambda query="": Opened("cluster", query)


def _file(opened, name):
    return list(csv.DictReader(io.StringIO(opened.exports[name](opened.seen))))


def test_405b_on_eight_a100_is_one_sentence_with_the_two_smallest_that_do(page):
    """811.7 GB of weights are more than 8 × 85.9 GB; in FP8 they are 406 GB."""
    opened = page("model=llama-3.1-405b&accelerator=A100 SXM 80GB&devices=8")
    answer = opened.outputs["answer"].value
    assert "Llama 3.1 405B on 8 devices (tensor 8) of A100 SXM 80GB needs" in answer
    assert re.search(r"the smallest that fit are 16 devices \([^)]*\) and 24 devices", answer)
    assert "<p class='big'>16 × A100 SXM 80GB</p>" in answer
    opened.fields["precision"].widget.value = "fp8"
    answer = opened.outputs["answer"].value
    assert "<p class='big'>8 × A100 SXM 80GB</p>" in answer and "too much" not in answer and not opened.said.value


def test_bill_on_the_page_is_the_packages(page):
    """Every line of `ms.cluster` for the same goal, in the file to every digit; the headline names the best offer."""
    opened = page("tokens=4096&sequences=64&reserve=20&provider=AWS&cents=20&pue=1.3")
    asked = ms.Inference(sequences=64, prompt_tokens=4096, output_tokens=0)
    known = {"reserve": 20, "provider": "AWS", "usd_per_kwh": 0.2, "pue": 1.3}
    bill = ms.cluster(ms.model("llama-3.1-70b"), asked, accelerator="H100 SXM 80GB", **known)
    rows = {row["line"]: row for row in _file(opened, "bill.csv")}
    assert [*rows] == [*bill.names]
    assert all(float(rows[name]["amount"]) == float(bill.amount(name).total) for name in bill.names)
    first = bill.offers[0]
    answer = opened.outputs["answer"].value
    assert f"{bill.devices} × H100 SXM 80GB" in answer and first.instance.name in answer and first.dated in answer
    assert [row["instance"] for row in _file(opened, "offers.csv")] == [each.instance.name for each in bill.offers]


def test_training_has_its_own_controls_and_the_cost_of_its_run(page):
    """6 · parameters · tokens at a known utilisation: the run has device-hours, and the rent of them."""
    opened = page("work=training&model=llama-3.1-8b&millions=100000&sequence_tokens=4096&checkpointing=1")
    shown = {name for name, field in opened.fields.items() if field.widget.layout.display != "none"}
    assert {"method", "batch", "millions", "sequence_tokens"} <= shown and not {"tokens", "precision"} & shown
    asked = ms.Training(
        sequence_tokens=4096,
        global_batch=1024,
        precision="bf16-mixed",
        implementation="megatron",
        recompute="full",
    )
    bill = ms.cluster(ms.model("llama-3.1-8b"), asked, accelerator="H100 SXM 80GB", reserve=10, tokens=100 * 10**9)
    rows = {row["line"]: float(row["amount"]) for row in _file(opened, "bill.csv")}
    assert rows["rent of the run"] == float(bill.amount("rent of the run").total)
    assert "Training Llama 3.1 8B" in opened.outputs["answer"].value


def test_plan_names_every_accelerator_and_why_not(page):
    """The plan of the package, the cheapest first; nothing is compared before it is asked for."""
    opened = page("model=llama-3.1-405b")
    assert opened.outputs["plan"].value == ""
    with pytest.raises(ms.Problem, match="nothing has been compared yet"):
        opened.exports["plan.csv"](opened.seen)
    opened.fields["rank"].widget.value = "cost"
    asked = ms.Inference(sequences=16, prompt_tokens=8192, output_tokens=0)
    frame = ms.plan(ms.model("llama-3.1-405b"), asked, reserve=10)
    rows = _file(opened, "plan.csv")
    assert [row["accelerator"] for row in rows] == list(frame.accelerator)
    opened.state.opened = ["more", "rejected"]
    shown = opened.outputs["plan"].value
    assert all(re.search(rf"<td>([0-9,]+ × )?{re.escape(name)}</td>", shown) for name in frame.accelerator)
    assert all(len(row["why"]) > 10 for row in rows if row["fits"] == "False")


def test_stale_price_is_marked_and_prices_have_their_day(page):
    """A price older than a year says so beside its day, and stands last."""
    opened = page("model=llama-3.1-8b&accelerator=H100 PCIe 80GB")
    offers = opened.seen.bill.offers
    shown = cluster_words.offers(opened.seen.bill)
    assert any(each.stale for each in offers) and shown.count("class='stale'") == sum(o.stale for o in offers[:8])
    assert all(f"price of {each.instance.price_date}" in shown for each in offers[:8])


def test_advice_names_changes_that_do_with_fewer_devices(page):
    """405B in FP8 stands on eight A100: the change that makes a smaller cluster do."""
    opened = page("model=llama-3.1-405b&accelerator=A100 SXM 80GB")
    shown = opened.outputs["advice"].value
    assert re.search(r"Weights in FP8<br><small>[^<]*</small></td><td>[^<]*</td><td><b>8 devices</b>", shown)


@pytest.mark.parametrize("name", ["t5-base", "gpt2", "bert-base-uncased", "albert-base-v2", "deepseek-v3"])
def test_page_answers_for_models_of_every_kind(page, name):
    """Encoders, learned positions, shared layers, experts: an answer or a sentence, never our mistake."""
    opened = page(f"model={name}&tokens=512&sequence_tokens=512")
    for work in ("serving", "training"):
        opened.fields["work"].widget.value = work
        assert loop.FAILED not in opened.said.value
        assert ms.model(name).label in opened.outputs["answer"].value + opened.said.value
