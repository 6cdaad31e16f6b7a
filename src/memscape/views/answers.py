"""The answers to the exercises: each is a question to the package, in the unit that `data/exercises.csv` gives it.

Nothing is stored, and every name here is the `answer` of one row.
"""

from __future__ import annotations

import memscape as ms
from memscape.breakdown import Breakdown, Quantity
from memscape.cluster import Cluster
from memscape.memory.rules_of_thumb import rules
from memscape.model import scaled
from memscape.parallelism import stage_layers
from memscape.reality import claims
from memscape.units import gb

TOKENS = 8192
SLIDER = tuple(2**power for power in range(11))  # what "Conversations at once" offers


def _asked(tokens: int = TOKENS, sequences: int = 1, weights: str = "bf16") -> ms.Inference:
    return ms.Inference(sequences=sequences, prompt_tokens=tokens, output_tokens=0, weights=weights)


def _cache(name: str, tokens: int = TOKENS, sequences: int = 1) -> Quantity:
    return ms.kv_cache(ms.model(name), _asked(tokens, sequences)).total


def _saved_by_fp8(name: str) -> Quantity:
    return ms.weights(ms.model(name)).total - ms.weights(ms.model(name), "fp8").total


# the overview


def weights_of_405b() -> Quantity:
    """The weights of Llama 3.1 405B in BF16, GB."""
    return gb(ms.weights(ms.model("llama-3.1-405b")).total)


def cache_of_64_conversations() -> Quantity:
    """The cache of Llama 3.1 405B for 64 conversations of 8,192 tokens, GB."""
    return gb(_cache("llama-3.1-405b", sequences=64))


def half_the_bits_over_half_the_conversations() -> Quantity:
    """What FP8 saves of the weights of Llama 3.1 405B, over what 8 conversations in place of 16 save of its cache."""
    return _saved_by_fp8("llama-3.1-405b") / _cache("llama-3.1-405b", sequences=8)


# parameters


def active_in_mixtral() -> Quantity:
    """The parameters of Mixtral 8x7B that one token uses, billion."""
    return ms.active_parameters(ms.model("mixtral-8x7b")).total / 1e9


def layers_of_twice_the_width() -> Quantity:
    """How many times as many parameters the layers of Llama 3.1 405B have with twice the width."""
    usual = ms.model("llama-3.1-405b")
    wide, before = (_in_layers(ms.parameters(each)) for each in (scaled(usual, width=200), usual))
    return wide / before


def _in_layers(counted: Breakdown) -> Quantity:
    return sum(term.amount for term in counted if "layers" in term.factors)


def file_in_q4_k_m() -> Quantity:
    """The weights of Llama 3.1 70B in Q4_K_M, GB."""
    return gb(ms.weights(ms.model("llama-3.1-70b"), "Q4_K_M").total)


# activations


def layer_of_gpt3() -> Quantity:
    """What one layer of GPT-3 keeps for one sequence of 2,048 tokens, GB."""
    asked = ms.Training(1, 2048, attention="eager", implementation="megatron")
    model = ms.model("megatron-gpt3-175b")
    return gb(_in_layers(ms.activations(model, asked)) / model.layers)


def eager_at_twice_the_tokens() -> Quantity:
    """What Llama 3.1 8B keeps for one sequence of 4,096 tokens with eager attention, GB."""
    return gb(ms.activations(ms.model("llama-3.1-8b"), ms.Training(1, 4096, attention="eager")).total)


def largest_tensor_with_checkpointing() -> Quantity:
    """The largest tensor that Llama 3.1 8B keeps of 8,192 tokens, every layer checkpointed, GB."""
    kept = ms.activations(ms.model("llama-3.1-8b"), ms.Training(1, TOKENS, recompute="full"))
    return gb(max(term.amount for term in kept))


# the KV cache


def cache_of_a_token() -> Quantity:
    """The cache of Llama 3.1 70B for one token, kB."""
    return _cache("llama-3.1-70b", tokens=1) / 1e3


def tokens_that_weigh_the_weights() -> Quantity:
    """The tokens whose cache is as large as the weights of Llama 3.1 8B, thousands."""
    return ms.weights(ms.model("llama-3.1-8b")).total / _cache("llama-3.1-8b", tokens=1) / 1e3


def cache_with_windows() -> Quantity:
    """The cache of Gemma 3 27B for one conversation of 131,072 tokens, GB."""
    return gb(_cache("gemma-3-27b-text", tokens=131_072))


# a training step


def states_over_weights() -> Quantity:
    """AdamW's states in mixed precision with the master copy, over the weights."""
    held = ms.memory(ms.model("llama-3.1-8b"), ms.Training(precision="bf16-mixed")).by("phase")
    return held["optimizer_states"] / held["weights"]


def sequences_that_fit() -> Quantity:
    """The sequences of 2,048 tokens with which Llama 3.1 8B can be trained on one H100, BF16 throughout."""
    return ms.solve(ms.model("llama-3.1-8b"), ms.Training(1, 2048), "H100 SXM 80GB", largest="micro_batch")


def states_of_rank_64() -> Quantity:
    """Gradients and states of adapters of rank 64 for Llama 3.1 8B, GB."""
    asked = ms.Training(method="lora", lora_rank=64)
    return gb(ms.training_states(ms.model("llama-3.1-8b"), asked).total)


# many devices


def cache_on_one_of_16() -> Quantity:
    """What a token of the cache of Llama 3.1 405B takes on each of 16 tensor-parallel devices, kB."""
    held = ms.memory(ms.model("llama-3.1-405b"), _asked(1000), ms.Layout(tensor=16))
    return held.only(phase="kv_cache").total / 1e6


def layers_of_the_first_of_16_stages() -> Quantity:
    """The layers of Llama 3.1 405B on the first of 16 stages."""
    return len(stage_layers(ms.model("llama-3.1-405b"), ms.Layout(pipeline=16), stage=0))


def states_shared_by_16_copies() -> Quantity:
    """The optimizer states on the busiest device: Llama 3.1 70B, tensor 8, pipeline 4, 16 copies, ZeRO 1; GB."""
    layout = ms.Layout(tensor=8, pipeline=4, data=16, zero=1, sequence_parallel=True)
    asked = ms.Training(1, 2048, global_batch=32 * 16, precision="bf16-mixed", implementation="megatron")
    return gb(ms.memory(ms.model("llama-3.1-70b"), asked, layout).by("phase")["optimizer_states"])


# the cluster


def _served(card: str, sequences: int = 1) -> Cluster:
    return ms.cluster(ms.model("llama-3.1-405b"), _asked(sequences=sequences), accelerator=card)


def a100_for_405b() -> Quantity:
    """The A100 with 80 GB that serve one conversation with Llama 3.1 405B."""
    return _served("A100 SXM 80GB").devices


def h100_for_128_conversations() -> Quantity:
    """The H100 that serve 128 conversations of 8,192 tokens with Llama 3.1 405B."""
    return _served("H100 SXM 80GB", 128).devices


def heat_of_a_node() -> Quantity:
    """The heat of a server by rule with eight H100, BTU/h."""
    return _served("H100 SXM 80GB", 16).amount("heat of a node").total


# what if


def saved_by_fp8() -> Quantity:
    """What FP8 in place of BF16 saves of the weights of Llama 3.1 70B, GB."""
    return gb(_saved_by_fp8("llama-3.1-70b"))


def _most(tokens: int, weights: str) -> Quantity:
    model, layout = ms.model("llama-3.1-70b"), ms.Layout(tensor=2)
    return ms.solve(model, _asked(tokens, weights=weights), "H100 SXM 80GB", layout, "sequences")


def conversations_on_two_h100() -> Quantity:
    """The conversations of 8,192 tokens that two H100 hold with Llama 3.1 70B in BF16."""
    return _most(TOKENS, "bf16")


def shorter_conversations_in_fp8() -> Quantity:
    """The conversations of 4,096 tokens that two H100 hold with Llama 3.1 70B in FP8."""
    return _most(TOKENS // 2, "fp8")


# is it true?


def parameters_of_the_example() -> Quantity:
    """The parameters of a Llama of hidden size 16,384 and 96 layers, billion."""
    return next(claim.ours for claim in claims() if claim.name == "70-shape" and claim.ours)


def conversations_of_a_fifth_more() -> Quantity:
    """The conversations of 8,192 tokens for which "a fifth more" is nearest, Llama 3.1 70B."""
    return min(SLIDER, key=lambda sequences: abs(_error_of_a_fifth_more(sequences)))


def _error_of_a_fifth_more(sequences: int) -> Quantity:
    model, asked = ms.model("llama-3.1-70b"), _asked(sequences=sequences)
    (rule,) = (rule for rule in rules(model, asked) if rule.name == "A fifth more")
    return rule.error(ms.memory(model, asked))


def cache_of_heads_over_latent() -> Quantity:
    """The cache that the rule of KV heads gives DeepSeek V3, over the one that it keeps."""
    model, asked = ms.model("deepseek-v3"), _asked(sequences=16)
    (rule,) = (rule for rule in rules(model, asked) if rule.name == "Cache of the KV heads")
    return rule.answer.by("phase")["kv_cache"] / ms.kv_cache(model, asked).total
