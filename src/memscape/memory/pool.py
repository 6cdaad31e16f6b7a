"""The pool of cache blocks that vLLM is left with, and how many sequences it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from memscape.breakdown import Breakdown, Quantity, Term, ceil_div, minimum
from memscape.catalog import Accelerator
from memscape.memory.engines import vllm_runtime
from memscape.memory.kv_cache import kv_cache
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem
from memscape.serving import fact
from memscape.units import MIB, amount
from memscape.workload import Inference

OUTSIDE = ("CUDA graphs", "CUDA context")
# layers of two kinds share one size of group where there are less than a quarter more of one than of the other
QUARTER = 4


@dataclass(frozen=True)
class Pool:
    """The bytes that vLLM gives to cache blocks on one device, and what they hold.

    `pool` is the sum with its subtractions as negative terms; `beside` stands outside `gpu_memory_utilization`. A block
    holds `block_tokens` tokens in the layers of one group; a sequence takes `blocks_per_sequence` of them.
    """

    pool: Breakdown
    beside: Breakdown
    block_tokens: int
    block_bytes: Quantity
    blocks: Quantity
    blocks_per_sequence: Quantity
    tokens: Quantity
    most_sequences: int
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The whole bytes of the pool."""
        return int(self.pool.total)

    @property
    def concurrency(self) -> Quantity:
        """The sequences of the asked length that fit at once, as vLLM's log says it: not rounded."""
        return self.blocks / self.blocks_per_sequence

    @property
    def sequences(self) -> Quantity:
        """The whole sequences of the asked length that run at once: those that fit, at most `most_sequences`."""
        return minimum(self.blocks // self.blocks_per_sequence, self.most_sequences)


def kv_pool(
    model: Model,
    inference: Inference,
    accelerator: Accelerator,
    layout: Layout | None = None,
    whole: Model | None = None,
) -> Pool:
    """Size the pool of cache blocks on one device.

        usable · utilisation - weights - start-up peak - non-torch memory (- graphs, from 0.21 on)      [bytes]

    `model` is what one device has, `whole` the model before tensor parallelism. Usable is what PyTorch sees: what an
    NVIDIA driver reports less what it keeps. The context, and before 0.21 the graphs, stand outside the budget.
    The length of a sequence is `reserved_tokens` (--max-model-len) or prompt and output.
    Holds for: decoders; stages of a pipeline must hold equally many blocks, so the fullest one decides.
    Raises:    Problem for another engine, for a model without a cache, and where nothing is left.
    Sources:   llm_d_planner, vllm_graph_budget, vllm_cache
    """
    _check(model, inference)
    layout = layout or Layout()
    runtime = vllm_runtime(model, inference, layout, whole, accelerator)
    outside = tuple(term for term in runtime if term.name in _outside(inference))
    inside = tuple(term for term in runtime if term.name not in _outside(inference))
    taken = weights(model, inference.weights, inference.kept).terms + inside
    pool = Breakdown("bytes", _budget(accelerator, inference) + tuple(map(_minus, taken)))
    if pool.total < 0:
        raise _too_little(model, inference, accelerator, pool)
    return _filled(pool, Breakdown("bytes", outside), model, inference, accelerator)


def _check(model: Model, inference: Inference) -> None:
    if inference.engine != "vllm":
        raise Problem(f'engine "{inference.engine}" sizes no pool of cache blocks; use engine "vllm"')
    if not model.causal or model.has_encoder:
        raise Problem(f"{model.label} reads in both directions, and the pool is for decoders; ask memory() instead")


def _outside(inference: Inference) -> tuple[str, ...]:
    return OUTSIDE[_likely("CUDA graphs in the budget", inference, None) :]


def _budget(accelerator: Accelerator, inference: Inference) -> tuple[Term, ...]:
    """The share of the device that vLLM may use; PyTorch sees less of an NVIDIA card than its driver reports."""
    utilisation = _utilisation(inference)
    device = {"device_bytes": accelerator.usable_bytes} | utilisation
    share = Term("gpu_memory_utilization", device, "other", "budget", "llm_d_planner")
    if accelerator.vendor != "NVIDIA" or accelerator.basis.startswith("marketing"):
        return (share,)
    row = fact("vllm", "driver reserve")
    kept = {"mebibytes": int(row["likely"]), "bytes_per_mebibyte": MIB} | utilisation
    return share, _minus(Term("driver reserve", kept, "other", "budget", row["source"]))


def _utilisation(inference: Inference) -> dict[str, float]:
    if inference.gpu_memory_utilization is not None:
        return {"utilisation": inference.gpu_memory_utilization}
    return {"utilisation": _likely("utilisation", inference, None) / 100}


def _minus(term: Term) -> Term:
    spread = None if term.spread is None else (-term.high, -term.low)
    return replace(term, factors={"minus": -1, **term.factors}, spread=spread)


def _too_little(model: Model, inference: Inference, accelerator: Accelerator, pool: Breakdown) -> Problem:
    allowed = sum(term.amount for term in pool.only(phase="budget"))
    return Problem(
        f"{model.label} leaves no room for a KV cache on {accelerator.name}: vLLM may use "
        f"{amount(allowed, 'GiB')} of it, and weights, start-up peak and non-torch memory take "
        f"{amount(allowed - pool.total, 'GiB')}, {amount(-pool.total, 'GiB')} too much; quantise the weights, "
        f"lower most_sequences, or use more devices"
    )


def _filled(pool: Breakdown, beside: Breakdown, model: Model, inference: Inference, accelerator: Accelerator) -> Pool:
    """Cut the pool into blocks."""
    block = inference.block_tokens or 1
    group, each = _groups(model, inference, accelerator)
    size = group * _page(model, inference)
    blocks = int(pool.total) // size
    context = _context(inference)
    tokens = blocks * block if len(each) == 1 else (blocks * context) // _total(each)
    most = inference.most_sequences or _likely("sequences", inference, accelerator)
    filled = Pool(pool, beside, block, size, blocks, _total(each), tokens, most)
    return replace(filled, notes=_notes(filled, model, inference, accelerator))


def cache_in_blocks(model: Model, inference: Inference, accelerator: Accelerator | None = None) -> Breakdown:
    """Count the bytes of the blocks that the asked sequences take from vLLM's pool.

        sequences · blocks per sequence · layers of a group · bytes of one block in one layer      [bytes]

    More than `kv_cache` where layers differ: local layers hold the tokens of one pass beside their window, and groups
    are filled up to equally many layers.
    Source: vllm_cache
    """
    _check(model, inference)
    group, each = _groups(model, inference, accelerator)
    factors = {
        "sequences": inference.sequences,
        "blocks_per_sequence": _total(each),
        "layers_in_group": group,
        "bytes_per_block": _page(model, inference),
    }
    return Breakdown("bytes", (Term("blocks of keys and values", factors, "attention", "kv_cache", "vllm_cache"),))


def _likely(name: str, inference: Inference, accelerator: Accelerator | None) -> int:
    return int(fact("vllm", name, inference.engine_version, accelerator)["likely"])


def _context(inference: Inference) -> Quantity:
    return inference.tokens if inference.reserved_tokens is None else inference.reserved_tokens


def _page(model: Model, inference: Inference) -> int:
    """The bytes of one block in one layer."""
    one = replace(inference, sequences=1, prompt_tokens=inference.block_tokens, output_tokens=0, reserved_tokens=None)
    return int(kv_cache(model, one).total) // int(model.layers)


def _groups(model: Model, inference: Inference, accelerator: Accelerator | None) -> tuple[int, tuple[Quantity, ...]]:
    """The layers of a group, and for each kind of layer the blocks that a sequence takes in all its groups.

    Groups have equally many layers, as many as the rarer kind has; the last group of the other is filled up. A local
    layer holds its window and the tokens of one pass, since a window is freed only after the pass that leaves it.
    """
    counts = model.attention_layers if inference.hybrid_cache else {"full": model.layers}
    fewest, most = min(counts.values()), max(counts.values())
    group = most if len(counts) == 1 or QUARTER * most < (QUARTER + 1) * fewest else fewest
    block, context = inference.block_tokens or 1, _context(inference)
    passed = inference.prefill_tokens or _likely("tokens in a pass", inference, accelerator)
    blocks = []
    for kind, layers in counts.items():
        held = context if kind == "full" or model.window is None else minimum(model.window - 1 + passed, context)
        partly = 1 if kind == "sliding" else 0
        blocks.append(ceil_div(layers, group) * (ceil_div(held, block) + partly))
    return group, tuple(blocks)


def _total(blocks: tuple[Quantity, ...]) -> Quantity:
    total: Quantity = 0
    for each in blocks:
        total = total + each
    return total


def _notes(pool: Pool, model: Model, inference: Inference, accelerator: Accelerator) -> tuple[str, ...]:
    """Both figures of a model whose layers differ, and what must fit beside the budget."""
    notes = [f"{amount(pool.beside.total, 'GiB')} more stand outside gpu_memory_utilization: CUDA graphs, context"]
    if "CUDA graphs" not in pool.beside.by("name"):
        notes = [f"{amount(pool.beside.total, 'GiB')} more stand outside gpu_memory_utilization: the CUDA context"]
    if len(model.attention_layers) > 1 and inference.hybrid_cache and not hasattr(pool.concurrency, "shape"):
        _, (plain,) = _groups(model, replace(inference, hybrid_cache=False), accelerator)
        full = int(pool.pool.total) // (model.layers * _page(model, inference)) / plain
        notes.append(
            f"{pool.concurrency:,.1f} sequences fit at once with the hybrid cache manager, {full:,.1f} without it: "
            f"every layer then costs full length"
        )
    return tuple(notes)
