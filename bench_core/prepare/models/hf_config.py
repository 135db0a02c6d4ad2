"""``config.json`` and its neighbours: the facts that the suite needs, and a form that old and new engines read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_core.contract.errors import BadInput, first_line

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
MAX_CONFIG_BYTES = 4 * 1024 * 1024
LARGEST_SIZE = 2**31 - 1  # of a dimension, a number of layers or a context, as engines hold them

# transformers' names, then those of older architectures.
_NAMES = {
    "vocab_size": ("vocab_size",),
    "context_length": (
        "max_position_embeddings",
        "n_positions",
        "n_ctx",
        "max_sequence_length",
        "max_seq_len",
        "seq_length",
    ),
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
}
_CAUSAL = ("ForCausalLM", "LMHeadModel")
# Lists with an entry for each layer, which some families write instead of the layers' number.
_LAYER_LISTS = ("layers_block_type", "layer_types")
# Families whose files need not tell a length: their positions are computed. What their first models were trained on.
_TRAINED_CONTEXT = {"bloom": 2048, "falcon": 2048, "mpt": 2048, "recurrent_gemma": 8192}

Json = dict[str, Any]


def read_json(path: Path) -> Json:
    """A JSON object of at most 4 MiB.

    Raises:
        BadInput: missing, too large, not JSON or not an object.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise BadInput(f"{path}: larger than {MAX_CONFIG_BYTES >> 20} MiB", "that is no configuration")
        value = json.loads(content)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}", "a model folder has it") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {first_line(error)}", "fetch the model again") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: not a JSON object", "fetch the model again")
    return value


def check_config(config: Mapping[str, Any], origin: str) -> None:
    """Refuses what the suite does not run: code from a model, quantised weights, anything but a causal language model.

    Raises:
        BadInput: one of these.
    """
    refuse_code(config, origin)
    if config.get("quantization_config"):
        quantisation = config["quantization_config"]
        method = quantisation.get("quant_method", "quantised") if isinstance(quantisation, dict) else "quantised"
        raise BadInput(f"{origin}: is already quantised ({method})", "give the unquantised model; images quantise")
    architecture(config, origin)


def refuse_code(config: Mapping[str, Any], origin: str) -> None:
    """Refuses a model that brings code.

    Raises:
        BadInput: it does.
    """
    if config.get("auto_map"):
        raise BadInput(
            f"{origin}: asks for code of its own (auto_map)", "the suite never runs a model's code; take a built-in one"
        )


def stated(config: Mapping[str, Any], name: str) -> object:
    """A size as the file has it, under whichever name, unchecked; ``None`` where it has none."""
    return next((config[key] for key in _NAMES[name] if config.get(key) is not None), None)


def layer_counts(config: Mapping[str, Any]) -> list[int]:
    """Every number of layers that the file has, the usual name first: a family may count in two ways."""
    values = [config.get(key) for key in _NAMES["layers"]]
    values += [len(config[key]) for key in _LAYER_LISTS if isinstance(config.get(key), list)]
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0]


def architecture(config: Mapping[str, Any], origin: str) -> str:
    """The first of ``architectures``.

    Raises:
        BadInput: none, or not a causal language model.
    """
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    if not isinstance(first, str):
        raise BadInput(f"{origin}: {CONFIG_FILE} names no architecture", "is it a transformers model?")
    if not first.endswith(_CAUSAL):
        raise BadInput(f"{origin}: {first[:80]} is not a causal language model", "the suite measures text generation")
    return first


def dimensions(config: Mapping[str, Any], origin: str) -> dict[str, int]:
    """Sizes under the names of :class:`~bench_core.contract.models.model.ModelInfo`.

    ``kv_heads`` is ``attention_heads``, or 1 with ``multi_query``, and ``head_dim`` is hidden / heads where the file
    does not say.

    Raises:
        BadInput: a size is missing or is not a positive whole number.
    """
    lengths = [len(config[key]) for key in _LAYER_LISTS if isinstance(config.get(key), list)]
    defaults = {
        "context_length": _TRAINED_CONTEXT.get(str(config.get("model_type"))),
        "layers": lengths[0] if lengths else None,
    }
    sizes = {name: _positive(config, keys, defaults.get(name), origin) for name, keys in _NAMES.items()}
    heads, hidden = sizes["attention_heads"], sizes["hidden_size"]
    sizes["kv_heads"] = _kv_heads(config, heads, origin)
    sizes["head_dim"] = _positive(config, ("head_dim",), max(hidden // heads, 1), origin)
    inner = config.get("intermediate_size")
    if isinstance(inner, list) and inner and all(isinstance(width, int) for width in inner):
        config = {**config, "intermediate_size": max(inner)}  # Gemma 3n's: one for each layer
    sizes["intermediate_size"] = _positive(config, ("intermediate_size", "n_inner", "ffn_dim"), 4 * hidden, origin)
    return sizes


def _kv_heads(config: Mapping[str, Any], heads: int, origin: str) -> int:
    """``multi_query`` is one head of keys and values for all queries; Falcon's newer architecture names their number
    instead. Both types have it where their file does not say otherwise."""
    kind = config.get("model_type")
    if kind in ("falcon", "gpt_bigcode") or config.get("multi_query"):
        if kind == "falcon" and config.get("new_decoder_architecture"):
            return _positive(config, ("num_kv_heads", "n_head_kv"), heads, origin)
        return 1 if config.get("multi_query", True) else heads
    grouped = config.get("attn_config")  # MPT's
    named = grouped.get("kv_n_heads") if isinstance(grouped, dict) else None
    return _positive({"kv_n_heads": named, **config}, ("num_key_value_heads", "kv_n_heads"), heads, origin)


def special_ids(config: Mapping[str, Any], generation: Mapping[str, Any], vocab_size: int) -> Json:
    """``bos_token_id``, ``eos_token_ids`` and ``pad_token_id``: from ``generation_config.json``, else ``config.json``.

    Ids outside the vocabulary (old files have a pad of -1) count as none; padding is masked, so its default of 0 is
    as good as any.
    """

    def ids(key: str) -> tuple[int, ...]:
        for source in (generation, config):
            value = source.get(key)
            several = value if isinstance(value, list) else [value]
            known = [v for v in several if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < vocab_size]
            if known:
                return tuple(dict.fromkeys(known))
        return ()

    bos, pad = ids("bos_token_id"), ids("pad_token_id")
    return {
        "bos_token_id": bos[0] if bos else None,
        "eos_token_ids": ids("eos_token_id"),
        "pad_token_id": pad[0] if pad else 0,
    }


def eos_token_ids_of(files: Mapping[str, Path]) -> tuple[int, ...]:
    """End-of-sequence ids of a model's folder: name of a file to its path.

    Raises:
        BadInput: a configuration cannot be read.
    """
    config = read_json(files[CONFIG_FILE])
    generation = read_json(files[GENERATION_FILE]) if GENERATION_FILE in files else {}
    rows = stated(config, "vocab_size")
    ids: tuple[int, ...] = special_ids(config, generation, rows if isinstance(rows, int) else 0)["eos_token_ids"]
    return ids


def portable_config(config: Mapping[str, Any]) -> Json:
    """The same configuration, with the keys of both transformers 4 and 5 where one has only those of the other.

    ``dtype`` (5) and ``torch_dtype`` (4); ``rope_parameters`` (5) and ``rope_theta`` with ``rope_scaling`` (4), and
    ``rope_local_base_freq`` where layers with a window rotate otherwise. Nothing is taken away and nothing that is
    there is changed; transformers 5 reads the keys of 4 by itself.
    """
    both = dict(config)
    for present, absent in (("dtype", "torch_dtype"), ("torch_dtype", "dtype")):
        if both.get(present) is not None and both.get(absent) is None:
            both[absent] = both[present]
    rope = both.get("rope_parameters")
    if isinstance(rope, dict) and set(rope) == {"full_attention", "sliding_attention"}:
        rope, local = rope["full_attention"], rope["sliding_attention"]
        if isinstance(local, dict) and "rope_theta" in local and both.get("rope_local_base_freq") is None:
            both["rope_local_base_freq"] = local["rope_theta"]
    if isinstance(rope, dict) and not any(isinstance(value, dict) for value in rope.values()):
        if "rope_theta" in rope and both.get("rope_theta") is None:
            both["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default" and both.get("rope_scaling") is None:
            both["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return both


def portable_tokenizer_config(config: Mapping[str, Any]) -> Json:
    """The same tokenizer settings under a class name that transformers 4 knows too (5 keeps it as another name)."""
    both = dict(config)
    if both.get("tokenizer_class") == "TokenizersBackend":
        both["tokenizer_class"] = "PreTrainedTokenizerFast"
    return both


def _positive(config: Mapping[str, Any], keys: tuple[str, ...], default: int | None, origin: str) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), default)
    if value is None:
        hint = f"write it into {CONFIG_FILE}, as the model's class in Transformers has it by default"
        if "num_attention_heads" in keys:
            hint = "decoders with attention are measured, others such as Mamba and RWKV are not"
        raise BadInput(f"{origin}: {CONFIG_FILE} lacks {keys[0]}", hint)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIZE:
        raise BadInput(
            f"{origin}: {CONFIG_FILE} has {keys[0]} = {str(value)[:40]}",
            f"a positive whole number of at most {LARGEST_SIZE} is needed",
        )
    return value
