"""Low-rank adapters (LoRA, QLoRA): two thin matrices beside each chosen linear layer of a frozen model."""

from __future__ import annotations

from memscape.breakdown import Quantity
from memscape.memory.modules import Run, Stored, remembered, runs, stored
from memscape.memory.tensors import Sizes
from memscape.model import Model
from memscape.problem import Problem, one_of
from memscape.workload import Training


def adapted(model: Model, training: Training) -> tuple[Stored, ...]:
    """Return the tensors that get an adapter, as PEFT 0.21 chooses them in transformers 5.

    "all-linear" means every linear layer but the output head; a name means every layer whose path ends with it
    ("q_proj", "attention.dense", also fused ones: "c_attn", "query_key_value"). Where transformers has stacked the
    experts of a family (Mixtral, Qwen3 MoE, DeepSeek, GLM-4.5), the names that they had before mean the stacked tensors
    and the router, and no dense or shared MLP of that name; other stacked experts (gpt-oss, Llama 4, Qwen1.5 MoE) get
    no adapter. Kimi K2 is taken for the DeepSeek V3 that it is built as.
    Raises: Problem for a name that no layer has, and for a rank above the smaller side of a matrix (not of a router).
    Source: hu2021, peft
    """
    return _adapted(model, training.lora_rank, training.lora_targets)


@remembered
def _adapted(model: Model, rank: Quantity, asked: tuple[str, ...] | str) -> tuple[Stored, ...]:
    known = [tensor for tensor in stored(model) if _may_adapt(tensor)]
    former = {name for tensor in known for name in tensor.former_names}
    if isinstance(asked, str):
        chosen = [t for t in known if t.former_names or not (t.name == "output head" or _ends_in(t.module, former))]
    else:
        chosen = [tensor for tensor in known if any(_meant(tensor, target, former) for target in asked)]
        for target in asked:
            if not any(_meant(tensor, target, former) for tensor in known):
                raise Problem(f'{model.label} has no linear layer "{target[:40]}"; it has {one_of(_leaves(known), 20)}')
        for tensor in chosen:
            _check_whole(tensor, asked)
    for tensor in chosen:
        _check_rank(model, rank, tensor)
    return tuple(chosen)


def _may_adapt(tensor: Stored) -> bool:
    return bool(tensor.rows) and (tensor.kind == "linear" or bool(tensor.former_names))


def _meant(tensor: Stored, target: str, former: set[str]) -> bool:
    """Whether a target names this tensor; a former name of stacked tensors means them and nothing else."""
    taken = _ends_in(target, former)
    if taken:
        return taken in tensor.former_names
    return tensor.kind == "linear" and _ends(tensor.module, target)


def _check_whole(tensor: Stored, targets: tuple[str, ...]) -> None:
    """Matrices that are stored as one can only be adapted together."""
    missing = [name for name in tensor.former_names if not any(_ends(target, name) for target in targets)]
    if missing:
        raise Problem(
            f"{one_of(tensor.former_names)} of the experts are stored as one tensor and adapted together; "
            f"add {one_of(missing)} to lora_targets"
        )


def adapter_runs(model: Model, training: Training) -> tuple[Run, ...]:
    """Return the adapters' tensors in the order in which an optimizer meets them: A, then B, layer by layer."""
    pairs = {_key(tensor): pair(tensor, training.lora_rank) for tensor in adapted(model, training)}
    return tuple(
        Run(tuple(each for tensor in run.tensors for each in pairs.get(_key(tensor), ())), run.repeats)
        for run in runs(model)
    )


def adapters(model: Model, training: Training) -> tuple[Stored, ...]:
    """Return the adapters' tensors once, with the layers that hold them as copies."""
    return tuple(each for tensor in adapted(model, training) for each in pair(tensor, training.lora_rank))


def most_rank(model: Model) -> int | None:
    """Return the highest rank of adapters beside every linear layer; None where a model has none that takes one."""
    sides = [_smaller_side(tensor) for tensor in adapted(model, Training(method="lora", lora_rank=1))]
    return min((side for side in sides if side is not None), default=None)


def pair(tensor: Stored, rank: Quantity) -> tuple[Stored, Stored]:
    """Return the two matrices beside one: r × in, then out × r; stacked experts have one such pair each."""
    thin: Sizes = {"lora_rank": rank} | tensor.stack
    if len(tensor.former_names) > 1:
        thin = {"ranks_in_one": len(tensor.former_names)} | thin

    def side(name: str, columns: Sizes, rows: Sizes) -> Stored:
        label = f"{tensor.name}: adapter {name}"
        return Stored(label, tensor.module, "linear", tensor.group, columns, rows, {}, tensor.copies, tensor.place)

    return side("A", tensor.columns, thin), side("B", thin, tensor.rows)


def _key(tensor: Stored) -> tuple[str, str, str]:
    return tensor.module, tensor.name, tensor.place


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _ends_in(path: str, names: set[str]) -> str:
    """Return the name that is the last word of a path; "" if none is."""
    leaf = path.rpartition(".")[2]
    return leaf if leaf in names else ""


def _leaves(known: list[Stored]) -> list[str]:
    """The last words of the paths, as users write them."""
    names = [tensor.module.rpartition(".")[2] for tensor in known if tensor.kind == "linear"]
    return list(dict.fromkeys(names + [name for tensor in known for name in tensor.former_names]))


def _smaller_side(tensor: Stored) -> int | None:
    """The smaller side of a matrix, which no rank may exceed; None for a router, where none is refused."""
    return None if tensor.group == "router" else int(min(tensor.shape[-2:]))


def _check_rank(model: Model, rank: Quantity, tensor: Stored) -> None:
    most = _smaller_side(tensor)
    if most is None:
        return
    above = rank > most
    if above.any() if hasattr(above, "any") else above:
        raise Problem(
            f"lora_rank {str(rank)[:40]} is above the smaller side of {tensor.module} ({most:,}) of {model.label}; "
            f"use at most {most:,}, or leave this module out of lora_targets"
        )
