"""What serving engines publish: their defaults by version and card (`data/engines.csv`), and what they refuse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memscape import tables
from memscape.catalog import Accelerator, precision, weight_precisions
from memscape.memory import gguf
from memscape.problem import Problem, chosen, one_of
from memscape.units import GIB

if TYPE_CHECKING:
    from memscape.workload import Inference

ENGINES = ("generic", "transformers", "vllm", "llama.cpp")
# the fields of an Inference that one engine alone has, and what they are where nobody asks
FIELDS_OF: dict[str, dict[str, bool | None]] = {
    "vllm": {
        "engine_version": None,
        "most_sequences": None,
        "gpu_memory_utilization": None,
        "cuda_graphs": True,
        "hybrid_cache": True,
    },
    "llama.cpp": {"gpu_layers": None},
}
SIXTEEN_BIT = 2


def fact(engine: str, name: str, version: str | None = None, accelerator: Accelerator | None = None) -> tables.Row:
    """Return the row of `data/engines.csv` for a version and a card; the first row that applies decides.

    Without a version it is the one that the rows were measured with; without a card, a large one.
    Raises: Problem where the engine publishes no such row.
    """
    given = _numbers(version or measured_version(engine))
    for row in tables.rows("engines"):
        if (row["engine"], row["name"]) == (engine, name) and _numbers(row["since"]) <= given and _on(row, accelerator):
            return row
    raise Problem(f'engines.csv says nothing about "{name}" of {engine}; add a row with its source')


def measured_version(engine: str) -> str:
    """Return the version whose figures the rows of an engine are."""
    rows = tables.rows("engines")
    return next(row["likely"] for row in rows if (row["engine"], row["name"]) == (engine, "version"))


def default_block_tokens(engine: str) -> int:
    """Return the tokens of a block of the engine's cache; 1 where a cache has no blocks."""
    return int(fact(engine, "tokens in a block")["likely"]) if engine in FIELDS_OF else 1


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version else ()


def _on(row: tables.Row, accelerator: Accelerator | None) -> bool:
    """Whether a row holds for a card: enough memory, and not one that the engine leaves out by name."""
    if accelerator is None or not row["least_gib"]:
        return True
    return accelerator.usable_bytes >= int(row["least_gib"]) * GIB and row["but_not"] not in accelerator.name.split()


def check_engine(inference: Inference) -> None:
    """Refuse what the engine cannot do, and fields that another engine has."""
    for engine, fields in FIELDS_OF.items():
        given = [name for name, absent in fields.items() if getattr(inference, name) is not absent]
        if given and inference.engine != engine:
            raise Problem(f'engine "{inference.engine}" has no {given[0]}; use engine "{engine}", or leave it out')
    _check_weights(inference)
    _check_values(inference)
    most, asked = inference.most_sequences, inference.sequences
    above = False if most is None else asked > most
    if above.any() if hasattr(above, "any") else above:
        raise Problem(
            f"{str(asked)[:40]} sequences cannot run at once where most_sequences admits {most:,}; "
            f"raise most_sequences, or lower sequences"
        )


def _check_weights(inference: Inference) -> None:
    name = chosen("precision", inference.weights, weight_precisions())
    in_gguf = name in gguf.mixes()
    if in_gguf and inference.engine == "vllm":
        raise Problem(
            f'weights "{name}" is a GGUF type, and vLLM serves checkpoints of safetensors; '
            f'use engine "llama.cpp", or a precision such as "fp8" or "awq-4bit-g128"'
        )
    if inference.engine == "llama.cpp" and not in_gguf and not _sixteen_bit(name):
        raise Problem(
            f'weights "{name}" is no GGUF type, and llama.cpp reads GGUF files; use "Q4_K_M", "Q8_0" or "bf16"'
        )


def _sixteen_bit(name: str) -> bool:
    return precision(name).plain and precision(name).parts[0].bytes >= SIXTEEN_BIT


def _check_values(inference: Inference) -> None:
    share, version = inference.gpu_memory_utilization, inference.engine_version
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1):
        raise Problem(f"gpu_memory_utilization is {str(share)[:40]}; use a share above 0 and up to 1, such as 0.9")
    if version is not None and not re.fullmatch(r"\d+(\.\d+){1,3}", str(version)):
        raise Problem(f'engine_version is {str(version)[:40]!r}; write it as in "{measured_version("vllm")}"')
    for name in ("cuda_graphs", "hybrid_cache"):
        if not isinstance(getattr(inference, name), bool):
            raise Problem(f"{name} is {str(getattr(inference, name))[:40]}; use {one_of((True, False))}")
