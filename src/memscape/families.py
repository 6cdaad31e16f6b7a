"""Families: which building blocks a `model_type` stands for, and under which keys its config.json gives the sizes.

A family is a table of blocks; a value is a constant or a rule that reads the file. Families extend one another by `|`.
What a file leaves out takes the family's published default (`data/family_defaults.json`, from the configuration
classes of transformers); the sizes that every published file states are required. This module is longer than others
because it is one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memscape.config import Config
from memscape.model import LayerKind, Model
from memscape.problem import Problem, nearest
from memscape.rules import (
    Rule,
    above,
    attention_of,
    below_and_even,
    every,
    everywhere,
    falcon_groups,
    falcon_kv_heads,
    falcon_norms,
    flag,
    given,
    head_dim,
    if_used,
    llama4_attention,
    moe_after_leading_dense,
    moe_all,
    moe_every_sparse_step,
    moe_interleaved,
    named,
    nonzero,
    optional,
    rate,
    rotary_dim,
    shared_experts,
    size,
    smollm3_attention,
    smollm3_rotary,
    t5_activation,
    times_hidden,
    together,
    traits,
)

Blocks = dict[str, Any]


LLAMA: Blocks = {
    "layers": size("layers"),
    "hidden_size": size("hidden_size"),
    "heads": size("heads"),
    "kv_heads": optional("kv_heads", "heads"),
    "head_dim": head_dim,
    "ffn_size": size("ffn_size"),
    "vocab_size": size("vocab_size"),
    "max_tokens": size("max_tokens"),
    "attention_kinds": attention_of(everywhere),
    "window": optional("window", 0),
    "qkv_bias": flag("attention_bias"),
    "output_bias": flag("attention_bias"),
    "mlp_bias": flag("mlp_bias"),
    "tied": flag("tie_word_embeddings"),
    "activation": lambda config: config.text("activation"),
    "head": lambda config: "none" if config.is_bare() else "linear",
    "attention_dropout": rate("attention_dropout"),
    "hidden_dropout": rate("hidden_dropout"),
    "embedding_dropout": rate("embedding_dropout"),
    "rotary_dim": rotary_dim,
}
NO_BIAS: Blocks = {"qkv_bias": False, "output_bias": False, "mlp_bias": False}
ALL_BIAS: Blocks = {"qkv_bias": True, "output_bias": True, "mlp_bias": True}
LAYERNORM: Blocks = {"norm": "layernorm", "norm_bias": True}
EXPERTS: Blocks = {
    "experts": size("experts"),
    "experts_per_token": size("experts_per_token"),
    "expert_ffn_size": size("expert_ffn_size"),
    "moe": moe_all,
}
# The MLPs of a mixture are the experts themselves: ffn_size is one expert's width.
ONLY_EXPERTS: Blocks = EXPERTS | {"expert_ffn_size": size("ffn_size")}

MISTRAL = LLAMA | NO_BIAS
QWEN2 = LLAMA | NO_BIAS | {"qkv_bias": True, "attention_kinds": attention_of(above)}
QWEN3 = LLAMA | {"mlp_bias": False, "qk_norm": "head", "attention_kinds": attention_of(above)}
GEMMA = LLAMA | {"mlp_bias": False}
GEMMA2 = GEMMA | {
    "norms_per_layer": 4,
    "attention_kinds": attention_of(every(2)),
    "score_cap": given("attn_logit_softcapping"),
    "logit_cap": given("final_logit_softcapping"),
}
GEMMA3 = GEMMA2 | {"qk_norm": "head", "attention_kinds": attention_of(every(6))}
COHERE = LLAMA | {
    "norm": "layernorm",
    "norms_per_layer": 1,
    "mlp_bias": False,
    "qk_norm": lambda config: "heads" if config.flag("use_qk_norm") else "none",
}
GLM = LLAMA | {"output_bias": False, "mlp_bias": False}
OLMO2 = LLAMA | {"mlp_bias": False, "qk_norm": "heads"}
GPT2 = (
    LLAMA
    | LAYERNORM
    | ALL_BIAS
    | {
        "gated": False,
        "kv_heads": size("heads"),
        "ffn_size": times_hidden(4),
        "positions": size("max_tokens"),
    }
)
GPT_NEOX = GPT2 | {
    "positions": 0,
    "ffn_size": size("ffn_size"),
    "qkv_bias": flag("attention_bias"),
    "output_bias": flag("attention_bias"),
    "parallel": flag("use_parallel_residual"),
}
GPTJ = GPT2 | {"positions": 0, "qkv_bias": False, "output_bias": False, "norms_per_layer": 1, "head_bias": True}
BERT = GPT2 | {
    "causal": False,
    "ffn_size": size("ffn_size"),
    "token_types": optional("type_vocab_size"),
    "embedding_norm": True,
    "final_norm": False,
    "head": lambda config: config.encoder_head(),
    "pooler": lambda config: config.has_pooler(),
    "pair_head": lambda config: config.architecture().endswith("ForPreTraining"),
    "head_bias": True,
}
DEEPSEEK = (
    LLAMA
    | EXPERTS
    | {
        "attention": "latent",
        "moe": moe_after_leading_dense,
        "head_dim": lambda config: config.count("qk_nope_head_dim") + config.count("qk_rope_head_dim"),
        "kv_heads": size("heads"),
        "query_rank": optional("q_lora_rank"),
        "latent_rank": size("kv_lora_rank"),
        "rope_dim": size("qk_rope_head_dim"),
        "value_dim": size("v_head_dim"),
        "mlp_bias": False,
        "shared_ffn_size": shared_experts,
        "mtp_layers": optional("num_nextn_predict_layers"),
    }
)
T5 = (
    LLAMA
    | NO_BIAS
    | {
        "layers": optional("decoder_layers", "layers"),
        "encoder_layers": size("layers"),
        "kv_heads": size("heads"),
        "max_tokens": optional("max_tokens", 512),
        "attention_kinds": None,
        "norms_per_layer": 3,
        "relative_buckets": size("relative_attention_num_buckets"),
        "gated": lambda config: config.text("feed_forward_proj").startswith("gated-"),
        "activation": t5_activation,
    }
)


FALCON = GPT2 | {
    "positions": 0,
    "kv_heads": falcon_kv_heads,
    "norms_per_layer": falcon_norms,
    "cache_repeats_heads": falcon_groups,
    "parallel": flag("parallel_attn"),
    "traits": traits("alibi"),
    **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), flag("bias")),
}

FAMILIES: Mapping[str, Blocks] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mixtral": MISTRAL | ONLY_EXPERTS | {"traits": nonzero("router_jitter_noise")},
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3
    | EXPERTS
    | {
        "moe": moe_every_sparse_step,
        "attention_kinds": attention_of(if_used),
        "traits": traits("norm_topk_prob"),
    },
    "qwen2_moe": QWEN2
    | EXPERTS
    | {
        "moe": moe_every_sparse_step,
        "shared_ffn_size": size("shared_expert_intermediate_size"),
        "shared_gate": True,
        "qkv_bias": flag("qkv_bias"),
        "attention_kinds": attention_of(below_and_even),
        "traits": traits("norm_topk_prob"),
    },
    "granite": LLAMA,
    "olmo": LLAMA
    | {
        "mlp_bias": False,
        "norm": "none",
        "traits": nonzero("clip_qkv"),
    },
    "olmo2": OLMO2,
    "olmoe": OLMO2 | ONLY_EXPERTS | {"traits": together(traits("norm_topk_prob"), nonzero("clip_qkv"))},
    "smollm3": LLAMA | {"attention_kinds": attention_of(smollm3_attention), "rotary": smollm3_rotary},
    "stablelm": LLAMA
    | LAYERNORM
    | {
        "qkv_bias": flag("use_qkv_bias"),
        "output_bias": False,
        "mlp_bias": False,
        "qk_norm": lambda config: "heads" if config.flag("qk_layernorm") else "none",
        "norms_per_layer": lambda config: 1 if config.flag("use_parallel_residual") else 2,
        "parallel": flag("use_parallel_residual"),
    },
    "mpt": GPT2
    | NO_BIAS
    | {
        "positions": 0,
        "norm_bias": False,
        "ffn_size": lambda config: 4 * config.count("hidden_size"),
        "activation": "gelu",
    },
    "nemotron": LLAMA | LAYERNORM | {"gated": False},
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "phi3": LLAMA | NO_BIAS | {"embedding_dropout": 0.0},
    "phi": LLAMA
    | LAYERNORM
    | ALL_BIAS
    | {
        "gated": False,
        "norms_per_layer": 1,
        "head_bias": True,
        "qk_norm": lambda config: "head" if config.flag("qk_layernorm") else "none",
        "qk_norm_bias": True,
    },
    "cohere": COHERE,
    "cohere2": COHERE | {"qk_norm": "none", "attention_kinds": attention_of(every(4))},
    "starcoder2": LLAMA
    | LAYERNORM
    | dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), flag("use_bias"))
    | {"gated": False},
    "gpt2": GPT2,
    "gptj": GPTJ,
    "codegen": GPTJ,
    "gpt_neox": GPT_NEOX,
    "bloom": GPT2
    | {
        "positions": 0,
        "embedding_norm": True,
        "activation": "gelu",
        "max_tokens": optional("max_tokens", 2048),
        "traits": traits("apply_residual_connection_post_layernorm"),
    },
    "opt": GPT2
    | {
        "ffn_size": size("ffn_size"),
        "positions": lambda config: config.count("max_tokens") + 2,
        "norm": lambda config: "layernorm" if config.flag("layer_norm_elementwise_affine") else "none",
        "final_norm": lambda config: (
            config.flag("do_layer_norm_before") and not config.flag("_remove_final_layer_norm")
        ),
        "narrow_embedding": optional("word_embed_proj_dim", "hidden_size"),
        "embedding_projection": lambda config: (
            "in_out" if config.maybe("word_embed_proj_dim") not in (None, config.count("hidden_size")) else "none"
        ),
        **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), flag("enable_bias")),
        "traits": traits("do_layer_norm_before"),
    },
    "falcon": FALCON,
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "albert": BERT
    | {
        "narrow_embedding": size("embedding_size"),
        "embedding_projection": "in",
        "shared_layers": lambda config: config.count("num_hidden_groups") * config.count("inner_group_num"),
    },
    "t5": T5,
    "mt5": T5,
    "deepseek_v2": DEEPSEEK | {"traits": named("topk_method", "group_limited_greedy")},
    "deepseek_v3": DEEPSEEK | {"router_correction": True, "traits": traits("norm_topk_prob", "rope_interleave")},
    "phimoe": LLAMA
    | LAYERNORM
    | ONLY_EXPERTS
    | {"mlp_bias": False, "head_bias": flag("lm_head_bias"), "traits": nonzero("input_jitter_noise")},
    "glm": GLM,
    "glm4": GLM | {"norms_per_layer": 4},
    "glm4_moe": GLM
    | EXPERTS
    | {
        "moe": moe_after_leading_dense,
        "qk_norm": lambda config: "head" if config.flag("use_qk_norm") else "none",
        "shared_ffn_size": shared_experts,
        "router_correction": True,
        "mtp_layers": optional("num_nextn_predict_layers"),
        "traits": traits("norm_topk_prob"),
    },
    "gpt_oss": LLAMA
    | ONLY_EXPERTS
    | {
        "mlp_bias": False,
        "attention_kinds": attention_of(every(2)),
        "attention_sinks": True,
        "expert_bias": True,
        "router_bias": True,
    },
    "llama4_text": LLAMA
    | ONLY_EXPERTS
    | {
        "moe": moe_interleaved,
        "ffn_size": size("intermediate_size_mlp"),
        "shared_ffn_size": size("ffn_size"),
        "attention_kinds": attention_of(llama4_attention),
        "window": optional("attention_chunk_size", 0),
        "rotary": smollm3_rotary,
        "mlp_bias": False,
        "traits": traits("use_qk_norm", "attn_temperature_tuning"),
    },
}


# model types under which the same architecture is also published
ALIASES = {"kimi_k2": "deepseek_v3", "RefinedWeb": "falcon", "RefinedWebModel": "falcon"}


def model_from_config(values: Mapping[str, Any], name: str, source: str, title: str = "") -> Model:
    """Return the Model that a config.json describes.

    `values` is the file's content. A multimodal file gives its text tower, with a note that says so. Raises Problem
    for an unknown `model_type`, and for a size that is missing, not a whole number, not positive or absurd.
    """
    text, notes = _text_tower(values)
    family = _family(text)
    config = Config(text, family, name)
    rules = dict(FAMILIES[family])
    moe, window, pattern = rules.pop("moe", None), rules.pop("window"), rules.pop("attention_kinds")
    rotary = rules.pop("rotary", None)
    blocks = {key: rule(config) if callable(rule) else rule for key, rule in rules.items()}
    kinds = pattern(config) if pattern else ("full",) * blocks["layers"]
    return Model(
        name=name,
        family=family,
        source=source,
        title=title,
        dtype=config.dtype(),
        assumed=tuple(config.assumed),
        notes=notes,
        layer_kinds=tuple(
            LayerKind(kind, bool(moe and moe(config, layer)), not rotary or rotary(config, layer))
            for layer, kind in enumerate(kinds)
        ),
        window=_window(config, window, kinds),
        **blocks,
    )


def _window(config: Config, window: Rule, kinds: Sequence[str]) -> int | None:
    """Return how far the local layers see; none where there are none, a problem where nothing says it."""
    if set(kinds) == {"full"}:
        return None
    size: int = window(config)
    if not size:
        raise config.problem(
            'it has sliding or chunked layers but no window; add "sliding_window" or "attention_chunk_size", in tokens'
        )
    return size


def _text_tower(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the language model's part of a multimodal config and a note about the rest."""
    inner = values.get("text_config")
    if not isinstance(inner, Mapping) or values.get("model_type") in FAMILIES:
        return values, ()
    outer = {key: values[key] for key in ("tie_word_embeddings", "torch_dtype", "dtype") if key in values}
    return {**outer, **inner}, ("text tower only: the vision or audio tower of this model is not counted",)


def _family(values: Mapping[str, Any]) -> str:
    """Return the family a config names, or refuse it by name."""
    family = values.get("model_type")
    family = ALIASES.get(family, family) if isinstance(family, str) else family
    if isinstance(family, str) and family in FAMILIES:
        return family
    if family is None:
        raise Problem('the config has no "model_type"; add the one of its family, e.g. "model_type": "llama"')
    known = ", ".join(sorted(FAMILIES))
    raise Problem(
        f'architecture "{str(family)[:60]}" is not known (nearest: {nearest(str(family)[:60], FAMILIES)}); '
        f"known are {known}"
    )
