"""`make bench`: speed, memory and transfer of the package and its pages, beside an empty page and a bare slider.

Times depend on the machine, so what counts are the ratios against pages of the same run: one that holds nothing, and
one whose slider moves a label. Nothing is asserted here: this prints figures.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from functools import partial

import bench_pages
import numpy

import memscape as ms


def main() -> None:
    """Measure everything and print it."""
    _core()
    bench_pages.measure()


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


def _row(what: str, figure: str, budget: str) -> None:
    print(f"{what:<44}{figure:>12}" + (f"   budget {budget}" if budget else ""))


if __name__ == "__main__":
    main()
