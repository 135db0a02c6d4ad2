"""What AutoGPTQ's adapter does before its engine sees a checkpoint; needs no engine."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from image_module import image_module

from bench_core.contract.errors import BadInput

SETTINGS: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "dtype": "float16",
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq"},
}


@pytest.fixture(scope="module")
def checkpoint() -> ModuleType:
    return image_module("auto-gptq", "checkpoint")


def artifact(folder: Path, **changed: Any) -> Path:
    path = folder / "gptq-int4-g128"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(SETTINGS | changed), encoding="utf-8")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def as_read(checkpoint: ModuleType, source: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    checkpoint.folder_as_the_engine_reads_it(source, checkpoint.checked_settings(source), folder)
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return settings


@pytest.mark.parametrize(
    ("changed", "theta"),
    [
        ({}, 500000.0),
        ({"rope_theta": 1000000.0, "rope_parameters": None}, 1000000.0),
        ({"rope_parameters": None}, 10000.0),
    ],
)
def test_the_base_of_rotations_stands_where_an_older_transformers_looks(
    checkpoint: ModuleType, tmp_path: Path, changed: dict[str, Any], theta: float
) -> None:
    settings = as_read(checkpoint, artifact(tmp_path, **changed), tmp_path / "view")
    assert (settings["rope_theta"], settings["rope_scaling"], settings["torch_dtype"]) == (theta, None, "float16")
    assert settings["quantization_config"] == SETTINGS["quantization_config"]


def test_the_artifact_is_linked_and_left_as_it_is(checkpoint: ModuleType, tmp_path: Path) -> None:
    source = artifact(tmp_path)
    before = (source / "config.json").read_bytes()
    as_read(checkpoint, source, tmp_path / "view")
    assert (tmp_path / "view" / "model.safetensors").resolve() == source / "model.safetensors"
    assert (source / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "changed",
    [
        {"quantization_config": None},
        {"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": 128}},
        {"quantization_config": SETTINGS["quantization_config"] | {"checkpoint_format": "gptq_v2"}},
    ],
)
def test_another_format_is_refused_by_name(checkpoint: ModuleType, tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="gptq-int4-g128"):
        checkpoint.checked_settings(artifact(tmp_path, **changed))


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"head_dim": 128}, "width of a head"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0, "factor": 8.0}}, "llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"intermediate_size": 172}, "whole groups"),
        ({"num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 16}, "keys and values"),
    ],
)
def test_what_the_engine_would_compute_wrongly_is_refused(
    checkpoint: ModuleType, tmp_path: Path, changed: dict[str, Any], cause: str
) -> None:
    with pytest.raises(checkpoint.Unsupported, match=cause):
        checkpoint.checked_settings(artifact(tmp_path, **changed))
