"""Synthetic models have the published shapes, the same bytes everywhere, and files that the library reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from prepare_material import TOY, toy_model, tree
from safetensors import safe_open

from bench_core.contract.errors import BadInput
from bench_core.prepare.models import shapes, synthetic, weights
from bench_core.prepare.models.hf_config import portable_config
from bench_core.prepare.models.shapes import SHAPES, Shape


@pytest.mark.parametrize(
    ("name", "parameters", "weight_bytes"),
    [
        # As the models' cards count them.
        ("smollm2-135m", 134_515_008, 269_030_016),
        ("llama-3.2-1b", 1_235_814_400, 2_471_628_800),
        ("llama-2-7b", 6_738_415_616, 13_476_831_232),
        ("mistral-7b", 7_241_732_096, 14_483_464_192),
        ("llama-3-8b", 8_030_261_248, 16_060_522_496),
        ("llama-2-13b", 13_015_864_320, 26_031_728_640),
        ("llama-3.1-8b", 8_030_261_248, 16_060_522_496),
        ("qwen3-8b", 8_190_735_360, 16_381_470_720),
        ("qwen3-30b-a3b", 30_532_122_624, 61_064_245_248),
        ("gemma-3-4b", 3_880_263_168, 7_760_526_336),  # without its image encoder
    ],
)
def test_published_shapes_have_the_published_size(name: str, parameters: int, weight_bytes: int) -> None:
    assert SHAPES[name].parameters == parameters
    assert SHAPES[name].weight_bytes == weight_bytes


def test_a_shape_of_fewer_layers_is_the_same_in_all_else() -> None:
    whole, quarter = SHAPES["llama-2-7b"], SHAPES["llama-2-7b-8-layers"]
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096  # attention, MLP, two norms
    assert whole.parameters - quarter.parameters == 24 * layer
    assert {**whole.config(), "num_hidden_layers": 8} == quarter.config()


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_consistent(name: str) -> None:
    shape = SHAPES[name]
    assert shape.head_size or shape.head_dim * shape.attention_heads == shape.hidden_size
    assert shape.attention_heads % shape.kv_heads == 0
    assert shape.vocab_size % 64 == 0
    config = shape.config()
    assert config["architectures"][0].lower().startswith(config["model_type"].removesuffix("_text").replace("_", ""))
    both = portable_config(config)
    assert both["torch_dtype"] == both["dtype"] == shape.dtype
    assert both["rope_theta"] == shape.rope_theta
    assert ("rope_local_base_freq" in both) == (shape.family == "gemma3_text")


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith(("tiny", "small"))])
def test_small_shapes_suit_every_group_size(name: str) -> None:
    """Group-wise quantisers want rows of whole groups: 128 for GPTQ, 256 for the k-quants of llama.cpp."""
    assert all(dims[1] % 256 == 0 for dims in SHAPES[name].tensors().values() if len(dims) == 2)


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree(toy_model(tmp_path / "a"))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # as many threads as the machine has must not matter
    assert tree(toy_model(tmp_path / "b")) == first
    other = tree(toy_model(tmp_path / "c", seed=1))
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def test_the_bytes_are_the_raw_stream_of_pcg64_through_a_normal_quantile(tmp_path: Path) -> None:
    """Recomputed without the module's table and without Generator, whose streams numpy may change."""
    import hashlib

    folder = toy_model(tmp_path / "toy")
    name = "model.layers.0.mlp.up_proj.weight"
    seed = int.from_bytes(hashlib.sha256(f"synthetic-1/0/{name}/0".encode()).digest(), "little")
    words = np.random.PCG64(seed).random_raw(2)
    picks = np.asarray(words, dtype="<u8").view("<u2")
    expected = [NormalDist(sigma=0.02).inv_cdf((int(pick) + 0.5) / 65536) for pick in picks]
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.get_tensor(name).ravel()[:8] == pytest.approx(expected, rel=1e-6)


def test_shards_change_the_files_and_not_the_tensors(tmp_path: Path) -> None:
    one, many = toy_model(tmp_path / "one"), toy_model(tmp_path / "many", shard_bytes=20_000)
    index = json.loads((many / weights.INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == TOY.weight_bytes
    with safe_open(one / "model.safetensors", "numpy") as whole:
        assert sorted(whole.keys()) == sorted(index["weight_map"])
        for name, shard in index["weight_map"].items():
            with safe_open(many / shard, "numpy") as part:
                assert np.array_equal(part.get_tensor(name), whole.get_tensor(name))


def test_the_library_reads_every_tensor_with_the_right_shape_and_spread(tmp_path: Path) -> None:
    with safe_open(toy_model(tmp_path / "toy") / "model.safetensors", "numpy") as file:
        for name, dims in TOY.tensors().items():
            values = file.get_tensor(name)
            assert values.shape == dims
            if name.endswith("norm.weight"):
                assert np.all(values == 1)
            else:
                assert abs(values.mean()) < 5 * 0.02 / values.size**0.5
                assert values.std() == pytest.approx(0.02, rel=5 / values.size**0.5)


def test_tensors_differ_from_each_other_and_pieces_within_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "PIECE_ELEMENTS", 128)
    with safe_open(toy_model(tmp_path / "toy") / "model.safetensors", "numpy") as file:
        gate = file.get_tensor("model.layers.0.mlp.gate_proj.weight").ravel()
        up = file.get_tensor("model.layers.0.mlp.up_proj.weight").ravel()
    assert not np.array_equal(gate, up)
    assert not np.array_equal(gate[:128], gate[128:256])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_holds_the_same_weights_rounded_to_nearest(dtype: str, tmp_path: Path) -> None:
    half = toy_model(tmp_path / "half", shape=Shape(272, 16, 32, 1, 2, 1, 128, dtype))
    exact = toy_model(tmp_path / "full")
    tensor = "model.embed_tokens.weight"
    with safe_open(exact / "model.safetensors", "numpy") as file:
        wanted = file.get_tensor(tensor).astype(np.float64)
    content = (half / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    begin, end = (8 + int.from_bytes(content[:8], "little") + n for n in header[tensor]["data_offsets"])
    if dtype == "float16":
        got, digits = np.frombuffer(content[begin:end], "<f2").astype(np.float64), 11
    else:
        bits = np.frombuffer(content[begin:end], "<u2").astype(np.uint32) << 16
        got, digits = bits.view(np.float32).astype(np.float64), 8
    # Half a unit in the last place; float16 is subnormal below 2**-14, where its step is 2**-24.
    step = np.maximum(np.abs(wanted.ravel()) * 2.0**-digits, 2.0**-25)
    assert np.all(np.abs(got - wanted.ravel()) <= step)


def test_an_unknown_shape_names_the_known_and_the_nearest() -> None:
    with pytest.raises(BadInput) as caught:
        shapes.shape_of("synthetic/lama2-7b")
    assert "did you mean synthetic/llama-2-7b?" in caught.value.hint
    assert all(name in caught.value.hint for name in SHAPES)


def test_a_write_that_fails_is_not_lost_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        toy_model(tmp_path / "toy")
