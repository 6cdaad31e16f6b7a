"""The time of a request: reading the prompt, writing token by token, and what changes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memscape.breakdown import Breakdown, Quantity, Term, chosen_by, maximum
from memscape.catalog import Accelerator
from memscape.memory.kv_cache import kv_cache
from memscape.memory.tensors import Sizes
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout, check, shard_model, shard_workload
from memscape.performance import rates
from memscape.performance.links import link, network
from memscape.performance.rates import Rate, seconds
from memscape.performance.traffic import forward_traffic
from memscape.performance.work import distinct_experts, forward_flops
from memscape.problem import Problem
from memscape.workload import Inference

LATENT = "latency"


@dataclass(frozen=True)
class ServingTime:
    """The time of prefill and of one decode step, in seconds by part, for all sequences at once.

    `read` and `computed` are both sides of the roofline of decode: the larger one is in `decode`.
    """

    prefill: Breakdown
    decode: Breakdown
    sequences: Quantity
    output_tokens: Quantity
    read_s: Quantity
    computed_s: Quantity

    @property
    def time_to_first_token_s(self) -> Quantity:
        """The seconds until the prompts of all sequences are read; a queue comes on top."""
        return self.prefill.total

    @property
    def time_per_output_token_s(self) -> Quantity:
        """The seconds of one decode step."""
        return self.decode.total

    @property
    def output_tokens_per_s(self) -> Quantity:
        """The tokens that all sequences together write while they decode."""
        return self.sequences / self.decode.total

    @property
    def request_s(self) -> Quantity:
        """The seconds of a request from its start to its last token."""
        return self.prefill.total + (self.output_tokens - 1) * self.decode.total

    @property
    def bound_by(self) -> str:
        """Whether decode waits for memory or for arithmetic."""
        waits = self.read_s >= self.computed_s
        return "memory bandwidth" if (waits.all() if hasattr(waits, "all") else waits) else "arithmetic"


def serving_time(
    model: Model,
    inference: Inference,
    accelerator: Accelerator,
    layout: Layout,
    network_gb_per_s: float | None = None,
) -> ServingTime:
    """Estimate prefill and one decode step in a layout; stages of a pipeline run one after the other.

        max(operations / rate, bytes read / bandwidth)  +  all-reduces and their latency      [seconds], per stage

    Prefill computes all prompt tokens; decode reads every weight that is used once, of the experts those that a batch
    is expected to touch, and the cache of all sequences at half of their output. Quantised weights are read in their
    own bytes and multiplied in 16 bit.
    Holds for: batches that run together; kernels that reach the shares of `data/efficiencies.csv`.
    Not for:   scheduling, queues, host overhead, which dominate small models on fast devices.
    Raises:    Problem for an encoder, which writes no tokens.
    Sources:   williams2009, thakur2005 and those of the rates
    """
    check(model, layout, inference)
    if not model.causal:
        raise Problem(f"{model.label} writes no tokens, so there is nothing to decode; ask for a decoder")
    share = shard_workload(inference, layout)
    assert isinstance(share, Inference)
    shards = [shard_model(model, layout, stage) for stage in range(layout.pipeline)]
    prompt, one = share.sequences * share.prompt_tokens, share.sequences
    seen = share.prompt_tokens + share.output_tokens / 2
    asked = share, accelerator, layout, network_gb_per_s
    prefill = [_stage(shard, *asked, prompt, share.prompt_tokens, 0) for shard in shards]
    decode = [_stage(shard, *asked, one, 2 * seen, seen) for shard in shards]
    return ServingTime(
        Breakdown("seconds", tuple(term for terms, _, _ in prefill for term in terms)),
        Breakdown("seconds", tuple(term for terms, _, _ in decode for term in terms)),
        inference.sequences,
        inference.output_tokens,
        sum(read for _, read, _ in decode),
        sum(computed for _, _, computed in decode),
    )


def _stage(
    shard: Model,
    share: Inference,
    accelerator: Accelerator,
    layout: Layout,
    network: float | None,
    tokens: Quantity,
    context: Quantity,
    cached: Quantity,
) -> tuple[list[Term], Quantity, Quantity]:
    """The time of one pass of a stage; `context` before the causal half is taken, `cached` tokens read per sequence."""
    rate, reading = rates.matmul(accelerator, share), rates.memory(accelerator)
    head = {"sequences": share.sequences}
    flops = forward_flops(shard, {"tokens_in_pass": tokens}, context, head).total
    computed = seconds("matrices and scores", {"forward_operations": flops}, rate, "matrices", "time", rate.source)
    read = _read(shard, share, tokens, cached, reading)
    total = sum(term.amount for term in read)
    behind = computed.amount >= total
    terms = [_where(computed, behind), *(_where(term, 1 - behind) for term in read)]
    traffic = forward_traffic(shard, share, layout, tokens)
    terms += _sent(traffic, shard, accelerator, layout, network)
    return [term for term in terms if term is not None], total, computed.amount


def _where(term: Term, here: Quantity) -> Term | None:
    """A side of the roofline where it is the longer one; for a grid with a factor of 0 or 1."""
    if not hasattr(here, "shape"):
        return term if here else None
    longer = here.astype("float64")
    span = (term.low * longer, term.high * longer)
    return replace(term, factors={**term.factors, "where_it_applies": longer}, spread=span)


def _read(shard: Model, share: Inference, tokens: Quantity, cached: Quantity, rate: Rate) -> list[Term]:
    """The weights that a pass uses, and the cache that it attends to."""
    held = weights(shard, share.weights, share.kept)
    routed = sum(term.amount for term in held if "experts" in term.factors)
    words = sum(term.amount for term in held.only(group="embeddings")) if not shard.tied else 0
    found = [seconds("weights", {"weight_bytes": held.total - routed - words}, rate, "weights", "time", rate.source)]
    if routed:
        touched = distinct_experts(shard, tokens)
        used: Sizes = {"expert_bytes": routed // shard.stored_experts, "experts_touched": touched}
        found.append(seconds("experts that the batch touches", used, rate, "weights", "time", rate.source))
    if not isinstance(cached, int) or cached:
        cache = kv_cache(shard, _at(share, cached)).total
        found.append(seconds("KV cache", {"cache_bytes": cache}, rate, "kv_cache", "time", rate.source))
    return found


def _at(share: Inference, cached: Quantity) -> Inference:
    whole = cached // 1
    held = int(whole) if not hasattr(whole, "shape") else whole
    return replace(share, prompt_tokens=held, output_tokens=share.output_tokens * 0, reserved_tokens=None)


def _sent(
    sent: Breakdown, shard: Model, accelerator: Accelerator, layout: Layout, network: float | None
) -> Iterator[Term]:
    """Traffic between devices, which nothing hides in a single pass, and the latency of each collective."""
    for term in sent:
        rate = link(term.group, layout, accelerator, network)
        yield seconds(term.name, {"bytes_sent": term.amount}, rate, f"{term.group} traffic", "time", rate.source)
    if layout.tensor > 1:
        row = rates.share("latency of a collective")
        low, likely, high = (each * rates.MICRO for each in rates.spread(row))
        count = (1 if shard.parallel else 2) * (shard.layers + shard.encoder_layers)
        factors = {"all_reduces": count, "seconds_of_latency": likely}
        yield Term("latency of the all-reduces", factors, LATENT, "time", row["source"], (low * count, high * count))


def speculative_speedup(draft_tokens: int, accepted_percent: Quantity, cost_percent: Quantity) -> Quantity:
    """Return how many times faster decoding is with a draft model.

        (1 - α^(γ+1)) / ((1 - α) · (γ·c + 1))

    γ draft tokens, a share α of which is accepted, each at a share c of the time of the model.
    Holds for: independent acceptances; steps that wait for memory, so that checking γ + 1 tokens costs as much as one.
    Source:    leviathan2023
    """
    alpha, cost = accepted_percent / 100, cost_percent / 100
    everything = alpha == 1
    written = chosen_by(everything, draft_tokens + 1, (1 - alpha ** (draft_tokens + 1)) / maximum(1 - alpha, 1e-12))
    return written / (draft_tokens * cost + 1)


def handover_s(
    model: Model, inference: Inference, accelerator: Accelerator, network_gb_per_s: float | None = None
) -> Term:
    """Return the time to send the cache of one prompt from devices that read to devices that write.

    Source: nccl_tests
    """
    rate = network(accelerator, network_gb_per_s)
    cache = kv_cache(model, replace(inference, sequences=1, output_tokens=0)).total
    return seconds("cache of a prompt", {"cache_bytes": cache}, rate, "handover", "time", rate.source)
