"""SGLang's offline ``generate`` as its documentation calls it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """The batch as one call."""
    params = {
        "temperature": 0,
        "max_new_tokens": decoding.max_new_tokens,
        "ignore_eos": decoding.forced,
        "stop_token_ids": list(decoding.eos_token_ids),
    }
    results = adapter.engine.generate(input_ids=[list(prompt) for prompt in prompts], sampling_params=params)
    return [list(result["output_ids"]) for result in results]
