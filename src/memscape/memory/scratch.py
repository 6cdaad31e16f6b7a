"""What is alive for a moment only: the temporaries of an optimizer's update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from memscape.breakdown import Breakdown, Quantity, Term, product
from memscape.memory.modules import Run, Stored
from memscape.memory.optimizers import BYTES, Optimizer, divided, optimizer, takes
from memscape.memory.tensors import Sizes
from memscape.memory.training_states import (
    gradient_bytes,
    has_master,
    parameter_bytes,
    shared,
    trained,
    trained_runs,
)
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.workload import Training

MASK_BYTES = 1


def update_scratch(model: Model, training: Training, layout: Layout | None = None) -> Breakdown:
    """Count what the optimizer's update holds at its highest beside weights, gradients and states.

        single:   max over tensors ( left · elements of the one before + alive · elements of this one ) · bytes
        foreach:  copies · elements of all tensors · bytes      fused: nothing      [bytes]

    AdamW one tensor at a time (`foreach=False`): the square root of the second moment and its quotient are alive while
    the quotient of the tensor before still has its name, so left = 1 and alive = 2. PyTorch makes the states of all
    tensors before it updates the first one, so the first step needs as much as any other. With `bf16-mixed` the update
    works in fp32; gradients in 16 bit are cast first (a fused kernel reads them as they are). With ZeRO each device
    updates its share.
    Holds for: the torch.optim classes with their default options, tensors in the order of `model.parameters()`.
    Not for:   parameter groups that a trainer makes (norms and biases last), gradient clipping.
    Not counted: single numbers (up to 12 bytes), and what Adafactor leaves of the tensor before.
    Sources:   pytorch_optim and those of `data/optimizers.csv`
    """
    terms: Iterator[Term] = iter(())
    if training.update == "single":
        terms = _highest(model, training)
    elif training.update == "foreach":
        terms = _all_at_once(model, training)
    return Breakdown("bytes", tuple(shared(terms, layout or Layout())), model.notes)


def _all_at_once(model: Model, training: Training) -> Iterator[Term]:
    """The temporaries of an update that goes through all tensors, operation by operation."""
    for rules, tensors in divided(trained(model, training), optimizer(training.optimizer)):
        for tensor in tensors:
            for term in _alive(rules, training, None, tensor, (0, rules.foreach)):
                yield term.of(tensor.copies | dict(term.factors))
        if rules.largest and tensors:
            largest = max(tensors, key=lambda tensor: _largest(tensor.elements))
            yield _term("one more copy of", largest, {"temporaries": rules.largest}, _size(training), rules)
            yield _term("mask of", largest, {"temporaries": rules.largest}, MASK_BYTES, rules)


def _highest(model: Model, training: Training) -> Iterator[Term]:
    """The temporaries at the highest moment of an update that takes one tensor after the other."""
    highest: list[Term] = []
    most = 0
    rules = optimizer(training.optimizer)
    for part in (rules, optimizer(rules.otherwise)) if rules.otherwise else (rules,):
        own = tuple(
            replace(run, tensors=tuple(tensor for tensor in run.tensors if takes(rules, tensor) == (part is rules)))
            for run in trained_runs(model, training)
        )
        for before, tensor in {
            (id(before), id(tensor)): (before, tensor) for before, tensor in _neighbours(own)
        }.values():
            for copies in part.single:
                terms = [*_alive(part, training, before, tensor, copies), *_factors(part, training, tensor)]
                total = sum(_largest(term.amount) for term in terms)
                highest, most = (terms, total) if total > most else (highest, most)
    yield from highest


def _alive(
    rules: Optimizer, training: Training, before: Stored | None, tensor: Stored, copies: tuple[int, int]
) -> Iterator[Term]:
    """What is alive while a tensor is updated: what is left of the one before, and copies of its own."""
    left, own = copies
    size = _size(training)
    cast = BYTES["fp32"] if gradient_bytes(training) < size else 0
    fixed = rules.extra_bytes + (rules.cast_bytes if size < BYTES["fp32"] else cast)
    if before is not None and left:
        yield _term("left of", before, {"temporaries": left}, size, rules)
    if own:
        yield _term("temporaries of", tensor, {"temporaries": own}, size, rules)
    if fixed:
        yield _term("copies in another type of", tensor, {}, fixed, rules)


def _factors(rules: Optimizer, training: Training, tensor: Stored) -> Iterator[Term]:
    """What an optimizer computes of a matrix beside copies: sums over rows and columns, products of the matrix."""
    if rules.factored and tensor.rows:
        sides = product(tensor.stack.values()) * sum(tensor.shape[-2:])
        factors = {"rows_and_columns": sides, "bytes_per_element": rules.state_bytes or _size(training)}
        yield Term(f"rows and columns of {tensor.name}", factors, tensor.group, "buffers", rules.source)
    if rules.gram_bytes:
        squared = min(tensor.shape) ** 2
        factors = {"smaller_side_squared": squared, "gram_bytes": rules.gram_bytes}
        yield Term(f"Gram matrices of {tensor.name}", factors, tensor.group, "buffers", rules.source)


def _size(training: Training) -> int:
    """The bytes of a number that the optimizer works on: the master weight, where there is one."""
    return BYTES["fp32"] if has_master(training) else parameter_bytes(training)


def _largest(amount: Quantity) -> int:
    """The amount; of a grid (of ranks) the largest, which is the same tensor's everywhere."""
    return int(amount.max()) if hasattr(amount, "max") else int(amount)


def _term(what: str, tensor: Stored, sizes: Sizes, size: int, rules: Optimizer) -> Term:
    factors = sizes | tensor.sizes | {"bytes_per_element": size}
    return Term(f"{what} {tensor.name}", factors, tensor.group, "buffers", rules.source)


def _neighbours(runs: tuple[Run, ...]) -> Iterator[tuple[Stored | None, Stored]]:
    """Each tensor of an order with the one that is updated before it; layers that repeat follow one another."""
    before: Stored | None = None
    for run in runs:
        order = [tensor for tensor in run.tensors for _ in range(2 if _has_several(tensor) else 1)]
        if not order:
            continue
        yield from zip([before, *order], order, strict=False)
        before = order[-1]
        if not isinstance(run.repeats, int) or run.repeats > 1:
            yield before, order[0]


def _has_several(tensor: Stored) -> bool:
    """Whether a place holds several alike, as the weight and the bias of a norm."""
    return any(size != 1 for name, size in tensor.copies.items() if not name.endswith("layers"))
