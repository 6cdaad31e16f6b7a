"""What the cluster gets done: tokens per hour while it serves, hours of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from memscape.breakdown import Term
from memscape.cluster.sizing import Line, Rule, Setting, follows, line, rule
from memscape.performance import ServingTime, TrainingTime, performance
from memscape.problem import Problem, one_of
from memscape.workload import Inference, Training

GROUP = "work"
SECONDS_OF_AN_HOUR = 3600


@dataclass(frozen=True)
class Run:
    """What is asked of a training run: its tokens, and what is known better than our estimate, in percent.

    `utilisation` is the model FLOPs utilisation with the causal half of attention, as Llama 3 counts it; `goodput` the
    share of the time that advances the run.
    """

    tokens: int | None = None
    utilisation: float | None = None
    goodput: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        if self.tokens is not None and (type(self.tokens) is not int or self.tokens < 1):
            raise Problem(f"tokens is {str(self.tokens)[:20]}; use the whole number of tokens of a run, 1 or more")
        for name in ("utilisation", "goodput"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or not 0 < value <= 100):
                raise Problem(f"{name} is {str(value)[:20]}; use percent above 0 and up to 100")

    def check(self, workload: Inference | Training) -> None:
        """Refuse tokens of a run for serving, and a workload that is a whole grid."""
        if self.tokens is not None and not isinstance(workload, Training):
            raise Problem("tokens is what a training run takes, and this is serving; leave it out, or give a Training")
        if grids := [each.name for each in fields(workload) if hasattr(getattr(workload, each.name), "shape")]:
            raise Problem(f"a cluster is worked out for one workload, and {one_of(grids)} is an array; use one number")


def work_lines(of: Setting, run: Run) -> Iterator[Line]:
    """Yield the time of a request and tokens per hour, or the hours of a run.

    Raises: Problem where a rate of the accelerator is not known.
    """
    network = of.fabric_gbps / 8 / of.server.devices if of.fabric_gbps else None  # GB/s for each device
    time = performance(of.model, of.workload, of.accelerator, of.layout, network)
    if isinstance(time, ServingTime):
        yield from _serving(of, time)
        return
    yield line("time of an update", GROUP, "seconds", *time.step, why="arithmetic, memory, exposed traffic, bubble")
    if run.tokens is not None:
        yield from _run(of, time, run, run.tokens)


def _serving(of: Setting, time: ServingTime) -> Iterator[Line]:
    """All sequences start together and write their tokens: prompts are read, then a step for each token."""
    assert isinstance(of.workload, Inference)
    steps, prefill, decode = max(0, of.workload.output_tokens - 1), time.prefill, time.decode
    shown = {"steps": steps, "seconds_per_step": decode.total}
    terms = [
        follows("prompts", prefill, {}, "williams2009", "seconds_of_prefill"),
        Term("tokens", shown, source="williams2009", spread=(decode.low * steps, decode.high * steps)),
    ]
    request = line("time of a request", GROUP, "seconds", *terms, why="all sequences together, without a queue")
    yield request
    if not of.workload.output_tokens:
        return
    written = {"sequences": of.workload.sequences, "output_tokens": of.workload.output_tokens}
    whole, low, high = request.amount.total, request.amount.low, request.amount.high
    factors = {**written, "seconds_of_an_hour": SECONDS_OF_AN_HOUR, "batches_per_second": 1 / whole}
    amount = Term("", factors).amount
    tokens = Term("written", factors, source="williams2009", spread=(amount * whole / high, amount * whole / low))
    yield line(
        "tokens per hour", GROUP, "tokens/h", tokens, why="busy all the time; a service with pauses writes fewer"
    )


def _run(of: Setting, time: TrainingTime, run: Run, tokens: int) -> Iterator[Line]:
    """Device-hours by our estimate of a step, or by the utilisation that was given; then the hours of the cluster."""
    good = rule("goodput")
    share = run.goodput or good.likely
    lost = {"over_goodput": 100 / share, "hours_of_a_second": 1 / SECONDS_OF_AN_HOUR}
    if run.utilisation is None:
        each = time.step_s * of.layout.devices / time.tokens
        shown = {"training_tokens": tokens, "device_seconds_per_token": each}
        spread = time.step.low / time.step_s, time.step.high / time.step_s
    else:
        shown = {
            "training_tokens": tokens,
            "flops_per_token": time.causal_flops / time.tokens,
            "seconds_per_flop": 1 / time.peak_flops,
            "over_share_reached": 100 / run.utilisation,
        }
        spread = 1.0, 1.0
    yield from _hours(of, {**shown, **lost}, spread, good, run)


def _hours(of: Setting, factors: dict[str, float], spread: tuple[float, float], good: Rule, run: Run) -> Iterator[Line]:
    amount = Term("run", factors).amount
    ends = (1.0, 1.0) if run.goodput else (good.likely / good.high, good.likely / good.low)
    low, high = amount * spread[0] * ends[0], amount * spread[1] * ends[1]
    term = Term("run", factors, "", "cluster", "chowdhery2022", (low, high))
    why = f"goodput: {'as given' if run.goodput else good.basis}"
    yield line("device-hours of the run", GROUP, "device-hours", term, why=why)
    share = 1 / of.layout.devices
    hours = Term(
        "run",
        {"device_hours": amount, "over_devices": share},
        source="chowdhery2022",
        spread=(low * share, high * share),
    )
    yield line("hours of the run", GROUP, "hours", hours, why="all devices at once")
