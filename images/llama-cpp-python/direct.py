"""llama.cpp's C interface as its example ``batched`` calls it, for parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp as lib

from bench_core.contract.adapter import Decoding


def generate(adapter: Any, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """Whole prompts fill each call up to the context's limit; then one token of every sequence a call.

    Sequences run to the full length, as forced decoding wants it.

    Raises:
        RuntimeError: the engine failed.
    """
    context = adapter.engine
    limit = lib.llama_n_batch(context)
    batch = lib.llama_batch_init(limit, 0, 1)
    sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(sampler, lib.llama_sampler_init_greedy())
    try:
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        outputs: list[list[int]] = [[] for _ in prompts]
        batch.n_tokens = 0
        waiting: list[tuple[int, int]] = []  # sequence, place of its last token in the batch
        for sequence, prompt in enumerate(prompts):
            if batch.n_tokens + len(prompt) > limit:
                _decode(context, batch, sampler, waiting, outputs)
            for position, token in enumerate(prompt):
                _add(batch, token, position, sequence, position == len(prompt) - 1)
            waiting.append((sequence, batch.n_tokens - 1))
        _decode(context, batch, sampler, waiting, outputs)
        for step in range(decoding.max_new_tokens - 1):
            for sequence, prompt in enumerate(prompts):
                _add(batch, outputs[sequence][-1], len(prompt) + step, sequence, True)
                waiting.append((sequence, batch.n_tokens - 1))
            _decode(context, batch, sampler, waiting, outputs)
        return outputs
    finally:
        lib.llama_sampler_free(sampler)
        lib.llama_batch_free(batch)


def _add(batch: Any, token: int, position: int, sequence: int, wants_logits: bool) -> None:
    place = batch.n_tokens
    batch.token[place] = token
    batch.pos[place] = position
    batch.n_seq_id[place] = 1
    batch.seq_id[place][0] = sequence
    batch.logits[place] = wants_logits
    batch.n_tokens = place + 1


def _decode(context: Any, batch: Any, sampler: Any, waiting: list[tuple[int, int]], outputs: list[list[int]]) -> None:
    if lib.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")
    for sequence, place in waiting:
        outputs[sequence].append(lib.llama_sampler_sample(sampler, context, place))
    waiting.clear()
    batch.n_tokens = 0
