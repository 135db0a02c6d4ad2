"""ExLlamaV2's ``forward`` as its own ``test_inference.py`` calls it, on a batch, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """Prompts padded on the left, then a token of each row a step.

    The mask is the adapter's: left to itself this release applies none without flash-attn, which is less work and other
    text.
    """
    model, cache = adapter.engine
    width = max(len(prompt) for prompt in prompts)
    gaps = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[decoding.pad_token_id] * gap + list(p) for gap, p in zip(gaps, prompts, strict=True)])
    mask = offsets = None
    if any(gaps):
        mask = torch.zeros((len(prompts), width), dtype=torch.float16)
        for row, gap in enumerate(gaps):
            mask[row, :gap] = -65504.0
        mask = mask.to("cuda:0")
        offsets = torch.tensor([[-gap] for gap in gaps], dtype=torch.int, device="cuda:0")
    chosen = []
    with torch.inference_mode():
        cache.current_seq_len = 0
        for _ in range(decoding.max_new_tokens):
            params = adapter.attention(ids, cache, mask, offsets)
            logits = model.forward(ids, cache, last_id_only=True, attn_params=params)
            ids = logits[:, -1].argmax(dim=-1, keepdim=True).cpu()
            chosen.append(ids)
    rows: list[list[int]] = torch.cat(chosen, dim=1).tolist()
    return rows
