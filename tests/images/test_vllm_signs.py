"""What vLLM says when memory is not enough, read as such: a search for the smallest budget lives on it."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT

# In the words of release 0.26.0; the first ended a search on an H200 as a failure of another kind.
SAID = [
    "Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. Try increasing "
    "`gpu_memory_utilization`.",
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
    "(2.0 GiB KV cache is needed, which is larger than the available KV cache memory (0.5 GiB).",
    "CUDA out of memory. Tried to allocate 21.00 GiB.",
]


@pytest.fixture(scope="module")
def signs() -> tuple[str, ...]:
    """The adapter's, without importing the engine."""
    tree = ast.parse((ROOT / "images/vllm/adapter.py").read_text(encoding="utf-8"))
    found = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_OUT_OF_MEMORY"
    )
    return tuple(ast.literal_eval(found))


@pytest.mark.parametrize("words", SAID)
def test_want_of_memory_is_known_by_its_words(signs: tuple[str, ...], words: str) -> None:
    assert any(sign in words.lower() for sign in signs)


def test_another_failure_is_not(signs: tuple[str, ...]) -> None:
    assert not any(sign in "no kernel image is available for execution on the device" for sign in signs)
