"""Training on preferences and rewards: DPO, PPO, GRPO as compositions of models that train, score and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memscape.breakdown import Breakdown, Quantity, Term
from memscape.memory.activations import activations
from memscape.memory.timeline import highest_of_each, memory, timeline
from memscape.memory.training_states import trained_weights, training_states
from memscape.memory.weights import weights
from memscape.model import Model
from memscape.problem import Problem
from memscape.workload import Inference, Training

LATER_STEP = 2


@dataclass(frozen=True)
class Alignment:
    """What an alignment run holds.

    `roles`    each role on devices of its own ("apart"), at its own highest moment
    `phases`   all roles on the same devices ("colocated"): everything alive in each phase of a step
    """

    roles: Mapping[str, Breakdown]
    phases: Mapping[str, Breakdown]

    @property
    def peak(self) -> Breakdown:
        """The highest phase of shared devices; `notes` says which it is."""
        return _highest(self.phases, "phase")


def dpo(model: Model, training: Training, reference: Model | None = None, precomputed: bool = False) -> Alignment:
    """Direct preference optimisation: a policy that trains beside a frozen reference.

    A micro-batch is `micro_batch` pairs, so the policy computes twice as many sequences. The reference reads them after
    the policy's forward pass, while the policy's activations are kept. `precomputed`: its log-probabilities were
    stored before, and it is not loaded. Adapters (LoRA) make the reference free: it is the policy with the adapters
    off. `reference` None: the same model.
    Holds for: trl's DPOTrainer, chosen and rejected answers in one batch.
    Source:    rafailov2023
    """
    pairs = replace(training, micro_batch=2 * training.micro_batch, global_batch=_twice(training.global_batch))
    moments = _later(timeline(model, pairs))
    frozen = Breakdown("bytes") if precomputed else _frozen("reference", model, reference, training)
    policy = {name: _named("policy", alive) for name, alive in moments.items()}
    phases = {
        "forward of the policy": policy["forward_peak"] + frozen,
        "backward of the policy": policy["backward_peak"] + frozen,
        "update of the policy": policy["optimizer_peak"] + frozen,
    }
    roles = {"policy": _highest(policy, "moment")}
    if not precomputed:
        scored = _scores("reference", reference or model, pairs)
        phases["forward of the reference"] = policy["forward_end"] + frozen + scored
        roles["reference"] = _frozen("reference", model, reference, training, shared=False) + scored
    return Alignment(roles, phases)


def ppo(
    model: Model,
    training: Training,
    rollout: Inference,
    critic: Model | None = None,
    reward: Model | None = None,
    engine_sleeps: bool = True,
) -> Alignment:
    """Proximal policy optimisation: a policy and a critic that train, a frozen reference and reward, a rollout engine.

    `critic` and `reward` None: models of the policy's shape with one output in place of the head. `rollout` is what the
    engine writes at once, with its own copy of the policy's weights; asleep it holds nothing, awake it keeps weights
    and cache during updates. On shared devices each phase holds the resident weights and optimizer states of all roles.
    Holds for: trl, OpenRLHF and verl with roles held on the device.
    Not for:   roles that are offloaded to the host between phases.
    Approximate: the critic's head of one row is not counted, nor the temporaries of its last layer's backward pass.
    Sources:   schulman2017, ouyang2022
    """
    trained = {"policy": model, "critic": _without_head(critic or model)}
    frozen = {"reference": model, "reward": _without_head(reward or model)}
    return _reinforced(trained, frozen, training, rollout, engine_sleeps)


def grpo(
    model: Model,
    training: Training,
    rollout: Inference,
    reward: Model | None = None,
    reference: bool = True,
    engine_sleeps: bool = True,
) -> Alignment:
    """Group relative policy optimisation: as PPO, without a critic; a group of answers to a prompt is its baseline.

    `rollout.sequences` counts the answers of all groups that run at once. `reward` None: a function that takes no
    device memory. `reference=False`: no penalty for leaving it (beta 0), so that it is not loaded.
    Source: shao2024
    """
    frozen = {"reference": model} if reference else {}
    if reward is not None:
        frozen["reward"] = _without_head(reward)
    return _reinforced({"policy": model}, frozen, training, rollout, engine_sleeps)


def _reinforced(
    trained: dict[str, Model], frozen: dict[str, Model], training: Training, rollout: Inference, engine_sleeps: bool
) -> Alignment:
    """The roles of a step and its phases: write, score, update."""
    if not isinstance(rollout, Inference):
        raise Problem(f"rollout is {str(rollout)[:40]!r}; give an Inference: what the engine writes at once")
    engine = _named("engine", memory(trained["policy"], rollout))
    updates = {role: _updates(role, each, training) for role, each in trained.items()}
    held = {role: _resident(role, each, training) for role, each in trained.items()}
    for role, each in frozen.items():
        free = role == "reference" and training.method != "full"
        held[role] = Breakdown("bytes") if free else _named(role, weights(each, training.weights))
    scores = {role: _scores(role, each, training) for role, each in frozen.items()}
    awake = Breakdown("bytes") if engine_sleeps else engine.only(phase="weights") + engine.only(phase="kv_cache")
    everyone = _sum(held) + awake
    phases = {"rollout": _sum(held) + engine}
    phases |= {f"scores of the {role}": everyone + scored for role, scored in scores.items()}
    for role, update in updates.items():
        others = _sum({name: each for name, each in held.items() if name != role}) + awake
        phases[f"update of the {role}"] = others + update
    alone = {role: _named(role, weights(each, training.weights)) + scores[role] for role, each in frozen.items()}
    return Alignment({**updates, **alone, "engine": engine}, phases)


def _frozen(role: str, model: Model, other: Model | None, training: Training, shared: bool = True) -> Breakdown:
    """The weights of a frozen model; with adapters on the same model there is nothing to hold beside it."""
    if shared and other is None and training.method != "full":
        return Breakdown("bytes")
    return _named(role, weights(other or model, training.weights))


def _resident(role: str, model: Model, training: Training) -> Breakdown:
    """What a role that trains holds between its updates: weights and optimizer states."""
    states = training_states(model, training).only(phase="optimizer_states")
    return _named(role, trained_weights(model, training) + states)


def _updates(role: str, model: Model, training: Training) -> Breakdown:
    """The highest moment of a role's training step; without a head, what the head would add is left out."""
    moments = {name: _named(role, alive) for name, alive in _later(timeline(model, training)).items()}
    if model.head == "none":
        moments = {name: _headless(alive) for name, alive in moments.items()}
    return _highest(moments, "moment")


def _headless(alive: Breakdown) -> Breakdown:
    return replace(alive, terms=tuple(term for term in alive if term.group != "lm_head"))


def _without_head(model: Model) -> Model:
    """The model with one output per token in place of a vocabulary of them."""
    return replace(model, head="none", tied=False)


def _scores(role: str, model: Model, training: Training) -> Breakdown:
    """A forward pass without gradients over what is trained on: one layer alive, and the logits of every token."""
    sequences, tokens = training.micro_batch, training.sequence_tokens
    read = Inference(
        sequences=sequences,
        prompt_tokens=tokens,
        output_tokens=0,
        weights=training.weights,
        engine="transformers",
        attention=training.attention,
    )
    alive = activations(model, read)
    if model.head != "none":
        factors = {"sequences": sequences, "tokens": tokens, "vocab_size": model.vocab_size}
        size: dict[str, Quantity] = {"bytes_per_logit": 4 if training.weights == "fp32" else 2}
        logits = Term("logits of every token", factors | size, "lm_head", "activations", "formulas_inference")
        alive = replace(alive, terms=(*(term for term in alive if term.name != "logits"), logits))
    return _named(role, alive)


def _later(moments: Mapping[tuple[int, str], Breakdown]) -> dict[str, Breakdown]:
    """The moments of a later step, in which the optimizer has its states."""
    return {moment: alive for (step, moment), alive in moments.items() if step == LATER_STEP}


def _highest(alive: Mapping[str, Breakdown], what: str) -> Breakdown:
    """The highest of several moments or phases, which the note names; of a grid, each element's own."""
    if any(hasattr(each.total, "shape") for each in alive.values()):
        return highest_of_each(tuple(alive.values()))
    name, peak = max(alive.items(), key=lambda item: float(item[1].total))
    return replace(peak, notes=(f"the highest {what} is {name.replace('_', ' ')}",))


def _named(role: str, held: Breakdown) -> Breakdown:
    """Name the role in each term, so that a sum over roles can be read."""
    return Breakdown(held.unit, tuple(replace(term, name=f"{role}: {term.name}") for term in held))


def _sum(parts: Mapping[str, Breakdown]) -> Breakdown:
    total = Breakdown("bytes")
    for part in parts.values():
        total += part
    return total


def _twice(batch: Quantity | None) -> Quantity | None:
    return None if batch is None else 2 * batch
