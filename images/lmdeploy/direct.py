"""TurboMind as the engine's own ``benchmark/profile_throughput.py`` calls it, for parity."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from lmdeploy.messages import GenerationConfig

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """A request for each prompt, all of them awaited together; greedy where that tool samples."""
    _, instances = adapter.engine

    async def inference(session_id: int, prompt: Sequence[int]) -> list[int]:
        token_ids: list[int] = []
        config = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            temperature=1.0,
            top_k=1,
            ignore_eos=decoding.forced,
            stop_token_ids=list(decoding.eos_token_ids) or None,
        )
        async for outputs in instances[session_id].async_stream_infer(
            session_id, input_ids=list(prompt), gen_config=config, stream_output=True
        ):
            token_ids += outputs.token_ids
        return token_ids

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(inference(number, prompt) for number, prompt in enumerate(prompts)))

    return asyncio.run(all_of_them())
