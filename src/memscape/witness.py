"""What PyTorch itself does: tensors kept for backward, and the life of every storage through a training step.

Needs torch and transformers (extra `measure`). On the meta device nothing is computed; shapes, types and lifetimes are
those of CUDA: LayerNorm keeps fp32 statistics there already, and `AsCuda` sends dropout, attention and autocast to what
CUDA would run.
"""

from __future__ import annotations

import copy
import gc
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from unittest import mock

import torch
import transformers
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from memscape.emulation import AsCuda

transformers.logging.set_verbosity_error()
Config = Mapping[str, Any]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
RATES = ("dropout", "pdrop", "drop_rate")
MOMENTS = (
    "forward_peak",
    "forward_end",
    "backward_peak",
    "after_backward",
    "optimizer_peak",
    "after_optimizer",
)


@dataclass(frozen=True)
class Kept:
    """A storage that is held: in which module, by which operation and argument, its shape, type and bytes."""

    where: str
    operation: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    weight_copy: bool = False


def shortened(config: Config, layers: int | None) -> dict[str, Any]:
    """Return the config with another depth; lists with one entry per layer are cut alike."""
    raw = copy.deepcopy(dict(config))
    key = next(each for each in DEPTHS if raw.get(each) is not None)
    full = raw[key]
    if layers is None or layers == full:
        return raw
    for name, value in raw.items():
        if name in DEPTHS and value is not None:
            raw[name] = layers
        elif isinstance(value, list) and len(value) == full:
            raw[name] = (value * -(-layers // full))[:layers]
    return raw


def without_dropout(raw: dict[str, Any], rate: float | None) -> dict[str, Any]:
    """Return the config with every dropout rate replaced; None keeps them."""
    if rate is None:
        return raw
    return {
        k: rate if any(word in k for word in RATES) and isinstance(v, int | float) and not isinstance(v, bool) else v
        for k, v in raw.items()
    }


def build(
    config: Config,
    dtype: str = "bf16",
    attention: str = "eager",
    dropout: float | None = None,
    device: str = "meta",
    layers: int | None = None,
) -> Any:
    """Return the model that a config describes, with random (on meta: no) weights, in train mode."""
    raw = without_dropout(shortened(config, layers), dropout)
    for key in ("torch_dtype", "dtype", "quantization_config"):
        raw.pop(key, None)
    kind = getattr(transformers, raw["architectures"][0])
    settings = kind.config_class.from_dict(raw)
    settings._attn_implementation = attention
    settings.use_cache = False
    if getattr(settings, "is_encoder_decoder", False) and getattr(settings, "decoder_start_token_id", None) is None:
        settings.decoder_start_token_id = settings.pad_token_id or 0
    if dropout is not None:
        for key, value in list(settings.to_dict().items()):
            if any(word in key for word in RATES) and isinstance(value, float):
                setattr(settings, key, dropout)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])
    try:
        with torch.device(device):
            model = kind(settings)
            _untie_t5(model, raw)
    finally:
        torch.set_default_dtype(before)
    model.train()
    return model


def _untie_t5(model: Any, raw: Config) -> None:
    """Give T5 v1.1 its own head, as in its published weights; tie what the config ties."""
    if model.config.model_type == "t5" and raw.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    elif getattr(model.config, "tie_word_embeddings", False):
        model.tie_weights()


def inputs(model: Any, batch: int, sequence: int, device: str = "meta") -> dict[str, torch.Tensor]:
    """Return input ids that are their own labels."""
    ids = torch.zeros((batch, sequence), dtype=torch.long, device=device)
    if device != "meta":
        ids = torch.randint(3, model.config.vocab_size, (batch, sequence), device=device)
    return {"input_ids": ids, "labels": ids.clone()}


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


def held_apart(model: Any, *more: torch.Tensor) -> set[int]:
    """Return the storages that are there before the step: parameters, buffers and whatever else is given."""
    tensors = (*model.parameters(), *model.buffers(), *more)
    return {tensor.untyped_storage()._cdata for tensor in tensors}


class _Handle:
    """What autograd holds in place of a saved tensor."""

    __slots__ = ("__weakref__", "names", "tensor", "where")

    def __init__(self, tensor: torch.Tensor, where: str) -> None:
        self.tensor, self.where, self.names = tensor, where, list[str]()


def saved_tensors(
    config: Config,
    batch: int,
    sequence: int,
    dtype: str = "bf16",
    attention: str = "eager",
    dropout: float | None = None,
    checkpointing: bool = False,
    autocast: bool = False,
    device: str = "meta",
    layers: int | None = None,
    names: bool = True,
    emulate: bool = True,
    everything: bool = False,
) -> list[Kept]:
    """Return every storage that autograd keeps for backward after a forward pass with loss, in forward order.

    Parameters and buffers are left out; bf16 copies of weights that autocast makes are marked. With `everything` also
    what was kept for a branch that leads nowhere (DeepSeek's choice of experts) and is free again at the end.
    """
    model = build(config, "fp32" if autocast else dtype, attention, dropout, device, layers)
    cuda = AsCuda(autocast, emulate)
    _checkpoint(model, checkpointing, cuda)
    places, handles, forever = Places(model), list[weakref.ref[_Handle]](), list[_Handle]()

    def pack(tensor: torch.Tensor) -> _Handle:
        handle = _Handle(tensor, places.now)
        handles.append(weakref.ref(handle))
        if everything:
            forever.append(handle)
        return handle

    unpacked: list[_Handle] = []

    def unpack(handle: _Handle) -> torch.Tensor:
        unpacked.append(handle)
        return handle.tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack), cuda:
        output = model(**inputs(model, batch, sequence, device), use_cache=False)
    copies = cuda.weight_copies
    cuda.cache = {}
    if names:
        _name(output.loss, unpacked)
    return _distinct([h for ref in handles if (h := ref()) is not None], held_apart(model), copies)


def _distinct(handles: list[_Handle], apart: set[int], copies: set[int]) -> list[Kept]:
    """Return one entry per storage, in the order of the first time that it was kept."""
    groups: dict[int, list[_Handle]] = {}
    for handle in handles:
        key = handle.tensor.untyped_storage()._cdata
        if key not in apart:
            groups.setdefault(key, []).append(handle)
    kept = []
    for key, group in groups.items():
        first, storage = group[0].tensor, group[0].tensor.untyped_storage()
        words = "; ".join(dict.fromkeys(name for handle in group for name in handle.names))
        dtype = str(first.dtype).removeprefix("torch.")
        kept.append(Kept(group[0].where, words, tuple(first.shape), dtype, storage.nbytes(), key in copies))
    return kept


def _name(loss: torch.Tensor, unpacked: list[_Handle]) -> None:
    """Walk the graph and note which node keeps which tensor under which name."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [parent for parent, _ in node.next_functions]
        kind = type(node).__name__.split("Backward")[0]
        saved = [each for each in dir(node) if each.startswith("_saved_") or each == "saved_tensors"]
        for attribute in saved:
            unpacked.clear()
            word = f"{kind}.{attribute.removeprefix('_saved_')}"
            try:
                with mock.patch("torch.utils.checkpoint._run_fn_with_dynamo_disabled", side_effect=_RecomputedError):
                    getattr(node, attribute)
            except _RecomputedError:
                word = "Checkpoint.input"
            for handle in unpacked:
                handle.names.append(word)


class _RecomputedError(Exception):
    """A name was asked for that only a recomputation could tell."""


def _checkpoint(model: Any, wanted: bool, cuda: AsCuda) -> None:
    """Switch gradient checkpointing on; what is run again runs as on CUDA too."""
    if wanted:
        again = AsCuda(cuda.autocast, cuda.emulate, caching=False)
        model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": lambda: (nullcontext(), again)})


@dataclass(frozen=True)
class Birth:
    """A storage when it was made."""

    key: int
    kept: Kept


class Ledger(TorchDispatchMode):
    """Notes when each storage is made and freed."""

    def __init__(self, places: Places, apart: set[int]) -> None:
        """Start empty; storages in `apart` are not counted."""
        super().__init__()
        self.places, self.apart = places, apart
        self.alive: dict[int, int] = {}
        self.events: list[tuple[int, Kept | None]] = []
        self.live = self.peak = self.peak_at = self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf, func)
        return result

    def _note(self, tensor: torch.Tensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.alive or key in self.apart or not storage.nbytes():
            return
        self.number += 1
        self.alive[key] = self.number
        self.events.append((self.number, self._described(tensor, func)))
        self.live += storage.nbytes()
        weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.settle()

    def _described(self, tensor: torch.Tensor, func: Any) -> Kept:
        node = torch._C._current_autograd_node()
        where, word = self.places.now, str(func).removeprefix("aten.")
        if node is not None:
            where, word = self.places.of(node), f"{type(node).__name__}: {word}"
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Kept(where, word, tuple(tensor.shape), dtype, tensor.untyped_storage().nbytes())

    def _freed(self, key: int, size: int) -> None:
        self.events.append((self.alive.pop(key), None))
        self.live -= size

    def settle(self) -> None:
        """Note a new peak."""
        if self.live > self.peak:
            self.peak, self.peak_at = self.live, len(self.events)

    def restart(self) -> None:
        """Begin a new phase: its peak is at least what is alive now."""
        gc.collect()
        self.peak, self.peak_at = self.live, len(self.events)

    def at_peak(self) -> list[Kept]:
        """Return what was alive at the last phase's peak, largest first."""
        alive: dict[int, Kept] = {}
        for number, kept in self.events[: self.peak_at]:
            if kept is None:
                del alive[number]
            else:
                alive[number] = kept
        return sorted(alive.values(), key=lambda each: -each.bytes)


@dataclass(frozen=True)
class Course:
    """A training step by step and moment: live bytes, and what was alive then."""

    bytes: dict[tuple[int, str], int]
    alive: dict[tuple[int, str], list[Kept]]


def step_course(
    config: Config,
    batch: int,
    sequence: int,
    dtype: str = "bf16",
    attention: str = "eager",
    dropout: float | None = None,
    checkpointing: bool = False,
    autocast: bool = False,
    device: str = "meta",
    layers: int | None = None,
    optimizer: str = "AdamW foreach=False",
    steps: int = 2,
    emulate: bool = True,
    lists: bool = True,
) -> Course:
    """Return the live bytes of whole training steps, on top of parameters, buffers and input ids."""
    model = build(config, "fp32" if autocast else dtype, attention, dropout, device, layers)
    cuda = AsCuda(autocast, emulate)
    _checkpoint(model, checkpointing, cuda)
    given = inputs(model, batch, sequence, device)
    ledger = Ledger(Places(model), held_apart(model, *given.values()))
    updater = make_optimizer(optimizer, model)
    course = Course({}, {})
    gc.collect()
    for step in range(1, steps + 1):
        _step(model, given, updater, ledger, cuda, course, step, lists)
    return course


def _step(
    model: Any,
    given: dict[str, torch.Tensor],
    updater: torch.optim.Optimizer,
    ledger: Ledger,
    cuda: AsCuda,
    course: Course,
    step: int,
    lists: bool,
) -> None:
    def note(*moments: str) -> None:
        for moment in moments:
            if not moment.endswith("_peak"):
                ledger.restart()
            course.bytes[step, moment] = ledger.peak
            if lists:
                course.alive[step, moment] = ledger.at_peak()

    with ledger:
        ledger.restart()
        with cuda:
            output = model(**given, use_cache=False)
        cuda.cache = {}
        note("forward_peak", "forward_end")
        output.loss.backward()
        note("backward_peak")
        del output
        note("after_backward")
        updater.step()
        note("optimizer_peak", "after_optimizer")
        updater.zero_grad(set_to_none=True)


def step_moments(*args: Any, **settings: Any) -> dict[tuple[int, str], int]:
    """Return {(step, moment): bytes} of two training steps; see `step_course`."""
    return step_course(*args, **settings, lists=False).bytes


def make_optimizer(words: str, model: Any) -> torch.optim.Optimizer:
    """Return an optimizer from its class name and settings, as in "AdamW foreach=False"."""
    name, *settings = words.split()
    values = dict(each.split("=") for each in settings)
    kinds = {"True": True, "False": False, "None": None}
    return getattr(torch.optim, name)(  # type: ignore[no-any-return]
        model.parameters(), lr=1e-4, **{k: kinds[v] if v in kinds else float(v) for k, v in values.items()}
    )
