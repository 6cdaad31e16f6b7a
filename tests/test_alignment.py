"""Preferences and rewards: each role is a model that trains, scores or writes, and the phases are their sums."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

import memscape as ms
from memscape.memory.alignment import dpo, grpo, ppo

MODEL = ms.model("llama-3.2-1b")
PARAMETERS = ms.parameters(MODEL).total
TRAINING = ms.Training(micro_batch=1, sequence_tokens=512, precision="bf16-mixed", recompute="full")
ROLLOUT = ms.Inference(sequences=8, prompt_tokens=256, output_tokens=256)


def _weights(held):
    return held.only(phase="weights").total


def test_dpo_is_a_step_on_pairs_beside_a_frozen_reference():
    """Rafailov et al. 2023: the loss compares policy and reference on a chosen and a rejected answer."""
    found = dpo(MODEL, TRAINING)
    pairs = ms.timeline(MODEL, replace(TRAINING, micro_batch=2))
    reference = ms.weights(MODEL).total
    assert found.phases["backward of the policy"].total == pairs[2, "backward_peak"].total + reference
    assert found.phases["update of the policy"].total == pairs[2, "optimizer_peak"].total + reference
    assert found.peak.total == max(phase.total for phase in found.phases.values())
    assert found.roles["policy"].total == max(pairs[2, moment].total for _, moment in pairs)


def test_a_reference_that_is_not_loaded_takes_nothing():
    """trl: precomputed log-probabilities need no reference; with adapters the policy without them is the reference."""
    held, stored = dpo(MODEL, TRAINING), dpo(MODEL, TRAINING, precomputed=True)
    assert held.phases["update of the policy"].total - stored.phases["update of the policy"].total == 2 * PARAMETERS
    assert list(stored.roles) == ["policy"]
    adapted = replace(TRAINING, method="lora")
    with_adapters = dpo(MODEL, adapted).phases["update of the policy"]
    assert with_adapters.total == dpo(MODEL, adapted, precomputed=True).phases["update of the policy"].total


def test_ppo_holds_four_models_and_an_engine():
    """Ouyang et al. 2022: policy and critic train (2 + 12 bytes), reference and reward are frozen (2 bytes each)."""
    found = ppo(MODEL, TRAINING, ROLLOUT)
    assert list(found.roles) == ["policy", "critic", "reference", "reward", "engine"]
    rollout = found.phases["rollout"]
    assert _weights(rollout) == 5 * 2 * PARAMETERS  # a tied head is the embedding, so that one output is no less
    assert rollout.only(phase="optimizer_states").total == pytest.approx(2 * 12 * PARAMETERS, rel=1e-6)
    engine = ms.memory(MODEL, ROLLOUT)
    assert found.roles["engine"].total == engine.total
    assert rollout.only(phase="kv_cache").total == engine.only(phase="kv_cache").total


def test_an_engine_awake_keeps_weights_and_cache_during_updates():
    """vLLM sleep mode: asleep, the engine gives both back."""
    engine = ms.memory(MODEL, ROLLOUT)
    asleep, awake = (ppo(MODEL, TRAINING, ROLLOUT, engine_sleeps=each) for each in (True, False))
    kept = engine.only(phase="weights").total + engine.only(phase="kv_cache").total
    for phase in ("update of the policy", "update of the critic", "scores of the reference"):
        assert awake.phases[phase].total - asleep.phases[phase].total == kept
    assert awake.phases["rollout"].total == asleep.phases["rollout"].total


def test_grpo_is_ppo_without_a_critic():
    """Shao et al. 2024, section 4.1: the group's mean takes the place of a value model."""
    with_critic, without = ppo(MODEL, TRAINING, ROLLOUT), grpo(MODEL, TRAINING, ROLLOUT, reward=MODEL)
    assert set(with_critic.roles) - set(without.roles) == {"critic"}
    missing = with_critic.phases["rollout"].total - without.phases["rollout"].total
    assert missing == pytest.approx(14 * PARAMETERS, rel=1e-6)
    alone = grpo(MODEL, TRAINING, ROLLOUT, reference=False)
    assert list(alone.roles) == ["policy", "engine"]
    assert list(alone.phases) == ["rollout", "update of the policy"]


def test_a_head_of_one_output_keeps_no_logits():
    """A value or reward model has one number a token in place of a vocabulary."""
    found = ppo(ms.model("llama-3.1-8b"), replace(TRAINING, recompute="none"), ROLLOUT)
    assert "lm_head" not in found.roles["critic"].by("group")
    assert "lm_head" not in found.roles["reward"].by("group")
    untied = 128256 * 4096
    assert _weights(found.roles["reference"]) - _weights(found.roles["reward"]) == 2 * untied


def test_a_grid_is_a_loop():
    """Promise: an array gives what a loop of scalars gives."""
    sizes = [1, 2, 4]
    grid = ppo(MODEL, replace(TRAINING, micro_batch=numpy.array(sizes)), ROLLOUT).peak.total
    loop = [ppo(MODEL, replace(TRAINING, micro_batch=size), ROLLOUT).peak.total for size in sizes]
    assert grid == pytest.approx(loop, rel=1e-12)


def test_a_rollout_is_an_inference():
    with pytest.raises(ms.Problem, match="give an Inference: what the engine writes at once"):
        grpo(MODEL, TRAINING, TRAINING)
