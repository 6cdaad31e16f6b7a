"""What others say against what the package computes: an article, rules of thumb, measurements, and the page of them."""

from __future__ import annotations

import csv
import io

import pytest
from opened import Opened

import memscape as ms
from memscape import tables
from memscape.memory.rules_of_thumb import rules
from memscape.reality import claims, measurements
from memscape.reality.claims import VERDICTS

CLAIMS = {each.name: each for each in claims()}
SERVED = ms.Inference(sequences=16, prompt_tokens=8192, output_tokens=0)
TRAINED = ms.Training(sequence_tokens=8192, precision="bf16-mixed")
# what the article names, each with a word of its claim
COVERED = {
    "280 GB": ["280"], "140 GB": ["140"], "134.2 MB": ["134.2"], "67.1 MB": ["67.1"], "25.8 GB": ["25.8"],
    "12.9 GB": ["12.9"], "150 to 170 GB": ["150"],
    "405B": ["405-gpus", "405-epyc", "405-ddr4", "405-nvme", "405-100g", "405-power", "405-liquid"],
    "70B": ["70-gpus", "70-epyc", "70-ram-512", "70-nvme", "70-100g", "70-power", "70-liquid"],
    "clouds": ["aws-40", "aws-80", "google-16", "azure-40"],
    "optimisations": ["fp16", "model-parallel", "loading", "checkpointing"],
    "families": ["llama", "gpt-j", "bloom", "opt", "t5", "roberta", "albert", "bert", "megatron", "neox"],
}  # fmt: skip


@pytest.mark.parametrize("names", COVERED.values(), ids=[*COVERED])
def test_article_is_covered(names):
    """Its numbers, its servers, its clouds, its optimisations and its ten families: each is a row."""
    assert set(names) <= set(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=[*CLAIMS])
def test_verdict_is_what_the_numbers_say(claim):
    """A claim is right where its number agrees with ours as the row's relation asks, and only there."""
    assert claim.verdict in VERDICTS and len(claim.why) > 5
    assert claim.source in tables.by_key("sources", "key")
    assert (claim.holds is None) == (claim.ours is None)
    if claim.holds is not None:
        assert claim.holds == (claim.verdict == "right"), (claim.theirs, claim.ours)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("280", 70.553706496 * 4),  # the published count
        ("134.2", 2048 * 16384 * 4 / 1e6),
        ("25.8", 2 * 96 * 2048 * 16384 * 4 / 1e9),
        ("optimizer", 6.0),  # 12 bytes over 2: Rajbhandari et al. 2020
        ("training", 8.0),  # 2 + 2 + 12 over 2
        ("405-gpus", 16),  # two servers of eight: 811.7e9 bytes against 8 × 85.9e9
        ("405-epyc", 256),  # AMD: 64 cores, two threads each, two processors
        ("azure-40", 640),  # Microsoft: Standard_ND96amsr_A100_v4 has eight of 80 GB
    ],
)
def test_our_number_is_what_a_hand_calculation_gives(name, by_hand):
    assert CLAIMS[name].ours == pytest.approx(by_hand, rel=1e-6)


def test_published_measurements_have_a_source_and_a_reason_where_we_are_off():
    found = measurements()
    assert {each.kind for each in found} == {"run", "pool", "file"} and all(each.source for each in found)
    assert all(each.why for each in found if abs(each.error) > 0.2 or each.fits is False)
    assert all(abs(each.error) < 0.01 for each in found if each.kind != "run")


@pytest.mark.parametrize("asked", [SERVED, TRAINED], ids=["serving", "training"])
@pytest.mark.parametrize("name", ["llama-3.1-70b", "gpt-j-6b", "mixtral-8x7b", "t5-base", "deepseek-v3"])
def test_term_that_a_rule_gets_most_wrong_is_the_largest_difference(name, asked):
    """Asked again, phase by phase: no other phase of the rule is further off."""
    model = ms.model(name)
    exact = ms.memory(model, asked)
    for rule in rules(model, asked):
        off = {
            phase: abs(rule.answer.only(phase=phase).total - exact.only(phase=phase).total)
            for phase in (*rule.answer.by("phase"), *exact.by("phase"))
        }
        assert off[rule.worst(exact)] == max(off.values())


def test_rules_say_what_they_say():
    """By hand for Llama 3.1 70B: 70,553,706,496 parameters, 80 layers of 8,192, 16 × 8,192 tokens."""
    model, number = ms.model("llama-3.1-70b"), 70_553_706_496
    wide = 2 * 80 * 8192 * 16 * 8192 * 2
    served = {rule.name: rule.answer.total for rule in rules(model, SERVED)}
    assert list(served.values()) == [2 * number, pytest.approx(2.4 * number), 2 * number + wide, 2 * number + wide]
    trained = {rule.name: rule.answer.total for rule in rules(model, TRAINED)}
    assert trained["16 bytes a parameter"] == 16 * number
    assert trained["16 bytes and 34·s·b·h"] == 16 * number + 34 * 8192 * 8192 * 80
    assert trained["Three times the weights"] == 6 * number + 2 * 80 * 8192 * 8192 * 2


@pytest.fixture
def page():
    return lambda query="": Opened("reality_check", query)


def test_page_shows_the_exact_answer_and_how_far_off_the_rules_are(page):
    opened = page("model=llama-3.1-8b&work=training&sequence_tokens=8192&micro_batch=2")
    model, asked = ms.model("llama-3.1-8b"), ms.Training(2, 8192, precision="bf16-mixed")
    exact = ms.memory(model, asked)
    offs = [rule.answer.total / exact.total - 1 for rule in rules(model, asked)]
    answer = opened.outputs["answer"].value
    assert ms.units.amount(exact.total) in answer and f"<b>{min(offs):+.0%}</b> to <b>{max(offs):+.0%}</b>" in answer
    assert not opened.said.value


@pytest.mark.parametrize("verdict", VERDICTS)
def test_claims_of_one_verdict_are_shown_alone(page, verdict):
    shown = page(f"verdict={verdict}").outputs["claims"].value
    for claim in CLAIMS.values():
        assert (f"data-part='{claim.name}'" in shown) == (claim.verdict == verdict)


def test_files_hold_every_claim_and_measurement(page):
    opened = page()
    rows = {
        name: list(csv.DictReader(io.StringIO(opened.exports[name](opened.seen))))
        for name in ("rules.csv", "article.csv", "measurements.csv")
    }
    assert len(rows["article.csv"]) == len(CLAIMS) and len(rows["measurements.csv"]) == len(measurements())
    assert {row["rule"] for row in rows["rules.csv"]} == {rule.name for rule in opened.seen.rules}
