"""Transformers' ``generate`` as its documentation calls it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench_core.contract.adapter import Decoding
from images._torch import direct


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """One call of ``generate``, in the compiled variant with its static cache."""
    cache = adapter.static_cache
    if cache is not None:
        cache.reset()
    # From 5.24 on the argument is called `cache`; the old name warns.
    return direct.generate(adapter, prompts, decoding, past_key_values=cache, disable_compile=cache is None)
