"""Config: a checked view of one config.json, which knows each size under every key that families publish it by."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from memscape import tables
from memscape.problem import Problem, one_of

# our word: the keys it is published under, and the largest value that is not a slip of the pen
KEYS: dict[str, tuple[tuple[str, ...], int]] = {
    "layers": (("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 10_000),
    "hidden_size": (("hidden_size", "n_embd", "n_embed", "d_model"), 1 << 20),
    "heads": (("num_attention_heads", "n_head", "num_heads", "n_heads"), 1 << 14),
    "kv_heads": (("num_key_value_heads", "num_kv_heads", "n_head_kv"), 1 << 14),
    "head_dim": (("head_dim", "d_kv"), 1 << 14),
    "ffn_size": (("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"), 1 << 22),
    "vocab_size": (("vocab_size",), 1 << 24),
    "max_tokens": (("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "n_ctx"), 1 << 31),
    "experts": (("num_local_experts", "n_routed_experts", "num_experts"), 1 << 14),
    "experts_per_token": (("num_experts_per_tok", "experts_per_token", "num_selected_experts"), 1 << 14),
    "expert_ffn_size": (("moe_intermediate_size",), 1 << 22),
    "window": (("sliding_window",), 1 << 31),
    "attention_chunk_size": (("attention_chunk_size",), 1 << 31),
    "decoder_layers": (("num_decoder_layers",), 10_000),
    "attention_dropout": (("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate"), 0),
    "hidden_dropout": (
        ("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "residual_dropout", "dropout", "dropout_rate"),
        0,
    ),
    "embedding_dropout": (("embd_pdrop", "emb_pdrop", "embedding_dropout"), 0),
    "rotary_share": (("partial_rotary_factor", "rotary_pct"), 0),
    "activation": (("hidden_act", "hidden_activation", "activation_function", "activation"), 0),
}
DEPTHS = KEYS["layers"][0] + KEYS["decoder_layers"][0]
LARGEST = 1 << 22
# classes with a head for a task, whose size depends on the labels
TASK = re.compile(r"For(Sequence|Token|Image)Classification|ForQuestionAnswering|ForMultipleChoice|EncoderModel")
# the sizes of which a model may have none
MAY_BE_ZERO = (
    "first_k_dense_replace",
    "max_window_layers",
    "n_shared_experts",
    "num_nextn_predict_layers",
    "shared_expert_intermediate_size",
    "type_vocab_size",
)
# Published files always state these; a default would be a guess about somebody's model.
REQUIRED = ("layers", "hidden_size", "heads", "ffn_size", "vocab_size", "experts", "experts_per_token")
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
ATTENTION_TYPES = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "attention": "full",
    "global": "full",
    "local": "sliding",
}


def defaults(family: str) -> Mapping[str, Any]:
    """Return the published defaults of a family's configuration class, by config key."""
    return _all_defaults().get(family, {})


@cache
def _all_defaults() -> Mapping[str, Mapping[str, Any]]:
    path = tables.folder() / "family_defaults.json"
    found: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _keys(word: str) -> tuple[str, ...]:
    """Return the keys that a word is published under; a word that has none of its own is a key."""
    return KEYS[word][0] if word in KEYS else (word,)


def shortened(config: Mapping[str, Any], layers: int | None) -> dict[str, Any]:
    """Return the config with another depth; lists with one entry per layer are cut alike."""
    if layers is not None and layers < 1:
        raise Problem(f"a model of {layers} layers cannot be run; use at least 1")
    raw = copy.deepcopy(dict(config))
    full = next((raw[each] for each in DEPTHS if raw.get(each) is not None), None)
    if layers is None or layers == full:
        return raw
    for name, value in raw.items():
        if name in DEPTHS and value is not None:
            raw[name] = layers
        elif isinstance(value, list) and len(value) == full:
            raw[name] = (value * -(-layers // len(value)))[:layers]
    return raw


class Config:
    """One config.json. Every reader checks what it reads; `assumed` collects the keys that a default filled."""

    def __init__(self, values: Mapping[str, Any], family: str, name: str) -> None:
        """Take the file's content, its family and the name that messages use."""
        self.values, self.family, self.name = values, family, str(name)[:80]
        if TASK.search(self.architecture()):
            raise self.problem(
                f'"architectures" names {self.architecture()[:60]}, whose task head is not counted; '
                "name the class of the language model or the bare model"
            )
        self.assumed: list[str] = []

    def count(self, word: str) -> int:
        """Return a positive whole number: the file's, or the family's published default."""
        value = self.maybe(word)
        if value is None:
            raise self.problem(f"{one_of(_keys(word)[:2])} is missing; add it (a positive whole number)")
        return value

    def maybe(self, word: str) -> int | None:
        """Return a positive whole number, or None where file and default leave it open (or the file says null)."""
        key, value = self._find(word)
        if value is None and key not in self.values and self._may_default(word):
            key, value = self._default(word)
        if value is None or (value in (0, -1) and word in ("window", "q_lora_rank")):
            return None
        largest = KEYS[word][1] if word in KEYS else LARGEST
        return self._checked(key, value, largest, zero=word in MAY_BE_ZERO)

    def flag(self, key: str) -> bool:
        """Return a yes-or-no key, the family's default where it is missing or null."""
        value = self.values.get(key)
        if value is None:
            value = defaults(self.family).get(key, False)
        if not isinstance(value, bool):
            raise self.problem(f'"{key}" holds {_shown(value)}; write true or false')
        return value

    def number(self, word: str, otherwise: float | None = None) -> float | None:
        """Return a number of any kind that a key or `rope_parameters` holds; the family's default, or `otherwise`."""
        key, value = self._find(word)
        inner = self.values.get("rope_parameters")
        if value is None and isinstance(inner, Mapping):
            value = next((inner[each] for each in _keys(word) if each in inner), None)
        if value is None and key not in self.values:
            known = (defaults(self.family).get(each) for each in _keys(word))
            value = next((each for each in known if each is not None), otherwise)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.problem(f'"{key}" holds {_shown(value)}; write a number')
        return value

    def rate(self, word: str) -> float:
        """Return a dropout rate; 0 where the family has none."""
        value = self.number(word, 0.0) or 0.0
        if not 0 <= value < 1:
            raise self.problem(f'"{self._find(word)[0]}" is {_shown(value)}; write a rate from 0 to below 1')
        return value

    def text(self, word: str) -> str:
        """Return a key that holds a name."""
        key, value = self._find(word)
        if value is None:
            known = (defaults(self.family).get(each) for each in _keys(word))
            value = next((each for each in known if each is not None), None)
        if not isinstance(value, str):
            raise self.problem(f'"{key}" holds {_shown(value)}; write the name in quotes')
        return value

    def names(self, key: str, length: int) -> tuple[str, ...] | None:
        """Return a list of names, one per layer, or None if the file has none."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length or not all(isinstance(each, str) for each in value):
            raise self.problem(f'"{key}" must list {length} names, one per layer; it holds {_shown(value)}')
        return tuple(value)

    def whole_numbers(self, key: str, length: int | None = None) -> tuple[int, ...] | None:
        """Return a list of whole numbers (of a given length, or empty), or None if the file has none."""
        value = self.values.get(key)
        if value is None or value == []:
            return None if value is None else ()
        if not isinstance(value, list) or not all(type(each) is int for each in value):
            raise self.problem(f'"{key}" must be a list of whole numbers; it holds {_shown(value)}')
        if length is not None and len(value) != length:
            raise self.problem(f'"{key}" lists {len(value)} numbers; list {length}, one per layer')
        return tuple(value)

    def positions(self, key: str) -> tuple[int, ...] | None:
        """Return a list of layers, counted from 0, or None if the file has none."""
        listed, layers = self.whole_numbers(key), self.count("layers")
        wrong = next((each for each in listed or () if not 0 <= each < layers), None)
        if wrong is not None or len(listed or ()) > layers:
            named = f"{len(listed or ())} layers" if wrong is None else f"layer {str(wrong)[:20]}"
            raise self.problem(f'"{key}" names {named}; the layers are 0 to {layers - 1}, each once')
        return listed

    def divided(self, whole: str, parts: str) -> int:
        """Return one size divided by another; refuse a remainder."""
        size, count = self.count(whole), self.count(parts)
        if size % count:
            raise self.problem(
                f'"{self._find(whole)[0]}" {size} cannot be shared evenly by "{self._find(parts)[0]}" {count}; '
                f'change one of them or add "head_dim"'
            )
        return size // count

    def attention_kind(self, name: str) -> str:
        """Return our word for an entry of `layer_types`."""
        if name not in ATTENTION_TYPES:
            raise self.problem(f'"layer_types" names "{name[:40]}"; known are {one_of(ATTENTION_TYPES)}')
        return ATTENTION_TYPES[name]

    def architecture(self) -> str:
        """Return the class that the file names, an empty text if it names none."""
        named = self.values.get("architectures") or [""]
        return str(named[0]) if isinstance(named, list) else str(named)

    def is_bare(self) -> bool:
        """Return whether that class is the model without a head (LlamaModel, BertModel)."""
        return self.architecture().endswith("Model") and not self.architecture().endswith("LMHeadModel")

    def encoder_head(self) -> str:
        """Return the head of an encoder: "masked" unless the file names the bare model."""
        return "none" if self.is_bare() else "masked"

    def has_pooler(self) -> bool:
        """Return whether that class pools the first token."""
        return self.is_bare() or self.architecture().endswith("ForPreTraining")

    def dtype(self) -> str:
        """Return the precision the checkpoint is stored in, "bf16" where the file does not say or quantises."""
        value = self.values.get("torch_dtype", self.values.get("dtype"))
        return DTYPES.get(str(value).removeprefix("torch."), "bf16")

    def _find(self, word: str) -> tuple[str, Any]:
        """Return the key the file uses for a word and its value; two keys that disagree are refused."""
        keys = _keys(word)
        found = [(key, self.values[key]) for key in keys if self.values.get(key) is not None]
        if word not in ("max_tokens", "activation") and any(value != found[0][1] for _, value in found[1:]):
            listed = " and ".join(f'"{key}" {_shown(value)}' for key, value in found)
            raise self.problem(f"it gives both {listed}, which mean the same; keep the right one")
        present = [key for key in keys if key in self.values]
        return found[0] if found else (present[0] if present else keys[0], None)

    def _may_default(self, word: str) -> bool:
        return word not in REQUIRED or (self.family in ("gemma3_text", "llama4_text") and word not in REQUIRED[:2])

    def _default(self, word: str) -> tuple[str, Any]:
        known = defaults(self.family)
        for key in _keys(word):
            if known.get(key) is not None:
                self.assumed.append(f"{key} = {known[key]}")
                return key, known[key]
        return _keys(word)[0], None

    def _checked(self, key: str, value: Any, largest: int, zero: bool) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.problem(f'"{key}" holds {_shown(value)}; write a positive whole number')
        if value < 0 or (value == 0 and not zero):
            raise self.problem(f'"{key}" is {_shown(value)}; write a positive whole number')
        if value > largest:
            raise self.problem(
                f'"{key}" is {_shown(value)}, more than any model has (at most {largest:,}); check the digits'
            )
        return value

    def problem(self, sentence: str) -> Problem:
        """Return a problem with this config: its name and a sentence."""
        return Problem(f"{self.name}: {sentence}")


def _shown(value: Any) -> str:
    """Return a value as JSON writes it, cut to a readable length."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
