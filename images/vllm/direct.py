"""vLLM's offline ``generate`` as its documentation and ``vllm bench latency`` call it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm import SamplingParams

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """The batch as one call."""
    params = SamplingParams(
        temperature=0.0,
        max_tokens=decoding.max_new_tokens,
        ignore_eos=True,
        stop_token_ids=list(decoding.eos_token_ids),
        detokenize=False,
    )
    results = adapter.engine.generate(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False
    )
    return [list(result.outputs[0].token_ids) for result in results]
