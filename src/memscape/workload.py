"""What is asked of a model: Inference, Training."""

from __future__ import annotations

from dataclasses import dataclass

from memscape.breakdown import Quantity
from memscape.catalog import cache_precision, weight_precisions
from memscape.problem import Problem, chosen, one_of, unknown

ENGINES = ("generic", "transformers")
ATTENTION = ("sdpa", "eager")
LARGEST = 10**12
# the numbers of a workload and the least that each can be; those that take no array, those that may be left open
LEAST = {
    "sequences": 1,
    "prompt_tokens": 0,
    "output_tokens": 0,
    "reserved_tokens": 1,
    "block_tokens": 1,
    "prefill_tokens": 1,
}
SINGLE = ("block_tokens", "prefill_tokens")
MAY_BE_NONE = ("reserved_tokens", "prefill_tokens", "target_tokens", "global_batch")

TRAINING_PRECISIONS = ("fp32", "bf16", "bf16-autocast", "bf16-mixed")
RECOMPUTE = ("none", "selective", "full")
IMPLEMENTATIONS = ("transformers", "megatron")
METHODS = ("full", "lora", "qlora")
UPDATES = ("single", "foreach", "fused")


@dataclass(frozen=True)
class Inference:
    """Answering prompts: how many sequences run at once, how long they are, and in which precisions.

    `sequences`, `prompt_tokens` and `output_tokens` may be numbers or numpy arrays. For an encoder-decoder the prompt
    is what the encoder reads and the output what the decoder writes.

    `engine`            "generic" keeps what the architecture needs; "transformers" what DynamicCache(config) stores
    `weights`           a precision of the catalogue, GGUF mixes included: "bf16", "nf4", "Q4_K_M", ...
    `kept`              groups that stay in 16 bit, e.g. ("embeddings", "lm_head"); None: as the precision publishes
    `kv_cache`          a precision of the catalogue that a cache can have
    `block_tokens`      paged caches round each sequence up to whole blocks (vLLM: 16)
    `reserved_tokens`   a cache of fixed length per sequence (static cache, --max-model-len) in place of the tokens seen
    `prefill_tokens`    tokens that one forward pass takes at most; None: the engine's published default
    `attention`         "sdpa": a fused kernel; "eager": the score matrix is held
    """

    sequences: Quantity = 1
    prompt_tokens: Quantity = 2048
    output_tokens: Quantity = 256
    weights: str = "bf16"
    kv_cache: str = "bf16"
    engine: str = "generic"
    kept: tuple[str, ...] | None = None
    block_tokens: int = 1
    reserved_tokens: Quantity | None = None
    prefill_tokens: int | None = None
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        given = {name: getattr(self, name) for name in LEAST}
        given = {name: value for name, value in given.items() if value is not None or name not in MAY_BE_NONE}
        for name, value in given.items():
            if name in SINGLE and type(value) is not int:
                raise Problem(f"{name} is {str(value)[:40]}; use one whole number from {LEAST[name]} to {LARGEST:,}")
            object.__setattr__(self, name, _checked(name, value, LEAST[name]))
        chosen("precision", self.weights, weight_precisions())
        cache_precision(self.kv_cache)
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        if self.attention not in ATTENTION:
            raise Problem(f'unknown attention "{str(self.attention)[:40]}"; use {one_of(ATTENTION)}')

    @property
    def tokens(self) -> Quantity:
        """Prompt and output of one sequence together."""
        return self.prompt_tokens + self.output_tokens


def _checked(name: str, value: Quantity, least: int) -> Quantity:
    """Return a number that is whole and in range; an array as float64, which holds every whole number up to 2**53."""
    if getattr(value, "shape", None) == ():
        value = value.item()
        value = int(value) if isinstance(value, float) and value.is_integer() else value
    if not hasattr(value, "shape"):
        if type(value) is not int or not least <= value <= LARGEST:
            raise _wrong(name, str(value)[:40], least)
        return value
    if value.size == 0 or value.dtype.kind not in "iuf":
        raise _wrong(name, "an empty array" if value.size == 0 else f"an array of {value.dtype}", least)
    exact = value.astype("float64")
    low, high = exact.min(), exact.max()
    if not (least <= low and high <= LARGEST and bool((exact == exact.round()).all())):
        raise _wrong(name, f"an array from {low} to {high}", least)
    return exact


def _wrong(name: str, shown: str, least: int) -> Problem:
    return Problem(f"{name} is {shown}; use whole numbers from {least} to {LARGEST:,}")


@dataclass(frozen=True)
class Training:
    """Training or fine-tuning: the size of a micro-batch, the precision, the optimizer and how much is recomputed.

    `micro_batch`, `sequence_tokens`, `target_tokens` and `global_batch` may be numbers or numpy arrays.

    `target_tokens`     encoder-decoder: what the decoder reads; None: as many as the encoder
    `global_batch`      sequences per update; above `micro_batch` the gradients are accumulated
    `precision`         "fp32" or "bf16": weights, compute and states; "bf16-autocast": fp32 weights, bf16 compute;
                        "bf16-mixed": bf16 weights and compute beside fp32 master weights and states
    `gradients`         "fp32" or "bf16" where they differ from the weights (Megatron: fp32); None: as the weights
    `optimizer`         a row of `data/optimizers.csv`
    `update`            how the optimizer steps: "single" one tensor at a time (foreach=False), "foreach", "fused"
    `recompute`         "none"; "full": gradient checkpointing of every layer; "selective": of the attention (megatron)
    `attention`         "sdpa": the fused kernel PyTorch would choose; "eager": the score matrix is held
    `implementation`    "transformers" as it is; "megatron": the papers' fused kernels
    `dropout`           None: the rates of the config; a number replaces them all, 0 switches them off
    `objective`         "causal", "masked" or "sequence"; None: what the model was made for
    `method`            "full"; "lora": adapters on a frozen model; "qlora": on a frozen, quantised one
    `lora_rank`, `lora_targets`, `lora_dropout`, `adapter_precision`, `base_precision`   the adapters and their base
    `freeze`            parts that are not trained: groups of the model ("embeddings", "attention", ...)
    """

    micro_batch: Quantity = 1
    sequence_tokens: Quantity = 2048
    target_tokens: Quantity | None = None
    global_batch: Quantity | None = None
    precision: str = "bf16"
    gradients: str | None = None
    optimizer: str = "adamw"
    update: str = "single"
    recompute: str = "none"
    attention: str = "sdpa"
    implementation: str = "transformers"
    dropout: float | None = None
    objective: str | None = None
    method: str = "full"
    lora_rank: int = 16
    lora_targets: tuple[str, ...] | str = "all-linear"
    lora_dropout: float = 0.0
    adapter_precision: str = "fp32"
    base_precision: str = "nf4-dq"
    freeze: tuple[str, ...] = ()
