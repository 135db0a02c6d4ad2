"""ExLlama's ``forward`` as its own ``test_benchmark_inference.py`` calls it, on a batch, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """Prompts padded on the left with the engine's own kind of mask, then a token of each row a step."""
    model, cache = adapter.engine
    width = max(len(prompt) for prompt in prompts)
    gaps = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[decoding.pad_token_id] * gap + list(p) for gap, p in zip(gaps, prompts, strict=True)])
    mask = torch.ones((len(prompts), width + decoding.max_new_tokens), dtype=torch.bool, device="cuda:0")
    for row, gap in enumerate(gaps):
        mask[row, :gap] = False
    chosen = []
    with torch.inference_mode():
        cache.current_seq_len = 0
        for _ in range(decoding.max_new_tokens):
            logits = model.forward(ids, cache, input_mask=mask if any(gaps) else None)
            ids = logits[:, -1].argmax(dim=-1, keepdim=True).cpu()
            chosen.append(ids)
    rows: list[list[int]] = torch.cat(chosen, dim=1).tolist()
    return rows
