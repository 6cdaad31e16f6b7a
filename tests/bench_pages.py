"""The pages' part of `make bench`: opening, sliding, memory, bytes and faults, beside an empty page and a bare slider.

A page is usable when what it says first is painted, its sliders are there and its kernel is connected; an empty page
when its word is painted and its kernel is connected. It is whole when every chart has been drawn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from axe_playwright_python.sync_playwright import Axe
from browser import ARGUMENTS, MISSING, find
from conftest import DRAWN, Server, free_port
from playwright.sync_api import sync_playwright

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
OURS = (
    "-c",
    "import sys; from memscape.dashboard.launch import serve; serve(sys.argv[1], sys.argv[2:])",
    "--CappedKernels.most=500",
)
STOCK = ("-m", "voila")
# when a page was usable and whole, by its own clock, which starts with the navigation
OPENING = """(() => {
  const at = (globalThis.at = {});
  const Usual = WebSocket;
  globalThis.WebSocket = class extends Usual {
    constructor(...all) {
      super(...all);
      this.addEventListener('open', () => { at.connected ??= performance.now(); look(); });
    }
  };
  const painted = (name) => requestAnimationFrame(() => setTimeout(() => (at[name] = performance.now())));
  let usable = false, drawn = 0;
  at.rest = () => watch.disconnect();
  const look = () => {
    const empty = document.querySelector('#rendered_cells pre')?.textContent.trim() === "'ready'";
    const shown = document.querySelector('.answer .big') && document.querySelector('.noUi-handle');
    if (!usable && at.connected && (empty || shown)) { usable = true; painted('usable'); }
    const charts = document.querySelectorAll('.memscape-chart > .memscape-bars').length;
    if (charts > drawn) { drawn = charts; painted('whole'); }
  };
  const watch = new MutationObserver(look);
  watch.observe(document, { childList: true, subtree: true, attributeFilter: ['class'] });
})()"""
# from the key to the frame after the answer has changed, and to the frame after the last change of a chart or a table;
# what is worked out when the controls have come to rest is not waited for
SLIDING = """() => {
  const answer = document.querySelector('.answer');
  const slid = (globalThis.slid = { steps: [], paints: 0, pressed: 0, last: 0 });
  let waits = false, framed = false;
  const all = { childList: true, subtree: true, characterData: true };
  const painted = (then) => requestAnimationFrame(() => setTimeout(then));
  addEventListener('keydown', () => { slid.pressed = performance.now(); waits = true; }, true);
  new MutationObserver(() => painted(() => {
    slid.paints += 1;
    if (waits) { slid.steps.push(performance.now() - slid.pressed); waits = false; }
  })).observe(answer, all);
  const resting = ({ target }) => target.parentElement?.closest('.at-rest');
  new MutationObserver((changes) => {
    if (framed || changes.every(resting)) return;
    framed = true;
    requestAnimationFrame(() => { framed = false; setTimeout(() => (slid.last = performance.now())); });
  }).observe(answer.closest('.results') ?? answer, { ...all, attributeFilter: ['d', 'transform', 'style', 'x', 'y'] });
}"""
QUIET = "() => performance.now() - Math.max(slid.last, slid.pressed) > 500"  # what is worked out at rest has been shown
# stock Voilà's page asks other hosts for style sheets, and would wait for them
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost"
TIMES, TURNS, STEPS, WHOLE_STEPS, DRAG_SECONDS = 3, 6, 80, 40, 2.0
# a kernel for each visit, all of them made before the first
AHEAD = ("--preheat_kernel=True", f"--pool_size={TURNS + 1}", "--VoilaKernelManager.fill_delay=3600")


def measure() -> None:
    """Measure all pages and print it."""
    path = find()
    if path is None:
        sys.exit(MISSING)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        names = _pages(Path(folder))
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, ALONE])
        with _server(folder, OURS) as (url, process):
            with _server(folder, STOCK) as stock:
                _opening(browser, url, process, names, stock)
            _sliding(browser, url, names)
            _faults(browser, url, names)
        _ahead(browser, Path(folder), names)
        browser.close()


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
def _server(folder: str, start: tuple[str, ...], more: tuple[str, ...] = ()):
    """Serve the folder with the configuration of `memscape`, or with Voilà's own."""
    port = free_port()
    command = [sys.executable, *start[:2], folder, "--no-browser", f"--port={port}", *start[2:], *more]
    usual = {name: text for name, text in os.environ.items() if name != "JUPYTER_PATH"}
    process = subprocess.Popen(command, env=usual, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(f"http://localhost:{port}", process)
    server.wait()
    try:
        yield server.url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _opening(browser, url: str, process: psutil.Process, names: list[str], stock: tuple[str, psutil.Process]) -> None:
    """Print when each page is usable and whole, cold and warm, the bytes it moves and the memory of its kernel.

    Every visit has one of Voilà's own empty page in turn with it, and one of an empty page of our server, which is
    there sooner than Voilà's own. The ratios are medians over visits.
    """
    print("\nseconds until a page is usable; in turn with it, an empty page of Voilà's own and one of our server")
    print(f"{'page':<16}{'cold':>6}{'Voilà':>7}{'ratio':>7}{'ours':>7}{'ratio':>7}{'whole':>7}{'warm':>7}", end="")
    print(f"{'cold MB':>9}{'warm MB':>9}{'PSS MB':>8}")
    for name in ("empty", *names):
        seen = _opened(browser, url, process, stock, name)
        print(f"{name:<16}{seen['cold']:>6.2f}{seen['stock']:>7.2f}{seen['over stock']:>7.2f}"
              f"{seen['empty']:>7.2f}{seen['over empty']:>7.2f}{seen['whole']:>7.2f}{seen['warm']:>7.2f}"
              f"{seen['first']:>9.2f}{seen['later']:>9.2f}{seen['memory']:>8.0f}", flush=True)  # fmt: skip
    print("budgets: 1.5 times an empty page, and 5 s; 10 MB cold, 0.3 MB warm; 80 MB of kernel")


def _ahead(browser, folder: Path, names: list[str]) -> None:
    """Print when each page is usable whose kernel was there before its visitor, in turn with empty pages likewise.

    What is to be seen is smaller than what a shared machine slows down by from one visit to the next, so the ratio is
    the median over visits in turn.
    """
    print(f"\nthe same with kernels that were there, {TURNS} visits in turn")
    print(f"{'page':<16}{'cold':>6}{'Voilà':>7}{'ratio':>7}{'ours':>7}{'ratio':>7}")
    for name in names:
        turns = _turns(browser, folder, name)
        own, stock, empty = (statistics.median(column) for column in zip(*turns, strict=True))
        ratios = [statistics.median(turn[0] / turn[other] for turn in turns) for other in (1, 2)]
        print(f"{name:<16}{own:>6.2f}{stock:>7.2f}{ratios[0]:>7.2f}{empty:>7.2f}{ratios[1]:>7.2f}", flush=True)
    print("budget: 1.2 times an empty page")


def _turns(browser, folder: Path, name: str) -> list[tuple[float, float, float]]:
    """When a page is usable, Voilà's own empty page, and an empty page of our server, each with a kernel there."""
    with tempfile.TemporaryDirectory() as part, tempfile.TemporaryDirectory() as bare:
        for each in (name, "empty"):
            shutil.copy(folder / f"{each}.ipynb", part)
        shutil.copy(folder / "empty.ipynb", bare)
        with _server(bare, STOCK, AHEAD) as stock, _server(part, OURS, AHEAD) as ours:
            for _, process in (stock, ours):
                _all_there(process)
            visits = ((*ours, name), (*stock, "empty"), (*ours, "empty"))
            return [tuple(_first(browser, *visit) for visit in visits) for _ in range(TURNS + 1)][1:]


def _all_there(process: psutil.Process) -> None:
    """Wait until a server starts no kernel any more."""
    counts = [0]
    while len(counts) < 4 or len(set(counts[-3:])) > 1:
        _rest(process)
        counts.append(len(process.children(recursive=True)))


def _first(browser, url: str, process: psutil.Process, name: str) -> float:
    """When a page is usable in a new browser profile."""
    _rest(process)
    with _profile(browser) as tab:
        return _open(tab, url, name)["cold"]


@contextmanager
def _profile(browser):
    """A tab of a new browser profile, which notes when a page was usable; a page that is left frees its kernel."""
    context = browser.new_context()
    context.add_init_script(OPENING)
    tab = context.new_page()
    yield tab
    tab.goto("about:blank")
    context.close()


def _opened(
    browser, url: str, process: psutil.Process, stock: tuple[str, psutil.Process], name: str
) -> dict[str, float]:
    """The medians of some visits, each with one of either empty page in turn, after one that warms the servers."""
    seen = []
    for _ in range(TIMES + 1):
        _rest(process)
        own = _visit(browser, url, process, name)
        empty, bare = _first(browser, url, process, "empty"), _first(browser, *stock, "empty")
        ratios = {"over empty": own["cold"] / empty, "over stock": own["cold"] / bare}
        seen.append({**own, "empty": empty, "stock": bare, **ratios})
    return {figure: statistics.median(each[figure] for each in seen[1:]) for figure in seen[0]}


def _rest(process: psutil.Process) -> None:
    """Wait until a server has nothing to do."""
    quiet = 0
    while quiet < 5:
        before = _busy(process)
        time.sleep(0.2)
        quiet = quiet + 1 if _busy(process) - before < 0.02 else 0


def _busy(process: psutil.Process) -> float:
    """Processor time of a server and all that it started."""
    seen = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a kernel that ends meanwhile
            seen += sum(each.cpu_times()[:2])
    return seen


def _visit(browser, url: str, process: psutil.Process, name: str) -> dict[str, float]:
    """Open a page in a new browser profile, then again; return times, megabytes and the kernel's memory."""
    before = {child.pid for child in process.children(recursive=True)}
    moved = [0.0]
    with _profile(browser) as tab:
        session = tab.context.new_cdp_session(tab)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda event: moved.__setitem__(0, moved[0] + event["encodedDataLength"]))
        cold = _open(tab, url, name)
        kernels = [child for child in process.children(recursive=True) if child.pid not in before]
        memory = max((kernel.memory_full_info().pss for kernel in kernels), default=0) / 1e6
        first, moved[0] = moved[0] / 1e6, 0.0
        warm = _open(tab, url, name)
        later = moved[0] / 1e6
    return {**cold, "warm": warm["cold"], "first": first, "later": later, "memory": memory}


def _open(tab, url: str, name: str) -> dict[str, float]:
    """Open a page; return the seconds until it could be used, and until it was whole."""
    tab.goto(f"{url}/voila/render/{name}.ipynb")
    tab.wait_for_function("globalThis.at.usable")
    if name not in ("empty", "label"):
        tab.wait_for_function(DRAWN)
    tab.wait_for_timeout(1000)
    at = tab.evaluate("at.rest(), { usable: at.usable, whole: at.whole }")
    return {"cold": at["usable"] / 1e3, "whole": (at.get("whole") or at["usable"]) / 1e3}


def _sliding(browser, url: str, names: list[str]) -> None:
    """Print the time from a key to the painted answer, to the last chart, and paints a second in a drag.

    Every key is pressed on the page whose slider moves a label too: both meet the same moments of a shared machine.
    """
    print("\nfrom a key, in ms: to the painted answer, keys in quick succession; to the last chart and table, at rest")
    print(f"{'slider on':<16}" + f"{'p50':>6}{'p95':>6}{'label':>7}{'ratio':>7}" * 2 + f"{'paints/s':>10}")
    for name in ("label", *names):
        *kinds, paints = _slide(browser, url, name)
        print(f"{name:<16}", end="")
        for own, label in kinds:
            p95, base = (statistics.quantiles(each, n=20)[-1] for each in (own, label))
            print(f"{statistics.median(own):>6.0f}{p95:>6.0f}{base:>7.0f}{p95 / base:>7.2f}", end="")
        print(f"{paints:>10.1f}", flush=True)
    print("budgets: p95 at most 80 ms and 2.5 times the label's; 15 paints a second")


def _slide(browser, url: str, name: str) -> tuple[list[list[float]], list[list[float]], float]:
    """Press the keys of the first slider one by one, in quick succession and at rest, then drag it to and fro."""
    tabs = [_slider(browser, url, each) for each in (name, "label")]
    tab = tabs[0]
    for step in range(STEPS):
        for each in tabs:
            _press(each, step)
            each.wait_for_timeout(30)
    quick = [each.evaluate("slid.steps") for each in tabs]
    whole: list[list[float]] = [[], []]
    for step in range(STEPS, STEPS + WHOLE_STEPS):
        for seen, each in zip(whole, tabs, strict=True):
            each.wait_for_function(QUIET)
            _press(each, step)
            each.wait_for_function(QUIET if each is tab else "slid.last > slid.pressed")
            seen.append(each.evaluate("slid.last - slid.pressed"))
    paints = _drag(tab, tab.locator(".noUi-handle").first)
    for each in tabs:
        each.goto("about:blank")
        each.close()
    return quick, whole, paints


def _slider(browser, url: str, name: str):
    """A page with the keyboard on its first slider."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.add_init_script(OPENING)
    _open(tab, url, name)
    tab.evaluate(SLIDING)
    handle = tab.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    return tab


def _press(tab, step: int) -> None:
    """Press a key that moves the slider, at any moment between two frames, and wait for the answer."""
    tab.wait_for_timeout(step * 7 % 17)
    tab.keyboard.press("ArrowRight" if step // 2 % 2 == 0 else "ArrowLeft")
    tab.wait_for_function("(count) => slid.steps.length > count", arg=step)


def _drag(tab, handle) -> float:
    """Move a slider to and fro, one option further with every move; return the answers painted in a second."""
    box, knob = tab.locator(".noUi-target").first.bounding_box(), handle.bounding_box()
    height, last = knob["y"] + knob["height"] / 2, int(float(handle.get_attribute("aria-valuemax")))
    tab.mouse.move(knob["x"] + knob["width"] / 2, height)
    tab.mouse.down()
    before, start, place = tab.evaluate("slid.paints"), time.perf_counter(), 0
    while time.perf_counter() - start < DRAG_SECONDS:
        place += 1
        tab.mouse.move(box["x"] + abs(place % (2 * last) - last) / last * box["width"], height)
        time.sleep(0.012)
    seconds = time.perf_counter() - start
    tab.mouse.up()
    return (tab.evaluate("slid.paints") - before) / seconds


def _faults(browser, url: str, names: list[str]) -> None:
    """Print what must not be, in both themes and widths: requests to others, errors, violations, sideways scrolling."""
    print(f"\n{'both themes':<16}{'px':>6}{'other hosts':>13}{'errors':>8}{'axe':>5}{'sideways':>10}")
    for name in names:
        for width in (1440, 390):
            found = [_faults_of(browser, url, name, width, scheme) for scheme in ("light", "dark")]
            others, errors, axe, over = (sum(column) for column in zip(*found, strict=True))
            print(f"{name:<16}{width:>6}{others:>13}{errors:>8}{axe:>5}{over:>10}")
    print("budget: 0")


def _faults_of(browser, url: str, name: str, width: int, scheme: str) -> tuple[int, int, int, int]:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.add_init_script(OPENING)
    others, errors = [], []
    tab.on("request", lambda request: request.url.startswith((url, "data:", "blob:")) or others.append(request.url))
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    _open(tab, url, name)
    violations = len(Axe().run(tab).response["violations"])
    over = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    tab.goto("about:blank")
    tab.close()
    return len(others), len(errors), violations, max(0, over)
