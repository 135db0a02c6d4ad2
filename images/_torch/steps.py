"""Greedy decoding of a rectangle by an engine that is called for each step. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench_core.contract.adapter import Completion, Decoding, TokenSink


def greedy_rows(
    next_tokens: Callable[[], Sequence[int]], rows: int, decoding: Decoding, on_tokens: TokenSink
) -> list[Completion]:
    """The tokens of each row up to and with its first end-of-sequence id; ends when all rows have ended.

    Args:
        next_tokens: makes one step of all rows and waits for the device; one id for each row.
        rows: of the batch.
    """
    outputs: list[list[int]] = [[] for _ in range(rows)]
    alive = list(range(rows))
    ends = frozenset(decoding.eos_token_ids)
    for _ in range(decoding.max_new_tokens):
        tokens = next_tokens()
        on_tokens.step(alive)
        for row in alive:
            outputs[row].append(tokens[row])
        if ends:
            alive = [row for row in alive if tokens[row] not in ends]
            if not alive:
                break
    return [Completion(output) for output in outputs]
