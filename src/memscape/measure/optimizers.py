"""The optimizers that can be run here, by our names.

Needs torch (extra `measure`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from memscape.problem import Problem

# our name: class, then its settings
OPTIMIZERS = {
    "adamw": "AdamW",
    "adamw-amsgrad": "AdamW amsgrad=True",
    "adam": "Adam",
    "adamax": "Adamax",
    "nadam": "NAdam",
    "radam": "RAdam",
    "sgd": "SGD",
    "sgd-momentum": "SGD momentum=0.9",
    "rmsprop": "RMSprop",
    "rmsprop-momentum": "RMSprop momentum=0.9",
    "rmsprop-centered": "RMSprop centered=True",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "asgd": "ASGD",
    "rprop": "Rprop",
    "adafactor-torch": "Adafactor",
    "adafactor": "transformers.Adafactor relative_step=False",
    "adafactor-momentum": "transformers.Adafactor relative_step=False beta1=0.9",
    "adamw-8bit": "bitsandbytes.AdamW8bit",
    "adam-8bit": "bitsandbytes.Adam8bit",
    "lion-8bit": "bitsandbytes.Lion8bit",
}
HOMES = {"transformers": "transformers.optimization", "bitsandbytes": "bitsandbytes.optim"}


def make_optimizer(words: str, model: Any) -> torch.optim.Optimizer:
    """Return an optimizer from its class and settings, as in "AdamW foreach=False"; only trained tensors."""
    name, *settings = words.split()
    home, _, kind = name.rpartition(".")
    values = dict(each.split("=") for each in settings)
    kinds = {"True": True, "False": False, "None": None}
    given = {key: kinds[value] if value in kinds else float(value) for key, value in values.items()}
    try:
        module = import_module(HOMES[home]) if home else torch.optim
    except ImportError:
        raise Problem(f"this optimizer needs the package {home}; install it with pip install {home}") from None
    trained = [each for each in model.parameters() if each.requires_grad]
    return getattr(module, kind)(trained, lr=1e-4, **given)


def optimizer_words(name: str, update: str) -> str:
    """Return the class and settings of one of our optimizers."""
    if name not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise Problem(f'optimizer "{name}" is predicted but cannot be run here; use one of {known}')
    settings = {"single": "foreach=False", "foreach": "foreach=True", "fused": "fused=True"}[update]
    words = OPTIMIZERS[name]
    return words if "." in words.split()[0] else f"{words} {settings}"
