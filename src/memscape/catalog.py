"""The catalogue: `data/` as Model, Precision, CachePrecision and Accelerator, and as tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from memscape import tables
from memscape.families import model_from_config
from memscape.model import Model
from memscape.problem import Problem, chosen
from memscape.units import GB

if TYPE_CHECKING:
    import pandas

# the rates of an accelerator, and the columns they stand in; all without sparsity
RATES = {
    "bf16_tflops": "fp16_bf16_tflops",
    "fp32_tflops": "tf32_tflops",
    "fp8_tflops": "fp8_tflops",
    "link_gb_per_s": "interconnect_gb_per_s",
    "power_w": "tdp_w",
    "price_usd": "indicative_unit_price_usd",
}
MARKETED = "marketing figure in GB (1e9 bytes)"
ALL = "all"
"""In `Part`: a block spans the whole of this dimension."""


@dataclass(frozen=True)
class Part:
    """One kind of number that a quantised tensor stores: so many bytes for a block of rows × columns."""

    name: str
    bytes: int
    rows: int | str
    columns: int | str


@dataclass(frozen=True)
class Precision:
    """How a weight is stored: its packed values, then scales and zero points per block.

    `quantises` are the groups of the model it is applied to by default (all for a plain number format); `flat` blocks
    run over the flattened tensor in place of each row.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    quantises: tuple[str, ...]
    flat: bool
    source: str

    @property
    def plain(self) -> bool:
        """Whether it is a number format: every value apart, nothing beside it, for all tensors."""
        return self.quantises == ("everything",)


@dataclass(frozen=True)
class CachePrecision:
    """How a key or value is stored: blocks of elements, and what each head adds per token."""

    name: str
    title: str
    block_elements: int
    block_bytes: int
    bytes_per_head: int
    source: str


@dataclass(frozen=True)
class Accelerator:
    """A device: what its memory is sold as, and what a program can have of it.

    `usable_bytes` is the total that the driver reports where that is known; else the marketing GB, which is at most 7 %
    too little, never too much. `basis` says which.
    """

    name: str
    vendor: str
    memory_gb: float
    usable_bytes: int
    basis: str
    bandwidth_gb_per_s: float | None
    confidence: str
    source: str
    notes: str
    architecture: str = ""
    bf16_tflops: float | None = None
    fp32_tflops: float | None = None
    fp8_tflops: float | None = None
    link_gb_per_s: float | None = None  # to its neighbours in a node, both directions together
    pcie_generation: str = ""
    devices_per_node: int = 1
    power_w: float | None = None
    price_usd: float | None = None  # indicative: a guess for a budget, no offer
    unified_memory: bool = False  # the host's RAM is the device's memory

    def as_sold(self) -> Accelerator:
        """Return the same device with the memory that it is sold with: marketing GB of 1e9 bytes, all of it usable."""
        return replace(self, usable_bytes=int(self.memory_gb * GB), basis=MARKETED)


def model(name: str) -> Model:
    """Return a model of the catalogue: `model("llama-3.1-70b")`. An unknown name is refused with the nearest ones."""
    return _model(chosen("model", name, tables.by_key("models", "id")))


@cache
def _model(name: str) -> Model:
    row = tables.by_key("models", "id")[name]
    path = tables.folder() / "models" / f"{name}.json"
    return model_from_config(json.loads(path.read_text(encoding="utf-8")), name, row["source"], row["title"])


def precision(name: str) -> Precision:
    """Return a precision for weights (not the GGUF mixes: those differ from tensor to tensor)."""
    return _precision(chosen("precision", name, tables.by_key("precisions")))


@cache
def _precision(name: str) -> Precision:
    row = tables.by_key("precisions")[name]
    parts = [Part("packed", int(row["packed_bytes"]), 1, int(row["packed_elements"]))]
    for part in ("scale", "zero", "second_scale"):
        if row[f"{part}_bytes"]:
            span = [ALL if row[f"{part}_{axis}"] == ALL else int(row[f"{part}_{axis}"]) for axis in ("rows", "columns")]
            parts.append(Part(part.replace("_", " "), int(row[f"{part}_bytes"]), *span))
    groups = tuple(row["quantises"].split())
    return Precision(name, row["title"], tuple(parts), groups, row["flat"] == "yes", row["source"])


@cache
def weight_precisions() -> tuple[str, ...]:
    """Return every name that `weights` accepts: the precisions of the catalogue, then GGUF's mixes and plain types."""
    from memscape.memory import gguf

    return (*tables.by_key("precisions"), *gguf.mixes())


def common_precisions() -> tuple[str, ...]:
    """Return the precisions that readers meet most, for a picture of them all."""
    rows = (*tables.rows("precisions"), *tables.rows("gguf_mixes"))
    return tuple(row["name"] for row in rows if row["common"] == "yes")


def cache_precision(name: str) -> CachePrecision:
    """Return a precision that a KV cache can have."""
    return _cache_precision(chosen("cache precision", name, tables.by_key("cache_precisions")))


@cache
def _cache_precision(name: str) -> CachePrecision:
    row = tables.by_key("cache_precisions")[name]
    elements, size, beside = (int(row[column]) for column in ("block_elements", "block_bytes", "bytes_per_head"))
    return CachePrecision(name, row["title"], elements, size, beside, row["source"])


def as_accelerator(asked: Accelerator | str | None) -> Accelerator | None:
    """Return an accelerator that was given, or looked up by its name; None where none was asked for."""
    return accelerator(asked) if isinstance(asked, str) else asked


def accelerator(name: str) -> Accelerator:
    """Return an accelerator of the catalogue: `accelerator("H100 SXM 80GB")`."""
    return _accelerator(chosen("accelerator", name, tables.by_key("accelerators")))


@cache
def _accelerator(name: str) -> Accelerator:
    row = tables.by_key("accelerators")[name]
    memory_gb = tables.number("accelerators", row, "memory_gb")
    reported = tables.number("accelerators", row, "memory_bytes")
    if memory_gb is None:
        raise Problem(f'accelerators.csv: "{name}" has no memory_gb; add it')
    return Accelerator(
        name=name,
        vendor=row["vendor"],
        memory_gb=memory_gb,
        usable_bytes=int(reported if reported is not None else memory_gb * GB),
        basis=row["memory_bytes_basis"] or MARKETED,
        bandwidth_gb_per_s=tables.number("accelerators", row, "memory_bandwidth_gb_per_s"),
        confidence=row["confidence"],
        source=row["source"],
        notes=row["notes"],
        architecture=row["architecture"],
        pcie_generation=row["pcie_gen"],
        unified_memory="unified" in row["memory_type"],
        devices_per_node=int(row["typical_per_node"] or 1),
        **{field: tables.number("accelerators", row, column) for field, column in RATES.items()},
    )


def models() -> pandas.DataFrame:
    """Return the models of the catalogue, one row each, with parameters and blocks."""
    import pandas

    from memscape.memory.parameters import active_parameters, parameters

    columns = ("family", "layers", "hidden_size", "heads", "kv_heads", "head_dim", "ffn_size", "vocab_size", "experts")
    rows = []
    for name, row in tables.by_key("models", "id").items():
        shape = model(name)
        counted = {"parameters": parameters(shape).total, "active_parameters": active_parameters(shape).total}
        sizes = {column: getattr(shape, column) for column in columns[1:]}
        rows.append({"name": name, "title": row["title"], "family": row["family"], **counted, **sizes, **_origin(row)})
    return pandas.DataFrame(rows).set_index("name")


def _origin(row: tables.Row) -> tables.Row:
    return {column: row[column] for column in ("confidence", "source", "checked_on") if column in row}


def accelerators() -> pandas.DataFrame:
    """Return the accelerators of the catalogue, one row each, with the usable bytes."""
    frame = table(tables.rows("accelerators"))
    frame.insert(2, "usable_bytes", [accelerator(name).usable_bytes for name in frame.index])
    return frame


def table(rows: tuple[tables.Row, ...]) -> pandas.DataFrame:
    """Return rows as a table by their name; a column of numbers holds numbers, empty cells are unknown (NaN)."""
    import pandas

    frame = pandas.DataFrame(rows).set_index("name")
    for column in frame.columns:
        if _numeric(frame[column]):
            frame[column] = pandas.to_numeric(frame[column])
    return frame


def _numeric(column: pandas.Series[str]) -> bool:
    filled = column[column != ""]
    return len(filled) > 0 and bool(filled.str.fullmatch(r"-?\d+(\.\d+)?").all())


def precisions() -> pandas.DataFrame:
    """Return the precisions for weights, one row each, GGUF types and mixes included."""
    import pandas

    from memscape.memory.weights import bits_per_weight, title

    rows = [
        {"name": name, "title": title(name), "bits_per_weight": bits_per_weight(name)} for name in weight_precisions()
    ]
    return pandas.DataFrame(rows).set_index("name")
