"""What training holds beside activations: gradients, fp32 master weights, optimizer states, the trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from memscape import tables
from memscape.breakdown import Breakdown, Quantity, Term, ceil_div
from memscape.memory.adapters import adapted, adapter_runs, adapters
from memscape.memory.modules import Run, Stored, runs, stored
from memscape.memory.optimizers import BYTES, optimizer, state_terms
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.parallelism import Layout
from memscape.problem import Problem, one_of
from memscape.workload import Training

SOURCES = {"gradients": "micikevicius2018", "master": "micikevicius2018", "adapters": "hu2021"}
# from which ZeRO stage on the data-parallel devices share a phase
SHARED_FROM = {"optimizer_states": 1, "buffers": 1, "gradients": 2, "weights": 3}
# factors of what every device has for itself: counters, tables, Muon's Gram matrices
WHOLE = {"tensors", "table_bytes", "gram_bytes"}


def training_states(model: Model, training: Training, layout: Layout | None = None) -> Breakdown:
    """Count gradients and optimizer states (fp32 master weights included) of every tensor that is trained.

        Σ over tensors: elements · (gradient bytes + master bytes + states · state bytes) + counters      [bytes]

    Per trained parameter, with AdamW: fp32 4 + 8; bf16 2 + 4, since PyTorch keeps states in the type of the parameter;
    bf16-autocast 4 + 8; bf16-mixed 2 + 4 + 8, or 4 + 4 + 8 with `gradients="fp32"`. Tensors are those that transformers
    stores (queries, keys and values may be one), which decides counters, factored states and what 8-bit optimizers
    leave in 32 bits. Counters are 4 bytes a tensor, as PyTorch counts them; an update that is not fused keeps them on
    the host. ZeRO divides each tensor over the data-parallel devices, rounded up: states from stage 1, gradients from
    stage 2. `model` is what one device owns of tensor and pipeline parallelism.
    Holds for: all parameters, chosen parts (`freeze`), and adapters on a frozen base (LoRA, QLoRA).
    Not for:   buckets, gathered copies and padding of a runtime; parameter groups that a trainer makes.
    Sources:   pytorch_optim and those of `data/optimizers.csv`, micikevicius2018, rajbhandari2020
    """
    check_trained(model, training)
    held = tuple(_gradients(model, training)) + tuple(_states(model, training))
    return Breakdown("bytes", tuple(shared(held, layout or Layout())), model.notes)


def trained_weights(model: Model, training: Training, layout: Layout | None = None) -> Breakdown:
    """Count the weights that training holds to compute with: the model, and adapters beside a frozen one.

    The model is in the type of the precision ("bf16-mixed": bf16, its fp32 copy is an optimizer state), or in
    `base_precision` for QLoRA, whose embeddings, head and norms stay in 16 bit. With ZeRO stage 3 the data-parallel
    devices share it.
    Sources: hu2021, dettmers2023, rajbhandari2020
    """
    check_trained(model, training)
    held = weights(model, training.base_precision if training.method == "qlora" else training.weights).terms
    if training.method != "full":
        size = {"bytes_per_element": BYTES[training.adapter_precision]}
        held += tuple(_term(each, "weights", size, SOURCES["adapters"]) for each in adapters(model, training))
    return Breakdown("bytes", tuple(shared(held, layout or Layout())), model.notes)


def trained(model: Model, training: Training) -> tuple[Stored, ...]:
    """Return the tensors that get a gradient: the model's but for frozen groups, or the adapters."""
    if training.method != "full":
        return adapters(model, training)
    return tuple(tensor for tensor in stored(model) if tensor.group not in training.freeze)


def trained_runs(model: Model, training: Training) -> tuple[Run, ...]:
    """Return the tensors that get a gradient in the order in which an optimizer meets them."""
    if training.method != "full":
        return adapter_runs(model, training)
    keep = set(training.freeze)
    return tuple(
        replace(run, tensors=tuple(tensor for tensor in run.tensors if tensor.group not in keep)) for run in runs(model)
    )


def parameter_bytes(training: Training) -> int:
    """Return the bytes of one trained number as the model computes with it."""
    return BYTES[training.weights if training.method == "full" else training.adapter_precision]


def has_master(training: Training) -> bool:
    """Whether an fp32 copy of the trained weights stands beside them."""
    return training.precision == "bf16-mixed" and parameter_bytes(training) < BYTES["fp32"]


def gradient_bytes(training: Training) -> int:
    """Return the bytes of the gradient of one number."""
    return BYTES[training.gradients] if training.gradients else parameter_bytes(training)


def _gradients(model: Model, training: Training) -> Iterator[Term]:
    size = {"bytes_per_element": gradient_bytes(training)}
    for tensor in trained(model, training):
        yield _term(tensor, "gradients", size, SOURCES["gradients"])


def _states(model: Model, training: Training) -> Iterator[Term]:
    tensors = trained(model, training)
    master = has_master(training)
    if master:
        for tensor in tensors:
            size, name = {"bytes_per_element": BYTES["fp32"]}, f"{tensor.name}: master weights"
            yield _term(tensor, "optimizer_states", size, SOURCES["master"], name)
    yield from state_terms(
        tensors, optimizer(training.optimizer), BYTES["fp32"] if master else parameter_bytes(training)
    )


def _term(tensor: Stored, phase: str, size: dict[str, Quantity], source: str, name: str = "") -> Term:
    return Term(name or tensor.name, tensor.copies | tensor.sizes | size, tensor.group, phase, source)


def shared(terms: Iterable[Term], layout: Layout) -> Iterator[Term]:
    """The share of one of the devices that hold the same weights: each tensor divided, rounded up to whole numbers."""
    for term in terms:
        if layout.zero < SHARED_FROM[term.phase] or WHOLE & set(term.factors):
            yield term
            continue
        over = layout.expert_replicas if "experts" in term.factors else layout.replicas
        size = {name: value for name, value in term.factors.items() if name == "bytes_per_element"}
        (unit,) = size.values() or (1,)
        share = {"elements_per_device" if size else "bytes_per_device": ceil_div(term.amount // unit, over)}
        yield term.of(share | size, "rajbhandari2020")


def check(model: Model, training: Training) -> None:
    """Refuse what this model cannot be trained for: a sequence beyond its positions, another model's objective, ...

    Raises: Problem, one sentence that says what was asked, what is possible and what to change.
    """
    _check_length(model, "sequence_tokens", training.sequence_tokens)
    if training.target_tokens is not None:
        if not model.has_encoder:
            raise Problem(f"{model.label} has no decoder beside an encoder; leave target_tokens out")
        _check_length(model, "target_tokens", training.target_tokens)
    _check_objective(model, training)
    check_trained(model, training)


def check_trained(model: Model, training: Training) -> None:
    """Refuse adapters of layers that the model has not, and frozen groups that it has not."""
    if training.method != "full":
        adapted(model, training)
    elif training.freeze:
        _check_freeze(model, training)


def most_tokens(model: Model) -> int | None:
    """Return the longest sequence that a model can take: what it has learned positions for; None where none ends it."""
    if not model.positions:
        return None
    family = tables.by_key("module_layouts", "family").get(model.family, {})
    return min(model.max_tokens, model.positions - int(family.get("first_position", 0)))


def _check_length(model: Model, name: str, tokens: Quantity) -> None:
    most = most_tokens(model)
    longest = tokens.max() if hasattr(tokens, "max") else tokens
    if most is not None and longest > most:
        raise Problem(
            f"{model.label} has learned {most:,} positions, and {name} is {longest:,.0f}; use at most {most:,}"
        )


def _check_objective(model: Model, training: Training) -> None:
    own = "sequence" if model.has_encoder else "causal" if model.causal else "masked"
    reads = {
        "sequence": "reads a text with its encoder and writes another",
        "causal": "reads its text from left to right",
        "masked": "reads its text in both directions, so that the next word is no question",
    }
    if training.objective not in (None, own):
        raise Problem(f'{model.label} {reads[own]}; use objective "{own}" in place of "{training.objective}"')


def _check_freeze(model: Model, training: Training) -> None:
    groups = dict.fromkeys(tensor.group for tensor in stored(model))
    if absent := [group for group in training.freeze if group not in groups]:
        raise Problem(f"{model.label} has no {one_of(absent)} to freeze; its groups are {one_of(groups)}")
    if not set(groups) - set(training.freeze):
        raise Problem("all groups are frozen and nothing is trained; take one out of freeze")
