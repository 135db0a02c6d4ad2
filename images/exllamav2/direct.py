"""ExLlamaV2's ``forward`` as its own ``test_inference.py`` calls it, on a batch, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """Prompts padded on the left, with the engine's own arguments for unequal rows, then a token of each row a step.

    Without flash-attn this release leaves the mask out (see the adapter), so tokens of unequal rows differ.
    """
    model, cache = adapter.engine
    width = max(len(prompt) for prompt in prompts)
    gaps = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[decoding.pad_token_id] * gap + list(p) for gap, p in zip(gaps, prompts, strict=True)])
    unequal: dict[str, Any] = {}
    if any(gaps):
        mask = torch.zeros((len(prompts), width), dtype=torch.float16)
        for row, gap in enumerate(gaps):
            mask[row, :gap] = -65504.0
        unequal = {
            "input_mask": mask.to("cuda:0"),
            "position_offsets": torch.tensor([[-gap] for gap in gaps], dtype=torch.int, device="cuda:0"),
        }
    chosen = []
    with torch.inference_mode():
        cache.current_seq_len = 0
        for _ in range(decoding.max_new_tokens):
            logits = model.forward(ids, cache, last_id_only=True, **unequal)
            ids = logits[:, -1].argmax(dim=-1, keepdim=True).cpu()
            chosen.append(ids)
    rows: list[list[int]] = torch.cat(chosen, dim=1).tolist()
    return rows
