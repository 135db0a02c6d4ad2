"""Prefill and decode throughput, where an engine reveals when its tokens came.

Prefill ends for a row with its first token, decode with its last. A batch's prefill takes the mean of its rows' times
to first token, its decode the mean of their times from first to last token: so both are rates of the whole batch, also
where rows do not start together (a scheduler that reads prompts in pieces). An engine that works through a batch one
prompt after the other has no such phases: a row's time to first token holds the rows before it, so it has no rates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench_core.contract.records.events import BatchEvent


@dataclass(frozen=True)
class PhaseTimes:
    """One batch, or several added up: tokens read and written after the first ones, and the seconds that took."""

    prompt_tokens: int
    prefill_s: float
    decoded_tokens: int
    decode_s: float

    @property
    def prefill_tok_s(self) -> float | None:
        """Prompt tokens / prefill time; ``None`` where that was too short to see."""
        return self.prompt_tokens / self.prefill_s if self.prefill_s > 0 else None

    @property
    def decode_tok_s(self) -> float | None:
        """Output tokens after the first of each row / decode time; ``None`` where there were none."""
        return self.decoded_tokens / self.decode_s if self.decode_s > 0 else None


def batch_phase_times(batch: BatchEvent) -> PhaseTimes | None:
    """Phases of one batch; ``None`` where the engine does not tell, a row is empty, or rows come in single file."""
    if batch.arrivals is None:
        return None
    rows = [batch.arrivals.of_row(row) for row in range(len(batch.prompts))]
    if not all(rows) or _one_after_the_other(rows):
        return None
    return PhaseTimes(
        prompt_tokens=sum(batch.prompt_tokens),
        prefill_s=math.fsum(row[0] for row in rows) / len(rows) / 1e6,
        decoded_tokens=sum(len(row) - 1 for row in rows),
        decode_s=math.fsum(row[-1] - row[0] for row in rows) / len(rows) / 1e6,
    )


def summed(batches: Sequence[PhaseTimes]) -> PhaseTimes | None:
    """Batches in one: their rates are ratios of sums, as throughput is. ``None`` for none at all."""
    if not batches:
        return None
    return PhaseTimes(
        prompt_tokens=sum(batch.prompt_tokens for batch in batches),
        prefill_s=math.fsum(batch.prefill_s for batch in batches),
        decoded_tokens=sum(batch.decoded_tokens for batch in batches),
        decode_s=math.fsum(batch.decode_s for batch in batches),
    )


def row_prefill_tok_s(batch: BatchEvent) -> list[float]:
    """Prompt tokens / time to first token of each row; empty where the batch has no phases."""
    if batch.arrivals is None or batch_phase_times(batch) is None:
        return []
    firsts = [batch.arrivals.of_row(row)[0] for row in range(len(batch.prompts))]
    return [tokens * 1e6 / first for tokens, first in zip(batch.prompt_tokens, firsts, strict=True) if first > 0]


def row_decode_tok_s(batch: BatchEvent) -> list[float]:
    """Tokens after the first / the time from the first to the last, of each row that has both; 1 / its TPOT."""
    if batch.arrivals is None or batch_phase_times(batch) is None:
        return []
    rows = [batch.arrivals.of_row(row) for row in range(len(batch.prompts))]
    return [(len(row) - 1) * 1e6 / (row[-1] - row[0]) for row in rows if row[-1] > row[0]]


def _one_after_the_other(rows: Sequence[tuple[int, ...]]) -> bool:
    """Whether each row's first token came when the row before it was finished. (One token each says nothing.)"""
    if len(rows) < 2 or all(len(row) == 1 for row in rows):
        return False
    in_order = sorted(rows)
    return all(earlier[-1] <= later[0] for earlier, later in itertools.pairwise(in_order))
