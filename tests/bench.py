"""`make bench`: speed, memory and transfer of the package and its pages, beside an empty page and a bare slider.

Times depend on the machine, so what counts are the ratios against two pages of the same server and run: one
that holds nothing, and one whose slider moves a label. Nothing is asserted here: this prints figures.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy
import psutil
from browser import ARGUMENTS, MISSING, find
from playwright.sync_api import sync_playwright

import memscape as ms
from memscape.dashboard.launch import notebooks

EMPTY = "'ready'"
LABEL = """
import ipywidgets as widgets
slider = widgets.SelectionSlider(options=list(range(14)), value=6)
label = widgets.HTML("<p class='big'>6</p>")
label.add_class("answer")
slider.observe(lambda change: setattr(label, "value", f"<p class='big'>{change.new}</p>"), names="value")
widgets.VBox([slider, label])
"""
SERVE = "import sys; from memscape.dashboard.launch import serve; serve(sys.argv[1], sys.argv[2:])"
# from the key to the frame after the answer has changed; a typesetter's later work counts if it delays that frame
WATCH = """() => {
  const answer = document.querySelector('.answer');
  window.steps = []; window.paints = 0; let pressed = 0;
  addEventListener('keydown', () => (pressed = performance.now()), true);
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
    window.paints += 1;
    if (pressed) { window.steps.push(performance.now() - pressed); pressed = 0; }
  }))).observe(answer, {childList: true, subtree: true, characterData: true});
}"""
STEPS, DRAG_SECONDS = 36, 2.0


def main() -> None:
    """Measure everything and print it."""
    _core()
    path = find()
    if path is None:
        sys.exit(MISSING)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        names = _pages(Path(folder))
        with _server(folder) as (url, process):
            browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
            _opening(browser, url, process, names)
            _sliding(browser, url, names)
            browser.close()


def _core() -> None:
    """Import over a bare interpreter, and one scalar answer."""
    runs = {code: statistics.median(_process(code) for _ in range(9)) for code in ("pass", "import memscape")}
    model, asked = ms.model("llama-3.1-405b"), ms.Inference()
    answers = _median(lambda: (ms.parameters(model).total, ms.kv_cache(model, asked).total))
    q4 = _median(lambda: ms.weights(model, "Q4_K_M").total)
    served = _median(lambda: ms.memory(model, asked).total)
    _row(
        "import memscape, over a bare interpreter", f"{1e3 * (runs['import memscape'] - runs['pass']):.0f} ms", "100 ms"
    )
    _row("one scalar parameters + kv_cache", f"{1e3 * answers:.3f} ms", "1 ms")
    _row("one scalar memory, BF16", f"{1e3 * served:.3f} ms", "")
    _row("one scalar weights, Q4_K_M", f"{1e3 * q4:.3f} ms", "")
    small, lengths = ms.model("llama-3.1-8b"), iter(range(1000, 10**6))  # another length each time: nothing remembered
    kept = _median(lambda: ms.activations(small, ms.Training(1, next(lengths))).total)
    course = _median(lambda: ms.memory(small, ms.Training(1, next(lengths))).total)
    _row("one scalar activations, training", f"{1e3 * kept:.3f} ms", "")
    _row("one scalar memory, training", f"{1e3 * course:.3f} ms", "3 ms")
    for name, seconds in _maps().items():
        _row(f"200 × 200 heat map, {name}", f"{1e3 * seconds:.1f} ms", "200 ms")
    for name, seconds in _searches().items():
        _row(name, f"{seconds:.2f} s", "1 s")
    for name, seconds in _grids().items():
        _row(f"1,000,000 totals, {name}", f"{seconds:.2f} s", "1 s")


def _maps() -> dict[str, float]:
    """A heat map of 200 × 200 points on one layout, as the page of what-ifs asks for it."""
    model, tokens, batch = ms.model("llama-3.1-70b"), 128.0 * numpy.arange(1, 201), numpy.arange(1.0, 201)[:, None]
    layout = ms.Layout(tensor=numpy.array([[8.0]]), pipeline=2)
    asked = {
        "training": ms.Training(batch, tokens, precision="bf16-mixed"),
        "inference": ms.Inference(batch, tokens, output_tokens=0),
    }
    return {kind: _median(partial(_total, model, workload, layout), 20) for kind, workload in asked.items()}


def _searches() -> dict[str, float]:
    """A plan over the whole catalogue, and all models in all precisions on one node; processor time, once."""
    served = ms.Inference(16, prompt_tokens=8192)
    trained = ms.Training(
        1, 4096, global_batch=1024, precision="bf16-mixed", implementation="megatron", recompute="full"
    )
    asked = {"serving": served, "training": trained}
    found = {}
    ms.plan(ms.model("gpt2"), ms.Inference(), accelerators=["T4"])  # pandas is loaded once, the catalogue read once
    for name in ("llama-3.1-70b", "llama-3.1-405b", "deepseek-v3"):
        for kind, workload in asked.items():
            found[f"plan over all accelerators, {name}, {kind}"] = _once(ms.plan, ms.model(name), workload)
    found["what fits, all models and precisions, 8 × H100"] = _once(ms.what_fits, "H100 SXM 80GB", 8)
    return found


def _once(function, *arguments) -> float:
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def _total(model, workload, layout):
    return ms.memory(model, workload, layout).total


def _grids() -> dict[str, float]:
    """A million points of layout, batch and sequence in one call: points in no order, and a grid of three axes."""
    model, any_of = ms.model("llama-3.1-70b"), numpy.random.default_rng(1)
    flat = {name: any_of.choice([1, 2, 4, 8], 10**6).astype("float64") for name in ("tensor", "pipeline", "data")}
    batch, tokens = any_of.integers(1, 9, 10**6), 128 * any_of.integers(1, 129, 10**6)
    axis = numpy.arange(1.0, 101.0)
    grid = {"tensor": numpy.tile([1.0, 2, 4, 8], 25)[:, None, None]}
    grid["pipeline"] = numpy.repeat([1.0, 2, 4, 8, 16], 20)[:, None, None]
    over = {"any order": (flat, batch, tokens), "three axes": (grid, axis[:, None], 128 * axis)}
    found = {}
    for name, (degrees, sequences, length) in over.items():
        layout = ms.Layout(**degrees)
        asked = {
            "training": ms.Training(sequences, length, precision="bf16-mixed"),
            "inference": ms.Inference(sequences, length),
        }
        for kind, workload in asked.items():
            start = time.process_time()
            ms.memory(model, workload, layout).total.max()
            found[f"{kind}, {name}"] = time.process_time() - start
    return found


def _process(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def _median(call, runs: int = 200) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _pages(folder: Path) -> list[str]:
    """Copy the real pages and write the two that they are compared with."""
    for path in notebooks().glob("*.ipynb"):
        shutil.copy(path, folder)
    for name, code in (("empty", EMPTY), ("label", LABEL)):
        cell = {"cell_type": "code", "id": name, "metadata": {}, "source": code, "outputs": [], "execution_count": None}
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        page = {"cells": [cell], "metadata": {**kernel, "title": name}, "nbformat": 4, "nbformat_minor": 5}
        (folder / f"{name}.ipynb").write_text(json.dumps(page))
    return sorted(path.stem for path in notebooks().glob("*.ipynb"))


@contextmanager
def _server(folder: str):
    """Serve the folder with the configuration of `memscape`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, folder, "--no-browser", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as door:
            if door.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://localhost:{port}", psutil.Process(process.pid)
    process.terminate()
    process.wait()


def _open(tab, url: str, name: str) -> float:
    """Open a page; return the seconds until it can be used."""
    start = time.perf_counter()
    tab.goto(f"{url}/voila/render/{name}.ipynb")
    if name == "empty":
        tab.wait_for_function("document.querySelector('#rendered_cells')?.innerText.includes('ready')")
    else:
        tab.wait_for_selector(".answer .big")
        tab.wait_for_selector(".controls .noUi-handle, .noUi-handle")
    return time.perf_counter() - start


def _opening(browser, url: str, process: psutil.Process, names: list[str]) -> None:
    """Interactive time cold and warm, bytes moved, and the memory of the kernel."""
    _visit(browser, url, process, "empty")  # the first visit of all warms the server
    print(f"\n{'page':<16}{'cold s':>8}{'ratio':>7}{'warm s':>8}{'ratio':>7}{'cold MB':>9}{'warm MB':>9}{'PSS MB':>8}")
    base = [_visit(browser, url, process, "empty") for _ in range(3)]
    usual = [statistics.median(column) for column in zip(*base, strict=True)]
    for name in ("empty", *names):
        runs = base if name == "empty" else [_visit(browser, url, process, name) for _ in range(3)]
        cold, warm, first, later, memory = (statistics.median(column) for column in zip(*runs, strict=True))
        print(
            f"{name:<16}{cold:>8.2f}{cold / usual[0]:>7.2f}{warm:>8.2f}{warm / usual[1]:>7.2f}"
            f"{first:>9.2f}{later:>9.2f}{memory:>8.0f}"
        )
    print("budgets: at most 5 s and 1.5 s more than the empty page; 10 MB cold, 0.5 MB warm; 80 MB of kernel")


def _visit(browser, url: str, process: psutil.Process, name: str) -> tuple[float, ...]:
    """Open a page in a new browser profile, then again; return times, megabytes and the kernel's memory."""
    before = {child.pid for child in process.children(recursive=True)}
    context = browser.new_context()
    tab = context.new_page()
    moved = [0.0]
    session = context.new_cdp_session(tab)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: moved.__setitem__(0, moved[0] + event["encodedDataLength"]))
    cold = _open(tab, url, name)
    tab.wait_for_timeout(1500)
    kernels = [child for child in process.children(recursive=True) if child.pid not in before]
    memory = max((kernel.memory_full_info().pss for kernel in kernels), default=0) / 1e6
    first, moved[0] = moved[0] / 1e6, 0.0
    warm = _open(tab, url, name)
    tab.wait_for_timeout(1500)
    later = moved[0] / 1e6
    context.close()
    return cold, warm, first, later, memory


def _sliding(browser, url: str, names: list[str]) -> None:
    """From a key to the painted answer, and paints a second in a drag."""
    print(f"\n{'slider on':<16}{'p50 ms':>8}{'p95 ms':>8}{'ratio':>7}{'paints/s':>10}")
    base = 0.0
    for name in ("label", *names):
        steps, paints = _slide(browser, url, name)
        p95 = statistics.quantiles(steps, n=20)[-1]
        base = base or p95
        print(f"{name:<16}{statistics.median(steps):>8.0f}{p95:>8.0f}{p95 / base:>7.2f}{paints:>10.1f}")
    print("budgets: p95 at most 80 ms and 2.5 times the label's; 15 paints a second")


def _slide(browser, url: str, name: str) -> tuple[list[float], float]:
    """Press the keys of the first slider one by one, then drag it to and fro."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    _open(tab, url, name)
    tab.wait_for_timeout(2000)
    tab.evaluate(WATCH)
    handle = tab.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    for step in range(STEPS):
        tab.keyboard.press("ArrowRight" if step // 2 % 2 == 0 else "ArrowLeft")
        tab.wait_for_function("(count) => window.steps.length > count", arg=step)
        tab.wait_for_timeout(30)
    steps = tab.evaluate("window.steps")
    box, knob = tab.locator(".noUi-target").first.bounding_box(), handle.bounding_box()
    height = knob["y"] + knob["height"] / 2
    tab.mouse.move(knob["x"] + knob["width"] / 2, height)
    tab.mouse.down()
    before, start, place = tab.evaluate("window.paints"), time.perf_counter(), 0
    while time.perf_counter() - start < DRAG_SECONDS:
        place += 1
        share = abs(place % 60 - 30) / 30
        tab.mouse.move(box["x"] + share * box["width"], height)
        time.sleep(0.012)
    seconds = time.perf_counter() - start
    tab.mouse.up()
    paints = (tab.evaluate("window.paints") - before) / seconds
    tab.close()
    return steps, paints


def _row(what: str, figure: str, budget: str) -> None:
    print(f"{what:<44}{figure:>12}" + (f"   budget {budget}" if budget else ""))


if __name__ == "__main__":
    main()
