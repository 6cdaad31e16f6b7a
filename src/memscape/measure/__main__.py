"""The command line: python -m memscape.measure MODEL."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memscape import measure
from memscape.problem import Problem
from memscape.workload import ATTENTION, RECOMPUTE, TRAINING_PRECISIONS, UPDATES, Inference, Training

TOOLS = ("kept", "step")
ABOUT = """Run a model with random weights and show what was predicted beside what is measured, at every moment.
To list tensors instead: `kept MODEL` shows what autograd keeps, `step MODEL` what is alive at the peaks of a step."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        sys.stdout.write(_tool(words) if words[:1] and words[0] in TOOLS else _compare(words))
    except Problem as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


def _compare(words: list[str]) -> str:
    parser = _parser(ABOUT)
    parser.add_argument("--micro-batch", type=int, default=1, help="sequences at once")
    parser.add_argument("--precision", choices=TRAINING_PRECISIONS, default="bf16")
    parser.add_argument("--attention", choices=ATTENTION, default="sdpa")
    parser.add_argument("--recompute", choices=RECOMPUTE, default="none", help="full: gradient checkpointing")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--update", choices=UPDATES, default="single", help="how the optimizer steps")
    parser.add_argument("--global-batch", type=int, help="sequences per update, in micro-batches")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank on the frozen model")
    parser.add_argument("--inference", action="store_true", help="answer a prompt of --sequence tokens")
    parser.add_argument("--output-tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--save", nargs="?", const="", metavar="FILE", help="append to data/measured.csv or FILE")
    given = vars(parser.parse_args(words))
    found = measure.compare(given["model"], _workload(given), given["device"], given["layers"])
    text = measure.table(found)
    if given["save"] is not None:
        text += f"added to {measure.save(found, Path(given['save']) if given['save'] else None)}\n"
    return text


def _parser(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m memscape.measure", description=about)
    parser.add_argument("model", help="a name of the catalogue, or the path of a config.json or its folder")
    parser.add_argument("--sequence", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--dropout", type=float, help="replaces the rates of the config; 0 switches them off")
    parser.add_argument("--layers", type=int, help="replaces the model's depth")
    parser.add_argument("--device", default="meta", help='"meta" (no memory is used), "cpu" or "cuda"')
    return parser


def _workload(given: Mapping[str, Any]) -> Inference | Training:
    if given["inference"]:
        precision = dict.fromkeys(("weights", "kv_cache"), given["precision"])
        sizes = {"prompt_tokens": given["sequence"], "output_tokens": given["output_tokens"]}
        return Inference(
            given["micro_batch"], **sizes, **precision, engine="transformers", attention=given["attention"]
        )
    names = ("micro_batch", "global_batch", "precision", "optimizer", "update", "recompute", "attention", "dropout")
    adapters = {"method": "lora", "lora_rank": given["lora"]} if given["lora"] is not None else {}
    return Training(sequence_tokens=given["sequence"], **{name: given[name] for name in names}, **adapters)


def _tool(words: list[str]) -> str:
    """List tensors: `kept` what autograd keeps for backward, `step` what is alive at the peaks of a step."""
    parser = _parser(str(_tool.__doc__))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--attention", choices=ATTENTION, default="eager")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--everything", action="store_true", help="kept: also what is free again at the end")
    parser.add_argument("--optimizer", default="AdamW foreach=False", help="step: a class and its settings")
    parser.add_argument("--most", type=int, default=40, help="step: tensors shown of each peak")
    given = vars(parser.parse_args(words[1:]))
    config, most = measure.config_of(given.pop("model"))[1], given.pop("most")
    everything, optimizer = given.pop("everything"), given.pop("optimizer")
    if words[0] == "kept":
        kept = measure.saved_tensors(config, **given, everything=everything)
        return "\n".join(map(measure.shown, kept)) + f"\n{sum(each.bytes for each in kept):>15,}  total\n"
    course = measure.step_course(config, **given, optimizer=optimizer)
    lines = [f"{step} {moment:<16} {size:>16,}" for (step, moment), size in course.bytes.items()]
    for moment in ("forward_peak", "backward_peak", "optimizer_peak"):
        alive = course.alive[1, moment]
        lines += ["", f"alive at the {moment} of step 1 ({len(alive)} tensors)", *map(measure.shown, alive[:most])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
