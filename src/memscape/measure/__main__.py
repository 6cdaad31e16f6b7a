"""The command line: python -m memscape.measure MODEL."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from memscape import measure
from memscape.problem import Problem

if TYPE_CHECKING:
    from memscape.measure.witness import Kept

TOOLS = ("kept", "step")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        sys.stdout.write(_tool(words) if words[:1] and words[0] in TOOLS else _compare(words))
    except Problem as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


def _tool(words: list[str]) -> str:
    """List tensors: `kept MODEL` what autograd keeps, `step MODEL` what is alive at the peaks of a step."""
    from memscape.measure.comparison import config_of

    parser = argparse.ArgumentParser(prog="memscape.measure", description=_tool.__doc__)
    parser.add_argument("what", choices=TOOLS)
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
    parser.add_argument("--everything", action="store_true", help="kept: also what is free again at the end")
    parser.add_argument("--optimizer", default="AdamW foreach=False", help="step: a class and its settings")
    parser.add_argument("--most", type=int, default=40, help="step: tensors shown of each peak")
    given = vars(parser.parse_args(words))
    what, config, most = given.pop("what"), config_of(given.pop("model")), given.pop("most")
    everything, optimizer = given.pop("everything"), given.pop("optimizer")
    if what == "kept":
        kept = measure.saved_tensors(config, **given, everything=everything)
        return _lines(kept) + f"{sum(each.bytes for each in kept):>15,}  total\n"
    course = measure.step_course(config, **given, optimizer=optimizer)
    shown = "".join(f"{step} {moment:<16} {size:>16,}\n" for (step, moment), size in course.bytes.items())
    for moment in ("forward_peak", "backward_peak", "optimizer_peak"):
        alive = course.alive[1, moment]
        shown += f"\nalive at the {moment} of step 1 ({len(alive)} tensors)\n" + _lines(alive[:most])
    return shown


def _lines(tensors: list[Kept]) -> str:
    lines = []
    for each in tensors:
        shape, mark = " x ".join(map(str, each.shape)) or "scalar", "  weight copy" if each.weight_copy else ""
        lines.append(f"{each.bytes:>15,}  {each.dtype:<9} {shape:<24} {each.where:<38} {each.operation}{mark}\n")
    return "".join(lines)


def _compare(words: list[str]) -> str:
    raise Problem("not there yet")


if __name__ == "__main__":
    sys.exit(main())
