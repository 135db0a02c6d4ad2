"""An artifact's folder against its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench_core.contract.records.artifact_form import other_form


def folder(path: Path, quantisation: object = None) -> Path:
    config = {"hidden_size": 64} if quantisation is None else {"hidden_size": 64, "quantization_config": quantisation}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("artifact", "quantisation", "found"),
    [
        ("gptq-int4-g128", {"quant_method": "gptq", "bits": 4}, None),
        ("gptq-int4", {"quant_method": "gptq", "bits": 4}, None),
        ("gptq-int4-g128", None, "unquantised"),
        ("gptq-int4-g128", {"quant_method": "awq", "bits": 4}, "awq"),
        ("gptq-int4-g128", {"quant_method": "gptq", "bits": 8}, "gptq of 8 bits"),
        ("gptq-int4-g128", {"quant_method": "gptq"}, "gptq of None bits"),
        ("gptq-int4-g128", "gptq", "unquantised"),
        ("awq-int4-g128", {"quant_method": "awq", "bits": 4, "version": "gemm"}, None),
        ("awq-int4-g128", {"quant_method": "gptq", "bits": 4}, "gptq"),
        ("awq-int4-g128", None, "unquantised"),
        ("exl2-4.0bpw", {"quant_method": "exl2", "bits": 4.0}, None),
        ("exl2-4.0bpw", {"quant_method": "exl2", "bits": 2.5}, "exl2 of 2.5 bits"),
        ("exl2-4.0bpw", {"quant_method": "gptq", "bits": 4}, "gptq"),
        ("exl3-4.0bpw", {"quant_method": "exl3", "bits": 4.0}, None),
        ("exl3-4.0bpw", {"quant_method": "exl3", "bits": 3.0}, "exl3 of 3.0 bits"),
        ("exl3-4.0bpw", {"quant_method": "exl2", "bits": 4.0}, "exl2"),
        ("hf", None, None),
        ("hf", {"quant_method": "gptq", "bits": 4}, "gptq"),
        ("gguf-q8_0", {"quant_method": "gptq", "bits": 4}, None),
        ("made-elsewhere", {"quant_method": "gptq", "bits": 4}, None),
    ],
)
def test_what_is_there_instead_is_named(tmp_path: Path, artifact: str, quantisation: object, found: str | None) -> None:
    assert other_form(folder(tmp_path, quantisation), artifact) == found


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b"[" * 100_000])
def test_a_configuration_that_cannot_be_read_says_nothing_of_a_quantisation(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    assert other_form(tmp_path, "hf") is None
    assert other_form(tmp_path, "gptq-int4-g128") == "unquantised"
