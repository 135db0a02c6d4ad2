"""Transformers' ``generate`` and ``generate_batch`` as its documentation calls them, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench_core.contract.adapter import Decoding
from images._torch import direct


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """One call of ``generate``, in the compiled variant with its static cache; or of ``generate_batch``, with the
    manager that is kept on the model."""
    if adapter.continuous is not None:
        adapter.continuous.settings.eos_token_id = list(decoding.eos_token_ids) or -1
        outputs = adapter.engine.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            generation_config=adapter.continuous.settings,
            max_new_tokens=decoding.max_new_tokens,
            persistent_manager=True,
        )
        return [output.generated_tokens for output in outputs.values()]
    cache = adapter.static_cache
    if cache is not None:
        cache.reset()
    # From 5.24 on the argument is called `cache`; the old name warns.
    return direct.generate(adapter, prompts, decoding, past_key_values=cache, disable_compile=cache is None)
