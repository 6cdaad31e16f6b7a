"""Predicted beside measured: what a model really needs, run here with random weights (extra `measure`)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from memscape import tables
from memscape.witness import MOMENTS, Kept, saved_tensors, step_course, step_moments

__all__ = ["saved_tensors", "step_course", "step_moments"]


def config_of(name: str) -> dict[str, Any]:
    """Return the config.json of a catalogue name or a path."""
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        path = tables.folder() / "models" / f"{name}.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def line(kept: Kept) -> str:
    """Return one row of text for a tensor."""
    shape = " x ".join(map(str, kept.shape)) or "scalar"
    mark = "  weight copy" if kept.weight_copy else ""
    return f"{kept.bytes:>15,}  {kept.dtype:<9} {shape:<24} {kept.where:<38} {kept.operation}{mark}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="memscape.measure")
    parser.add_argument("what", choices=("kept", "step"))
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--attention", default="eager")
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--device", default="meta")
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--most", type=int, default=40)
    given = vars(parser.parse_args(arguments))
    what, model, most = given.pop("what"), given.pop("model"), given.pop("most")
    say = sys.stdout.write
    if what == "kept":
        kept = saved_tensors(config_of(model), **given)
        say("\n".join(map(line, kept)) + f"\n{sum(each.bytes for each in kept):>15,}  total\n")
        return
    given.pop("everything")
    course = step_course(config_of(model), **given)
    for (step, moment), size in course.bytes.items():
        say(f"{step} {moment:<16} {size:>16,}\n")
    for moment in ((1, MOMENTS[0]), (1, MOMENTS[2]), (1, MOMENTS[4])):
        alive = course.alive[moment]
        say(f"\nalive at the {moment[1]} of step {moment[0]} ({len(alive)} tensors)\n")
        say("\n".join(map(line, alive[:most])) + "\n")


if __name__ == "__main__":
    main()
