"""CTranslate2's ``generate_batch`` as its documentation on text generation calls it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """The batch as one call, without a callback."""
    generator, names = adapter.engine
    results = generator.generate_batch(
        [[names[token_id] for token_id in prompt] for prompt in prompts],
        max_length=decoding.max_new_tokens,
        sampling_topk=1,
        end_token=list(decoding.eos_token_ids),
        return_end_token=True,
        include_prompt_in_result=False,
    )
    return [list(result.sequences_ids[0]) for result in results]
