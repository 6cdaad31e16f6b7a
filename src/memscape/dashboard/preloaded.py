"""What every kernel imports, to be imported once: kernels are forks of the process that has done so."""

from __future__ import annotations

from importlib import import_module

import ipykernel.debugger  # that there is one is asked at every start
import ipykernel.ipkernel
import ipykernel.kernelapp  # noqa: F401

import memscape as ms
from memscape.views import exercises, pages, text  # noqa: F401

for module in pages.ELSEWHERE.values():
    import_module(f"memscape.views.{module}")

# one answer reads the tables that all answers are read from
ms.memory(ms.model("llama-3.1-405b"), ms.Inference())
ms.memory(ms.model("llama-3.1-8b"), ms.Training())
