"""The pages as a visitor has them: a real server, a real browser, real clicks."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from hostile import get, kernels
from published import ROOT

import memscape as ms
from memscape import tables

PAGES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [name for name in PAGES if name != "index"]
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
# how wide each chart that is seen was drawn, and the room that it has
CHARTS = """() => [...document.querySelectorAll('.memscape-chart')].filter((box) => box.clientWidth)
  .map((box) => [box.firstChild.scrollWidth, box.clientWidth])"""
FAILED_CELL = "There was an error when executing cell"

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_page_opens_clean_accessible_and_within_its_width(visit, name, size):
    """No error, no request to another host, no axe-core violation, no sideways scrolling; the theme is the system's."""
    seen = visit(*SIZES[size]).open(name)
    tab = seen.tab
    assert FAILED_CELL not in tab.inner_text("body")
    assert tab.title().startswith("memscape")
    tab.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        seen.until("(scheme) => document.documentElement.dataset.theme === scheme", scheme)
        tab.wait_for_timeout(300)
        red = tab.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
        assert (red < 60) is (scheme == "dark")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        violations = Axe().run(tab).response["violations"]
        assert [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in violations] == []
    assert seen.complaints == []


def test_mouse_drags_a_slider_and_the_answer_is_the_packages(visit):
    """Real clicks fail apart from keys: an invisible panel over a page swallows them."""
    seen = visit().open("03_kv_cache", "model=llama-3.1-8b&tokens=1024&sequences=1")
    tab, before = seen.tab, seen.answer
    tab.locator(".controls .noUi-target").nth(0).scroll_into_view_if_needed()
    box = tab.locator(".controls .noUi-target").nth(0).bounding_box()
    handle = tab.locator(".controls .noUi-handle").nth(0).bounding_box()
    tab.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] + 40, handle["y"] + handle["height"] / 2, steps=12)
    tab.mouse.up()
    largest = ms.kv_cache(ms.model("llama-3.1-8b"), ms.Inference(prompt_tokens=2**20, output_tokens=0)).total
    seen.until("(bytes) => document.querySelector('.answer').innerText.includes(bytes)", f"{largest:,}")
    assert seen.answer != before
    formula = tab.inner_text(".output-formula, .results")
    assert "1,048,576" in formula


def test_headline_equals_the_package_for_the_scenario_of_the_link(visit):
    """A link restores the page exactly; what it shows is what the functions return."""
    query = "model=llama-3.1-70b&precision=Q4_K_M&tokens=32768&sequences=64&kv_cache=q8_0&accelerator=L40S&reserve=5"
    seen = visit().open("index", query)
    asked = ms.Inference(sequences=64, prompt_tokens=32768, output_tokens=0, weights="Q4_K_M", kv_cache="q8_0")
    served = ms.memory(ms.model("llama-3.1-70b"), asked)
    devices = ms.fewest_devices(served, ms.accelerator("L40S"), 5)
    assert f"{devices} × L40S" in seen.answer
    assert ms.units.amount(served.total) in seen.answer
    seen.tab.reload()
    seen.tab.wait_for_selector(".answer .big")
    assert f"{devices} × L40S" in seen.answer


def test_model_is_chosen_by_typing_and_kept_on_the_way_to_another_page(visit):
    """The scenario goes along with a click on another page."""
    seen = visit().open("index")
    field = seen.tab.locator(".controls input[type=text]").first
    field.click()
    field.fill("DeepSeek V3 / R1")
    field.press("Enter")
    seen.until("() => document.querySelector('.answer').innerText.includes('DeepSeek')")
    seen.until("() => location.search.includes('deepseek-v3')")
    seen.tab.click("header nav a:has-text('Parameters')")
    seen.tab.wait_for_selector(".answer .big")
    assert "671,026,404,352" in seen.answer
    assert parse_qs(urlsplit(seen.tab.url).query)["model"] == ["deepseek-v3"]


def test_search_takes_the_first_option_with_the_typed_words(visit):
    """Entered, the field shows its whole list; Enter takes a match, Escape and nonsense bring back what was there."""
    seen = visit().open("03_kv_cache", "model=llama-3.1-8b")
    field = seen.tab.locator(".controls .search input").first
    field.click()
    assert field.input_value() == ""
    field.press_sequentially("v3 deepseek")
    field.press("Enter")
    seen.until("() => document.querySelector('.answer').innerText.includes('DeepSeek V3')")
    for typed, key in (("no such model", "Tab"), ("gpt", "Escape")):
        field.click()
        field.press_sequentially(typed)
        field.press(key)
        assert field.input_value().startswith("DeepSeek V3")
    assert "DeepSeek V3" in seen.answer and seen.complaints == []


def test_hostile_link_is_clamped_with_a_word(visit):
    """Values that no control offers: the page opens, says so, and runs nothing of it."""
    query = (
        "tokens=999999999999&model=%3Cscript%3Edocument.title=%27owned%27%3C/script%3E&kv_cache=%22%3E%3Cimg%20src=x%3E"
    )
    seen = visit().open("index", query)
    assert "memscape" in seen.tab.title()
    assert seen.tab.inner_text(".said").strip()
    assert seen.tab.locator(".said img, .answer img").count() == 0
    assert seen.complaints == []


@pytest.mark.parametrize("name, content, said", [
    ("list.json", b"[1, 2]", "holds a list"),
    ("junk.json", bytes(range(256)), "is not text"),
    ("heads.json", b'{"model_type": "llama", "num_hidden_layers": "four"}', "num_hidden_layers"),
    ("large.json", b" " * (9 * 2**20), "has 9.4"),
])  # fmt: skip
def test_bad_upload_is_a_sentence_and_the_answer_stays(visit, name, content, said):
    """Beside the control, naming what is wrong; the last good result stays."""
    seen = visit().open("index")
    before = seen.answer
    seen.tab.set_input_files("input[type=file]", {"name": name, "mimeType": "application/json", "buffer": content})
    seen.until("(said) => document.querySelector('.said').innerText.includes(said)", said)
    assert seen.answer == before


def test_own_config_is_answered(visit):
    """A user's file and the catalogue's go through one door."""
    config = json.loads((tables.folder() / "models" / "llama-3.1-8b.json").read_text())
    content = json.dumps({**config, "num_hidden_layers": 64}).encode()
    seen = visit().open("01_parameters")
    seen.tab.set_input_files(
        "input[type=file]", {"name": "mine.json", "mimeType": "application/json", "buffer": content}
    )
    expected = ms.parameters(ms.read_model({**config, "num_hidden_layers": 64})).total
    seen.until("(count) => document.querySelector('.answer').innerText.includes(count)", f"{expected:,}")


def test_opened_part_shows_formula_numbers_and_source_and_stays_open(visit):
    """Every total opens into its terms, every term into its factors; a slider does not close what is open."""
    seen = visit().open("index")
    seen.tab.click("summary:has-text('KV cache')")
    term = seen.tab.locator("details[open] .terms tbody tr").first
    assert "2 × 126 × 8 × 128 × 8,192 × 16 × 2" in term.inner_text()
    assert term.locator("a[href^='https://']").count() == 1
    seen.tab.locator(".controls .noUi-handle").nth(0).focus()
    seen.tab.keyboard.press("ArrowRight")
    seen.until("() => document.querySelector('details[open] .terms')?.innerText.includes('16,384')")


def test_formulas_are_drawn_by_the_browser(visit):
    """What is LaTeX in a notebook is MathML on its page: no sign of LaTeX is read, no typesetter's font is fetched."""
    seen = visit(390).open("02_activations")
    lesson = seen.tab.evaluate("[...document.querySelectorAll('.jp-RenderedMarkdown')].map((each) => each.innerText)")
    assert "$" not in "".join(lesson) and "\\cdot" not in "".join(lesson)
    assert seen.tab.locator(".jp-RenderedMarkdown math").count() > 10 and seen.tab.locator(".symbols math").count() > 5
    assert not seen.tab.evaluate("performance.getEntriesByType('resource').some(({ name }) => name.includes('.woff'))")
    assert seen.complaints == []


def test_advice_follows_the_controls(visit):
    """What would make it fit is worked out when a slider has come to rest, and is then about what is shown."""
    seen = visit().open("04_training", "model=llama-3.1-8b&training_precision=bf16-mixed")
    seen.until("() => document.querySelector('.output-advice').textContent.includes('What would make it fit')")
    seen.tab.get_by_label("Optimizer", exact=True).select_option(label="SGD")
    seen.until("() => document.querySelector('.output-advice').textContent.includes('What would need less')")
    seen.until("() => !document.querySelector('.waits')")
    assert "fits on one" in seen.answer
    assert seen.complaints == []


def test_file_that_cannot_be_made_is_a_sentence_beside_its_button(visit):
    """Found by a newcomer: it stood screens above the button that was pressed."""
    seen = visit().open("06_cluster")
    seen.tab.get_by_role("button", name="Download plan.csv", exact=True).click()
    assert seen.tab.wait_for_selector(
        ".card:has(.exports) [role=alert]:has-text('nothing has been compared')"
    ).is_visible()
    assert seen.complaints == []


def test_theme_switch_is_kept(visit):
    seen = visit().open("index")
    before = seen.tab.evaluate("document.documentElement.dataset.theme")
    seen.tab.click("#theme")
    seen.until("(before) => document.documentElement.dataset.theme !== before", before)
    seen.tab.reload()
    seen.tab.wait_for_selector(".answer .big")
    assert seen.tab.evaluate("document.documentElement.dataset.theme") != before


def test_link_is_copied_with_its_scenario(visit):
    """The address as it is shown; who does not see the button is told."""
    seen = visit().open("index", "tokens=4096")
    seen.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    seen.tab.click("#copy")
    seen.until("() => document.getElementById('copied').textContent === 'Link copied'")
    assert seen.tab.evaluate("navigator.clipboard.readText()") == seen.tab.url and "tokens=4096" in seen.tab.url


@pytest.mark.parametrize("name, size", [*((name, "phone") for name in LESSONS), (LESSONS[-1], "desktop")])
def test_answer_stands_on_the_first_screen_and_leads_to_its_controls(visit, name, size):
    """Issue 6: the answer first. A lesson comes before its controls, so what they say stands above it too."""
    width, height = SIZES[size]
    seen = visit(width, height).open(name, "name=Ours")
    big = seen.tab.locator(".ahead .big")
    box = big.bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] < height
    assert big.inner_text() == seen.tab.locator(".answer .big").inner_text()
    assert seen.tab.inner_text(".ahead .scenario") == "Ours"
    seen.tab.click(".ahead a")
    assert seen.tab.evaluate("document.querySelector('.memscape-page').getBoundingClientRect().top") < height / 2
    assert seen.tab.evaluate("document.activeElement.closest('.controls') !== null")
    assert seen.complaints == []


def test_answer_above_a_lesson_follows_the_controls(visit):
    seen = visit().open("03_kv_cache", "model=llama-3.1-8b")
    seen.tab.locator(".noUi-handle").first.press("End")
    seen.until(
        "() => document.querySelector('.ahead .big').textContent === document.querySelector('.answer .big').textContent"
        " && document.querySelector('.ahead').innerText.includes('1,048,576')"
    )


def test_the_overview_begins_with_its_answer(visit):
    """Nothing stands twice where the answer is on the first screen anyway."""
    seen = visit().open("index")
    assert seen.tab.locator(".ahead").count() == 0


def test_dead_kernel_is_said_with_a_way_back(visit, server):
    """Stock Voilà shows nothing: the controls go dead without a word."""
    others = kernels(server)
    seen = visit().open("index", "tokens=4096")
    for kernel in kernels(server):
        if kernel not in others:
            kernel.kill()
    alert = seen.tab.wait_for_selector("[role=alert]:has-text('Reload'), [role=alert] a")
    assert alert.is_visible()
    assert "tokens=4096" in seen.tab.evaluate("location.search")


def test_start_page_is_the_overview_not_a_list_of_files(visit, server):
    seen = visit()
    seen.tab.goto(server.url + "/?tokens=4096")
    seen.tab.wait_for_selector(".answer .big")
    assert "index.ipynb" in seen.tab.url and "4,096" in seen.answer


def test_unknown_page_leads_home(server):
    status, shown = get(server.url, "/voila/render/nothing.ipynb")
    assert status == 404 and "overview" in shown and "https://" not in shown


def test_parallelism_page_shows_the_busiest_device_of_the_link(visit):
    """A link restores the layout; a model that cannot be split so moves the sliders to what is possible."""
    query = "model=llama-3.1-70b&work=training&tensor=8&pipeline=4&data=4&zero=1&batch=32&sequence_tokens=2048"
    seen = visit().open("05_parallelism", query)
    asked = ms.Training(sequence_tokens=2048, global_batch=128, precision="bf16-mixed", implementation="megatron")
    layout = ms.Layout(tensor=8, pipeline=4, data=4, zero=1, sequence_parallel=True)
    held = ms.memory(ms.model("llama-3.1-70b"), asked, layout)
    assert "128 devices" in seen.answer and ms.units.amount(held.total) in seen.answer
    field = seen.tab.get_by_label("Model", exact=True)
    field.fill("Qwen2.5 0.5B")
    field.press("Enter")
    seen.until("() => document.querySelector('.answer').innerText.includes('Qwen2.5 0.5B')")
    assert seen.tab.locator("[role=alert]:visible").count() == 0
    assert seen.complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_page_on_paper_is_whole(visit, name):
    """Issue: browser print gives clean pages, charts whole. What goes further than the answer stays on the screen."""
    seen = visit(1280).open(name)
    paper = seen.tab.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page[^s]", paper)) <= (1 if name in ("index", "03_kv_cache", "06_cluster") else 2)
    seen.tab.emulate_media(media="print")
    seen.tab.set_viewport_size({"width": 720, "height": 1000})  # an A4 page between its margins, in pixels
    seen.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    charts = seen.tab.evaluate(CHARTS)
    assert bool(charts) is (name != "06_cluster") and all(drawn <= room + 1 for drawn, room in charts)
    assert not seen.tab.locator(
        ".exports:visible, .memscape-pictures:visible, .on-screen:visible, .upload:visible"
    ).count()
    assert seen.complaints == []


@pytest.mark.parametrize(
    "query", ["model=llama-3.1-405b", "work=training&model=llama-3.1-70b&rank=cost&name=Our own run"]
)
def test_bill_of_materials_is_one_page_on_paper(visit, query):
    """Issue: a bill that a manager can print, one page of A4; the settings and the answer are on it."""
    seen = visit().open("06_cluster", query)
    paper = seen.tab.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page[^s]", paper)) == 1
    seen.tab.emulate_media(media="print")
    assert seen.tab.locator(".output-bill").is_visible() and seen.tab.locator(".answer .big").is_visible()
    assert not seen.tab.locator(".exports").is_visible() and not seen.tab.locator("header nav").is_visible()


def test_bar_is_as_long_as_what_is_held(visit):
    """Each piece of the first page's bar has the part's colour and share of the devices, and says its amount."""
    seen = visit().open("index", "model=llama-3.1-8b&tokens=8192&sequences=16")
    served = ms.memory(ms.model("llama-3.1-8b"), ms.Inference(sequences=16, prompt_tokens=8192, output_tokens=0))
    room = ms.accelerator("H100 SXM 80GB").usable_bytes
    parts = {**served.by("phase"), "free": room - served.total}
    pieces = seen.tab.evaluate("""[...document.querySelectorAll('.output-bar .bar-piece')].map((piece) =>
      [piece.style.background, piece.dataset.said, piece.getBoundingClientRect().width])""")
    assert [colour for colour, *_ in pieces] == [f"var(--part-{part})" for part in parts]
    assert [said.partition(": ")[2] for _, said, _ in pieces] == [ms.units.amount(size) for size in parts.values()]
    whole = sum(width for *_, width in pieces)
    assert [width / whole for *_, width in pieces] == pytest.approx([size / room for size in parts.values()], abs=1e-3)
    assert seen.complaints == []


def test_tiles_of_devices_that_are_too_small_are_framed_in_alert(visit):
    """Issue: every device a tile; the frame says whether it holds what it must, in the colours of the theme."""
    seen = visit().open("05_parallelism", "accelerator=L4&tensor=4&pipeline=2")
    rows = seen.tab.locator(".output-tiles .tile-row")
    assert rows.count() == 2
    for scheme, alert in (("light", "rgb(155, 28, 28)"), ("dark", "rgb(255, 180, 171)")):
        seen.tab.emulate_media(color_scheme=scheme)
        seen.until("(scheme) => document.documentElement.dataset.theme === scheme", scheme)
        assert alert in rows.first.evaluate("(row) => getComputedStyle(row).backgroundImage")
    assert "of 24" in rows.first.get_attribute("data-said")


def test_every_chart_is_handed_out_as_a_picture(visit):
    """Issue: PNG and SVG of any chart, those that the page draws itself and those of plotly."""
    seen = visit().open("04_training")
    for number in (0, 1):
        for kind, begin in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
            button = seen.tab.locator(f"[aria-label='Save this chart as {kind}']").nth(number)
            button.scroll_into_view_if_needed()
            with seen.tab.expect_download() as waiting:
                button.click()
            with open(waiting.value.path(), "rb") as picture:
                assert picture.read(4) == begin
    assert seen.complaints == []


def test_lines_say_what_the_answer_says(visit):
    """Issue: no stale chart. Where the chosen length stands, the lines say the amount of the headline, at any step."""
    seen = visit().open("03_kv_cache")
    for length in ("8,192", "16,384"):
        seen.tab.wait_for_function(
            "(words) => document.querySelector('.answer .lead').innerText.includes(words)", arg=length
        )
        answer = seen.tab.locator(".answer .big").inner_text()
        strips = seen.tab.locator(".line-strip").evaluate_all("(all) => all.map((each) => each.dataset.said)")
        assert [said for said in strips if f"chosen, {length} tokens: {answer}" in said], (answer, strips)
        seen.tab.locator(".noUi-handle").first.press("ArrowRight")


def test_plotly_is_fetched_for_a_picture_alone(visit):
    """Issue: transferred bytes. A page draws all that it shows; plotly.js comes when a picture is asked for."""
    seen, fetched = visit(), []
    seen.tab.on("request", lambda request: fetched.append(request.url.endswith("/plotly.js")))
    seen.open("07_what_if").tab.wait_for_load_state("networkidle")
    assert fetched.count(True) == 0
    with seen.tab.expect_download():
        seen.tab.locator("[aria-label='Save this chart as SVG']").first.click()
    assert fetched.count(True) == 1


def test_map_says_what_the_square_pointed_at_stands_for(visit):
    """What a square says is what `ms.memory` says of its two inputs, in the first corner and in the last."""
    seen = visit().open("07_what_if", "model=llama-3.1-8b&devices=1")
    track = seen.tab.locator(".output-map .bar-track")
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    found = []
    for place in ({"x": 3, "y": box["height"] - 3}, {"x": box["width"] - 3, "y": 3}):
        track.hover(position=place)
        said = seen.tab.locator(".output-map .map-said").inner_text().splitlines()
        tokens, sequences = (int(line.rpartition(": ")[2].replace(",", "")) for line in said[:2])
        asked = ms.Inference(sequences=sequences, prompt_tokens=tokens, output_tokens=0)
        total = float(f"{ms.memory(ms.model('llama-3.1-8b'), asked).total / 1e9:.3g}")
        assert said[2] == f"{total:,.10g} GB"
        found.append((tokens, sequences))
    assert found[0] < found[1]


def test_tables_of_a_lesson_stand_in_the_page_itself(server):
    """What is HTML needs no script: outputs that Voilà's script makes are the page's controls and its exercises."""
    _, text = get(server.url, "/voila/render/05_parallelism.ipynb")
    assert text.count("application/vnd.voila.cell-output+json") == 2
    assert "data-mime-type=\"text/html\"><div class='parts'>" in text


def test_timers_are_the_browsers_own_once_a_page_is_shown(visit):
    """Until then, what asks every tenth of a second whether it can begin asks more often."""
    seen = visit().open("index")
    assert "[native code]" in seen.tab.evaluate("setTimeout.toString()")
