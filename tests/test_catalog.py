"""The catalogue: every row readable, sourced and found by its name."""

from __future__ import annotations

import csv

import pytest

import memscape as ms
from memscape import tables

TABLES = ("precisions", "cache_precisions", "runtime", "gguf_mixes", "gguf_types", "gguf_rules", "gguf_fallbacks")


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ms.Problem, match='unknown model "llama-3.1-7b"; did you mean "llama-3.1-70b"'):
        ms.model("llama-3.1-7b")
    with pytest.raises(ms.Problem, match='unknown accelerator "H100"; did you mean "H100 NVL 94GB"'):
        ms.accelerator("H100")
    with pytest.raises(ms.Problem, match="unknown cache precision"):
        ms.kv_cache(ms.model("gpt2"), ms.Inference(kv_cache="q9"))


@pytest.mark.parametrize("name", [5, None, ["gpt2"], {}, ""])
def test_name_of_another_type_is_refused_too(name):
    with pytest.raises(ms.Problem, match="unknown model"):
        ms.model(name)


def test_h100_has_what_the_driver_reports():
    """nvidia-smi prints 81,559 MiB for an "80 GB" H100: 85.5e9 bytes, not 80e9."""
    h100 = ms.accelerator("H100 SXM 80GB")
    assert h100.usable_bytes == 81_559 * 2**20
    assert h100.memory_gb == 80


def test_unknown_driver_total_falls_back_to_the_marketing_figure():
    """GB (1e9) is the safe side: it is never more than the device has."""
    mi325 = ms.accelerator("MI325X")
    assert mi325.usable_bytes == 256 * 10**9 and "marketing" in mi325.basis


def test_driver_totals_are_mebibytes():
    for row in tables.rows("accelerators"):
        if row["driver_total_mib"] and row["memory_bytes"] and "bytes" not in row["memory_bytes_basis"]:
            assert int(row["memory_bytes"]) == int(row["driver_total_mib"]) * 2**20, row["name"]


@pytest.mark.parametrize("name", TABLES)
def test_every_source_key_resolves(name):
    known = tables.by_key("sources", "key")
    assert [row for row in tables.rows(name) if row["source"] not in known] == []


def test_every_term_names_a_source_that_resolves():
    known = tables.by_key("sources", "key")
    for row in tables.rows("models"):
        model = ms.model(row["id"])
        served = ms.memory(model, ms.Inference()) + ms.weights(model, "Q4_K_M") + ms.weights(model, "nf4")
        assert {term.source for term in served} <= set(known)


def test_every_row_of_the_catalogue_has_a_source():
    for name in ("models", "accelerators"):
        assert all(row["source"] and row["confidence"] for row in tables.rows(name))
    assert all(row["where"].startswith("https://") and row["checked_on"] for row in tables.rows("sources"))


def test_models_and_files_are_the_same_set():
    files = {path.stem for path in (tables.folder() / "models").glob("*.json")}
    assert files == set(tables.by_key("models", "id"))


def test_tables_have_one_row_for_each_entry():
    assert set(ms.models().index) == set(tables.by_key("models", "id"))
    assert ms.models().loc["llama-3.1-405b", "parameters"] == 405_853_388_800
    assert len(ms.accelerators()) == len(tables.rows("accelerators"))
    assert ms.accelerators().loc["H100 SXM 80GB", "usable_bytes"] == 81_559 * 2**20
    assert {"bf16", "nf4-dq", "Q4_K_M"} <= set(ms.precisions().index)


def test_cell_that_is_no_number_is_named_with_its_place():
    row = dict(tables.rows("accelerators")[0])
    with pytest.raises(ms.Problem, match="accelerators.csv, line 2: column 'vendor' holds 'NVIDIA', expected a number"):
        tables.number("accelerators", row, "vendor")


@pytest.mark.parametrize("path", sorted(ms.tables.folder().glob("*.csv")), ids=lambda path: path.name)
def test_every_row_has_as_many_cells_as_the_header(path):
    """STYLE 8: one fact per cell; a comma in a cell without quotes would shift the ones after it."""
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert [number for number, row in enumerate(rows, 2) if len(row) != len(head)] == []
