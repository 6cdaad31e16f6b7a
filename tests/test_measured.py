"""data/measured.csv: what CUDA's own allocator counted on a real GPU, against what is predicted without one.

The rows are those of `python -m memscape.measure MODEL --device cuda --save`. What is measured and is by its nature no
part of a prediction (workspaces of the matrix library, the allocator's rounding, inputs and buffers) is `known_bytes`.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict

import pytest
from published import ROOT

import memscape as ms
from memscape.config import shortened

# AdamW's counters of steps (4 bytes a tensor) stay on the CPU, and the state of the random numbers is that of cuDNN's
# kernel, which CUDA prefers on Hopper; both are predicted as on other cards
SMALL = 2_000
# "what": (moments, the least and the most that is unexplained, why)
KNOWN = {
    ("llama-3.2-1b", "fp32"): (
        ("kept", "forward_peak", "forward_end", "backward_peak"), 200_000_000, 2_200_000_000,
        "torch 2.11 has no fp32 kernel for grouped heads and keeps the scores; from 2.13 on it has one",
    ),
    ("llama-3.2-1b", "bf16-autocast"): (
        ("backward_peak",), -1_100_000_000, -800_000_000,
        "both gradients of a tied word table are added in place on a GPU, but not under the tracer that the "
        "prediction is held against (autograd's input buffer does so for plain tensors alone)",
    ),
    ("deepseek-v2-lite", "bf16"): (
        ("kept", "forward_peak", "forward_end"), 12_580_000, 12_590_000,
        "cuDNN's kernel takes MLA's values of another width; the attention's output is kept in a second layout",
    ),
    ("falcon-7b", "bf16"): (
        ("backward_peak",), 38_900_000, 39_000_000,
        "not found; about what gradients of keys and values take that have a head for each of the 71 query heads",
    ),
    ("gemma-2-2b", "bf16"): (
        ("optimizer_peak",), -6_200_000, SMALL,
        "the allocator's two counters, of bytes asked and bytes given, are not highest at one moment",
    ),
    ("gpt-oss-20b", "4096+16"): (
        ("prefill",), -8_400_000, -8_300_000,
        "the scores are highest before the last layer has stored its 8,388,608 bytes of keys and values",
    ),
    ("gpt2", "512+16"): (("prefill",), 7_000_000, 7_100_000, "the output of attention lives until its layer ends"),
    ("olmo-2-7b", "4096+16"): (
        ("prefill",), -65_100_000, -65_000_000,
        "where it is highest the last layer's keys and values are counted twice: as computed, and in the cache",
    ),
    ("t5-base", "512+16"): (("prefill",), -49_400_000, -49_300_000, "its encoder has ended before the decoder starts"),
}  # fmt: skip
SHARED = ("model", "layers", "kind", "micro_batch", "global_batch", "sequence", "precision", "attention", "recompute",
          "dropout", "optimizer")  # fmt: skip


def _runs():
    found = defaultdict(list)
    for row in csv.DictReader((ROOT / "data" / "measured.csv").read_text(encoding="utf-8").splitlines()):
        if row["device"].startswith("NVIDIA"):
            found[tuple(row[name] for name in SHARED)].append(row)
    return list(found.values())


def _model(row):
    """The model of a row, with as many layers as were run."""
    raw = json.loads((ROOT / "data" / "models" / f"{row['model']}.json").read_text(encoding="utf-8"))
    return ms.read_model(shortened(raw, int(row["layers"])), row["model"]) if row["layers"] else ms.model(row["model"])


def _workload(row):
    """What was asked of it."""
    batch, shared = int(row["micro_batch"]), {"attention": row["attention"]}
    if row["kind"] == "inference":
        prompt, output = map(int, row["sequence"].split("+"))
        precision = dict.fromkeys(("weights", "kv_cache"), row["precision"])
        return ms.Inference(
            batch, prompt_tokens=prompt, output_tokens=output, engine="transformers", **precision, **shared
        )
    optimizer, update = row["optimizer"].split()
    more = {"method": "lora"} if row["kind"] == "lora" else {}
    more |= {"global_batch": int(row["global_batch"])} if row["global_batch"] else {}
    more |= {} if row["dropout"] == "config" else {"dropout": float(row["dropout"])}
    return ms.Training(
        batch, sequence_tokens=int(row["sequence"]), precision=row["precision"], recompute=row["recompute"],
        optimizer=optimizer, update=update, **shared, **more,
    )  # fmt: skip


def _known(row):
    for key in ((row["model"], row["precision"]), (row["model"], row["sequence"])):
        if key in KNOWN and row["moment"] in KNOWN[key][0] and (row["kind"] == "inference") == ("+" in key[1]):
            return KNOWN[key][1:3]
    return -SMALL, SMALL


@pytest.mark.parametrize("run", _runs(), ids=lambda run: "-".join(filter(None, (run[0][name] for name in SHARED))))
def test_a_real_gpu_allocates_what_is_predicted(run):
    """Every moment of a run on an H200, to 2,000 bytes; what is further off is listed above with its reason.

    The moment "decode" is left out: measured is its highest point, when transformers copies a layer's cache to add a
    token; predicted is what stands when the answer is written.
    """
    model, workload = _model(run[0]), _workload(run[0])
    alive = ms.timeline(model, workload)
    told = {key: each.total - each.only(phase="runtime").total for key, each in alive.items()}
    if run[0]["kind"] != "inference":
        told[1, "kept"] = ms.activations(model, workload).total
    for row in run:
        predicted = told[int(row["step"]), row["moment"]]
        assert predicted == int(row["predicted_bytes"]), "the prediction has changed since: run it again, or mend it"
        lowest, highest = _known(row)
        if row["moment"] != "decode":
            rest = int(row["measured_bytes"]) - int(row["known_bytes"]) - predicted
            assert lowest <= rest <= highest, (row["step"], row["moment"], rest)


def test_what_is_listed_as_off_is_off():
    """A reason that no row needs any more is taken out."""
    for key, (moments, lowest, highest, _) in KNOWN.items():
        rests = [
            int(row["measured_bytes"]) - int(row["known_bytes"]) - int(row["predicted_bytes"])
            for run in _runs() for row in run
            if row["model"] == key[0] and key[1] in (row["precision"], row["sequence"]) and row["moment"] in moments
            and (row["kind"] == "inference") == ("+" in key[1])
        ]  # fmt: skip
        assert any(abs(rest) > SMALL and lowest <= rest <= highest for rest in rests), key
