"""The time of a training step: arithmetic, memory traffic, collectives, the pipeline's bubble, the update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memscape.breakdown import Breakdown, Quantity, Term
from memscape.catalog import Accelerator
from memscape.memory.step import Device, device_of
from memscape.memory.tensors import Sizes
from memscape.model import Model
from memscape.parallelism import Layout, busy_stages, check
from memscape.performance import rates
from memscape.performance.links import link
from memscape.performance.rates import Rate, seconds
from memscape.performance.traffic import training_traffic
from memscape.performance.work import forward_flops, matrix_parameters
from memscape.workload import Training

# how often a pass computes: forward once; backward twice, for inputs and for weights
BACKWARD_OF = {"full": 2, "lora": 1, "qlora": 1}
# a fused attention computes its scores again in backward
SCORES_BACK = {"sdpa": 2.5, "eager": 2.0}


@dataclass(frozen=True)
class TrainingTime:
    """The time of one update: `step` in seconds by part, and what follows from it.

    `traffic` is what one device sends, by form. `model_flops_utilisation` takes PaLM's convention: 6 operations for
    each number of a matrix and token, 12·L·a·d·s for attention, nothing that is computed again;
    `causal_flops_utilisation` counts the half of attention's square that a causal model computes, as Llama 3 does.
    """

    step: Breakdown
    traffic: Breakdown
    tokens: Quantity
    model_flops: Quantity
    causal_flops: Quantity
    peak_flops: float
    devices: Quantity

    @property
    def step_s(self) -> Quantity:
        """The seconds of one update."""
        return self.step.total

    @property
    def tokens_per_s(self) -> Quantity:
        """The tokens of all devices together."""
        return self.tokens / self.step_s

    @property
    def model_flops_utilisation(self) -> Quantity:
        """The share of the devices' peak that the model's own operations take."""
        return self.model_flops / (self.step_s * self.peak_flops * self.devices)

    @property
    def causal_flops_utilisation(self) -> Quantity:
        """As `model_flops_utilisation`, with the causal half of attention alone."""
        return self.causal_flops / (self.step_s * self.peak_flops * self.devices)

    @property
    def bubble(self) -> Quantity:
        """The share of the step in which the devices of a pipeline wait for each other."""
        return self.step.only(group="bubble").total / self.step_s

    @property
    def bound_by(self) -> str:
        """The part that takes most of the time."""
        parts = self.step.by("group")
        return max(parts, key=lambda name: float(parts[name]))


def training_time(
    model: Model,
    training: Training,
    accelerator: Accelerator,
    layout: Layout,
    network_gb_per_s: float | None = None,
) -> TrainingTime:
    """Estimate the time of one update on the slowest stage of a layout.

        (m + (p - 1)/v) · (matrices + scores + tensors kept + exposed traffic)  +  gradients  +  update    [seconds]

    Matrices and scores are operations at the share of the peak that was measured for the architecture; element-wise
    work is the bytes that a micro-batch keeps, read and written several times; collectives are bytes on the wire of a
    ring. Every share is a term's factor with its spread (`data/efficiencies.csv`).
    Holds for: large matrices; links of one kind inside a node, one share of the network per device beyond it.
    Not for:   stragglers, restarts, data loading, host overhead of small models.
    Sources:   narayanan2021, chowdhery2022, thakur2005 and those of the rates
    """
    check(model, layout, training)
    asked = model, training, accelerator, layout
    found = (_of_stage(*asked, stage, network_gb_per_s) for stage in busy_stages(model, layout))
    return max(found, key=lambda each: _largest(each.step_s))


def _largest(value: Quantity) -> float:
    return float(value.max() if hasattr(value, "max") else value)


def _of_stage(
    model: Model,
    training: Training,
    accelerator: Accelerator,
    layout: Layout,
    stage: int,
    network: float | None,
) -> TrainingTime:
    device = device_of(model, training, layout, stage)
    batches = device.batches
    sent = training_traffic(device.model, device.training, layout, batches)
    one = training_traffic(device.model, device.training, layout)
    running = (
        *_arithmetic(device, accelerator),
        *_elementwise(device, accelerator),
        *_exposed(one, accelerator, layout, network, ("tensor", "context", "expert", "pipeline")),
    )
    bubble = _bubble(layout, Breakdown("seconds", running))[: layout.pipeline - 1]
    steady = (_repeated(term, batches) for term in running)
    reduced = _exposed(sent.only(group="data"), accelerator, layout, network, ("data",))
    tokens = training.sequence_tokens * training.micro_batch * batches * layout.data
    return TrainingTime(
        Breakdown("seconds", (*steady, *bubble, *reduced, *_update(device, accelerator))),
        sent,
        tokens,
        tokens * _model_flops(model, training, 12),
        tokens * _model_flops(model, training, 6),
        rates.matmul(accelerator, training).peak,
        layout.devices,
    )


def _bubble(layout: Layout, running: Breakdown) -> list[Term]:
    """The stages that a device waits for while the pipeline fills and drains."""
    stages = (layout.pipeline - 1) / layout.interleave
    waits = {"stages_waited_for": stages, "seconds_per_micro_batch": running.total}
    span = stages * running.low, stages * running.high
    return [Term("pipeline fills and drains", waits, "bubble", "time", "narayanan2021", span)]


def _repeated(term: Term, batches: Quantity) -> Term:
    spread = (term.low * batches, term.high * batches)
    return replace(term, factors={**term.factors, "micro_batches": batches}, spread=spread)


def _arithmetic(device: Device, accelerator: Accelerator) -> Iterator[Term]:
    training, rate = device.training, rates.matmul(accelerator, device.training)
    tokens: Sizes = {"micro_batch": training.micro_batch, "sequence_tokens": training.sequence_tokens}
    work = forward_flops(device.model, tokens, device.asked.sequence_tokens)
    again = training.recompute == "full"
    passes = 1 + BACKWARD_OF[training.method] + again
    flops = {"forward_operations": work.only(phase="matmul").total, "passes": passes}
    yield seconds("matrices", flops, rate, "matrices", "time", rate.source)
    repeats = 1 + SCORES_BACK[training.attention] + (training.recompute != "none")
    scores = {"forward_operations": work.only(phase="scores").total, "passes": repeats}
    yield seconds("attention scores", scores, rate, "attention", "time", rate.source)


def _elementwise(device: Device, accelerator: Accelerator) -> Iterator[Term]:
    """Norms, activations, dropout, residuals: limited by how often the tensors that are kept pass through memory."""
    unchecked = device_of(device.whole, replace(device.asked, recompute="none"), device.layout, device.stage)
    kept = unchecked.kept_once.only(phase="activations")
    rate, row = rates.memory(accelerator), rates.share("passes over what is kept")
    low, likely, high = rates.spread(row)
    again = float(rates.share("passes again")["likely"]) if device.training.recompute == "full" else 0
    factors = {"bytes_kept": kept.total, "passes": likely + again}
    term = seconds("norms, activations, residuals", factors, rate, "memory", "time", row["source"])
    whole = likely + again
    yield replace(term, spread=(term.low * (low + again) / whole, term.high * (high + again) / whole))


def _exposed(
    sent: Breakdown, accelerator: Accelerator, layout: Layout, network: float | None, forms: tuple[str, ...]
) -> Iterator[Term]:
    """The time of what is sent that no arithmetic hides."""
    for form in forms:
        for term in sent.only(group=form):
            rate = link(form, layout, accelerator, network)
            row = rates.share(f"exposed {form} traffic")
            low, likely, high = rates.spread(row)
            shown = {"bytes_sent": term.amount, "exposed_share": likely / 100}
            found = seconds(term.name, shown, rate, f"{form} traffic", "time", row["source"])
            span = found.low * low / likely, found.high * high / likely
            yield replace(found, spread=span)


def _update(device: Device, accelerator: Accelerator) -> Iterator[Term]:
    """Weights, gradients and states are read and written once."""
    held = device.states.total
    rate: Rate = rates.memory(accelerator)
    yield seconds("update", {"bytes_held": held, "read_and_written": 2}, rate, "update", "time", rate.source)


def _model_flops(model: Model, training: Training, of_scores: int) -> Quantity:
    """PaLM's count for one token, forward and backward; 12 operations of scores, or the causal 6."""
    heads = model.layers * model.heads * model.head_dim
    return 6 * matrix_parameters(model) + of_scores * heads * training.sequence_tokens
