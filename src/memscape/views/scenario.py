"""The controls that several pages share: the model, its precisions, how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import memscape as ms
from memscape import tables
from memscape.catalog import Accelerator, weight_precisions
from memscape.memory.weights import title
from memscape.model import Model
from memscape.problem import unknown
from memscape.readers import check_size, parse_config
from memscape.views import controls
from memscape.views.controls import Control
from memscape.views.looks import made
from memscape.workload import Training

CONTEXTS = tuple(2**power for power in range(7, 21))
SEQUENCES = tuple(2**power for power in range(11))
OWN = "your-file"
DEVICE = "H100 SXM 80GB"
MICRO_BATCHES = tuple(2**power for power in range(8))
LENGTHS = tuple(2**power for power in range(7, 18))
RANKS = tuple(2**power for power in range(9))
TRAINED_IN = {
    "fp32": "FP32 throughout",
    "bf16": "BF16 throughout",
    "bf16-autocast": "FP32 weights, BF16 compute (autocast)",
    "bf16-mixed": "BF16 beside FP32 master weights (mixed)",
}
ATTENTION = {"sdpa": "one fused kernel", "eager": "step by step (eager)"}
MEMORY_AS = {"usable": "as its driver reports it", "sold": "as it is sold (GB of 10⁹ bytes)"}
METHODS = {"full": "all parameters", "lora": "LoRA adapters", "qlora": "QLoRA: adapters on 4-bit weights"}


class ModelChoice:
    """The models of the catalogue to choose from, and one file of the reader's own."""

    def __init__(self, chosen: str = "llama-3.1-405b") -> None:
        """Start with a model of the catalogue."""
        titles = [(row["title"], name) for name, row in tables.by_key("models", "id").items()]
        catalogue = controls.search("model", "Model", titles, chosen)
        self.control = replace(catalogue, read=self._read, write=self._write)
        self.upload = made(controls.Upload, label="or your own config.json"), self._take
        self._ids = dict(titles)
        self._own: dict[str, Model] = {}

    def _read(self, words: str) -> Model:
        if words in self._own:
            return self._own[words]
        if words not in self._ids:
            raise unknown("model", words, self._ids)
        return ms.model(self._ids[words])

    def _write(self, words: str) -> str:
        return OWN if words in self._own else self._ids.get(words, "")

    def _take(self, name: str, size: int, content: bytes) -> None:
        """Read an uploaded config and choose it; a file that is no config changes nothing."""
        check_size(name, size)
        model = ms.read_model(parse_config(content, name), name)
        words = f"Your file: {name}"
        self._own[words] = model
        widget = self.control.widget
        widget.options = (*dict.fromkeys((*widget.options, words)),)
        widget.value = next(iter(self._ids))  # a second file of the same name is a change too
        widget.value = words


def weights_in() -> Control:
    """Return the choice of a precision for the weights."""
    return controls.choice("precision", "Weights in", [(title(name), name) for name in weight_precisions()], "bf16")


def cache_in() -> Control:
    """Return the choice of a precision for the cache."""
    names = [(row["title"], name) for name, row in tables.by_key("cache_precisions").items()]
    return controls.choice("kv_cache", "KV cache in", names, "bf16")


def context() -> Control:
    """Return the slider for the length of a conversation."""
    return controls.slider("tokens", "Tokens in each conversation", CONTEXTS, 8192)


def sequences() -> Control:
    """Return the slider for the conversations that run at once."""
    return controls.slider("sequences", "Conversations at once", SEQUENCES, 16)


def accelerator() -> tuple[Control, Control]:
    """Return the choice of a device, whose value is an `Accelerator`, and of how its memory is counted."""
    names = [(name, name) for name in tables.by_key("accelerators")]
    device = controls.search("accelerator", "Accelerator", names, DEVICE)
    counted = controls.choice("memory_as", "Its memory, counted", named(MEMORY_AS), "usable")

    def read(words: str) -> Accelerator:
        found = ms.accelerator(device.read(words))
        return found.as_sold() if counted.value == "sold" else found

    return replace(device, read=read), replace(counted, passed=False)


def named(options: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a menu offers, from the names that the package knows and the words for them."""
    return [(words, name) for name, words in options.items()]


def micro_batch() -> Control:
    """Return the slider for the sequences of one forward and backward pass."""
    return controls.slider("micro_batch", "Sequences at once (micro-batch)", MICRO_BATCHES, 1)


def length() -> Control:
    """Return the slider for the length of a training sequence."""
    return controls.slider("sequence_tokens", "Tokens in each sequence", LENGTHS, 2048)


def trained_in() -> Control:
    """Return the choice of the precision that is trained in."""
    return controls.choice("training_precision", "Precision", named(TRAINED_IN), "bf16")


def attention() -> Control:
    """Return the choice of how attention is computed."""
    return controls.choice("attention", "Attention", named(ATTENTION), "sdpa")


def checkpointing() -> Control:
    """Return the switch for gradient checkpointing."""
    return controls.switch(
        "checkpointing", "Gradient checkpointing: keep each layer's input, compute the rest again", False
    )


def optimizers() -> Control:
    """Return the choice of an optimizer."""
    return controls.choice(
        "optimizer", "Optimizer", [(row["title"], row["name"]) for row in tables.rows("optimizers")], "adamw"
    )


def sequences_of(asked: Training) -> str:
    """Return a micro-batch in words."""
    batch, tokens = asked.micro_batch, asked.sequence_tokens
    return f"{batch:,} sequences of {tokens:,} tokens" if batch > 1 else f"one sequence of {tokens:,} tokens"
