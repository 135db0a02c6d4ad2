"""A damaged safetensors file is refused by name before any engine maps it; a whole one is counted right."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_model import story_model
from prepare_material import TOY, safetensors_bytes, toy_model
from safetensors.numpy import save_file

from bench_core.contract.errors import BadInput
from bench_core.prepare.models import weights


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_the_library_writes_is_read_the_same(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "a": np.zeros((2, 3), np.float32),
        "b": np.zeros(5, np.float16),
        "scalar": np.zeros((), np.int64),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = weights.read_header(tmp_path / "x.safetensors")
    assert {name: tensor.shape for name, tensor in header.items()} == {n: t.shape for n, t in tensors.items()}
    assert {name: tensor.dtype for name, tensor in header.items()} == {"a": "F32", "b": "F16", "scalar": "I64"}


def test_a_tied_model_is_counted_as_published(tmp_path: Path) -> None:
    """The shape of stories260K, which is published as 260,032 parameters."""
    folder = story_model(tmp_path / "stories")
    tensors = weights.check_shards(folder, weights.shard_names(folder))
    assert weights.stored_dtype(tensors, "x") == "float32"
    assert weights.count_parameters(tensors, tied=True) == 260_032


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "not a safetensors file"),
        (b"\x01\x02", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (safetensors_bytes(b"{}", length=1 << 40), "not a safetensors file"),
        (safetensors_bytes(b"{oops"), "header is not JSON"),
        (safetensors_bytes(b"\xff\xfe{}"), "header is not JSON"),
        (safetensors_bytes(b"[" * 100_000), "header is not JSON"),
        (safetensors_bytes([]), "not a JSON object"),
        (safetensors_bytes({"__metadata__": {"format": "pt"}}), "holds no tensor"),
        (safetensors_bytes({"a": 1}), "'a' is wrong"),
        (safetensors_bytes({"a": {"dtype": "F32"}}), "'a' is wrong"),
        (safetensors_bytes({"a": entry(0, 8, [2], "Q7")}, b"x" * 8), "unknown type Q7"),
        (safetensors_bytes({"a": entry(0, 8, [3])}, b"x" * 8), "8 bytes for the shape [3] of F32"),
        (safetensors_bytes({"a": entry(0, 8, [-2])}, b"x" * 8), "is not a count"),
        (safetensors_bytes({"a": entry(0, 8, [True, 2])}, b"x" * 8), "is not a count"),
        (safetensors_bytes({"a": {**entry(0, 8, [2]), "data_offsets": [0]}}, b"x" * 8), "'a' is wrong"),
        (safetensors_bytes({"a": entry(4, 12, [2])}, b"x" * 12), "begins at byte 4 instead of 0"),
        (safetensors_bytes({"a": entry(0, 2**63, [2])}, b"x" * 8), "'a' is wrong: ValueError: '9223372036854775808'"),
        (safetensors_bytes({"a": entry(0, 8, [2**70])}, b"x" * 8), "'a' is wrong: ValueError: '11805916207174113034'"),
        (safetensors_bytes({"a": entry(0, 8, [2**63 - 1] * 9000)}, b"x" * 8), "'a' is wrong: ValueError"),
        (safetensors_bytes(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}'), "is not a count"),
        (safetensors_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "header is not JSON"),
        (safetensors_bytes({"layers." + "9" * 5000: entry(0, 8, [2])}, b"x" * 8), "more than nine digits"),
        (safetensors_bytes({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"x" * 12), "begins at byte 4"),
        (safetensors_bytes({"a": entry(0, 8, [2])}, b"x" * 7), "bytes instead of"),
        (safetensors_bytes({"a": entry(0, 8, [2])}, b"x" * 9), "bytes instead of"),
    ],
)
def test_a_corrupt_file_is_refused_by_name(content: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        weights.read_header(path)
    assert cause in caught.value.cause
    assert str(path) in caught.value.cause
    assert caught.value.hint


@given(st.binary(max_size=200))
def test_no_bytes_at_all_give_anything_but_the_typed_error(content: bytes) -> None:
    path = Path(gettempdir()) / f"bench-prepare-fuzz-{os.getpid()}.safetensors"
    try:
        path.write_bytes(content)
        with pytest.raises(BadInput):
            weights.read_header(path)
    finally:
        path.unlink(missing_ok=True)


def sharded(folder: Path) -> Path:
    toy_model(folder, shard_bytes=20_000)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def edit_index(folder: Path, change: Any) -> None:
    path = folder / weights.INDEX_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "toy")
    tensors = weights.check_shards(folder, weights.shard_names(folder))
    assert set(tensors) == set(TOY.tensors())
    assert weights.count_parameters(tensors, tied=False) == TOY.parameters


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", "a\0.safetensors"]
)
def test_an_index_cannot_name_a_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "toy")
    first = next(folder.glob("model-*.safetensors"))
    (tmp_path / "x.safetensors").write_bytes(first.read_bytes())

    def outside(content: Any) -> Any:
        return {**content, "weight_map": {**content["weight_map"], "lm_head.weight": name}}

    edit_index(folder, outside)
    with pytest.raises(BadInput, match="names a shard"):
        weights.shard_names(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "toy")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BadInput, match=f"the shard {shard.name} is missing"):
        weights.shard_names(folder)


def test_a_tensor_that_no_shard_holds_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "toy")
    shard = weights.shard_names(folder)[0]
    edit_index(folder, lambda content: {**content, "weight_map": {**content["weight_map"], "ghost": shard}})
    with pytest.raises(BadInput, match="names the tensor ghost"):
        weights.check_shards(folder, weights.shard_names(folder))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / weights.INDEX_FILE).write_text(content)
    with pytest.raises(BadInput, match="index"):
        weights.shard_names(tmp_path)


def test_several_files_without_an_index_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({name: np.zeros(1, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(BadInput, match="2 safetensors files but no"):
        weights.shard_names(tmp_path)


def test_integer_weights_are_called_quantised(tmp_path: Path) -> None:
    save_file({"qweight": np.zeros(9, np.int32), "scale": np.zeros(1, np.float16)}, tmp_path / "model.safetensors")
    tensors = weights.check_shards(tmp_path, weights.shard_names(tmp_path))
    with pytest.raises(BadInput, match="stored as I32"):
        weights.stored_dtype(tensors, "x")


def test_an_output_layer_beside_the_table_is_compared_byte_by_byte(tmp_path: Path) -> None:
    """Two tables of 40000 x 16, in shards of their own; equal but for the last number they are two, else one."""
    import struct

    table = struct.pack("<16f", *range(16)) * 40_000

    def stored(name: str, values: bytes) -> None:
        header = json.dumps({name: {"dtype": "F32", "shape": [40_000, 16], "data_offsets": [0, len(values)]}}).encode()
        (tmp_path / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values)

    names = ["model.embed_tokens.weight.safetensors", "lm_head.weight.safetensors"]
    stored("model.embed_tokens.weight", table)
    for head, own in ((table, False), (table[:-4] + b"\0\0\0\1", True)):
        stored("lm_head.weight", head)
        assert weights.holds_own_head(tmp_path, names) is own
    assert weights.holds_own_head(tmp_path, names[:1]) is False
    assert weights.holds_own_head(tmp_path, names[1:]) is False
