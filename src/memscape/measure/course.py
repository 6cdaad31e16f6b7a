"""The course of a training step and of an answer: live bytes at every moment.

Needs torch and transformers (extra `measure`).
"""

from __future__ import annotations

import gc
import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from memscape.measure.emulation import AsCuda
from memscape.measure.ledger import Gauge, Ledger, Meter, following
from memscape.measure.optimizers import make_optimizer
from memscape.measure.subject import Config, Run, apart, build, check_device, checkpoint, explained, forward, inputs
from memscape.measure.witness import Kept, Places

Moment = tuple[int, str]


@dataclass
class Course:
    """Live bytes by step and moment, above what was there before; what was alive then; what was there before."""

    before: dict[str, int]
    start: int = 0
    bytes: dict[Moment, int] = field(default_factory=dict)
    alive: dict[Moment, list[Kept]] = field(default_factory=dict)
    rounding: dict[Moment, int] = field(default_factory=dict)
    reserved: dict[Moment, int | None] = field(default_factory=dict)
    lists: bool = True

    def note(self, meter: Meter, step: int, *moments: str) -> None:
        """Note the phase that ends: its peak, then its end; begin the next."""
        for moment in moments:
            if not moment.endswith("_peak") and moment not in ("prefill", "decode"):
                meter.restart()
            key = (step, moment)
            self.bytes[key], self.rounding[key], self.reserved[key] = meter.peak, meter.rounding, meter.reserved
            if self.lists:
                self.alive[key] = meter.at_peak()
        meter.restart()


def step_course(
    config: Config,
    batch: int,
    sequence: int,
    optimizer: str = "AdamW foreach=False",
    steps: int = 2,
    micro_batches: int = 1,
    lists: bool = True,
    **settings: Any,
) -> Course:
    """Return the live bytes of whole training steps, above parameters, buffers, input ids and labels.

    `settings` are those of `Run`. With several micro-batches the moments are those of the last one, whose gradients are
    added to the earlier ones. `lists` also returns what was alive at every moment.
    """
    run = Run(batch, sequence, **settings)
    workspaces = _workspaces(run.device, training=True)
    with explained(run.device):
        model = build(config, run)
        cuda = AsCuda(run.autocast)
        checkpoint(model, run, cuda)
        given = inputs(model, run)
        updater = make_optimizer(optimizer, model)
        course, meter = _begun(model, given, run, workspaces, lists)
        for step in range(1, steps + 1):
            for micro_batch in range(micro_batches):
                _pass(model, given, meter, (run, cuda), course, step, micro_batch == micro_batches - 1)
            _update(updater, meter, course, step)
    return course


def _pass(
    model: Any,
    given: dict[str, torch.Tensor],
    meter: Meter,
    how: tuple[Run, AsCuda],
    course: Course,
    step: int,
    last: bool,
) -> None:
    """Run forward and backward; the output lives until backward has ended, as in a training loop."""
    meter.restart()
    with following(meter):
        with forward(*how):
            output = model(**given, use_cache=False)
        how[1].forget()
        if last:
            course.note(meter, step, "forward_peak", "forward_end")
        output.loss.backward()
        if last:
            course.note(meter, step, "backward_peak")
        del output
        if last:
            course.note(meter, step, "after_backward")


def _update(updater: torch.optim.Optimizer, meter: Meter, course: Course, step: int) -> None:
    with following(meter):
        updater.step()
        course.note(meter, step, "optimizer_peak", "after_optimizer")
        updater.zero_grad(set_to_none=True)


def step_moments(config: Config, batch: int, sequence: int, **settings: Any) -> dict[Moment, int]:
    """Return {(step, moment): bytes} of two training steps; see `step_course`."""
    return step_course(config, batch, sequence, lists=False, **settings).bytes


def serving_course(
    config: Config, batch: int, sequence: int, output_tokens: int = 8, lists: bool = True, **settings: Any
) -> Course:
    """Return the live bytes of an answer, above the weights: load, prefill, decode; cache and activations together.

    `settings` are those of `Run`. The prompt is read in one pass, then `output_tokens` are written one by one, as
    transformers' `generate` does with its dynamic cache.
    """
    run = Run(batch, sequence, **settings)
    workspaces = _workspaces(run.device, training=False)
    with explained(run.device), torch.no_grad():
        model = build(config, run).eval()
        given = inputs(model, run)
        given.pop("labels")
        course, meter = _begun(model, given, run, workspaces, lists)
        meter.restart()
        course.note(meter, 1, "load")
        with following(meter), forward(run, AsCuda(run.autocast)):
            _answer(model, given["input_ids"], meter, course, output_tokens)
    return course


def _answer(model: Any, ids: torch.Tensor, meter: Meter, course: Course, output_tokens: int) -> None:
    """Read a prompt and write an answer; an encoder only reads."""
    if not (model.can_generate() or model.config.is_encoder_decoder):
        output = model(input_ids=ids)
        course.note(meter, 1, "prefill")
        return
    words: dict[str, Any] = {"use_cache": True, "past_key_values": transformers.DynamicCache(config=model.config)}
    name, token = "input_ids", ids
    if model.config.is_encoder_decoder:
        cache = transformers.DynamicCache
        words["past_key_values"] = transformers.EncoderDecoderCache(cache(config=model.config), cache())
        words["encoder_outputs"] = model.get_encoder()(input_ids=ids)
        name, token = "decoder_input_ids", ids[:, :1].clone()
    elif "logits_to_keep" in inspect.signature(model.forward).parameters:
        words["logits_to_keep"] = 1
    output = model(**{name: token}, **words)
    course.note(meter, 1, "prefill")
    for _ in range(output_tokens):
        token = output.logits[:, -1:].argmax(-1)
        output = None
        output = model(**{name: token}, **words)
    course.note(meter, 1, "decode")


def serving_moments(config: Config, batch: int, sequence: int, **settings: Any) -> dict[Moment, int]:
    """Return {(1, moment): bytes} of an answer; see `serving_course`."""
    return serving_course(config, batch, sequence, lists=False, **settings).bytes


def _begun(
    model: Any, given: dict[str, torch.Tensor], run: Run, workspaces: dict[str, int], lists: bool
) -> tuple[Course, Meter]:
    """Return what notes the moments, and what tells how much is alive."""
    gc.collect()
    before = _before(model, given) | workspaces
    if run.device.startswith("cuda"):
        gauge = Gauge(run.device)
        return Course(before, gauge.start, lists=lists), gauge
    return Course(before, sum(before.values()), lists=lists), Ledger(Places(model), apart(model, *given.values()))


def _before(model: Any, given: dict[str, torch.Tensor]) -> dict[str, int]:
    """Return the bytes that are there before a step, by kind, each storage once."""
    seen, sizes = set[int](), dict[str, int]()
    kinds = {"parameters": model.parameters(), "buffers": model.buffers(), "input ids and labels": given.values()}
    for kind, tensors in kinds.items():
        storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}
        sizes[kind] = sum(size for key, size in storages.items() if key not in seen)
        seen |= set(storages)
    return sizes


def _workspaces(device: str, training: bool) -> dict[str, int]:
    """Return what the matrix library takes at its first use, through the same allocator.

    It is one block for each thread that multiplies (the program's own, and the one in which autograd runs backward),
    and a smaller one for products to which a bias is added.
    """
    check_device(device)
    if not device.startswith("cuda"):
        return {}
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    start = torch.cuda.memory_allocated(device)
    square = torch.ones(64, 64, device=device, dtype=torch.bfloat16, requires_grad=training)
    product = torch.addmm(square[0], square, square).sum()
    if training:
        product.backward()
    del square, product
    torch.cuda.synchronize(device)
    return {"library workspaces": int(torch.cuda.memory_allocated(device)) - start}
