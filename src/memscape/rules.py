"""Rules: how a building block is read from a config.json. The tables of `families.py` are made of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memscape.config import Config

Rule = Callable[[Config], Any]


def size(name: str) -> Rule:
    """A required positive size."""
    return lambda config: config.count(name)


def flag(key: str) -> Rule:
    """A yes-or-no key."""
    return lambda config: config.flag(key)


def optional(key: str, otherwise: str | int = 0) -> Rule:
    """A size that may be missing or null: another size, or a constant, then stands in."""

    def read(config: Config) -> Any:
        value = config.maybe(key)
        if value is None:
            return config.count(otherwise) if isinstance(otherwise, str) else otherwise
        return value

    return read


def head_dim(config: Config) -> int:
    """The published head size, or the hidden size shared evenly by the heads."""
    published = config.maybe("head_dim")
    return published if published is not None else config.divided("hidden_size", "heads")


def times_hidden(factor: int) -> Rule:
    """An MLP as wide as `factor` hidden sizes unless the file says otherwise."""
    return lambda config: config.maybe("ffn_size") or factor * config.count("hidden_size")


def attention_of(pattern: Callable[[Config, int], str]) -> Rule:
    """The attention kind of each layer: the file's `layer_types`, else the family's pattern."""

    def read(config: Config) -> tuple[str, ...]:
        layers = config.count("layers")
        named = config.names("layer_types", layers)
        if named is None:
            return tuple(pattern(config, layer) for layer in range(layers))
        return tuple(config.attention_kind(name) for name in named)

    return read


def everywhere(config: Config, _layer: int) -> str:
    """Every layer slides if the file gives a window."""
    return "sliding" if config.maybe("window") else "full"


def above(config: Config, layer: int) -> str:
    """Qwen: layers from `max_window_layers` on slide, if `use_sliding_window` is set."""
    return if_used(config, layer) if layer >= (config.maybe("max_window_layers") or 0) else "full"


def if_used(config: Config, layer: int) -> str:
    """Qwen3 MoE: all layers slide, if `use_sliding_window` is set."""
    return everywhere(config, layer) if config.flag("use_sliding_window") else "full"


def below_and_even(config: Config, layer: int) -> str:
    """Qwen2 MoE: even layers below `max_window_layers` slide, if `use_sliding_window` is set."""
    local = layer % 2 == 0 and layer < (config.maybe("max_window_layers") or 0)
    return if_used(config, layer) if local else "full"


def smollm3_attention(config: Config, layer: int) -> str:
    """SmolLM3: the layers without rotary embedding slide, if `use_sliding_window` is set."""
    return "full" if smollm3_rotary(config, layer) else if_used(config, layer)


def smollm3_rotary(config: Config, layer: int) -> bool:
    """SmolLM3: every fourth layer has no rotary embedding unless the file says which."""
    rotary = config.whole_numbers("no_rope_layers", config.count("layers"))
    return bool(rotary[layer] if rotary else (layer + 1) % (config.maybe("no_rope_layer_interval") or 4))


def every(period: int) -> Callable[[Config, int], str]:
    """Each layer is local but every `period`-th, which sees everything."""
    return lambda config, layer: (
        "sliding" if (layer + 1) % (config.maybe("sliding_window_pattern") or period) else "full"
    )


def llama4_attention(config: Config, layer: int) -> str:
    """Llama 4: layers with rotary embedding attend in chunks; every fourth has none and sees everything."""
    rotary = config.whole_numbers("no_rope_layers", config.count("layers"))
    period = config.maybe("no_rope_layer_interval") or 4
    return "chunked" if (rotary[layer] if rotary else (layer + 1) % period) else "full"


def moe_all(_config: Config, _layer: int) -> bool:
    """Every layer has experts."""
    return True


def moe_after_leading_dense(config: Config, layer: int) -> bool:
    """DeepSeek and GLM: the first layers are dense (transformers does not read `moe_layer_freq`)."""
    return layer >= (config.maybe("first_k_dense_replace") or 0)


def moe_every_sparse_step(config: Config, layer: int) -> bool:
    """Qwen: every `decoder_sparse_step`-th layer, except those of `mlp_only_layers`."""
    dense = config.positions("mlp_only_layers") or ()
    return layer not in dense and (layer + 1) % (config.maybe("decoder_sparse_step") or 1) == 0


def moe_interleaved(config: Config, layer: int) -> bool:
    """Llama 4: the layers of `moe_layers`, else every `interleave_moe_layer_step`-th."""
    listed = config.positions("moe_layers")
    return (
        layer in listed if listed is not None else (layer + 1) % (config.maybe("interleave_moe_layer_step") or 1) == 0
    )


def shared_experts(config: Config) -> int:
    """DeepSeek and GLM: the width of the shared experts together."""
    return (config.maybe("n_shared_experts") or 0) * config.count("expert_ffn_size")


def falcon_groups(config: Config) -> bool:
    """Falcon: whether KV heads are grouped; the first files of the 40B say so by `n_head_kv` alone."""
    if config.values.get("new_decoder_architecture") is None:
        return config.values.get("n_head_kv") is not None
    return config.flag("new_decoder_architecture")


def falcon_kv_heads(config: Config) -> int:
    """Falcon: the new architecture groups, the old one shares one head or has all."""
    if falcon_groups(config):
        return config.maybe("kv_heads") or config.count("heads")
    return 1 if config.flag("multi_query") else config.count("heads")


def falcon_norms(config: Config) -> int:
    """Falcon: two norms in sequence, or for attention and MLP side by side two (new) or one (old) unless it says."""
    if not config.flag("parallel_attn"):
        return 2
    return config.maybe("num_ln_in_parallel_attn") or (2 if falcon_groups(config) else 1)


def rate(word: str) -> Rule:
    """A dropout rate."""
    return lambda config: config.rate(word)


def rotary_dim(config: Config) -> int:
    """The numbers of a head that turn: a share of the head, or given outright (GPT-J)."""
    given = config.maybe("rotary_dim")
    return given if given is not None else int((config.number("rotary_share", 1.0) or 1.0) * head_dim(config))


def given(key: str) -> Rule:
    """Whether the file or the family's default gives a number under a key."""
    return lambda config: config.number(key) is not None


def traits(*keys: str) -> Rule:
    """The switches among `keys` that are on."""
    return lambda config: frozenset(key for key in keys if config.flag(key))


def t5_activation(config: Config) -> str:
    """T5: the activation within the MLP's name; gated, "gelu" means the approximation by tanh, written out."""
    name = config.text("feed_forward_proj")
    return "gelu_new" if name == "gated-gelu" else name.removeprefix("gated-")


def nonzero(*keys: str) -> Rule:
    """The switches among `keys` that are on because their number is not zero."""
    return lambda config: frozenset(key for key in keys if config.number(key))


def named(key: str, *words: str) -> Rule:
    """The word under a key, where it is one of `words`."""
    return lambda config: frozenset(word for word in words if config.values.get(key) == word)


def together(*rules: Rule) -> Rule:
    """The switches of several rules."""
    return lambda config: frozenset(switch for rule in rules for switch in rule(config))
