"""Whether a checkpoint holds what its ``config.json`` promises, from the headers of its weights alone.

An engine that finds no weight for a part of the model may fill it with random numbers and go on. What is compared here
holds for any decoder: layers are numbered from 0 and are as many as the configuration says, layers of one kind have
the same tensors, there is a table of input embeddings with a row for each token id, and a head unless it is tied.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bench_core.contract.errors import BadInput
from bench_core.contract.models.tensor_names import is_buffer
from bench_core.prepare.models import hf_config
from bench_core.prepare.models.layer_kinds import layer_kinds, owns_its_head
from bench_core.prepare.models.weights import Tensor

_INCOMPLETE = "the checkpoint is incomplete: fetch or save it again, and compare with where it is from"
MERGE = "merge it into its base model first: peft's merge_and_unload(), then save_pretrained()"
_UNWRAP = "save the model itself: unwrap it first, then save_pretrained()"
_GATHER = "save it with the weights gathered (DeepSpeed: stage3_gather_16bit_weights_on_model_save)"

_ADAPTER = re.compile(r"^base_model\.model\.|\.lora_(?:A|B|embedding_[AB]|magnitude_vector)\b")
_WRAPPED = ("_orig_mod.", "module.", "_forward_module.", "_fsdp_wrapped_module.")
_SHARD = re.compile(r"-0*(\d+)-of-0*(\d+)\.safetensors")
# A layer's number is the first one in a tensor's name: model.layers.3.mlp.experts.0.w1.weight is of layer 3.
_LAYER = re.compile(r"((?:[^.]+\.)*?)(\d+)\.(.+)")
_EXPERT = re.compile(r"(.*\bexperts\.)(\d+)\.(.+)")
# One quantised weight is several tensors, not the same ones in every file.
_QUANTISED = re.compile(
    r"\.(?:qweight|qzeros|scales|g_idx|q_weight|q_invperm|q_perm|q_scale|q_scale_max|q_groups|q_group_map)$"
)
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings?|embed_in|tok_embeddings|tokens_embed|embeddings|input_embedding"
    r"|transformer\.w)\.weight$"
)
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|head|output_projection|pred_layer\.proj|lm_loss|decoder)\.")
_LAST_NORM = re.compile(
    r"(?:^|\.)(?:norm|norm_f|ln_f|final_norm|final_layer_?norm|layer_norm|out_norm|embedding_norm)\.weight$"
)
# Where layers stand that have norms with weights, and the norm behind them.
_LAST_NORMS = {
    "model.layers.": "model.norm.weight",
    "transformer.h.": "transformer.ln_f.weight",
    "transformer.blocks.": "transformer.norm_f.weight",
    "gpt_neox.layers.": "gpt_neox.final_layer_norm.weight",
}
_NO_LAST_NORM = frozenset({"openai-gpt", "ctrl"})
_POSITIONS = {
    "gpt2": "wpe.weight",
    "gpt_bigcode": "wpe.weight",
    "gpt_neo": "wpe.weight",
    "openai-gpt": "positions_embed.weight",
    "opt": "embed_positions.weight",
    "biogpt": "embed_positions.weight",
}
# Families that number layers or rows in a way of their own. What they lack, the engine tells when it loads them.
_OTHERWISE_NUMBERED = frozenset({"git", "hrm_text", "moshi"})
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")

Layers = dict[int, dict[str, Tensor]]


def require_whole_files(names: Iterable[str], origin: str) -> None:
    """Refuses shards of a set of which not all are there, by their names alone (``model-00002-of-00003``).

    Raises:
        BadInput: names the first that is missing; or the weights of an adapter, which need a base model.
    """
    sets: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in names:
        if name.startswith("adapter_"):
            raise BadInput(f"{origin}: {name} holds an adapter (LoRA), not a model", MERGE)
        found = _SHARD.search(name)
        if found:
            sets[name[: found.start()], int(found[2])].add(int(found[1]))
    for (stem, count), present in sets.items():
        first = next((number for number in range(1, count + 1) if number not in present), None)
        if first is not None:
            raise BadInput(
                f"{origin}: the shard {stem}-{first:05d}-of-{count:05d}.safetensors is missing: "
                f"{len(present)} of {count} are named",
                "fetch the model again, all shards and their index",
            )


def require_complete(config: Mapping[str, Any], tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuses a checkpoint that lacks weights, as far as names and shapes show it.

    Raises:
        BadInput: names the first tensor that is missing or has another shape than ``config.json`` says.
    """
    for name, tensor in tensors.items():
        if _ADAPTER.search(name):
            raise BadInput(f"{origin}: {name} is of an adapter (LoRA), not of a model", MERGE)
        if name.startswith(_WRAPPED):
            raise BadInput(f"{origin}: {name} is named as in a wrapped model, which engines do not find", _UNWRAP)
        if not tensor.elements:
            raise BadInput(f"{origin}: {name} is empty, its shape is {list(tensor.shape)}", _GATHER)
    if config.get("model_type") in _OTHERWISE_NUMBERED:
        return
    stack, layers = _stack(tensors)
    outside = {name: tensor for name, tensor in tensors.items() if not (stack and name.startswith(stack))}
    _require_layers(config, stack, layers, origin)
    embedding = _require_embedding(config, outside, origin)
    _require_head(config, outside, embedding, origin)
    normed = any("norm" in name or "ln_" in name for layer in layers.values() for name in layer)
    _require_around(config, outside, stack if normed else "", origin)


def _stack(tensors: Mapping[str, Tensor]) -> tuple[str, Layers]:
    """The tensors of the decoder's layers, and what stands before a layer's number; of several stacks the largest."""
    stacks: dict[str, Layers] = defaultdict(lambda: defaultdict(dict))
    for name, tensor in tensors.items():
        found = _LAYER.fullmatch(name)
        if found and not is_buffer(name, tensor.shape):
            stacks[found[1]][int(found[2])][_QUANTISED.sub(".weight", found[3])] = tensor
    if not stacks:
        return "", {}
    largest = max(stacks, key=lambda stack: (len(stacks[stack]), sum(map(len, stacks[stack].values()))))
    return largest, stacks[largest]


def _require_layers(config: Mapping[str, Any], stack: str, layers: Layers, origin: str) -> None:
    stated = hf_config.layer_counts(config)
    if not stated:
        return
    extra = sum(value for key, value in config.items() if _is_count(value) and re.search("nextn|mtp", key))
    if not layers:
        raise BadInput(f"{origin}: no tensor is of a layer, {hf_config.CONFIG_FILE} names {stated[0]}", _INCOMPLETE)
    count = max(layers) + 1
    expected = next((number for number in stated if number <= count <= number + extra), None)
    if expected is None:
        if count < min(stated):
            lost = f"{stack}{count}.{min(layers[min(layers)])}"
            raise BadInput(
                f"{origin}: the tensor {lost} is missing: {count} layers are stored, {hf_config.CONFIG_FILE} names "
                f"{stated[0]}",
                _INCOMPLETE,
            )
        raise BadInput(
            f"{origin}: {count} layers are stored ({stack}{max(layers)}), {hf_config.CONFIG_FILE} names {stated[0]}",
            f"which of both is right? {hf_config.CONFIG_FILE} is of another model, or its number of layers is wrong",
        )
    for index in range(expected):
        if index not in layers:
            lost = f"{stack}{index}.{min(layers[min(layers)])}"
            raise BadInput(f"{origin}: the tensor {lost} is missing, and with it all of layer {index}", _INCOMPLETE)
    _require_same_names(config, stack, {i: layers[i] for i in range(expected)}, origin)
    _require_experts(config, stack, {i: layers[i] for i in range(expected)}, origin)


def _require_same_names(config: Mapping[str, Any], stack: str, layers: Layers, origin: str) -> None:
    """A layer that has a part of another's tensors and nothing else has lost the others.

    Layers that differ in any other way are of two kinds. What of a layer's kind the configuration says is heeded
    (:func:`layer_kinds`), so that a kind which only lacks something is no loss.
    """
    kinds = layer_kinds(config, len(layers))
    groups: dict[object, list[int]] = defaultdict(list)
    for index in layers:
        groups[kinds[index]].append(index)
    for members in groups.values():
        distinct = {frozenset(layers[index]) for index in members}
        if len(distinct) == 1:
            continue
        for index in members:
            own = frozenset(layers[index])
            fuller = next((other for other in members if own < frozenset(layers[other])), None)
            if fuller is not None:
                lost = min(frozenset(layers[fuller]) - own)
                raise BadInput(
                    f"{origin}: the tensor {stack}{index}.{lost} is missing, which layer {fuller} has", _INCOMPLETE
                )


def _require_experts(config: Mapping[str, Any], stack: str, layers: Layers, origin: str) -> None:
    """Experts that are stored one by one are numbered from 0 and as many as the configuration says."""
    stated = [config[key] for key in _EXPERTS if _is_count(config.get(key))]
    for index, layer in layers.items():
        experts: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for name in layer:
            found = _EXPERT.fullmatch(name)
            if found:
                experts[found[1]][int(found[2])].add(found[3])
        for prefix, present in experts.items():
            whole = max(present.values(), key=len)
            count = max(present) + 1 if not stated or max(present) + 1 in stated else max(stated)
            for number in range(count):
                lost = whole - present.get(number, set())
                if lost:
                    raise BadInput(
                        f"{origin}: the tensor {stack}{index}.{prefix}{number}.{min(lost)} is missing", _INCOMPLETE
                    )


def _require_embedding(config: Mapping[str, Any], outside: Mapping[str, Tensor], origin: str) -> str | None:
    """The name of the table of input embeddings; ``None`` where a tied head stands for it."""
    rows, width = config.get("vocab_size"), hf_config.stated(config, "hidden_size")
    if not isinstance(rows, int) or not _is_count(rows):
        return None
    tables = [name for name, tensor in outside.items() if len(tensor.shape) == 2]
    named = [name for name in tables if _EMBEDDING.search(name)]
    if not named:
        others = [name for name in tables if outside[name].shape in ((rows, width), (rows, None))]
        whole = [name for name in others if config.get("tie_word_embeddings") is True or not _HEAD.search(name)]
        if whole:
            return None if _HEAD.search(whole[0]) else whole[0]
        raise BadInput(
            f"{origin}: the table of input embeddings is missing (such as embed_tokens.weight, {rows} rows)",
            _INCOMPLETE,
        )
    fitting = [name for name in named if outside[name].shape[0] == rows + _prompt_rows(config)]
    if not fitting:
        raise BadInput(
            f"{origin}: {named[0]} has {outside[named[0]].shape[0]} rows, {hf_config.CONFIG_FILE} says vocab_size "
            f"{rows}",
            f"which of both is right? engines size the table by {hf_config.CONFIG_FILE}",
        )
    return fitting[0]


def _prompt_rows(config: Mapping[str, Any]) -> int:
    """CPM-Ant's rows for its prompts, which are no tokens."""
    types, length = config.get("prompt_types"), config.get("prompt_length")
    return types * length if isinstance(types, int) and isinstance(length, int) else 0


def _require_head(config: Mapping[str, Any], outside: Mapping[str, Tensor], embedding: str | None, origin: str) -> None:
    heads = [name for name, t in outside.items() if name != embedding and _HEAD.search(name) and len(t.shape) > 1]
    if not heads and owns_its_head(config):
        stated = "false" if config.get("tie_word_embeddings") is False else "absent, which is false for this family"
        raise BadInput(
            f"{origin}: the tensor lm_head.weight is missing, and tie_word_embeddings is {stated}",
            "fetch the checkpoint again; where head and embeddings are truly one, set tie_word_embeddings to true",
        )
    rows = config.get("vocab_size")
    table = next((name for name in heads if name.endswith("lm_head.weight")), None)
    if table is not None and _is_count(rows) and outside[table].shape[0] != rows:
        raise BadInput(
            f"{origin}: {table} has {outside[table].shape[0]} rows, {hf_config.CONFIG_FILE} says vocab_size {rows}",
            f"which of both is right? engines size the head by {hf_config.CONFIG_FILE}",
        )


def _require_around(config: Mapping[str, Any], outside: Mapping[str, Tensor], stack: str, origin: str) -> None:
    """What stands before and behind the layers in the common forms: a table of positions, a last norm (where the
    layers of ``stack`` have norms)."""
    family = str(config.get("model_type"))
    lost = []
    if family in _POSITIONS and not any(name.endswith(_POSITIONS[family]) for name in outside):
        lost.append(_POSITIONS[family])
    if family not in _NO_LAST_NORM and not any(_LAST_NORM.search(name) for name in outside):
        lost += [name for layers, name in _LAST_NORMS.items() if stack and stack in (layers, layers.partition(".")[2])]
    if lost:
        raise BadInput(f"{origin}: the tensor {lost[0]} is missing", _INCOMPLETE)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
