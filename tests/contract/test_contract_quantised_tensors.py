"""What quantised files hold is read from their tensors, and a name or label that says otherwise is found out."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from quantised_files import gguf_bytes, gptq_config, gptq_file, llama_tensors

from bench_core.contract.errors import BadInput
from bench_core.contract.models.artifact_tensors import given_form
from bench_core.contract.models.gguf_header import read_gguf_header
from bench_core.contract.models.stored_weights import StoredWeights, stored_weights
from bench_core.contract.records.artifact import ArtifactRecord

WIDE, NARROW = 256, 96  # rows that fill a block of a K type, and rows that do not
Q2_K = {"attn_v": "Q3_K", "attn_output": "Q3_K", "ffn_down": "Q3_K", "*": "Q2_K"}
Q4_K_M = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "*": "Q4_K"}


def _gguf(folder: Path, content: bytes) -> Path:
    (folder / "model.gguf").write_bytes(content)
    return folder / "model.gguf"


def test_a_gguf_files_tensors_are_counted_by_type_and_size(tmp_path: Path) -> None:
    """Beside a vocabulary, which is no weight: bytes of blocks of 32 and 256 values by hand."""
    words = [f"word {n}" for n in range(5000)]
    content = gguf_bytes(
        {"token_embd.weight": ("Q8_0", (64, 10)), "x.weight": ("Q4_K", (512, 3)), "norm.weight": ("F32", (64,))},
        {"tokenizer.ggml.tokens": words, "llama.block_count": 1},
    )
    header = read_gguf_header(_gguf(tmp_path, content))
    assert header.types == "F32 1, Q4_K 1, Q8_0 1"
    sizes = {name: tensor.size_bytes for name, tensor in header.tensors.items()}
    assert sizes == {"token_embd.weight": 20 * 34, "x.weight": 6 * 144, "norm.weight": 256}
    record = ArtifactRecord.of_folder(
        tmp_path, artifact="gguf-x", source_digest="0", converter_digest="r", made_by="m", seconds=0.0
    )
    assert stored_weights(tmp_path, record) == StoredWeights(
        total_bytes=20 * 34 + 6 * 144 + 256, embedding_bytes=20 * 34, expert_bytes=0
    ), "without the 60 kB of words"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a GGUF file"),
        (b"GGUG" + bytes(40), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**40), "keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "holds no tensor"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "a name of"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**60), "a list of"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 2**60), "more than its"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "unknown kind 9"),
        (gguf_bytes({"a.weight": ("Q4_K", (256, 4))})[:-1], "instead of"),
        (gguf_bytes({"a.weight": ("Q4_K", (256, 4))})[:100], "more than its"),
    ],
)
def test_a_damaged_gguf_file_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = _gguf(tmp_path, content)
    with pytest.raises(BadInput, match=said) as caught:
        read_gguf_header(path)
    assert "\n" not in str(caught.value)
    assert str(path) in caught.value.cause


@pytest.mark.parametrize(
    ("artifact", "kinds", "width", "problem"),
    [
        ("gguf-q4_k_m", Q4_K_M, WIDE, ""),
        ("gguf-q2_k", Q2_K, WIDE, ""),
        ("gguf-q8_0", {"*": "Q8_0"}, NARROW, ""),
        ("gguf-f16", {"*": "F16"}, NARROW, ""),
        # What llama.cpp writes for rows that do not fill a block of 256: SmolLM2-135M's.
        ("gguf-q2_k", {"ffn_down": "Q3_K", "token_embd": "Q8_0", "*": "Q4_0"}, NARROW, ""),
        ("gguf-q4_k_m", {"ffn_down": "Q4_K", "attn_v": "Q8_0", "token_embd": "Q8_0", "*": "Q5_0"}, NARROW, ""),
        # Under another's name.
        ("gguf-q4_k_m", {"*": "Q8_0"}, WIDE, "most of its projections are Q8_0"),
        ("gguf-q4_k_m", Q2_K, WIDE, "it holds tensors of Q2_K, which has fewer bits than Q4_K"),
        ("gguf-q8_0", Q4_K_M, WIDE, "it holds tensors of Q4_K"),
        ("gguf-q2_k", Q4_K_M, WIDE, "most of its projections are Q4_K"),
        ("gguf-q2_k", {"*": "Q8_0"}, NARROW, "most of its projections are Q8_0"),
        ("gguf-f16", {"*": "F32"}, NARROW, "most of its projections are F32"),
        ("gguf-f32", {"*": "F16"}, NARROW, "it holds tensors of F16"),
    ],
)
def test_a_gguf_files_name_is_held_against_its_types(
    tmp_path: Path, artifact: str, kinds: dict[str, str], width: int, problem: str
) -> None:
    _gguf(tmp_path, gguf_bytes(llama_tensors(kinds, width, 512), {"general.file_type": 15}))
    words, found = given_form(tmp_path, artifact, ["model.gguf"])
    assert all(kind in words for kind in kinds.values())
    assert found.startswith(problem) if problem else found == ""


@pytest.mark.parametrize(
    ("made", "config", "words", "problem"),
    [
        ({}, {}, "4 bits, groups of 128, no act-order, symmetric", ""),
        ({"leave_out": ["g_idx"]}, {}, "4 bits, groups of 128, no act-order, symmetric", ""),
        ({"act_order": True}, {"desc_act": True}, "4 bits, groups of 128, act-order, symmetric", ""),
        ({"asymmetric": True}, {"sym": False}, "4 bits, groups of 128, no act-order, asymmetric", ""),
        ({"zero": 8}, {"checkpoint_format": "gptq_v2"}, "4 bits, groups of 128, no act-order, symmetric", ""),
        ({"zero": 5}, {"sym": False}, "4 bits, groups of 128, no act-order, asymmetric", ""),
        ({"inputs": 192, "group": 64}, {"group_size": 64}, "4 bits, groups of 64, no act-order, symmetric", ""),
        # Labels that the tensors contradict.
        ({"act_order": True}, {}, "act-order", "its groups are in another order than its inputs (act-order)"),
        ({"asymmetric": True}, {}, "asymmetric", "its zero points are not those of symmetric weights"),
        ({"zero": 8}, {}, "symmetric", "its zero points are those of the format gptq_v2"),
        ({"group": 32}, {}, "groups of 32", "its groups are of 32, and its config.json says 128"),
        ({"bits": 8, "zero": 127}, {}, "8 bits", "its weights have 8 bits, and its config.json says 4"),
        # Names that they contradict.
        ({"bits": 8, "zero": 127}, {"bits": 8}, "8 bits", "its weights have 8 bits"),
        ({"bits": 3, "zero": 3}, {"bits": 3, "sym": False}, "3 bits", "its weights have 3 bits"),
        ({"inputs": 2048, "group": 1024}, {"group_size": 1024}, "groups of 1024", "its groups are of 1024"),
    ],
)
def test_a_gptq_folders_labels_are_held_against_its_tensors(
    tmp_path: Path, made: dict[str, Any], config: dict[str, Any], words: str, problem: str
) -> None:
    gptq_file(tmp_path / "model.safetensors", layers=2, **made)
    (tmp_path / "config.json").write_text(json.dumps(gptq_config(**config)))
    told, found = given_form(tmp_path, "gptq-int4-g128", ["model.safetensors"])
    assert words in told
    assert found.startswith(problem) if problem else found == ""


def test_three_bits_cross_words_and_their_zero_point_is_still_one(tmp_path: Path) -> None:
    gptq_file(tmp_path / "model.safetensors", bits=3, zero=3, outputs=64)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    packed = sum(3 << 3 * at for at in range(32))
    words = struct.pack("<3I", *(packed >> 32 * k & 0xFFFFFFFF for k in range(3)))
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    first, last = header["model.layers.0.mlp.down_proj.qzeros"]["data_offsets"]
    begin = len(content) - max(entry["data_offsets"][1] for entry in header.values())
    path.write_bytes(content[: begin + first] + words * ((last - first) // 12) + content[begin + last :])
    assert given_form(tmp_path, "gptq-int3-g128", [path.name]) == (
        "3 bits, groups of 128, no act-order, symmetric",
        "",
    )


@pytest.mark.parametrize("part", ["qzeros", "scales", "qweight"])
def test_a_layer_without_one_of_its_tensors_is_refused_by_name(tmp_path: Path, part: str) -> None:
    gptq_file(tmp_path / "model.safetensors", leave_out=[part], layers=2)
    if part == "qweight":
        assert given_form(tmp_path, "gptq-int4-g128", ["model.safetensors"])[1] == (
            "it has no quantised layer (qweight)"
        )
        return
    with pytest.raises(BadInput, match=rf"model\.layers\.0\.mlp\.down_proj has no tensor .*{part}"):
        given_form(tmp_path, "gptq-int4-g128", ["model.safetensors"])


def test_of_other_formats_nothing_is_read(tmp_path: Path) -> None:
    assert given_form(tmp_path, "ct2-int8", ["model.bin"]) == ("", "")
