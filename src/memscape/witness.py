"""What PyTorch itself does: the real model with random weights, and every tensor that autograd keeps for backward.

Needs torch and transformers (extra `measure`). On the meta device shapes, types and lifetimes are those of CUDA (see
`emulation`) and nothing is computed; on a CPU or on CUDA the model really runs.
"""

from __future__ import annotations

import copy
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from unittest import mock

import torch
import transformers
from transformers.models.auto import modeling_auto

from memscape.emulation import AsCuda
from memscape.problem import Problem

transformers.logging.set_verbosity_error()
Config = Mapping[str, Any]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
RATES = ("dropout", "pdrop", "drop_rate")
# for a config that names no class: what a model of its family is made for
HEADS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
ENCODERS = ("bert", "roberta", "albert", "distilbert", "electra", "xlm-roberta", "modernbert")


@dataclass(frozen=True)
class Adapters:
    """LoRA adapters on a frozen model, as the library peft makes them."""

    rank: int = 16
    targets: tuple[str, ...] | str = "all-linear"
    dropout: float = 0.0
    dtype: str = "fp32"


@dataclass(frozen=True)
class Run:
    """How a model is run: the size of a micro-batch, types, kernels, the device; `layers` replaces the model's depth."""

    batch: int
    sequence: int
    dtype: str = "bf16"
    attention: str = "eager"
    dropout: float | None = None
    checkpointing: bool = False
    autocast: bool = False
    device: str = "meta"
    layers: int | None = None
    target: int | None = None
    adapters: Adapters | None = None


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


def shortened(config: Config, layers: int | None) -> dict[str, Any]:
    """Return the config with another depth; lists with one entry per layer are cut alike."""
    raw = copy.deepcopy(dict(config))
    full = next((raw[each] for each in DEPTHS if raw.get(each) is not None), None)
    if layers is None or layers == full:
        return raw
    for name, value in raw.items():
        if name in DEPTHS and value is not None:
            raw[name] = layers
        elif isinstance(value, list) and len(value) == full:
            raw[name] = (value * -(-layers // len(value)))[:layers]
    return raw


def model_class(raw: Config) -> Any:
    """Return the class of transformers that a config names, or the one with a loss that its family has."""
    family = str(raw.get("model_type"))
    masked = family in ENCODERS
    named = (raw.get("architectures") or [""])[0]
    found = [names[family] for names in (HEADS[::-1] if masked else HEADS) if family in names]
    if not any(word in named for word in ("LM", "Conditional")):
        named = found[0] if found else named
    if not hasattr(transformers, str(named)):
        version = transformers.__version__
        raise Problem(f'transformers {version} has no model "{named or family}" with a loss; give another config')
    return getattr(transformers, str(named))


def build(config: Config, run: Run) -> Any:
    """Return the model that a config describes, with random (on meta: no) weights, in train mode."""
    raw = shortened(config, run.layers)
    for key in ("torch_dtype", "dtype", "quantization_config"):
        raw.pop(key, None)
    kind = model_class(raw)
    settings = kind.config_class.from_dict(raw)
    settings._attn_implementation, settings.use_cache = run.attention, False
    if getattr(settings, "is_encoder_decoder", False) and getattr(settings, "decoder_start_token_id", None) is None:
        settings.decoder_start_token_id = settings.pad_token_id or 0
    _set_rates(settings, run.dropout)
    with _default_dtype(DTYPES["fp32" if run.autocast else run.dtype]), torch.device(run.device):
        model = kind(settings)
        _tie(model, raw)
    return _with_adapters(model, run.adapters).train()


def _set_rates(settings: Any, rate: float | None) -> None:
    """Replace every dropout rate; None keeps them."""
    if rate is not None:
        for key, value in settings.to_dict().items():
            if any(word in key for word in RATES) and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(settings, key, rate)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _tie(model: Any, raw: Config) -> None:
    """Give T5 v1.1 its own head, as in its published weights; tie what the config ties."""
    if model.config.model_type == "t5" and raw.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    elif getattr(model.config, "tie_word_embeddings", False):
        model.tie_weights()


def _with_adapters(model: Any, adapters: Adapters | None) -> Any:
    if adapters is None:
        return model
    try:
        import peft
    except ImportError:
        raise Problem("measuring LoRA needs the package peft; install it with pip install peft") from None
    targets = adapters.targets if isinstance(adapters.targets, str) else list(adapters.targets)
    settings = peft.LoraConfig(r=adapters.rank, target_modules=targets, lora_dropout=adapters.dropout, bias="none")
    return peft.get_peft_model(model, settings, autocast_adapter_dtype=adapters.dtype == "fp32")


def inputs(model: Any, run: Run) -> dict[str, torch.Tensor]:
    """Return input ids, and labels that are the same (T5: of the decoder's length) in a tensor of their own."""
    words, target = model.config.vocab_size, run.target or run.sequence
    sizes = {"input_ids": (run.batch, run.sequence), "labels": (run.batch, target)}
    if run.device == "meta":
        return {name: torch.zeros(size, dtype=torch.long, device="meta") for name, size in sizes.items()}
    return {name: torch.randint(min(5, words - 1), words, size, device=run.device) for name, size in sizes.items()}


def checkpoint(model: Any, run: Run, cuda: AsCuda) -> None:
    """Switch gradient checkpointing on; what is run again runs as on CUDA too."""
    if not run.checkpointing:
        return
    again = AsCuda(cuda.autocast, caching=False)
    settings: dict[str, Any] = {"use_reentrant": False}
    if not run.device.startswith("cuda"):
        settings["context_fn"] = lambda: (nullcontext(), again)
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    try:
        enable(settings)
    except ValueError:
        kind = type(model).__name__
        raise Problem(f'{kind} has no gradient checkpointing in transformers; use recompute "none"') from None


def forward(run: Run, cuda: AsCuda) -> AbstractContextManager[Any]:
    """Return what a forward pass runs under: CUDA's own choices on CUDA, their emulation elsewhere."""
    if not run.device.startswith("cuda"):
        return cuda
    return torch.autocast("cuda", torch.bfloat16) if run.autocast else nullcontext()


def apart(model: Any, *more: torch.Tensor) -> set[int]:
    """Return the storages that are there before a step: parameters, buffers and whatever else is given."""
    return {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers(), *more)}


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
        handle = _Handle(tensor, self.places.now)
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
