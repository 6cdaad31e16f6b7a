"""What the pages compare and show beside the exact calculation."""

from __future__ import annotations

import numpy
import pytest

import memscape as ms
from memscape.memory.rules_of_thumb import by_layer, room, two_tensors_a_layer

LLAMA = ms.model("llama-3.1-8b")


@pytest.mark.parametrize(("precision", "size"), [("bf16", 2), ("bf16-autocast", 2), ("bf16-mixed", 2), ("fp32", 4)])
def test_two_tensors_a_layer_is_the_rule(precision, size):
    """2 · layers · batch · tokens · width · bytes, and nothing else."""
    counted = two_tensors_a_layer(LLAMA, ms.Training(3, 1000, precision=precision))
    assert counted.total == 2 * 32 * 3 * 1000 * 4096 * size


def test_two_tensors_count_both_stacks_and_take_arrays():
    tokens = numpy.array([128.0, 256.0])
    counted = two_tensors_a_layer(ms.model("t5-base"), ms.Training(1, tokens))
    assert counted.total.tolist() == [2 * 24 * each * 768 * 2 for each in (128, 256)]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "t5-base", "gemma-3-1b", "deepseek-v2-lite", "albert-base-v2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_layers_together_are_the_whole(name, attention):
    """Each kind of layer as often as there is one, and what is kept once."""
    kept = ms.activations(ms.model(name), ms.Training(2, 256, attention=attention))
    layers = by_layer(kept)
    assert sum(count * one.total for (_, count), one in layers.items()) == kept.total
    assert list(layers)[-1] == ("", 1)
    assert sum(len(one.terms) for one in layers.values()) == len(kept.terms)


def test_room_is_what_the_driver_reports_less_what_is_needed():
    """NVIDIA's H100 SXM: 81,559 MiB in nvidia-smi."""
    device, needed = ms.accelerator("H100 SXM 80GB"), ms.weights(LLAMA)
    assert room(needed, device) == 81_559 * 2**20 - 16_060_522_496
    assert room(ms.weights(ms.model("llama-3.1-405b")), device) < 0
