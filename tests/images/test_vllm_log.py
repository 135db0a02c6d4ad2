"""The memory of vLLM's CUDA graphs, which it tells in its log alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from image_module import image_module


@pytest.fixture
def log() -> Iterator[Any]:
    found = image_module("vllm", "engine_log").EngineLog()
    engine = logging.getLogger("vllm")
    before = engine.level
    engine.setLevel(logging.INFO)
    yield found
    engine.setLevel(before)
    engine.removeHandler(found)


def test_the_engine_s_line_is_understood(log: Any) -> None:
    """As on the H100: "Graph capturing finished in 6 secs, took 0.68 GiB"."""
    worker = logging.getLogger("vllm.v1.worker.gpu.model_runner")
    assert log.graphs_bytes is None
    worker.info("Model loading took %s GiB and %.6f seconds", 12.55, 4.25)
    worker.info("Graph capturing finished in %.0f secs, took %.2f GiB", 6.1, 0.6796875)
    assert log.graphs_bytes == round(0.6796875 * 2**30)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("Graph capturing finished", ()),
        ("Graph capturing finished in %d secs", (6,)),
        ("Graph capturing finished in %s, took %s", ("6 s", "much")),
        ("took %.2f GiB in %.0f secs", (0.68, 6.0)),
    ],
)
def test_a_line_of_another_release_says_nothing(log: Any, words: str, values: tuple[Any, ...]) -> None:
    logging.getLogger("vllm").info(words, *values)
    assert log.graphs_bytes is None
