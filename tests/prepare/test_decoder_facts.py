"""Layers, windows, heads, experts and tables of a model, from its configuration and the headers of its weights."""

from __future__ import annotations

from typing import Any

import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.models.decoder import AttentionLayers, Decoder
from bench_core.prepare.models import hf_config, weights
from bench_core.prepare.models.attention_windows import UnknownLayers, windows
from bench_core.prepare.models.decoder_facts import decoder_facts
from bench_core.prepare.models.hf_config import portable_config
from bench_core.prepare.models.shapes import SHAPES
from bench_core.prepare.models.weights import Tensor

HIDDEN, HEAD, LAYERS = 64, 8, 4


def config(kind: str, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model_type": kind, "vocab_size": 320, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 8, "max_position_embeddings": 512, "intermediate_size": 96,
    }  # fmt: skip
    return {**given, **changes}


def llama_like(kv_heads: int = 8, **more: tuple[int, ...]) -> dict[str, Tensor]:
    """Names and shapes of a checkpoint that stores its matrices apart."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (320, HIDDEN), "lm_head.weight": (320, HIDDEN)}
    for index in range(LAYERS):
        layer = f"model.layers.{index}."
        shapes[layer + "self_attn.q_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[layer + "self_attn.k_proj.weight"] = (kv_heads * HEAD, HIDDEN)
        shapes[layer + "self_attn.v_proj.weight"] = (kv_heads * HEAD, HIDDEN)
        shapes[layer + "mlp.up_proj.weight"] = (96, HIDDEN)
    return {name: Tensor("F32", shape) for name, shape in {**shapes, **more}.items()}


def facts(given: dict[str, Any], tensors: dict[str, Tensor], tied: bool = False) -> Decoder:
    return decoder_facts(given, hf_config.dimensions(given, "m"), weights.weights_only(tensors), tied)


def test_layers_that_are_alike_are_told_once() -> None:
    assert facts(config("llama"), llama_like()) == Decoder(
        attention=(AttentionLayers(count=4, kv_heads=8, key_dim=8, value_dim=8),),
        table_parameters=320 * 64, row_parameters=64, head_parameters=320 * 64,
    )  # fmt: skip
    assert facts(config("llama"), llama_like(), tied=True).table_parameters == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (config("mistral", sliding_window=32), [32, 32, 32, 32]),
        (config("mistral", sliding_window=None), [None] * 4),
        (config("mixtral", sliding_window=32), [32] * 4),
        (config("qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=3), [None, None, None, 32]),
        (config("qwen2", use_sliding_window=False, sliding_window=32, max_window_layers=0), [None] * 4),
        (config("qwen2", sliding_window=32), [None] * 4),
        (config("gemma2"), [4096, None, 4096, None]),
        (config("gemma3_text", sliding_window=32, num_hidden_layers=7), [32] * 5 + [None, 32]),
        (config("gemma3_text", sliding_window=32, sliding_window_pattern=2), [32, None, 32, None]),
        (config("cohere2", sliding_window=32), [32, 32, 32, None]),
        (config("olmo3", sliding_window=32), [32, 32, 32, None]),
        (config("gpt_oss"), [128, None, 128, None]),
        (config("gemma2", sliding_window=32, layer_types=["full_attention"] * 4), [None] * 4),
        (config("llama4_text", attention_chunk_size=32), [32, 32, 32, None]),
        (config("llama4_text", attention_chunk_size=32, no_rope_layers=[0, 1, 1, 0]), [None, 32, 32, None]),
    ],
)
def test_windows_follow_the_configuration(given: dict[str, Any], expected: list[int | None]) -> None:
    found = windows(given, given["num_hidden_layers"])
    assert [window.positions for window in found] == expected
    assert all(window.chunked == ("chunk" in str(given) and window.positions is not None) for window in found)


@pytest.mark.parametrize(
    "given",
    [
        config("mamba"), config("jamba"), config("rwkv"), config("recurrent_gemma"), config("qwen3_next"),
        config("zamba2"), config("bamba"), config("lfm2"), config("granitemoehybrid"), config("made_up"),
        {**config("llama"), "model_type": None},
        config("llama", sliding_window=32),
        config("llama", layer_types=["full_attention", "linear_attention"] * 2),
        config("mistral", sliding_window="wide"),
        config("mistral", sliding_window=0),
        config("qwen2", layer_types=["sliding_attention"] * 4),
        config("qwen2", use_sliding_window=True, layer_types=["sliding_attention"] * 3),
        config("qwen2", use_sliding_window=True, layer_types=["attention"] * 4),
        config("qwen3_moe", use_sliding_window=True),
        config("gemma2", num_kv_shared_layers=2),
        config("gemma3_text", use_bidirectional_attention=True),
        config("gemma3_text", sliding_window_pattern=0),
        config("llama4_text", layer_types=["linear_attention"] * 4),
        config("llama4_text", attention_chunk_size=None),
        config("falcon", new_decoder_architecture=True),
    ],
)  # fmt: skip
def test_a_layer_that_is_not_known_has_no_figure(given: dict[str, Any]) -> None:
    with pytest.raises(UnknownLayers):
        windows(given, LAYERS)
    assert facts(given, llama_like()).problem


@pytest.mark.parametrize(
    ("changes", "kv_heads"),
    [
        ({"model_type": "gpt_bigcode", "multi_query": True}, 1),
        ({"model_type": "gpt_bigcode"}, 1),
        ({"model_type": "gpt_bigcode", "multi_query": False}, 8),
        ({"model_type": "falcon", "multi_query": True, "num_kv_heads": 8}, 1),
        ({"model_type": "falcon", "multi_query": False}, 8),
        ({"model_type": "falcon", "multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 2}, 2),
        ({"model_type": "mpt", "attn_config": {"kv_n_heads": 2}}, 2),
        ({"model_type": "llama", "num_key_value_heads": 2}, 2),
        ({"model_type": "llama"}, 8),
    ],
)
def test_heads_of_keys_and_values(changes: dict[str, Any], kv_heads: int) -> None:
    assert hf_config.dimensions(config("", **changes), "m")["kv_heads"] == kv_heads


@pytest.mark.parametrize(("multi_query", "width", "kv_heads"), [(True, 64 + 16, 1), (False, 3 * 64, 8)])
def test_one_matrix_for_queries_keys_and_values(multi_query: bool, width: int, kv_heads: int) -> None:
    given = config("gpt_bigcode", multi_query=multi_query)
    fused = {f"transformer.h.{index}.attn.c_attn.weight": Tensor("F32", (width, HIDDEN)) for index in range(LAYERS)}
    tables = {
        "transformer.wte.weight": Tensor("F32", (320, HIDDEN)), "transformer.wpe.weight": Tensor("F32", (512, HIDDEN)),
    }  # fmt: skip
    found = facts(given, {**tables, **fused}, tied=True)
    assert found.attention == (AttentionLayers(count=4, kv_heads=kv_heads, key_dim=8, value_dim=8),)
    assert (found.table_parameters, found.row_parameters, found.head_parameters) == (512 * 64, 64, 320 * 64)
    assert facts({**given, "multi_query": not multi_query}, {**tables, **fused}, tied=True).problem


def test_a_head_that_is_stored_alone_is_the_table_too() -> None:
    alone = {name: tensor for name, tensor in llama_like().items() if "embed_tokens" not in name}
    assert facts(config("llama"), alone, tied=True).head_parameters == 320 * 64
    assert weights.count_parameters(alone, tied=True) == sum(tensor.elements for tensor in alone.values())
    assert facts(config("llama"), alone, tied=False).problem


def test_configuration_and_weights_must_agree() -> None:
    """Widths are those that are stored; layers that store no keys, or more layers than are named, are not known."""
    grouped = config("llama", num_key_value_heads=2)
    assert facts(grouped, llama_like(2)).attention[0].numbers == 4 * 2 * 16
    assert "heads" in facts(config("llama", num_key_value_heads=3), llama_like(2)).problem
    without = {name: tensor for name, tensor in llama_like().items() if "layers.2.self_attn" not in name}
    assert "no keys and values" in facts(config("llama"), without).problem
    more = {**llama_like(), "model.layers.4.mlp.up_proj.weight": Tensor("F32", (96, HIDDEN))}
    assert "beyond" in facts(config("llama"), more).problem
    assert facts(config("llama"), {}).problem
    assert (
        "output layers"
        in facts(config("llama"), {n: t for n, t in llama_like().items() if n != "lm_head.weight"}).problem
    )


def test_experts_are_counted_apart_from_what_every_token_reads() -> None:
    """Three of four layers route over four experts of 2 x 24 x 64; a shared one and the router belong to the rest."""
    experts = {
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight": Tensor("F32", (24, HIDDEN))
        for layer in (1, 2, 3) for expert in range(4) for part in ("up", "down")
    }  # fmt: skip
    rest = {
        "model.layers.1.mlp.gate.weight": Tensor("F32", (4, HIDDEN)),
        "model.layers.1.mlp.shared_experts.up_proj.weight": Tensor("F32", (96, HIDDEN)),
    }
    given = config("deepseek_v3", n_routed_experts=4, num_experts_per_tok=2)
    found = facts(given, {**llama_like(), **experts, **rest})
    assert (found.expert_parameters, found.experts, found.experts_per_token) == (3 * 4 * 2 * 24 * 64, 4, 2)
    stacked = {f"model.layers.{layer}.mlp.experts.gate_up_proj": Tensor("F32", (4, HIDDEN, 48)) for layer in range(4)}
    assert facts(given, {**llama_like(), **stacked}).expert_parameters == 4 * 4 * 64 * 48
    for changed in ({"n_routed_experts": 8}, {"num_experts_per_tok": None}, {"num_experts_per_tok": 9}):
        assert facts({**given, **changed}, {**llama_like(), **experts}).problem, changed
    assert facts(given, llama_like()).problem, "experts are named and none is stored"


def test_latent_keys_and_values_are_counted_as_they_are_kept() -> None:
    latent = {
        f"model.layers.{index}.self_attn.kv_a_proj_with_mqa.weight": Tensor("F32", (24 + 8, HIDDEN))
        for index in range(LAYERS)
    }
    tables = {name: tensor for name, tensor in llama_like().items() if "layers" not in name}
    found = facts(config("deepseek_v2", kv_lora_rank=24), {**tables, **latent})
    assert found.attention == (AttentionLayers(count=4, kv_heads=1, key_dim=24, value_dim=8, latent=True),)
    assert facts(config("deepseek_v2"), {**tables, **latent}).problem


def shaped(name: str) -> Decoder:
    """Of a synthetic model, as its own files would tell it."""
    shape = SHAPES[name]
    dtype = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[shape.dtype]
    return facts(
        portable_config(shape.config()),
        {tensor: Tensor(dtype, dims) for tensor, dims in shape.tensors().items()},
        tied=shape.tied_embeddings,
    )


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        # (count, heads of keys and values, their size, window), from each model's card.
        ("llama-3.1-8b", [(32, 8, 128, None)]),
        ("mistral-7b", [(32, 8, 128, 4096)]),
        ("qwen3-8b", [(36, 8, 128, None)]),
        ("qwen3-30b-a3b", [(48, 4, 128, None)]),
        ("gemma-3-4b", [(29, 4, 256, 1024), (5, 4, 256, None)]),
    ],
)
def test_layers_of_published_shapes(name: str, layers: list[tuple[int, int, int, int | None]]) -> None:
    found = shaped(name)
    told = [(kind.count, kind.kv_heads, kind.key_dim, kind.window) for kind in found.attention]
    assert sorted(told, key=str) == sorted(layers, key=str)
    assert all(kind.value_dim == kind.key_dim for kind in found.attention)


def test_experts_of_a_published_mixture() -> None:
    """Qwen3-30B-A3B by hand: 48 layers x 128 experts x 3 matrices of 2048 x 768; a token is given to 8 of 128."""
    found = shaped("qwen3-30b-a3b")
    assert (found.experts, found.experts_per_token) == (128, 8)
    assert found.expert_parameters == 48 * 128 * 3 * 2048 * 768 == 28_991_029_248
    assert found.untouched_experts(1) == pytest.approx(15 / 16)
    assert found.untouched_experts(16) == pytest.approx(0.3561, abs=1e-4)
    read_by_one = SHAPES["qwen3-30b-a3b"].parameters - found.table_parameters - found.expert_parameters * 15 / 16
    assert read_by_one == pytest.approx(3.04e9, rel=1e-3), "its name says 3 billion"


def test_stored_masks_and_frequencies_are_no_weights() -> None:
    """Twelve masks of GPT-2 are 12.6 million numbers beside 124 million; a bias of the same name is a weight."""
    buffers = {
        "transformer.h.0.attn.bias": Tensor("U8", (1, 1, 1024, 1024)),
        "transformer.h.0.attn.masked_bias": Tensor("F32", ()),
        "gpt_neox.layers.0.attention.bias": Tensor("BOOL", (1, 1, 2048, 2048)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": Tensor("F32", (64,)),
    }
    kept = {
        "transformer.h.0.attn.c_attn.bias": Tensor("F32", (2304,)),
        "h.0.self_attn.bias": Tensor("F32", (64,)),
    }
    assert weights.weights_only({**buffers, **kept}) == kept
    assert weights.count_parameters({**buffers, **kept}, tied=False) == 2304 + 64
    assert weights.stored_dtype({**buffers, **kept}, "m") == "float32"
    with pytest.raises(BadInput, match="only buffers"):
        weights.stored_dtype(buffers, "m")
