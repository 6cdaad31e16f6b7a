"""Predicted beside measured: the real model with random weights, run here (extra `measure`: torch, transformers).

    python -m memscape.measure llama-3.2-1b --micro-batch 2 --sequence 1024

`compare` answers with one reading per moment; `saved_tensors` lists what autograd keeps for backward, `step_moments`
and `serving_moments` give the live bytes of a training step and of an answer. On the device "meta" no memory is used:
shapes, types and lifetimes are PyTorch's own, the kernels those that CUDA would choose.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memscape.problem import Problem

if TYPE_CHECKING:
    from memscape.measure.comparison import Comparison, Reading, compare, config_of
    from memscape.measure.course import serving_course, serving_moments, step_course, step_moments
    from memscape.measure.report import save, shown, table
    from memscape.measure.subject import Adapters, Run
    from memscape.measure.witness import Kept, saved_tensors

__all__ = [
    "Adapters",
    "Comparison",
    "Kept",
    "Reading",
    "Run",
    "compare",
    "config_of",
    "save",
    "saved_tensors",
    "serving_course",
    "serving_moments",
    "shown",
    "step_course",
    "step_moments",
    "table",
]
HOME = {
    "comparison": ("Comparison", "Reading", "compare", "config_of"),
    "course": ("serving_course", "serving_moments", "step_course", "step_moments"),
    "report": ("save", "shown", "table"),
    "subject": ("Adapters", "Run"),
    "witness": ("Kept", "saved_tensors"),
}


def __getattr__(name: str) -> Any:
    """Load torch when a name of this module is first used; say what to install where it is missing."""
    home = next((module for module, names in HOME.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    try:
        return getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as missing:
        if missing.name not in ("torch", "transformers"):
            raise
        raise Problem(
            f"measuring runs the real model and needs the package {missing.name}, which is not installed; "
            'install it with pip install "memscape[measure]"'
        ) from None
