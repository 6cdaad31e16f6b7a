"""Every model of the catalogue on every page: who picks a model gets its answer, or one sentence about it."""

from __future__ import annotations

import json
import re

import pytest
from opened import Opened

import memscape as ms
from memscape import tables
from memscape.views import loop, pages
from memscape.views.outputs import Chart

MODELS = tables.by_key("models", "id")
WORKS = dict.fromkeys(("cluster", "parallelism", "reality_check", "what_if"), ("serving", "training"))
# every third model stands for the others where a page takes longest
STRIDE = {("what_if", "training"): 5, ("cluster", "training"): 3, ("activations", ""): 3}


@pytest.mark.parametrize(("name", "work"), [(name, work) for name in pages.__all__ for work in WORKS.get(name, ("",))])
def test_page_answers_for_every_model(name, work):
    """The headline names the model that was picked; where it cannot be, the sentence does."""
    opened = Opened(name, f"work={work}" if work else "")
    for model in [*MODELS][:: STRIDE.get((name, work), 1)]:
        opened.fields["model"].widget.value = MODELS[model]["title"]
        said, label = opened.said.value, ms.model(model).label
        alert = "role='alert'" in said
        assert loop.FAILED not in said
        assert label in (said if alert else opened.answer), (model, said)


def test_length_ends_where_positions_do_and_comes_back():
    """GPT-2 has 1,024 positions (its config); the length that was asked for before is there again for Llama."""
    opened = Opened("training", "model=llama-3.1-8b&sequence_tokens=8192")
    length, model = opened.fields["sequence_tokens"].widget, opened.fields["model"].widget
    model.value = MODELS["gpt2"]["title"]
    assert length.value == length.options[-1][1] == 1024
    assert re.search(r"Tokens in each sequence moved from 8,192 to 1,024: that is what .* allows", opened.said.value)
    model.value = MODELS["llama-3.1-8b"]["title"]
    assert length.value == 8192


def test_rank_ends_where_the_smallest_matrix_does_and_comes_back():
    """Hu et al. 2021: r ≤ min(d, k). Qwen2.5 0.5B has keys of 2 heads of 64 (its config), so 128."""
    opened = Opened("training", "model=llama-3.1-8b&method=lora&lora_rank=256")
    rank, model = opened.fields["lora_rank"].widget, opened.fields["model"].widget
    model.value = MODELS["qwen2.5-0.5b"]["title"]
    assert rank.value == rank.options[-1][1] == 128 and "moved from 256 to 128" in opened.said.value
    model.value = MODELS["llama-3.1-8b"]["title"]
    assert rank.value == 256


def test_link_beyond_the_positions_is_clamped_with_a_word():
    opened = Opened("training", "model=gpt2&sequence_tokens=4096")
    assert opened.fields["sequence_tokens"].widget.value == 1024
    assert "nearest possible value, 1024, is used" in opened.said.value


def test_a_change_that_moves_sliders_is_calculated_once(monkeypatch):
    """Tensor, pipeline and length all move for GPT-2 XL: one calculation, not one for each."""
    counted = []
    original = ms.performance
    monkeypatch.setattr(ms, "performance", lambda *given: counted.append(given) or original(*given))
    opened = Opened("parallelism", "model=llama-3.1-70b&tensor=8&pipeline=16&sequence_tokens=8192")
    counted.clear()
    opened.fields["model"].widget.value = MODELS["gpt2-xl"]["title"]
    assert len(counted) == 1 and "moved from" in opened.said.value


@pytest.mark.parametrize(("name", "work"), [(name, work) for name in pages.__all__ for work in WORKS.get(name, ("",))])
def test_every_amount_follows_the_unit_that_is_shown(name, work):
    """IEC 80000-13: in GiB no figure is left in GB but those that stand beside one, and what a device is sold with."""
    opened = Opened(name, f"unit=GiB&work={work}")
    opened.fields["unit"].widget.value = "GB"
    opened.fields["unit"].widget.value = "GiB"
    for chart in opened.charts:
        assert not re.search(r"\b[MGT]B\b", re.sub(r"\d+GB", "", json.dumps(chart.spec))), name
    words = " ".join(each.value for each in opened.results if not isinstance(each, Chart))
    beside = re.sub(r"[\d.,]+ [kMGTP]i?B \([\d.,]+ [kMGTP]i?B\)", "", words)
    said = re.sub(
        r"\([\d.,]+ [kMGT]B\)|sold with \d+ GB|GB(?=/s)|drives of [\d.]+ TB", "", re.sub("<[^>]*>", " ", beside)
    )
    said = said.partition("An article of 2024")[0]  # others' numbers are in others' units
    assert re.search(r"\d [MGT]iB", words) and not re.findall(r".{40}\d [MGT]B\b", said)


def test_memory_as_sold_is_what_the_box_says():
    """An H100 of 80 GB: 80e9 bytes as it is sold, 85.5e9 as its driver reports."""
    opened = Opened("index", "model=llama-3.1-70b&memory_as=sold")
    assert opened.seen.device.usable_bytes == 80 * 10**9
    opened.fields["memory_as"].widget.value = "usable"
    assert opened.seen.device == ms.accelerator("H100 SXM 80GB")


def test_scenario_has_the_name_that_its_reader_gave_it_as_text():
    """The name stands over the answer and in the address; a link may hold anything, which is shown as it is."""
    opened = Opened("index", "name=%3Cimg+src%3Dx%3E+our+chat")
    assert "&lt;img src=x&gt; our chat" in opened.outputs["scenario"].value
    opened.fields["name"].widget.value = "A" * 500
    assert opened.outputs["scenario"].value.count("A") == 80
    opened.fields["name"].widget.value = ""
    assert opened.outputs["scenario"].value == "" and "name=" not in opened.state.query
