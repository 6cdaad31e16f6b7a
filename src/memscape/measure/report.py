"""A comparison as text and as rows of `data/measured.csv`.

Needs torch and transformers (extra `measure`).
"""

from __future__ import annotations

import csv
import datetime
import platform
from pathlib import Path

import torch
import transformers

from memscape import tables
from memscape.measure.comparison import Comparison, Reading
from memscape.measure.witness import Kept
from memscape.workload import Inference

COLUMNS = (
    "model", "layers", "device", "driver", "torch", "transformers", "kind", "micro_batch", "global_batch", "sequence",
    "precision", "attention", "recompute", "dropout", "optimizer", "step", "moment", "predicted_bytes",
    "measured_bytes", "known_bytes", "reserved_bytes", "date",
)  # fmt: skip


def table(comparison: Comparison, most: int = 5) -> str:
    """Return the readings as text: predicted, measured, the difference, and what of it has a name."""
    facts = row_of(comparison)
    asked = " · ".join(f"{name} {facts[name]}" for name in COLUMNS[6:15] if facts[name] != "")
    lines = [
        f"{facts['model']} on {facts['device']} {facts['driver']}".rstrip(),
        f"{asked} · torch {facts['torch']} · transformers {facts['transformers']}",
        "",
        f"{'step':>4} {'moment':<16}{'predicted':>18}{'measured':>18}{'difference':>16}{'%':>9}{'unexplained':>16}",
        *map(_line, comparison.readings),
        "",
        *_named(comparison),
        *_missing(comparison, most),
    ]
    return "\n".join(lines) + "\n"


def _line(reading: Reading) -> str:
    start = f"{reading.step:>4} {reading.moment:<16}"
    if reading.predicted is None:
        return f"{start}{'':>18}{reading.measured:>18,}"
    percent = 100 * (reading.difference or 0) / max(reading.predicted, 1)
    shown = f"{reading.predicted:>18,}{reading.measured:>18,}{reading.difference:>+16,}{percent:>+9.3f}"
    return f"{start}{shown}{reading.rest:>+16,}"


def _named(comparison: Comparison) -> list[str]:
    """Say what is measured and is, by its nature, not part of the prediction."""
    if comparison.no_prediction:
        return [f"no prediction: {comparison.no_prediction}"]
    highest: dict[str, int] = {}
    for reading in comparison.readings:
        for name, size in reading.beside.items():
            highest[name] = max(size, highest.get(name, 0))
    reserved = [reading.reserved for reading in comparison.readings if reading.reserved]
    lines = [f"{size:>18,}  {name}" for name, size in highest.items()]
    lines += [f"{max(reserved):>18,}  reserved from the device at most"] if reserved else []
    return ["beside the prediction, in bytes:", *lines, ""] if lines else []


def _missing(comparison: Comparison, most: int) -> list[str]:
    """Name what differs: tensors kept, and the largest tensors at the moment that is furthest off."""
    lines = []
    if comparison.unmatched and comparison.device == "cpu":
        lines += ["a CPU has its own attention kernel and LayerNorm; what CUDA keeps is measured on cuda or meta", ""]
    if comparison.unmatched:
        lines += ["kept for backward, other than predicted:", *(f"  {each}" for each in comparison.unmatched[:most])]
    off = max(comparison.readings, key=lambda reading: abs(reading.rest or 0))
    alive = comparison.course.alive.get((off.step, off.moment), [])
    if off.rest and alive:
        lines += [f"largest tensors alive at {off.moment} of step {off.step}:", *map(shown, alive[:most])]
    return lines


def shown(kept: Kept) -> str:
    """Return one line for a tensor: bytes, type, shape, place, operation."""
    shape, mark = " x ".join(map(str, kept.shape)) or "scalar", "  weight copy" if kept.weight_copy else ""
    return f"{kept.bytes:>15,}  {kept.dtype:<9} {shape:<24} {kept.where:<38} {kept.operation}{mark}"


def save(comparison: Comparison, path: Path | None = None) -> Path:
    """Append a row per moment to `data/measured.csv`, or to another file; return its path."""
    path = path or tables.folder() / "measured.csv"
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for reading in comparison.readings:
            writer.writerow(row_of(comparison) | _cells(reading))
    return path


def _cells(reading: Reading) -> dict[str, object]:
    return {
        "step": reading.step,
        "moment": reading.moment,
        "predicted_bytes": "" if reading.predicted is None else reading.predicted,
        "measured_bytes": reading.measured,
        "known_bytes": sum(reading.beside.values()),
        "reserved_bytes": "" if reading.reserved is None else reading.reserved,
    }


def row_of(comparison: Comparison) -> dict[str, object]:
    """Return the columns that all moments of a run share."""
    asked, device = comparison.workload, comparison.device
    shared: dict[str, object] = dict.fromkeys(COLUMNS, "") | {
        "model": comparison.model,
        "layers": comparison.layers or "",
        "device": device_name(device),
        "driver": driver(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "attention": asked.attention,
        "date": datetime.date.today().isoformat(),
    }
    if isinstance(asked, Inference):
        own = {"kind": "inference", "micro_batch": asked.sequences, "precision": asked.weights}
        return shared | own | {"sequence": f"{asked.prompt_tokens}+{asked.output_tokens}"}
    return shared | {
        "kind": "training" if asked.method == "full" else asked.method,
        "micro_batch": asked.micro_batch,
        "global_batch": asked.global_batch or "",
        "sequence": asked.sequence_tokens,
        "precision": asked.precision,
        "recompute": asked.recompute,
        "dropout": "config" if asked.dropout is None else asked.dropout,
        "optimizer": f"{asked.optimizer} {asked.update}",
    }


def device_name(device: str) -> str:
    """Return what a device calls itself."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    if device == "cpu":
        return f"CPU {platform.machine()}"
    return device


def driver(device: str) -> str:
    """Return the version of the device's driver, where there is one."""
    if not device.startswith("cuda"):
        return ""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        return next(word for word in text.split() if word.count(".") >= 1 and word.replace(".", "").isdigit())
    except (OSError, StopIteration):
        return f"CUDA {torch.version.cuda}"
