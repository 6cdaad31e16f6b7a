"""A user's own files: everything that describes a model comes through one door, `read_model`."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memscape.families import model_from_config
from memscape.model import Model
from memscape.problem import Problem, one_of
from memscape.units import MIB, amount

LARGEST_CONFIG = 8 * MIB
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
# general.architecture of a GGUF file: the family of transformers that has the same blocks
GGUF_FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "starcoder2": "starcoder2",
    "command-r": "cohere",
}
# our word: the key of a GGUF file behind its architecture's name
GGUF_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}


def read_model(source: Mapping[str, Any] | str | Path, name: str | None = None) -> Model:
    """Return the Model that a config describes.

    `source` is the content of a config.json as a dict; the path of a config.json, of a folder that holds one, of a
    safetensors file or index beside one, or of a .gguf (needs the extra memscape[gguf]); or a Hub id "org/name", which
    asks the network for that config.json and nothing else. Raises Problem, in one sentence, for what cannot be read and
    for a config that cannot be a model.
    """
    if isinstance(source, Mapping):
        return model_from_config(source, name or str(source.get("_name_or_path") or "your model"), "your config")
    if not isinstance(source, str | Path):
        kind = type(source).__name__
        raise Problem(f"a model is read from a dict or from the path of a config.json; this is a {kind}")
    path = Path(source)
    if path.suffix == ".gguf":
        return model_from_config(_gguf_config(path), name or path.stem, str(path))
    if isinstance(source, str) and HUB_ID.fullmatch(source) and not path.exists():
        return model_from_config(_hub_config(source), name or source, f"{_hub()}/{source}")
    path = _config_path(path)
    values = parse_config(_bytes(path), path.name)
    return model_from_config(values, name or _own_name(values, path), str(path))


def parse_config(content: bytes, name: str = "config.json") -> Mapping[str, Any]:
    """Return the object that a config.json holds; refuse, by name, what is too large, not text, not JSON, no object."""
    check_size(name, len(content))
    try:
        values = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_no_twin)
    except UnicodeDecodeError:
        raise Problem(f"{name} is not text; choose the model's config.json, not its weights") from None
    except json.JSONDecodeError as error:
        raise Problem(f"{name} is not valid JSON: {error.msg} in line {error.lineno}; mend that line") from None
    except RecursionError:
        raise Problem(f"{name} nests too deeply to be a config; choose the model's config.json") from None
    except ValueError as error:
        raise Problem(f"{name} is not valid JSON: {error}") from None
    if not isinstance(values, Mapping):
        kind = "a list" if isinstance(values, list) else "a text" if isinstance(values, str) else "a single value"
        raise Problem(f"{name} holds {kind}; a config.json is an object of keys and values")
    return values


def check_size(name: str, size: int) -> None:
    """Refuse a file that is too large to be a config, before it is read."""
    if size > LARGEST_CONFIG:
        raise Problem(
            f"{name} has {amount(size)}; a config.json has a few kB, and at most {amount(LARGEST_CONFIG, 'GiB')} "
            "are read: choose the model's config.json, not its weights"
        )


def _no_twin(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twin = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f'it gives "{twin[:60]}" twice; keep the right one')
    return values


def _no_constant(constant: str) -> None:
    raise ValueError(f"it holds {constant}; write a number")


def _own_name(values: Mapping[str, Any], path: Path) -> str:
    own = values.get("_name_or_path")
    if isinstance(own, str) and own:
        return own
    return path.parent.name if path.name == "config.json" and path.parent.name else path.stem


def _config_path(path: Path) -> Path:
    """Return the config.json that a path means: itself, the one in the folder, the one beside the weights."""
    weights = path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")
    try:
        beside = path.parent / "config.json" if weights else path / "config.json" if path.is_dir() else path
        if beside.is_file():
            return beside
    except (OSError, ValueError):  # a name that no file can have
        beside = path
    shown = str(beside) if len(str(beside)) < 200 else str(beside)[:200] + "…"
    raise Problem(f"there is no file {shown}; give the path of a config.json or of the folder that holds it")


def _bytes(path: Path) -> bytes:
    check_size(path.name, path.stat().st_size)
    try:
        return path.read_bytes()
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}); give a file that you may read") from None


def _hub() -> str:
    """Return the Hub's address: the one that HF_ENDPOINT names, as in Hugging Face's own tools."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub_config(identifier: str) -> Mapping[str, Any]:
    """Return the config.json of a public model on the Hub."""
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"{_hub()}/{identifier}/resolve/main/config.json", timeout=10) as answer:
            return parse_config(answer.read(LARGEST_CONFIG + 1), f"the config.json of {identifier}")
    except HTTPError as error:
        reason = {401: "is not there or needs an account", 403: "needs an account", 404: "is not there"}
        said = reason.get(error.code, f"was answered with error {error.code}")
        raise Problem(f"the config.json of {identifier} {said}; download it and give its path") from None
    except (URLError, OSError):
        raise Problem(
            f"there is no folder {identifier}, and the Hub cannot be reached for a model of that name; "
            "go online, or give the path of a config.json"
        ) from None


def _gguf_config(path: Path) -> Mapping[str, Any]:
    """Return the header of a GGUF file in the words of a config.json."""
    if not path.is_file():
        raise Problem(f"there is no file {path}; give the path of a .gguf")
    try:
        from gguf import GGUFReader
    except ImportError:
        raise Problem('reading a .gguf needs the package gguf; install it with pip install "memscape[gguf]"') from None
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError, OverflowError):
        raise Problem(f"{path.name} is not a GGUF file that can be read; download it again or give another") from None
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer")}
    shapes = {tensor.name: [int(size) for size in tensor.shape] for tensor in reader.tensors}
    return _as_config(fields, shapes, path.name)


def _as_config(fields: Mapping[str, Any], shapes: Mapping[str, list[int]], name: str) -> Mapping[str, Any]:
    """Translate a GGUF header; a mixture of experts of the LLaMA architecture is Mixtral."""
    architecture = str(fields.get("general.architecture"))
    if architecture not in GGUF_FAMILIES or "token_embd.weight" not in shapes:
        raise Problem(f'{name} holds the architecture "{architecture}"; known are {one_of(GGUF_FAMILIES, most=20)}')
    values = {key: fields.get(f"{architecture}.{word}") for key, word in GGUF_KEYS.items()}
    config = {key: value for key, value in values.items() if value is not None}
    family = "mixtral" if architecture == "llama" and config.get("num_experts") else GGUF_FAMILIES[architecture]
    tied = "output.weight" not in shapes
    return config | {"model_type": family, "vocab_size": shapes["token_embd.weight"][-1], "tie_word_embeddings": tied}
