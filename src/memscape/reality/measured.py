"""Published figures beside what is predicted for them: sizes, files of weights, servers' caches, training runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from memscape import tables
from memscape.catalog import accelerator, model
from memscape.memory.pool import kv_pool
from memscape.memory.timeline import memory
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import DEGREES, Layout
from memscape.performance import TrainingTime, performance
from memscape.problem import chosen
from memscape.reality.ours import SCALES, ours
from memscape.units import GB, GIB
from memscape.workload import Inference, Training

# the server whose start-up logs were published
VLLM_CARD, VLLM_UTILISATION = "H100 SXM 80GB", 0.95


@dataclass(frozen=True)
class Measurement:
    """A published figure and ours: bytes of a tensor, a file or a pool of cache blocks, or seconds of a training step.

    `why` says what is known of the difference where it is large; `fits` is None where nothing has to fit.
    """

    kind: str
    group: str
    what: str
    published: float
    predicted: float
    unit: str
    source: str
    why: str = ""
    fits: bool | None = None

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.published - 1


def measurements() -> tuple[Measurement, ...]:
    """Return every published measurement of `data/` with our prediction.

    Training steps come from one set of shares of the peak (`data/efficiencies.csv`), sizes from tensors alone: nothing
    is fitted to these rows.
    """
    return tuple(each for kind in KINDS for each in measured(kind))


@cache
def measured(kind: str) -> tuple[Measurement, ...]:
    """Return the published measurements of one kind: "size", "file", "pool" or "run"."""
    return tuple(KINDS[chosen("kind", kind, KINDS)]())


def run_of(row: tables.Row) -> tuple[Model, Training, Layout]:
    """Return a published training run as its paper describes it: the model, the training and the layout."""
    degrees: dict[str, Any] = {name: int(row[name]) for name in (*DEGREES, "zero")}
    layout = Layout(**degrees, sharding=row["sharding"], sequence_parallel=row["sequence_parallel"] == "yes")
    training = Training(
        micro_batch=int(row["micro_batch"]),
        sequence_tokens=int(row["sequence_tokens"]),
        global_batch=int(row["global_batch"]),
        precision="bf16-mixed",
        gradients=row["gradients"],
        implementation="megatron",
        recompute=row["recompute"],
        attention=row["attention"],
    )
    return model(row["model"]), training, layout


def predicted_run(row: tables.Row) -> TrainingTime:
    """Return the time that is predicted for a published training run."""
    of, training, layout = run_of(row)
    network = float(row["network_gb_per_s"]) if row["network_gb_per_s"] else None
    found = performance(of, training, row["accelerator"], layout, network)
    assert isinstance(found, TrainingTime)
    return found


def published_seconds(row: tables.Row, found: TrainingTime) -> float:
    """Return the published figure as the seconds of a step: papers state steps, tokens, or arithmetic per second."""
    of, training, layout = run_of(row)
    published, tokens = float(row["published"]), int(row["global_batch"]) * training.sequence_tokens
    if row["quantity"] == "seconds per step":
        return published
    if row["quantity"] == "tokens per second and device":
        return float(tokens / (published * layout.devices))
    if row["quantity"] == "model FLOPs utilisation in percent":
        return float(found.model_flops / (published / 100 * found.peak_flops * layout.devices))
    rate = published * 1e12 * layout.devices
    if row["quantity"] == "causal TFLOP/s per device":
        return float(found.causal_flops / rate)
    return float(_with_recomputation(of, training) / rate)


def _with_recomputation(of: Model, training: Training) -> float:
    """Narayanan et al. 2021, equation 3: the operations of a step whose layers are computed twice."""
    h, layers, s, v = of.hidden_size, of.layers, training.sequence_tokens, of.vocab_size
    batch = training.global_batch or training.micro_batch
    return float(96 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h)))


def _sizes() -> Iterator[Measurement]:
    for row in tables.rows("published_sizes"):
        published = float(row["published"]) * SCALES[row["unit"]]
        size = ours(row["ours"], "bytes")
        yield Measurement("size", row["group"], row["what"], published, size, "bytes", row["source"], row["why"])


def _runs() -> Iterator[Measurement]:
    for row in tables.rows("published_runs"):
        of, training, layout = run_of(row)
        found = predicted_run(row)
        fits = bool(memory(of, training, layout).total <= accelerator(row["accelerator"]).usable_bytes)
        large = row["too_large_because"] and f"by our count it does not fit: {row['too_large_because']}"
        why = "; ".join(filter(None, (row["speed_off_because"], large)))
        seconds = published_seconds(row, found)
        yield Measurement(
            "run", row["group"], row["run"], seconds, float(found.step_s), "seconds", row["source"], why, fits
        )


def _pools() -> Iterator[Measurement]:
    """The pool of cache blocks that a server logged."""
    card = accelerator(VLLM_CARD)
    for row in tables.rows("vllm_startup"):
        if not row["pool_gib"]:
            continue
        asked = Inference(
            engine="vllm",
            prompt_tokens=8192,
            output_tokens=0,
            weights=row["weights"],
            gpu_memory_utilization=VLLM_UTILISATION,
        )
        pool = kv_pool(model(row["model"]), asked, card)
        published = float(row["pool_gib"]) * GIB
        yield Measurement("pool", "vLLM", row["report_name"], published, float(pool.bytes), "bytes", "llm_d_planner")


def _files() -> Iterator[Measurement]:
    for row in tables.rows("published_files"):
        of = model(row["model"])
        size = float(weights(of, row["mix"]).total)
        yield Measurement(
            "file", of.label, f"{of.label}, {row['mix']}", float(row["gb"]) * GB, size, "bytes", row["source"]
        )


KINDS = {"size": _sizes, "file": _files, "pool": _pools, "run": _runs}
