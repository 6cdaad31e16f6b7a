"""Views: what the pages say and draw equals what the package computes."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import plotly.graph_objects
import pytest
from opened import Opened
from published import ROOT

import memscape as ms
from memscape import tables, units, workload
from memscape.catalog import common_precisions, weight_precisions
from memscape.memory.rules_of_thumb import by_layer
from memscape.memory.step import MOMENTS
from memscape.memory.timeline import each_stage
from memscape.views import (
    activation_pages,
    courses,
    devices,
    figures,
    pages,
    scenario,
    text,
    training_pages,
)
from memscape.views.formulas import mathml
from memscape.views.outputs import Chart
from memscape.workload import ENGINES

STYLES = ROOT / "src" / "memscape" / "dashboard" / "share" / "jupyter" / "voila" / "templates" / "memscape" / "static"


@pytest.fixture(params=["index", "parameters", "activations", "kv_cache", "training"])
def page(request):
    """Each page, as a notebook builds it, without a scenario in the address."""
    return Opened(request.param)


class Balanced(HTMLParser):
    """Finds a tag that is not closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _check(page):
    assert "role='alert'" not in page.said.value, page.said.value
    for each in page.results:
        if isinstance(each, Chart):
            plotly.graph_objects.Figure(each.spec)  # raises on a property that plotly does not know
            assert len(each.alt) > 20
        else:
            parser = Balanced()
            parser.feed(each.value)
            assert not parser.open


def test_page_shows_a_result_before_anything_is_touched(page):
    assert re.search(r"<p class='big'>.*\d", page.answer)
    _check(page)


def test_every_control_can_go_to_both_ends(page):
    """Each control alone, first and last value: no sentence beside the controls, every figure one that plotly knows."""
    _shorten(page)
    for control in page.fields.values():
        before = control.widget.value
        options = getattr(control.widget, "options", ("", "words") if control.name == "name" else (False, True))
        for option in (options[0], options[-1]):
            control.widget.value = option[1] if isinstance(option, tuple) else option
            _check(page)
        control.widget.value = before


def _shorten(page):
    """Ask for a sequence that every model can read, where a page asks for one."""
    if "sequence_tokens" in page.fields:
        page.set(sequence_tokens=128)


def test_every_model_and_precision_has_a_page(page):
    _check(page)
    _shorten(page)
    for name in ("model", "precision", "kv_cache", "training_precision", "optimizer"):
        if name in page.fields:
            widget = page.fields[name].widget
            for option in widget.options:
                widget.value = option[1] if isinstance(option, tuple) else option
                assert "role='alert'" not in page.said.value, (option, page.said.value)


def test_overview_says_what_the_package_computes():
    """The headline and the function, for a scenario that is not the one a page opens with."""
    page = Opened("index")
    page.set(model="Llama 3.1 70B", precision="Q4_K_M", tokens=32768, sequences=64, kv_cache="q8_0")
    asked = ms.Inference(sequences=64, prompt_tokens=32768, output_tokens=0, weights="Q4_K_M", kv_cache="q8_0")
    served = ms.memory(ms.model("llama-3.1-70b"), asked)
    devices = ms.fewest_devices(served, ms.accelerator("H100 SXM 80GB"))
    assert f"{devices} × H100 SXM 80GB" in page.answer
    assert ms.units.amount(served.total) in page.answer
    (bar,) = page.charts[0].spec["data"]
    sizes = dict(zip(bar["marker"]["color"], bar["x"], strict=True))
    assert sum(sizes.values()) - sizes["var(--part-free)"] == pytest.approx(served.total / 1e9)


def test_parameters_page_says_the_exact_count():
    page = Opened("parameters")
    page.set(model="DeepSeek V3 / R1")
    assert "671,026,404,352" in page.answer
    page.set(depth=200)
    assert "671,026,404,352" not in page.answer


def test_cache_page_says_the_exact_bytes():
    """Zhao et al. 2025, Table 1: 516,096 bytes for a token of Llama 3.1 405B."""
    page = Opened("kv_cache")
    assert "516,096 bytes" in page.answer
    page.set(tokens=128, sequences=1)
    assert f"{516_096 * 128:,} bytes" in page.answer


def _said(text_of_page):
    """The words of a page without its tags."""
    return re.sub("<[^>]*>", "", text_of_page)


@pytest.mark.parametrize("values", [
    {},
    {"attention": "eager", "micro_batch": 4, "sequence_tokens": 512},
    {"checkpointing": True, "training_precision": "fp32"},
    {"training_precision": "bf16-autocast", "sequence_tokens": 128},
])  # fmt: skip
def test_activations_page_says_the_exact_bytes(values):
    """The headline, the marked bar and the table of tensors are what the package counts."""
    page = Opened("activations")
    page.set(**values)
    asked = ms.Training(
        micro_batch=values.get("micro_batch", 1),
        sequence_tokens=values.get("sequence_tokens", 2048),
        precision=values.get("training_precision", "bf16"),
        attention=values.get("attention", "sdpa"),
        recompute="full" if values.get("checkpointing") else "none",
    )
    kept = ms.activations(ms.model("llama-3.1-8b"), asked)
    assert f"{kept.total:,} bytes" in page.answer
    chart = page.charts[0].spec
    ((name, marked),) = [row for row in chart["layout"]["meta"]["rows"] if "▸" in row[1]]
    assert marked.endswith(ms.units.amount(kept.total))
    scale = {"MB": 1e6, "GB": 1e9}[chart["layout"]["xaxis"]["title"]["text"]]
    (bar,) = chart["data"]
    drawn = sum(size for row, size in zip(bar["y"], bar["x"], strict=True) if row == name)
    assert drawn * scale == pytest.approx(kept.total)
    for term in kept:
        assert term.because in html.unescape(page.outputs["tensors"].value)
    layers = by_layer(kept)
    assert sum(count * one.total for (_, count), one in layers.items()) == kept.total


def test_ways_to_count_are_the_rule_the_paper_and_transformers():
    """Korthikanti et al. 2022, Table 2: s·b·h·(34 + 5·a·s/h) bytes in each layer of GPT-3, and what stands around."""
    gpt3 = ms.model("megatron-gpt3-175b")
    seen = activation_pages._kept(gpt3, 1, 2048, "bf16", "sdpa", False, True)
    assert list(seen.ways) == list(activation_pages.COUNTED)
    ends = 2048 * 12288 * (1 + 4) + 2048 * 51200 * 4
    assert seen.ways["Paper"].total == 96 * (34 * 2048 * 12288 + 5 * 96 * 2048**2) + ends
    assert seen.ways["Two tensors"].total == 2 * 96 * 2048 * 12288 * 2
    assert seen.ways["Eager"].total > seen.ways["Fused kernel"].total > seen.ways["Checkpointed"].total


def test_what_cannot_be_counted_is_left_out_with_a_word():
    """T5 has an encoder, which the paper does not cover; transformers cannot checkpoint ALBERT."""
    for model, missing in (("T5 base", "Paper"), ("ALBERT base v2", "Checkpointed")):
        page = Opened("activations")
        page.set(sequence_tokens=512)
        page.set(model=model)
        assert not page.said.value
        assert f"{missing} is not shown: " in page.outputs["notes"].value


@pytest.mark.parametrize("values", [
    {},
    {"method": "lora", "lora_rank": 64, "checkpointing": True},
    {"method": "qlora", "micro_batch": 4, "sequence_tokens": 512},
    {"training_precision": "bf16-mixed", "optimizer": "muon"},
    {"optimizer": "sgd", "attention": "eager", "update": "foreach"},
])  # fmt: skip
def test_training_page_says_the_highest_moment(values):
    """The headline, the bars and the table are `ms.memory` and `ms.timeline`; the device holds it or it does not."""
    page = Opened("training")
    page.set(**values)
    given = {name: value for name, value in values.items() if name not in ("training_precision", "checkpointing")}
    asked = ms.Training(
        **{"micro_batch": 1, "sequence_tokens": 2048} | given,
        precision=values.get("training_precision", "bf16"),
        recompute="full" if values.get("checkpointing") else "none",
    )
    model, device = ms.model("llama-3.1-8b"), ms.accelerator("H100 SXM 80GB")
    peak, moments = ms.memory(model, asked), ms.timeline(model, asked)
    assert f"{peak.total:,} bytes" in page.answer
    fits = f"fits on one {device.name}, with {ms.units.amount(device.usable_bytes - peak.total)} to spare"
    lacks = f"does not fit on one {device.name}: {ms.units.amount(peak.total - device.usable_bytes)} are missing"
    assert (fits if peak.total <= device.usable_bytes else lacks) in _said(page.answer)
    course = page.charts[1].spec
    scale = {"GB": 1e9, "TB": 1e12}[course["layout"]["yaxis"]["title"]["text"]]
    (bar,) = [each for each in course["data"] if each["type"] == "bar"]
    heights: dict[float, float] = {}
    for place, size in zip(bar["x"], bar["y"], strict=True):
        heights[place] = heights.get(place, 0) + size * scale
    assert [heights[place] for place in sorted(heights)] == pytest.approx([alive.total for alive in moments.values()])
    for alive in moments.values():
        assert ms.units.amount(alive.total) in page.outputs["moments"].value
    assert training_pages.MOMENTS[peak.notes[0].split()[4]] in page.answer


def test_states_of_optimizers_are_the_packages():
    """A chosen optimizer that is not among the usual ones is drawn too."""
    page = Opened("training")
    page.set(optimizer="adadelta")
    (bar,) = page.charts[2].spec["data"]
    drawn = dict(zip(bar["y"], bar["x"], strict=True))
    assert drawn["SGD"] == 0 and len(drawn) == len(training_pages.OPTIMIZERS) + 1
    states = ms.training_states(ms.model("llama-3.1-8b"), ms.Training(optimizer="adadelta"))
    assert drawn["Adadelta"] * 1e9 == pytest.approx(states.only(phase="optimizer_states").total)


def test_words_name_everything_that_the_package_offers():
    """DESIGN: one word per idea; a page offers each choice of Training and names each moment of a step."""
    assert tuple(scenario.TRAINED_IN) == workload.TRAINING_PRECISIONS
    assert set(scenario.ATTENTION) == set(workload.ATTENTION)
    assert tuple(scenario.METHODS) == workload.METHODS
    assert tuple(training_pages.UPDATES) == workload.UPDATES
    assert tuple(training_pages.MOMENTS) == MOMENTS


def test_axis_rests_while_a_slider_moves_a_little():
    """A moving axis hides change: it ends at one of a few round numbers."""
    ends = [courses.nice_end(value) for value in (1, 1.1, 66.3, 70, 0.51, 8.1e4, 0)]
    assert ends == pytest.approx([1, 1.5, 80, 80, 0.6, 1e5, 1])


def _notebook(name):
    """The prose of a notebook, and the words of its exercises."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    asked = [row for row in tables.rows("exercises") if row["page"] == name.partition("_")[2]]
    return " ".join(" ".join([*prose, *(f"{row['question']} {row['why']}" for row in asked)]).split())


def test_numbers_in_the_notebook_about_activations_are_the_packages():
    """What the prose and the exercises quote for Llama 3.1 8B."""
    prose, model = _notebook("02_activations"), ms.model("llama-3.1-8b")
    eager, long = (ms.activations(model, ms.Training(1, tokens, attention="eager")) for tokens in (2048, 4096))
    scores = sum(term.amount for term in eager if "key_tokens" in term.factors)
    parts = (scores, eager.total - scores, eager.total, long.total)
    assert [ms.units.amount(each) for each in parts] == ["25.8 GB", "15.1 GB", "40.8 GB", "133 GB"]
    fused, longer = (ms.activations(model, ms.Training(1, tokens)).total for tokens in (2048, 4096))
    assert (ms.units.amount(fused), ms.units.amount(longer)) == ("14.3 GB", "28.6 GB")
    checkpointed = ms.activations(model, ms.Training(1, 8192, recompute="full"))
    inputs, loss = sorted(checkpointed, key=lambda term: term.amount)[-2:]
    copies = ms.activations(model, ms.Training(1, 128, precision="bf16-autocast"))
    copied = sum(term.amount for term in copies if "weight copy" in term.name)
    for quoted in (inputs.amount, loss.amount, copied):
        assert f"{quoted:,} bytes" in prose
    for quoted in ("keeps 40.8 GB", "25.8 GB are scores", "2 · 15.1 GB", "14.3 GB", "28.6 GB", "of 6.62 GB in all"):
        assert quoted in prose
    assert ms.units.amount(checkpointed.total) == "6.62 GB"


@pytest.mark.parametrize(("quoted", "asked"), [
    ("66.3 GB", {}),
    ("80.3 GB", {"update": "foreach"}),
    ("10.5 GB", {"method": "qlora", "recompute": "full"}),
    ("135 GB", {"precision": "bf16-mixed"}),
    ("82.7 GB", {"precision": "bf16-mixed", "optimizer": "adamw-8bit"}),
    ("82.0 GB", {"micro_batch": 2}),
    ("116 GB", {"micro_batch": 4}),
    ("66.3 GB", {"micro_batch": 2, "recompute": "full"}),
    ("82.4 GB", {"micro_batch": 8, "recompute": "full"}),
    ("117 GB", {"micro_batch": 16, "recompute": "full"}),
])  # fmt: skip
def test_peaks_in_the_notebook_about_training_are_the_packages(quoted, asked):
    """What the prose, the exercises and the folded answers quote for Llama 3.1 8B with sequences of 2,048 tokens."""
    asked = ms.Training(**{"micro_batch": 1, "sequence_tokens": 2048} | asked)
    assert ms.units.amount(ms.memory(ms.model("llama-3.1-8b"), asked).total) == quoted
    assert quoted in _notebook("04_training")


def test_sums_in_the_notebook_about_training_are_the_packages():
    """Parameters, states, adapters, packed weights, and the gradients of a table that is embedding and head."""
    prose, model = _notebook("04_training"), ms.model("llama-3.1-8b")
    states = ms.weights(model) + ms.training_states(model, ms.Training(precision="bf16-mixed"))
    counters = sum(term.amount for term in states if term.name == "counters of the optimizer")
    assert f"{ms.parameters(model).total:,} parameters × 16 bytes = {states.total - counters:,} bytes" in prose
    assert f"the {counters // 4} tensors" in prose
    adapters = ms.training_states(model, ms.Training(method="lora"))
    assert f"{adapters.only(phase='gradients').total // 4:,} numbers" in prose
    assert ms.units.amount(adapters.total, digits=1) == "503 MB"
    assert f"{ms.units.amount(ms.weights(model, 'nf4-dq').total)} in place" in prose
    small = ms.model("llama-3.2-1b")
    table = 128_256 * 2048 * 2
    peak = ms.timeline(small, ms.Training(1, 512))[2, "backward_peak"]
    assert 3 * table in [term.amount for term in peak.only(phase="gradients")]
    assert ms.memory(small, ms.Training(1, 512)).total == peak.total and ms.units.amount(table) == "525 MB"


def test_own_config_is_read_and_a_bad_file_changes_nothing():
    """A problem stands beside the controls; the last good result stays."""
    page = Opened("index")
    before = page.answer
    choice = scenario.ModelChoice()
    config = (tables.folder() / "models" / "gpt2.json").read_bytes()
    choice.upload[1]("mine.json", len(config), config)
    assert choice.control.value.hidden_size == 768
    for content in (b"[]", b"\xff\xfe", b'{"model_type": "llama", "hidden_size": -1}'):
        with pytest.raises(ms.Problem):
            choice.upload[1]("bad.json", len(content), content)
    with pytest.raises(ms.Problem, match="2.00 GB"):
        choice.upload[1]("huge.json", 2 * 10**9, b"")
    assert choice.control.value.hidden_size == 768 and page.answer == before


def test_what_cannot_be_used_is_a_sentence_and_the_answer_stays():
    """A browser can send anything: a model that is not offered is named, and the last good result stays."""
    page = Opened("parameters")
    before = page.answer
    page.set(model="Llama 3.1 404B")
    assert "Unknown model" in page.said.value and "Llama 3.1 405B" in page.said.value
    assert page.answer == before
    page.set(model="GPT-2 XL")
    assert not page.said.value and "1,557,611,200" in page.answer


def test_address_follows_and_restores():
    page = Opened("index")
    page.set(tokens=4096, model="Mixtral 8x7B")
    again = Opened("index", page.state.query)
    assert again.answer == page.answer and "Mixtral 8x7B" in again.answer


@pytest.mark.parametrize("query", [
    "model=%3Cscript%3Ealert(1)%3C/script%3E",
    "tokens=99999999999999999999",
    "tokens=-5&sequences=abc",
    "precision=" + "x" * 5000,
    "&".join(f"a{place}=1" for place in range(500)),
    "model=your-file",
    "%00=%00",
])  # fmt: skip
def test_hostile_address_is_clamped_with_a_word(query):
    """A link is somebody else's input: the page opens, nothing of it runs, what was not taken is said."""
    page = Opened("index", query)
    assert "<p class='big'>" in page.answer
    assert "<script" not in page.said.value + page.answer


def test_own_text_is_escaped():
    """A model's name comes from a file."""
    page = Opened("index")
    config = (tables.folder() / "models" / "gpt2.json").read_bytes()
    choice = scenario.ModelChoice()
    choice.upload[1]("<img src=x onerror=alert(1)>.json", len(config), config)
    seen = pages._overview(choice.control.value, "bf16", 1024, 1, "bf16", ms.accelerator("H100 SXM 80GB"), 10)
    assert "<img" not in pages._show_overview(seen)["answer"]
    assert page.answer


def _inside(latex):
    """A formula as it stands within a longer one."""
    return re.fullmatch("<math.*?><mrow>(.*)</mrow></math>", mathml(latex))[1]


def test_latex_of_every_notebook_and_letter_is_understood():
    """What the converter does not know it would leave as it is, with its backslash."""
    cells = [cell for path in (ROOT / "notebooks").glob("*.ipynb") for cell in json.loads(path.read_text())["cells"]]
    words = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    written = [one or other for one, other in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", words, re.DOTALL)]
    letters = [row["latex"] for row in tables.rows("symbols")]
    assert len(written) > 30
    for latex in (*written, *letters):
        assert "\\" not in mathml(latex) and "$" not in mathml(latex), latex


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gpt-oss-20b", "t5-base", "bert-base-uncased"])
def test_formula_names_every_factor(name):
    """The formula on the page holds the letter of each factor of the glossary, and the numbers give the amount."""
    counted = ms.parameters(ms.model(name))
    shown = text.formula(counted)
    glossary = tables.by_key("symbols")
    for term in counted:
        for factor in term.factors:
            assert _inside(glossary[factor]["latex"]) in shown
        left, _, right = term.substituted.rpartition(" = ")
        product = 1
        for factor in left.split(" × "):
            product *= int(factor.replace(",", ""))
        assert f"{product:,}" == right == f"{term.amount:,}"


@pytest.mark.parametrize("name, query", [
    ("training", "model=llama-3.1-8b&training_precision=bf16-mixed"),
    ("parallelism", "model=llama-3.1-70b&tensor=8&pipeline=1&data=1"),
])  # fmt: skip
def test_page_says_what_would_make_it_fit(name, query):
    """Issue: at hand wherever a device can be too small; where all is well, what would need less."""
    opened = Opened(name, query)
    shown = opened.outputs["advice"].value
    assert "does not fit" in opened.answer and "What would make it fit" in shown and "<td>" in shown
    roomy = Opened(name, f"{query}&accelerator=MI355X")
    assert "fits on" in roomy.answer and "What would need less" in roomy.outputs["advice"].value


def test_table_shows_every_term_and_the_total():
    cache = ms.kv_cache(ms.model("gemma-3-27b-text"), ms.Inference())
    shown = text.table(cache, "name")
    for term in cache:
        assert f"{term.amount:,}" in shown
    assert ms.units.amount(cache.total) in shown


def test_colours_of_all_parts_are_on_the_page():
    """One colour per part: a figure may name only variables that the style sheet defines, in both themes."""
    sheet = "".join(path.read_text(encoding="utf-8") for path in sorted(STYLES.glob("*.css")))
    for part in [f"part-{name}" for name in text.PHASE_NAMES] + [f"group-{name}" for name in text.GROUP_NAMES]:
        assert len(re.findall(rf"--{part}:", sheet)) >= 2, part


def test_figure_of_a_large_cluster_is_drawn():
    served = ms.memory(ms.model("megatron-gpt-1t"), ms.Inference(sequences=1024, prompt_tokens=2048))
    device = ms.accelerator("T4")
    devices = ms.fewest_devices(served, device)
    figure = figures.memory_bar(served, device.usable_bytes, devices, device.name)
    plotly.graph_objects.Figure(figure)
    assert figure["layout"]["xaxis"]["title"]["text"] == f"TB on {devices:,} × T4"
    (bar,) = figure["data"]
    assert sum(bar["x"]) == pytest.approx(devices * device.usable_bytes / 1e12)
    assert bar["base"][1:] == pytest.approx([sum(bar["x"][:place]) for place in range(1, len(bar["x"]))])


def test_common_precisions_are_precisions():
    assert set(common_precisions()) <= set(weight_precisions())


def test_every_engine_can_be_chosen():
    """DESIGN: one word per idea; the page offers each engine that Inference knows."""
    assert set(pages.STORED_BY.values()) == set(ENGINES)


def test_titles_of_the_catalogue_differ():
    """A model is chosen by its title."""
    titles = [row["title"] for row in tables.rows("models")]
    assert len(set(titles)) == len(titles) and all(titles)


def test_calculation_of_every_page_needs_neither_numpy_nor_pandas():
    """The same pages will run inside a browser, where both are missing (hidden here from the import system)."""
    code = """
import sys
for name in ("numpy", "pandas", "plotly"):
    sys.modules[name] = None
from memscape import tables
import memscape as ms
from memscape.views import activation_pages, pages, training_pages
for name in tables.by_key("models", "id"):
    model = ms.model(name)
    pages._show_overview(pages._overview(model, "Q4_K_M", 4096, 4, "q8_0", ms.accelerator("H100 SXM 80GB"), 10))
    quantise = {f"quantise_{group}": True for group in pages.KEEPABLE}
    pages._show_counted(pages._counted(model, "nf4-dq", 100, 100, 100, **quantise))
    pages._show_cached(pages._cached(model, 4096, 4, "bf16", "transformers", 16))
for name in ("llama-3.1-8b", "gpt2", "bert-base-uncased", "t5-base", "mixtral-8x7b", "gemma-2-9b", "falcon-7b"):
    kept = activation_pages._kept(ms.model(name), 2, 512, "bf16-autocast", "eager", True, True)
    activation_pages._show_kept(kept)
    given = ("lora", 8, "bf16", "adamw", "single", "sdpa", False, ms.accelerator("T4"))
    training_pages._show_trained(training_pages._trained(ms.model(name), 2, 512, *given))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layout_sliders_offer_what_the_model_can_be_split_by():
    """Issue: sliders that only offer legal values; they follow the model, and the nearest legal value is taken."""
    page = Opened("parallelism", "model=llama-3.1-70b&tensor=16&pipeline=4")
    tensor, pipeline, pieces, experts = (
        page.fields[name].widget for name in ("tensor", "pipeline", "interleave", "expert")
    )
    assert [value for _, value in tensor.options] == [1, 2, 4, 8, 16, 32] and tensor.value == 16
    assert [value for _, value in pieces.options] == [1, 2, 4, 5, 10, 20] and experts.disabled
    page.set(model=ms.tables.by_key("models", "id")["mixtral-8x7b"]["title"])
    assert [value for _, value in experts.options] == [1, 2, 4] and not experts.disabled
    page.set(model=ms.tables.by_key("models", "id")["t5-base"]["title"])
    assert {value for _, value in pipeline.options} == {1} and tensor.value == 12
    assert "moved from 16 to 12" in page.said.value


def test_tiles_say_what_each_device_holds():
    """Issue: every device a tile, filled by what it holds; one that does not fit is framed in alert."""
    model, layout = ms.model("llama-3.1-70b"), ms.Layout(tensor=8, pipeline=4)
    asked = ms.Training(precision="bf16-mixed", implementation="megatron")
    stages = each_stage(model, asked, layout)
    drawn = devices.tiles(stages, 8, ms.accelerator("L4").usable_bytes, "8 devices")
    (rows,), (gaps, frames) = drawn["data"], drawn["layout"]["shapes"]
    held = dict.fromkeys(part for stage in stages for part, size in stage.by("phase").items() if size)
    assert set(rows["marker"]["color"]) == {f"var(--part-{part})" for part in ("free", *held)}
    pieces = [*zip(rows["base"], rows["y"], rows["hovertext"], strict=True)]
    for bottom, stage in zip((3, 2, 1, 0), stages, strict=True):
        mine = [(base, high, said) for base, high, said in pieces if bottom <= base < bottom + 0.9]
        assert all(ms.units.amount(stage.total) in said for *_, said in mine)
        assert [base for base, *_ in mine[1:]] == pytest.approx([base + high for base, high, _ in mine[:-1]])
        assert mine[0][0] == bottom and sum(high for _, high, _ in mine) == pytest.approx(devices.TILE)
    assert gaps["path"].count("Z") == 7 and frames["path"].count("Z") == 32
    assert frames["line"]["color"] == "var(--alert)"
    roomy = devices.tiles(stages, 8, ms.accelerator("B200").usable_bytes, "8 devices")["layout"]["shapes"]
    assert roomy[-1]["line"]["color"] == "var(--soft)"


def test_stages_say_what_each_part_takes_on_them():
    """Issue: memory of every part on every stage, the stronger the shade, the more; the sum beside them."""
    page = Opened("parallelism", "model=llama-3.1-70b&tensor=8&pipeline=4")
    stages = page.seen.stages
    head, *rows = re.findall("<tr>(.*?)</tr>", page.outputs["stages"].value)
    parts = [part for part in text.PHASE_NAMES if any(stage.by("phase").get(part) for stage in stages)]
    assert [_said(cell) for cell in re.findall("<th.*?</th>", head)][4:] == [text.name_of(part) for part in parts]
    largest = max(size for stage in stages for size in stage.by("phase").values())
    for row, stage in zip(rows, stages, strict=True):
        total, *cells = re.findall("<td>(.*?)</td>", row)[3:]
        assert _said(total) == ms.units.amount(stage.total)
        for part, cell in zip(parts, cells, strict=True):
            size = stage.by("phase")[part]
            assert _said(cell) == ms.units.amount(size)
            assert f"--shade:var(--part-{part}) {text.DEEPEST * size / largest:.0f}%" in cell


def test_headline_says_the_range_where_a_part_is_an_estimate():
    """The runtime of a serving engine is reported with a range; what training keeps is worked out to the byte."""
    layout = ms.Layout(tensor=2)
    served = ms.Inference(sequences=16, prompt_tokens=8192, output_tokens=0)
    held = ms.memory(ms.model("llama-3.1-70b"), served, layout)
    assert held.low < held.total < held.high
    said = f"Lowest and highest reported for A: {units.amount(held.low)} to {units.amount(held.high)}"
    assert said in Opened("what_if").answer
    for name, query in (("cluster", ""), ("index", ""), ("reality_check", ""), ("parallelism", "work=serving")):
        assert "class='band'>Lowest and highest reported" in Opened(name, query).answer
    for name in ("cluster", "parallelism"):
        assert "class='band'" not in Opened(name, "work=training").answer
