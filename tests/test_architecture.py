"""The promises of the layout: what is imported, in which order, and what the numbers cannot hide in."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
from published import ROOT

SOURCE = ROOT / "src" / "memscape"
ORDER = (
    "problem", "tables", "units", "breakdown", "model", "config", "rules", "families",
    "memory.gguf", "catalog", "hardware", "readers", "serving", "workload", "memory.tensors", "memory.modules",
    "memory.parameters", "memory.weights", "memory.kv_cache",
    "parallelism",
    "memory.engines", "memory.pool", "memory.llama_cpp",
    "memory.optimizers", "memory.adapters", "memory.training_states", "memory.scratch", "memory.buffers",
    "memory.offload", "forward", "memory.megatron", "memory.kept", "memory.step", "memory.activations",
    "memory.request", "memory.grid", "memory.timeline", "memory.alignment",
    "performance", "cluster", "planner", "reality", "views", "dashboard",
)  # fmt: skip


def test_import_loads_the_standard_library_alone():
    """DESIGN: `import memscape` and a scalar answer need no numpy, pandas, plotly or widget."""
    code = (
        "import sys, memscape as ms\n"
        "ms.memory(ms.model('llama-3.1-8b'), ms.Inference(weights='Q4_K_M'))\n"
        "names = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(name for name in names if not name.startswith('_')))"
    )
    shown = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert [name for name in ast.literal_eval(shown) if name not in ("memscape", "sitecustomize")] == []


def _rank(module):
    inner = module.removeprefix("memscape.")
    return next((place for place, name in enumerate(ORDER) if inner == name or inner.startswith(name + ".")), None)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_import_only_upwards(path):
    """DESIGN: imports look up the list, at module level; a function may reach down for a display."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    own = _rank(".".join(parts))
    if own is None or path.name == "__init__.py":
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("memscape"):
            for alias in node.names:
                rank = _rank(f"{node.module}.{alias.name}")
                rank = _rank(node.module) if rank is None else rank
                assert rank is None or rank <= own, f"{path.name} imports {node.module}.{alias.name}"


def test_calculation_imports_no_widget_and_no_chart():
    """DESIGN: only views and dashboard know them."""
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] in ("views", "dashboard"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not any(f"import {name}" in text for name in ("ipywidgets", "anywidget", "plotly", "voila")), path


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_is_prose_and_calls(path):
    """STYLE 10: no outputs, no function, no widget construction, at most 12 lines a cell, a title for the tab."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["title"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
            assert not cell["outputs"] and cell["execution_count"] is None
            assert len(lines) <= 12 and not any(word in line for line in lines for word in ("def ", "widgets."))
