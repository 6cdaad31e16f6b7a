"""The model that is measured: the real one of transformers, with random weights, on CUDA, on a CPU or on meta.

Needs torch and transformers (extra `measure`). On the meta device shapes, types and lifetimes are those of CUDA (see
`emulation`) and nothing is computed; on a CPU or on CUDA the model really runs.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from memscape.config import shortened
from memscape.measure.emulation import AsCuda
from memscape.problem import Problem

transformers.logging.set_verbosity_error()
Config = Mapping[str, Any]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
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
    """How a model is run: the size of a micro-batch, types, kernels, device; `layers` replaces the model's depth."""

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


@contextmanager
def explained(device: str) -> Iterator[None]:
    """Say in one sentence why a model does not run; without the warnings of the libraries that run it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except torch.OutOfMemoryError as error:
            why = str(error).split(". ")[0]
            raise Problem(f'{device} is too small for this ({why}); use fewer layers or device "meta"') from None
        except Problem:
            raise
        except (ValueError, IndexError, RuntimeError) as error:
            why = str(error).split(". ")[0].strip()
            raise Problem(f"PyTorch or transformers cannot run this: {why}; ask for something else") from error


def check_device(device: str) -> None:
    """Refuse a device that is not here."""
    if device in ("meta", "cpu"):
        return
    if not (device == "cuda" or re.fullmatch(r"cuda:\d+", device)):
        raise Problem(f'unknown device "{device[:40]}"; use "meta" (no memory is used), "cpu" or "cuda"')
    if not torch.cuda.is_available() or int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise Problem(f'there is no device "{device}" here; use "meta", which needs none, or "cpu"')


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
    check_device(run.device)
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
