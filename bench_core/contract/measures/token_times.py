"""What an engine reveals by when its tokens came: time to first token, per token, gaps; prefill and decode throughput.

Prefill ends for a row with its first token, decode with its last. A batch's prefill takes the mean of its rows' times
to first token, its decode the mean of their times from first to last token: so both are rates of the whole batch, also
where rows do not start together (a scheduler that reads prompts in pieces). An engine that works through a batch one
prompt after the other has no such phases: a row's time to first token holds the rows before it, so it has no rates.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.record import Record
from bench_core.contract.statistics.distribution import Distribution


def row_ttft_s(batch: BatchEvent) -> list[float]:
    """Time to first token of each row that has one, seconds from the batch's start."""
    return [offsets[0] / 1e6 for offsets in batch.arrivals_us if offsets]


def row_tpot_s(batch: BatchEvent) -> list[float]:
    """Time per output token after the first, of each row of two tokens or more, seconds."""
    return [(offsets[-1] - offsets[0]) / 1e6 / (len(offsets) - 1) for offsets in batch.arrivals_us if len(offsets) > 1]


def itl_s(batches: Iterable[BatchEvent]) -> dict[float, int]:
    """Gaps between consecutive tokens of each row, seconds, and how often each was seen, over all rows of batches."""
    gaps_us: Counter[int] = Counter()
    for batch in batches:
        if batch.arrivals is None:
            continue
        for offsets in batch.arrivals.offsets_us:
            of_row = map(operator.sub, offsets[1:], offsets)
            if batch.arrivals.shared:
                for gap, times in Counter(of_row).items():
                    gaps_us[gap] += times * len(batch.prompts)
            else:
                gaps_us.update(of_row)
    return {gap / 1e6: times for gap, times in gaps_us.items()}


def tokens_per_step(batches: Iterable[BatchEvent]) -> float | None:
    """Tokens of a row that arrive together, on average over all steps of all rows; ``None`` where each comes alone, or
    nobody tells when. An engine that guesses tokens delivers those that were right with the one after them."""
    tokens = steps = 0
    for batch in batches:
        for offsets in batch.arrivals_us:
            tokens += len(offsets)
            steps += len(set(offsets))
    return tokens / steps if tokens > steps else None


class PhaseRates(Record):
    """Throughput of the two phases, tokens/s, where the engine reveals token times; ``None`` otherwise, never 0.

    Attributes:
        prefill_tok_s, decode_tok_s: over all batches with token times: prompt tokens / the mean of the rows' times to
            first token; output tokens after the first / the mean of the rows' times from first to last token.
        batch_prefill_tok_s, batch_decode_tok_s: one value per batch.
        row_prefill_tok_s, row_decode_tok_s: one value per row, of that row's tokens alone.
    """

    prefill_tok_s: float | None
    decode_tok_s: float | None
    batch_prefill_tok_s: Distribution | None
    batch_decode_tok_s: Distribution | None
    row_prefill_tok_s: Distribution | None
    row_decode_tok_s: Distribution | None


def phase_rates(stamped: Sequence[BatchEvent]) -> PhaseRates | None:
    """Of the batches that token times come from; ``None`` where none of them has phases."""
    found = [(batch, times) for batch in stamped if (times := batch_phase_times(batch)) is not None]
    total = summed([times for _, times in found])
    if total is None:
        return None
    batches = [batch for batch, _ in found]
    return PhaseRates(
        prefill_tok_s=total.prefill_tok_s,
        decode_tok_s=total.decode_tok_s,
        batch_prefill_tok_s=Distribution.of([t.prefill_tok_s for _, t in found if t.prefill_tok_s is not None]),
        batch_decode_tok_s=Distribution.of([t.decode_tok_s for _, t in found if t.decode_tok_s is not None]),
        row_prefill_tok_s=Distribution.of([value for batch in batches for value in _row_prefill_tok_s(batch)]),
        row_decode_tok_s=Distribution.of([value for batch in batches for value in _row_decode_tok_s(batch)]),
    )


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
    rows = batch.arrivals_us
    if not rows or not all(rows) or _one_after_the_other(rows):
        return None
    return PhaseTimes(
        prompt_tokens=sum(batch.prompt_tokens),
        prefill_s=math.fsum([row[0] for row in rows]) / len(rows) / 1e6,
        decoded_tokens=sum(map(len, rows)) - len(rows),
        decode_s=math.fsum([row[-1] - row[0] for row in rows]) / len(rows) / 1e6,
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
    return _row_prefill_tok_s(batch) if batch_phase_times(batch) is not None else []


def _row_prefill_tok_s(batch: BatchEvent) -> list[float]:
    firsts = [offsets[0] for offsets in batch.arrivals_us]
    return [tokens * 1e6 / first for tokens, first in zip(batch.prompt_tokens, firsts, strict=True) if first > 0]


def row_decode_tok_s(batch: BatchEvent) -> list[float]:
    """Tokens after the first / the time from the first to the last, of each row that has both; 1 / its TPOT."""
    return _row_decode_tok_s(batch) if batch_phase_times(batch) is not None else []


def _row_decode_tok_s(batch: BatchEvent) -> list[float]:
    rows = batch.arrivals_us
    return [(len(row) - 1) * 1e6 / (row[-1] - row[0]) for row in rows if row[-1] > row[0]]


def _one_after_the_other(rows: Sequence[tuple[int, ...]]) -> bool:
    """Whether each row's first token came when the row before it was finished. (One token each says nothing.)"""
    if len(rows) < 2 or min([row[-1] for row in rows]) > max([row[0] for row in rows]):
        return False  # as nearly always: all have begun before one has ended
    if all(len(row) == 1 for row in rows):
        return False
    in_order = sorted(rows)
    return all(earlier[-1] <= later[0] for earlier, later in itertools.pairwise(in_order))
