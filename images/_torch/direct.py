"""Transformers' ``generate`` as its documentation calls it, for parity. What adapters share is not used here: this is
what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding, **more: Any) -> list[list[int]]:
    """Left padding and a mask, as a tokenizer with ``padding_side="left"`` makes them; then ``generate``.

    Args:
        more: what this engine's documentation adds to the call.
    """
    model = adapter.engine
    width = max(len(prompt) for prompt in prompts)
    gaps = [width - len(prompt) for prompt in prompts]
    ids = [[decoding.pad_token_id] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=False,
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=list(decoding.eos_token_ids) or None,
        pad_token_id=decoding.pad_token_id,
        **more,
    )
    rows: list[list[int]] = output[:, width:].tolist()
    return rows
