"""What is asked of a model: Inference, Training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from memscape import tables
from memscape.breakdown import Quantity
from memscape.catalog import cache_precision, weight_precisions
from memscape.problem import Problem, chosen, one_of, unknown
from memscape.serving import ENGINES, check_engine, default_block_tokens

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
    "most_sequences": 1,
    "gpu_layers": 0,
}
SINGLE = ("block_tokens", "prefill_tokens", "most_sequences", "gpu_layers")
MAY_BE_NONE = ("reserved_tokens", "prefill_tokens", "most_sequences", "gpu_layers", "target_tokens", "global_batch")

TRAINING_PRECISIONS = ("fp32", "bf16", "bf16-autocast", "bf16-mixed")
FP32_WEIGHTS = ("fp32", "bf16-autocast")
NUMBER_TYPES = ("fp32", "bf16")
RECOMPUTE = ("none", "selective", "light", "full")
MEGATRON_ONLY = ("selective", "light")
IMPLEMENTATIONS = ("transformers", "megatron")
METHODS = ("full", "lora", "qlora")
UPDATES = ("single", "foreach", "fused")
OBJECTIVES = ("causal", "masked", "sequence")
ALL_LINEAR = "all-linear"
LEAST_TRAINING = ("micro_batch", "sequence_tokens", "target_tokens", "global_batch", "lora_rank")


@dataclass(frozen=True)
class Inference:
    """Answering prompts: how many sequences run at once, how long they are, and in which precisions.

    `sequences`, `prompt_tokens` and `output_tokens` may be numbers or numpy arrays. For an encoder-decoder the prompt
    is what the encoder reads and the output what the decoder writes.

    `engine`            "generic" keeps what the architecture needs; "transformers" what DynamicCache(config) stores;
                        "vllm" sizes a pool of blocks at start-up; "llama.cpp" may leave layers to the CPU
    `weights`           a precision of the catalogue, GGUF mixes included: "bf16", "nf4", "Q4_K_M", ...
    `kept`              groups that stay in 16 bit, e.g. ("embeddings", "lm_head"); None: as the precision publishes
    `kv_cache`          a precision of the catalogue that a cache can have
    `block_tokens`      paged caches round each sequence up to whole blocks; None: the engine's default (vLLM: 16),
                        which `replace(..., engine=...)` keeps: pass block_tokens=None with it
    `reserved_tokens`   a cache of fixed length per sequence (static cache, --max-model-len) in place of the tokens seen
    `prefill_tokens`    tokens that one forward pass takes at most; None: the engine's published default
    `attention`         "sdpa": a fused kernel; "eager": the score matrix is held

    vllm: `engine_version`, `most_sequences` (max_num_seqs), `gpu_memory_utilization`, `cuda_graphs`,
    `hybrid_cache` (local layers have shorter tables). llama.cpp: `gpu_layers` (--n-gpu-layers: the output layer is the
    first of them). None: the default of `data/engines.csv`; all layers.
    """

    sequences: Quantity = 1
    prompt_tokens: Quantity = 2048
    output_tokens: Quantity = 256
    weights: str = "bf16"
    kv_cache: str = "bf16"
    engine: str = "generic"
    kept: tuple[str, ...] | None = None
    block_tokens: int | None = None
    reserved_tokens: Quantity | None = None
    prefill_tokens: int | None = None
    attention: str = "sdpa"
    engine_version: str | None = None
    most_sequences: int | None = None
    gpu_memory_utilization: float | None = None
    cuda_graphs: bool = True
    hybrid_cache: bool = True
    gpu_layers: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        if self.block_tokens is None:
            object.__setattr__(self, "block_tokens", default_block_tokens(self.engine))
        given = {name: getattr(self, name) for name in LEAST}
        given = {name: value for name, value in given.items() if value is not None or name not in MAY_BE_NONE}
        for name, value in given.items():
            if name in SINGLE and type(value) is not int:
                raise Problem(f"{name} is {str(value)[:40]}; use one whole number from {LEAST[name]} to {LARGEST:,}")
            object.__setattr__(self, name, whole(name, value, LEAST[name]))
        chosen("precision", self.weights, weight_precisions())
        cache_precision(self.kv_cache)
        if self.attention not in ATTENTION:
            raise Problem(f'unknown attention "{str(self.attention)[:40]}"; use {one_of(ATTENTION)}')
        check_engine(self)

    @property
    def tokens(self) -> Quantity:
        """Prompt and output of one sequence together."""
        return self.prompt_tokens + self.output_tokens


def whole(name: str, value: Quantity, least: int) -> Quantity:
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
    `recompute`         "none"; "full": gradient checkpointing of every layer; "selective": of the attention; "light":
                        also of an activated gate and what MLA makes of its vectors (both with megatron)
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

    def __post_init__(self) -> None:
        """Refuse what cannot run on any model; what the model decides is refused where the two meet."""
        for name in LEAST_TRAINING:
            value = getattr(self, name)
            if value is not None or name not in MAY_BE_NONE:
                object.__setattr__(self, name, whole(name, value, 1))
        for name, known in _choices(self).items():
            object.__setattr__(self, name, chosen(name.replace("_", " "), getattr(self, name), known))
        for name, may_be_none in (("dropout", True), ("lora_dropout", False)):
            _check_rate(name, getattr(self, name), may_be_none)
        object.__setattr__(self, "freeze", _names("freeze", self.freeze, "embeddings"))
        if self.lora_targets != ALL_LINEAR:
            object.__setattr__(self, "lora_targets", _names("lora_targets", self.lora_targets, "q_proj"))
        _check_batch(self)
        _check_together(self)

    @property
    def weights(self) -> str:
        """The precision in which the weights that the model computes with are held."""
        return "fp32" if self.precision in FP32_WEIGHTS else "bf16"

    @property
    def gradient_precision(self) -> str:
        """The precision of the gradients: that of the weights unless another is asked for."""
        return self.gradients or self.weights


def _choices(training: Training) -> dict[str, Collection[str]]:
    """The fields that are names, and the names that each can be."""
    if str(training.precision).lower().startswith(("fp16", "float16", "half")):
        with_states = f' and optimizer "{training.optimizer}"' if str(training.optimizer).endswith("8bit") else ""
        raise Problem(
            f'precision "{str(training.precision)[:40]}"{with_states} needs a loss scaler, which checks and rescales '
            f'every gradient and is not modelled; use "bf16-mixed", which holds as many bytes and needs none'
        )
    optional = {"gradients": NUMBER_TYPES, "objective": OBJECTIVES}
    return {
        "precision": TRAINING_PRECISIONS,
        "optimizer": tables.by_key("optimizers"),
        "update": UPDATES,
        "recompute": RECOMPUTE,
        "attention": ATTENTION,
        "implementation": IMPLEMENTATIONS,
        "method": METHODS,
        "adapter_precision": NUMBER_TYPES,
        "base_precision": tables.by_key("precisions"),
    } | {name: known for name, known in optional.items() if getattr(training, name) is not None}


def _check_rate(name: str, value: object, may_be_none: bool) -> None:
    if value is None and may_be_none:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise Problem(f"{name} is {str(value)[:40]}; use a rate of at least 0 and below 1")


def _names(name: str, value: object, example: str) -> tuple[str, ...]:
    """Return a list of names as a tuple; a lone word is refused, since its letters would be read as names."""
    if not isinstance(value, tuple | list) or not all(isinstance(each, str) for each in value):
        raise Problem(f'{name} is {str(value)[:40]!r}; list the names, as in ("{example}",)')
    return tuple(dict.fromkeys(value))


def _check_batch(training: Training) -> None:
    if training.global_batch is None:
        return
    uneven = training.global_batch % training.micro_batch != 0
    if uneven.any() if hasattr(uneven, "any") else uneven:
        sizes = str(training.global_batch)[:40], str(training.micro_batch)[:40]
        raise Problem(f"global_batch {sizes[0]} is no multiple of micro_batch {sizes[1]}; use one that is")


def _check_together(training: Training) -> None:
    """Refuse what two fields say against each other."""
    from memscape.memory.weights import GROUPS

    possible = tables.by_key("optimizers")[training.optimizer]["updates"].split()
    if training.update not in possible:
        raise Problem(f'optimizer "{training.optimizer}" has no {training.update} update; use {one_of(possible)}')
    if training.gradients == "bf16" and training.precision in FP32_WEIGHTS:
        raise Problem(
            f'precision "{training.precision}" has 32-bit weights, and a gradient has the type of its weight; '
            f'leave gradients out, or use precision "bf16" or "bf16-mixed"'
        )
    if training.recompute in MEGATRON_ONLY and training.implementation != "megatron":
        raise Problem(
            f'recompute "{training.recompute}" is Megatron\'s; use implementation "megatron", or recompute "full"'
        )
    for each in training.freeze:
        chosen("group", each, GROUPS)
    if training.freeze and training.method != "full":
        raise Problem(f'method "{training.method}" trains the adapters alone, all groups are frozen; leave freeze out')
    if training.method == "qlora" and tables.by_key("precisions")[training.base_precision]["quantises"] == "everything":
        raise Problem(f'base_precision "{training.base_precision}" is not quantised; use "nf4-dq", or method "lora"')
    if not training.lora_targets:
        raise Problem(f'lora_targets is empty; use "{ALL_LINEAR}" or list modules, as in ("q_proj", "v_proj")')
