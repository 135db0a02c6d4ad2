"""ExLlamaV3's generator as its own examples call it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from exllamav3 import ArgmaxSampler, Job

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """A job for each prompt, then ``iterate`` until none is left.

    The page table is emptied before: left to itself the engine would answer a repeated prompt from what it has kept.
    """
    generator = adapter.engine
    generator.pagetable.reset_page_table()
    rows: list[list[int]] = [[] for _ in prompts]
    for row, prompt in enumerate(prompts):
        generator.enqueue(
            Job(
                input_ids=torch.tensor([list(prompt)], dtype=torch.long),
                max_new_tokens=decoding.max_new_tokens,
                sampler=ArgmaxSampler(),
                stop_conditions=list(decoding.eos_token_ids) or None,
                identifier=row,
            )
        )
    while generator.num_remaining_jobs():
        for result in generator.iterate():
            if result["stage"] == "error":
                raise result["error"]
            if result["stage"] == "streaming":
                tokens = [result["token_ids"]] if "token_ids" in result else []
                if "token_ids" in result.get("held", {}):
                    tokens.append(result["held"]["token_ids"])
                for part in tokens:
                    rows[result["identifier"]] += part[0].tolist()
    return rows
