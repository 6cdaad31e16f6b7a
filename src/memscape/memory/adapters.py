"""Low-rank adapters (LoRA, QLoRA): two thin matrices beside each chosen linear layer of a frozen model."""

from __future__ import annotations

from memscape.breakdown import Quantity, ceil_div, product
from memscape.catalog import Part, precision
from memscape.memory.modules import Run, Stored, runs, stored
from memscape.memory.tensors import Sizes
from memscape.model import Model
from memscape.problem import Problem, one_of
from memscape.workload import ALL_LINEAR, Training


def adapted(model: Model, training: Training) -> tuple[Stored, ...]:
    """Return the linear layers that get an adapter, as PEFT chooses them.

    "all-linear" means every linear layer but the output head; a name means every layer whose path ends with it
    ("q_proj", "attention.dense", also fused ones: "c_attn", "query_key_value"). Stacked experts and routers that are
    no linear layers in transformers get none.
    Raises: Problem for a name that no linear layer has, and for a rank above the smaller side of a matrix.
    Source: hu2021
    """
    linear = [tensor for tensor in stored(model) if tensor.kind == "linear" and tensor.rows]
    if training.lora_targets == ALL_LINEAR:
        chosen = [tensor for tensor in linear if tensor.name != "output head"]
    else:
        chosen = [tensor for tensor in linear if any(_ends(tensor, target) for target in training.lora_targets)]
        for target in training.lora_targets:
            if not any(_ends(tensor, target) for tensor in linear):
                raise Problem(
                    f'{model.label} has no linear layer "{target[:40]}"; it has {one_of(_leaves(linear), 20)}'
                )
    for tensor in chosen:
        _check_rank(model, training.lora_rank, tensor)
    return tuple(chosen)


def adapter_runs(model: Model, training: Training) -> tuple[Run, ...]:
    """Return the adapters' tensors in the order in which an optimizer meets them: A, then B, layer by layer."""
    chosen = {(tensor.module, tensor.name, tensor.place) for tensor in adapted(model, training)}
    found = []
    for run in runs(model):
        pairs = [
            each
            for tensor in run.tensors
            if (tensor.module, tensor.name, tensor.place) in chosen
            for each in pair(tensor, training.lora_rank)
        ]
        found.append(Run(tuple(pairs), run.repeats))
    return tuple(found)


def adapters(model: Model, training: Training) -> tuple[Stored, ...]:
    """Return the adapters' tensors once, with the layers that hold them as copies."""
    return tuple(each for tensor in adapted(model, training) for each in pair(tensor, training.lora_rank))


def pair(tensor: Stored, rank: Quantity) -> tuple[Stored, Stored]:
    """Return the two matrices beside one: r × in, then out × r."""
    thin: Sizes = {"lora_rank": rank}

    def side(name: str, columns: Sizes, rows: Sizes) -> Stored:
        return Stored(
            f"{tensor.name}: adapter {name}", tensor.module, "linear", tensor.group, columns, rows, {}, tensor.copies,
            tensor.place,
        )  # fmt: skip

    return side("A", tensor.columns, thin), side("B", thin, tensor.rows)


def dequantised(model: Model, training: Training) -> tuple[Stored, Part | None] | None:
    """Return the largest quantised matrix that a linear layer multiplies with, and the second scale beside it."""
    base = precision(training.base_precision)
    quantised = [t for t in stored(model) if t.kind == "linear" and t.rows and t.group in base.quantises]
    if not quantised:
        return None
    second = next((part for part in base.parts if part.name == "second scale"), None)
    return max(quantised, key=lambda tensor: int(product(tensor.shape))), second


def _ends(tensor: Stored, target: str) -> bool:
    return any(path == target or path.endswith(f".{target}") for path in tensor.module.split(", "))


def _leaves(linear: list[Stored]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for tensor in linear for path in tensor.module.split(", ")))


def _check_rank(model: Model, rank: Quantity, tensor: Stored) -> None:
    most = min(tensor.shape)
    above = rank > most
    if above.any() if hasattr(above, "any") else above:
        raise Problem(
            f"lora_rank {str(rank)[:40]} is above the smaller side of {tensor.module} ({most:,}) of {model.label}; "
            f"use at most {most:,}, or leave this module out of lora_targets"
        )
