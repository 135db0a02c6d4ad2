"""llama.cpp's last words before it aborts reach the log of its process, where image.yaml's signs are looked for."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from image_module import image_module

from bench_core.contract.asked.manifest import Manifest

FOLDER = ROOT / "images" / "llama-cpp-python"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The adapter's log, with the library's two functions as stand-ins."""
    library = SimpleNamespace(llama_log_callback=lambda take: take, llama_log_set=lambda callback, data: None)
    monkeypatch.setitem(sys.modules, "llama_cpp", library)
    return image_module("llama-cpp-python", "engine_log").LOG


@pytest.mark.parametrize(
    "words",
    [
        b"CUDA error: out of memory\n",  # ggml_cuda_error, which then aborts
        b"buffer_type_alloc_buffer: allocating 1.00 MiB on device 0: cudaMalloc failed: out of memory\n",
    ],
)
def test_an_error_is_printed_at_once_and_known_as_want_of_memory(
    log: Any, capfd: pytest.CaptureFixture[str], words: bytes
) -> None:
    log._take(4, words, None)
    printed = capfd.readouterr().err
    assert printed.encode() == words
    assert any(sign in printed.lower() for sign in Manifest.load(FOLDER).out_of_memory_signs)
    assert "out of memory" in log.errors()


def test_chatter_stays_silent(log: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for level in (1, 2, 3, 5):
        log._take(level, b"llm_load_print_meta: out of memory is not near\n", None)
    assert capfd.readouterr().err == ""
