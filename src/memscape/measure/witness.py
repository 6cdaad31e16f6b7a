"""What autograd keeps for backward: every storage, where in the model it was kept and by which operation.

Needs torch and transformers (extra `measure`).
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from unittest import mock

import torch

from memscape.measure.emulation import AsCuda
from memscape.measure.subject import Config, Run, apart, build, checkpoint, explained, forward, inputs


@dataclass(frozen=True)
class Kept:
    """A storage that is held: in which module, by which operation and argument, its shape, type and bytes."""

    where: str
    operation: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    weight_copy: bool = False


def saved_tensors(
    config: Config, batch: int, sequence: int, names: bool = True, everything: bool = False, **settings: Any
) -> list[Kept]:
    """Return every storage that autograd keeps for backward after a forward pass with loss, in forward order.

    `settings` are those of `Run`. Parameters and buffers are left out; bf16 copies of weights that autocast makes are
    marked. With `everything` also what was kept for a branch that leads nowhere (DeepSeek's choice of experts) and is
    free again at the end. `names` finds which operation keeps a tensor, which takes as long again.
    """
    run = Run(batch, sequence, **settings)
    with explained(run.device):
        model = build(config, run)
        cuda = AsCuda(run.autocast)
        checkpoint(model, run, cuda)
        hooks = _Hooks(Places(model), everything)
        with torch.autograd.graph.saved_tensors_hooks(hooks.pack, hooks.unpack), forward(run, cuda):
            output = model(**inputs(model, run), use_cache=False)
        cuda.forget()
        if names:
            hooks.name(output.loss)
    return hooks.kept(apart(model), cuda.weight_copies)


class Places:
    """Which module runs now, and which module made an autograd node."""

    def __init__(self, model: Any) -> None:
        """Follow every module of a model."""
        self.stack: list[str] = []
        self.entered: list[tuple[int, str]] = []
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self.stack.append(name)
            self._mark()

        return enter

    def _leave(self, *_: Any) -> None:
        self.stack.pop()
        self._mark()

    def _mark(self) -> None:
        self.entered.append((torch.autograd._get_sequence_nr(), self.now))

    @property
    def now(self) -> str:
        """The path of the innermost running module; "(loss)" in the model's own forward."""
        return (self.stack[-1] if self.stack else "") or "(loss)"

    def of(self, node: Any) -> str:
        """Return the module whose forward made an autograd node."""
        place = bisect_right(self.entered, node._sequence_nr(), key=itemgetter(0))
        return self.entered[place - 1][1] if place else "(loss)"


@dataclass(eq=False)
class _Handle:
    """What autograd holds in place of a saved tensor."""

    tensor: torch.Tensor
    where: str
    names: list[str] = field(default_factory=list)


class _RecomputedError(Exception):
    """A name was asked for that only a recomputation could tell."""


class _Hooks:
    """Notes what autograd saves."""

    def __init__(self, places: Places, everything: bool) -> None:
        self.places, self.everything = places, everything
        self.handles: list[Callable[[], _Handle | None]] = []
        self.unpacked: list[_Handle] = []

    def pack(self, tensor: torch.Tensor) -> _Handle:
        handle = _Handle(tensor.detach(), self.places.now)
        self.handles.append((lambda: handle) if self.everything else weakref.ref(handle))
        return handle

    def unpack(self, handle: _Handle) -> torch.Tensor:
        self.unpacked.append(handle)
        return handle.tensor

    def kept(self, before: set[int], copies: set[int]) -> list[Kept]:
        """Return one entry per storage, in the order of the first time that it was kept."""
        groups: dict[int, list[_Handle]] = {}
        for each in self.handles:
            handle = each()
            if handle is not None and (key := handle.tensor.untyped_storage()._cdata) not in before:
                groups.setdefault(key, []).append(handle)
        return [described(group, key in copies) for key, group in groups.items()]

    def name(self, loss: torch.Tensor) -> None:
        """Walk the graph and note which node keeps which tensor under which name."""
        seen, todo = set(), [loss.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
            for attribute in dir(node):
                if attribute.startswith("_saved_") or attribute == "saved_tensors":
                    self._name(node, attribute)

    def _name(self, node: Any, attribute: str) -> None:
        self.unpacked.clear()
        word = f"{type(node).__name__.split('Backward')[0]}.{attribute.removeprefix('_saved_')}"
        try:
            with mock.patch("torch.utils.checkpoint._run_fn_with_dynamo_disabled", side_effect=_RecomputedError):
                getattr(node, attribute)
        except _RecomputedError:
            word = "Checkpoint.input"
        for handle in self.unpacked:
            handle.names.append(word)


def described(group: list[_Handle], weight_copy: bool) -> Kept:
    """Return the entry of one storage from all that autograd holds of it."""
    first, words = group[0].tensor, dict.fromkeys(name for handle in group for name in handle.names)
    dtype, size = str(first.dtype).removeprefix("torch."), first.untyped_storage().nbytes()
    return Kept(group[0].where, "; ".join(words), tuple(first.shape), dtype, size, weight_copy)
