"""Which layers of a decoder are of one kind, and whether its head is a matrix of its own, as ``config.json`` says."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

# Families whose class in Transformers (5.17) has a head of its own unless config.json says otherwise. The others tie.
_OWN_HEAD = frozenset(
    [
        "afmoe",
        "apertus",
        "arcee",
        "bamba",
        "bitnet",
        "codegen",
        "cwm",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v4",
        "diffllama",
        "doge",
        "dots1",
        "exaone4",
        "exaone_moe",
        "falcon_h1",
        "flex_olmo",
        "glm",
        "glm4",
        "glm4_moe",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "gpt_neox",
        "gpt_oss",
        "gptj",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "granitemoeshared",
        "helium",
        "jais2",
        "jamba",
        "kimi_linear",
        "llama",
        "llama4_text",
        "longcat_flash",
        "mamba2",
        "minimax",
        "minimax_m2",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "nanochat",
        "nemotron",
        "nemotron_h",
        "olmo",
        "olmo2",
        "olmo3",
        "olmo_hybrid",
        "olmoe",
        "persimmon",
        "phi",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "rwkv",
        "seed_oss",
        "smollm3_moe",
        "solar_open",
        "stablelm",
        "xlstm",
    ]
)
# Families whose first or last layer stores what the others lack or lacks what they have, or that share one layer's
# weights with others, and do not say so in config.json.
_EDGES_DIFFER = frozenset({"modernbert-decoder", "rwkv", "gpt_neox_japanese", "zaya"})
_SHARED_BLOCKS = frozenset({"zamba", "zamba2"})
_EVERY = ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval", "moe_layer_freq")
_DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")


def owns_its_head(config: Mapping[str, Any]) -> bool:
    """Whether the head is no copy of the input embeddings: as said, else as the family's class has it."""
    tied = config.get("tie_word_embeddings")
    return not tied if isinstance(tied, bool) else config.get("model_type") in _OWN_HEAD


def layer_kinds(config: Mapping[str, Any], count: int) -> list[Hashable]:
    """For each layer all that the configuration says of it alone, as one value: equal for layers of one kind.

    Heeds lists and words with an entry for each layer (``layer_types``, ``hybrid_override_pattern``), patterns that
    repeat (``block_types``), lists of layers' numbers (``mlp_only_layers``), periods with their offsets, and first or
    last layers that differ (``first_k_dense_replace``, ``num_kv_shared_layers``). A key that says something else only
    makes kinds finer.
    """
    facts: list[list[Hashable]] = [[] for _ in range(count)]
    family = config.get("model_type")
    for key, value in config.items():
        for index, fact in enumerate(_facts(config, key, value, count)):
            facts[index].append(fact)
    for index, own in enumerate(facts):
        if family in _SHARED_BLOCKS or (family in _EDGES_DIFFER and index in (0, count - 1)):
            own.append(index)
    return [tuple(own) for own in facts]


def _facts(config: Mapping[str, Any], key: str, value: object, count: int) -> list[Hashable]:
    """What one key says of each layer; empty where it says nothing of single layers."""
    if isinstance(value, list | str):
        return _listed(key, value, count)
    facts: list[Hashable] = []
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return facts
    if key.endswith("_period"):
        offset = config.get(key.removesuffix("period") + "offset", 0)
        facts = [index % value == offset for index in range(count)]
    elif key in _EVERY:
        facts = [(index % value, (index + 1) % value) for index in range(count)]
    elif key in _DENSE_FIRST:
        facts = [index < value for index in range(count)]
    elif key == "moe_layer_end_index":
        facts = [index <= value for index in range(count)]
    elif key == "num_kv_shared_layers":
        facts = [index >= count - value for index in range(count)]
    return facts


def _listed(key: str, value: list[Any] | str, count: int) -> list[Hashable]:
    if value == list(range(count)) and "type" not in key:  # the numbers of all layers
        return []
    if len(value) == count and (isinstance(value, list) or "pattern" in key):
        return [str(entry) for entry in value]
    if isinstance(value, str) or not value:
        return []
    if key in ("block_types", "_block_types"):
        return [str(value[index % len(value)]) for index in range(count)]
    if all(isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < count for entry in value):
        return [index in value for index in range(count)]
    return []
