"""What a model's layers keep and read, from its configuration and the headers of its weights, which must agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench_core.contract.models.decoder import AttentionLayers, Decoder
from bench_core.contract.models.tensor_names import HEADS, POSITION_TABLES, TOKEN_TABLES, is_expert
from bench_core.prepare.models.attention_windows import UnknownLayers, Window, windows
from bench_core.prepare.models.weights import Tensor

_LAYER = re.compile(r"^(?:.*\.)?(?:layers|h|blocks)\.(\d{1,5})\.(.+)$")
_EXPERT_INDEX = re.compile(r"\.experts\.(\d{1,5})\.")
# One matrix for queries, keys and values; the second kind stores it with inputs first.
_FUSED = ("qkv_proj.weight", "query_key_value.weight", "Wqkv.weight")
_FUSED_INPUTS_FIRST = ("c_attn.weight",)
# Multi-head latent attention: the matrix that makes what is kept of a position.
_LATENT = "kv_a_proj_with_mqa.weight"
_MOST_LAYERS = 10_000
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_PER_TOKEN = ("num_experts_per_tok", "moe_k", "moe_topk")


def decoder_facts(
    config: Mapping[str, Any], sizes: Mapping[str, int], tensors: Mapping[str, Tensor], tied: bool
) -> Decoder:
    """The facts, or what keeps them from being known.

    Args:
        sizes: as :func:`~bench_core.prepare.models.hf_config.dimensions` gives them.
        tensors: all weights of the checkpoint, buffers left out.
        tied: whether the table of input embeddings is the output layer as well.
    """
    try:
        if not tensors:
            raise UnknownLayers("no shapes of weights are known")
        if sizes["layers"] > _MOST_LAYERS:
            raise UnknownLayers(f"more than {_MOST_LAYERS} layers are named")
        kinds = windows(config, sizes["layers"])
        layers = _by_layer(tensors, sizes["layers"])
        shapes = [_kept(config, sizes, layers[index]) for index in range(sizes["layers"])]
        expert_parameters, experts, per_token = _experts(config, layers)
        return Decoder(
            attention=_grouped(kinds, shapes),
            **_tables(tensors, tied),
            expert_parameters=expert_parameters,
            experts=experts,
            experts_per_token=per_token,
        )
    except UnknownLayers as why:
        return Decoder(problem=str(why))


def _by_layer(tensors: Mapping[str, Tensor], count: int) -> dict[int, dict[str, Tensor]]:
    layers: dict[int, dict[str, Tensor]] = {index: {} for index in range(count)}
    for name, tensor in tensors.items():
        found = _LAYER.match(name)
        if found is None:
            continue
        if int(found[1]) not in layers:
            raise UnknownLayers(f"a layer {found[1]} is stored, beyond the {count} of config.json")
        layers[int(found[1])][f".{found[2]}"] = tensor
    return layers


def _kept(config: Mapping[str, Any], sizes: Mapping[str, int], layer: Mapping[str, Tensor]) -> AttentionLayers:
    """One layer without its window."""
    heads, kv_heads, head_dim = sizes["attention_heads"], sizes["kv_heads"], sizes["head_dim"]
    latent = _only(layer, (_LATENT,))
    if latent is not None:
        rank = config.get("kv_lora_rank")
        if not isinstance(rank, int) or not 0 < rank < latent.shape[0]:
            raise UnknownLayers("the rank of latent attention is not named")
        return AttentionLayers(count=1, kv_heads=1, key_dim=rank, value_dim=latent.shape[0] - rank, latent=True)
    key, value = _only(layer, (".k_proj.weight",)), _only(layer, (".v_proj.weight",))
    if key is not None and value is not None:
        if key.shape[0] % kv_heads or value.shape[0] % kv_heads:
            raise UnknownLayers(f"keys of {key.shape[0]} numbers do not make {kv_heads} heads")
        return AttentionLayers(
            count=1, kv_heads=kv_heads, key_dim=key.shape[0] // kv_heads, value_dim=value.shape[0] // kv_heads
        )
    fused, turned = _only(layer, _FUSED), _only(layer, _FUSED_INPUTS_FIRST)
    if fused is None and turned is None:
        raise UnknownLayers("a layer stores no keys and values under a known name")
    shape = fused.shape if fused is not None else turned.shape if turned is not None else ()
    # Linear layers store outputs first. Which way a matrix lies whose sides differ is seen from the side that fits.
    width = (heads + 2 * kv_heads) * head_dim
    if len(shape) != 2 or width not in (shape if turned is not None else shape[:1]):
        raise UnknownLayers(f"queries, keys and values of {shape} are not {width} wide")
    return AttentionLayers(count=1, kv_heads=kv_heads, key_dim=head_dim, value_dim=head_dim)


def _only(layer: Mapping[str, Tensor], ends: tuple[str, ...]) -> Tensor | None:
    found = [tensor for name, tensor in layer.items() if name.endswith(ends)]
    if len(found) > 1:
        raise UnknownLayers(f"a layer stores {ends[0]} twice")
    if found and len(found[0].shape) != 2:
        raise UnknownLayers(f"{ends[0]} is no matrix")
    return found[0] if found else None


def _grouped(kinds: list[Window], shapes: list[AttentionLayers]) -> tuple[AttentionLayers, ...]:
    """Equal layers together, in the order in which their kind comes first."""
    counts = Counter(
        shape.model_copy(update={"window": kind.positions, "chunked": kind.chunked})
        for kind, shape in zip(kinds, shapes, strict=True)
    )
    return tuple(layer.model_copy(update={"count": count}) for layer, count in counts.items())


def _tables(tensors: Mapping[str, Tensor], tied: bool) -> dict[str, int]:
    ends = TOKEN_TABLES if any(name.endswith(TOKEN_TABLES) for name in tensors) or not tied else HEADS
    tokens = [tensor for name, tensor in tensors.items() if name.endswith(ends)]
    if len(tokens) != 1 or len(tokens[0].shape) != 2:
        raise UnknownLayers(f"{len(tokens)} tables of input embeddings are stored under a known name")
    heads = [tensor for name, tensor in tensors.items() if name.endswith(HEADS) and len(tensor.shape) == 2]
    if len(heads) > 1 or (not tied and not heads):
        raise UnknownLayers(f"{len(heads)} output layers are stored under a known name")
    rows = [tensor for name, tensor in tensors.items() if name.endswith(POSITION_TABLES)]
    rows += [] if tied else tokens
    return {
        "table_parameters": sum(table.elements for table in rows),
        "row_parameters": sum(table.shape[-1] for table in rows),
        "head_parameters": tokens[0].elements if tied else heads[0].elements,
    }


def _experts(config: Mapping[str, Any], layers: Mapping[int, Mapping[str, Tensor]]) -> tuple[int, int, int]:
    """Weights of all routed experts, their number in a layer, and how many of them a token is given to."""
    experts, per_token = _count(config, _EXPERTS), _count(config, _PER_TOKEN)
    total = 0
    for layer in layers.values():
        of_layer = {name: tensor for name, tensor in layer.items() if is_expert(name)}
        total += sum(tensor.elements for tensor in of_layer.values())
        numbers = {int(found[1]) for name in of_layer if (found := _EXPERT_INDEX.search(name))}
        stacked = {tensor.shape[0] for tensor in of_layer.values() if len(tensor.shape) == 3}
        if of_layer and not (numbers == set(range(experts)) or stacked == {experts}):
            raise UnknownLayers(f"a layer does not store the {experts} experts of config.json")
    if not total:
        if experts:
            raise UnknownLayers("experts are named and none is stored under a known name")
        return 0, 0, 0
    if not 0 < per_token <= experts:
        raise UnknownLayers("how many experts a token is given to is not named")
    return total, experts, per_token


def _count(config: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), 0)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
