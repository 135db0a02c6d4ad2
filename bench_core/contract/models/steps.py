"""Decode steps and prompt reading of a cell, from its batches: how long they took and how much they had before them."""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.record import Record

# Steps of the quantiles that are kept of a cell's contexts.
_QUANTILES = 20


class DecodeSteps(Record):
    """The stretch of each batch in which all its rows decode together, all batches summed.

    That stretch begins with the last row's first token and ends with the first row's last one, so that no prompt is
    read in it and every step has every row. Of an engine that works through a batch one prompt after the other, each
    row is a stretch of its own.

    Attributes:
        steps: in all stretches; ``rows``: of one step, mean.
        step_s: seconds of one step, mean: sum of the stretches / steps.
        context_tokens: positions that one row of a step has before it, mean over rows and steps (prompt, what was
            generated before, and the token in hand).
        context_quantiles: of these positions the 0, 5, 10 ... 100 % quantiles; ``None`` in older records.
    """

    steps: float = Field(gt=0)
    rows: float = Field(gt=0)
    step_s: float = Field(gt=0)
    context_tokens: float = Field(gt=0)
    context_quantiles: tuple[int, ...] | None = None

    def within(self, window: int) -> float | None:
        """The mean of the positions that lie within a window, or ``context_tokens`` where all do; ``None`` where that
        is not known. Between two quantiles contexts are taken to be spread evenly."""
        if self.context_quantiles is None or len(self.context_quantiles) < 2:
            return None
        if self.context_quantiles[-1] <= window:
            return self.context_tokens
        parts = [_mean_within(low, high, window) for low, high in itertools.pairwise(self.context_quantiles)]
        return min(statistics.fmean(parts), self.context_tokens)


class PromptReading(Record):
    """Reading the prompts of one batch, mean over batches whose rows decode together.

    Attributes:
        prompt_tokens: of the batch.
        attended_pairs: pairs of a token and a position that it attends to: sum over rows of p(p + 1)/2.
        seconds: from the batch's start to the last row's first token. An engine that decodes some rows before it has
            read the others spends part of it on that.
        longest_prompt_tokens: of all batches; ``None`` in older records.
    """

    rows: float = Field(gt=0)
    prompt_tokens: float = Field(gt=0)
    attended_pairs: float = Field(gt=0)
    seconds: float = Field(gt=0)
    longest_prompt_tokens: int | None = None


Rows = tuple[tuple[int, ...], ...]  # when the tokens of each row arrived, microseconds from the batch's start


@dataclass(frozen=True)
class _Stretch:
    """Seconds, steps and rows of one stretch, and the contexts of each row's tokens, which are consecutive."""

    seconds: float
    steps: float
    rows: int
    contexts: tuple[range, ...]


def decode_steps(batches: Sequence[BatchEvent]) -> DecodeSteps | None:
    """Of batches with token times; ``None`` where rows neither decode together nor one after the other, or where the
    tokens of a row arrived at one moment."""
    stretches = [stretch for batch in batches for stretch in _stretches(batch)]
    steps = math.fsum(stretch.steps for stretch in stretches)
    if steps <= 0:
        return None
    contexts = [context for stretch in stretches for context in stretch.contexts]
    tokens = sum(map(len, contexts))
    return DecodeSteps(
        steps=steps,
        rows=math.fsum(stretch.rows * stretch.steps for stretch in stretches) / steps,
        step_s=math.fsum(stretch.seconds for stretch in stretches) / steps,
        context_tokens=sum((context[0] + context[-1]) * len(context) // 2 for context in contexts if context) / tokens,
        context_quantiles=_quantiles(contexts),
    )


def _quantiles(ranges: Iterable[range]) -> tuple[int, ...]:
    """The 0, 5, 10 ... 100 % quantiles of the values of all ranges, each a value of one."""
    changes: Counter[int] = Counter()  # of how many ranges hold a value, from it on
    for one in ranges:
        changes[one.start] += 1
        changes[one.stop] -= 1
    places = sorted(changes)
    held = list(itertools.accumulate(changes[place] for place in places))
    widths = [later - earlier for earlier, later in itertools.pairwise(places)]
    upto = list(itertools.accumulate((n * width for n, width in zip(held, widths, strict=False)), initial=0))
    total = upto[-1]
    found = []
    for step in range(_QUANTILES + 1):
        rank = max(1, -(-total * step // _QUANTILES))
        place = bisect.bisect_left(upto, rank) - 1
        found.append(places[place] - (upto[place] - rank) // held[place] - 1)
    return tuple(found)


def _mean_within(low: int, high: int, window: int) -> float:
    """The mean of min(value, window) for values spread evenly from ``low`` to ``high``."""
    if high <= window or low == high:
        return min((low + high) / 2, window)
    if low >= window:
        return window
    inside = (window - low) / (high - low)
    return inside * (low + window) / 2 + (1 - inside) * window


def prompt_reading(batches: Sequence[BatchEvent]) -> PromptReading | None:
    """Of batches with token times whose rows decode together; ``None`` where there is none."""
    together = [(batch, rows) for batch in batches if (rows := _offsets_us(batch)) and _window_us(rows) is not None]
    together = [(batch, rows) for batch, rows in together if max(row[0] for row in rows) > 0]
    if not together:
        return None
    pairs = [sum(tokens * (tokens + 1) // 2 for tokens in batch.prompt_tokens) for batch, _ in together]
    return PromptReading(
        rows=statistics.fmean(len(rows) for _, rows in together),
        prompt_tokens=statistics.fmean(sum(batch.prompt_tokens) for batch, _ in together),
        attended_pairs=statistics.fmean(pairs),
        seconds=statistics.fmean(max(row[0] for row in rows) / 1e6 for _, rows in together),
        longest_prompt_tokens=max(max(batch.prompt_tokens) for batch, _ in together),
    )


def _offsets_us(batch: BatchEvent) -> Rows:
    """Arrival times of every row; nothing where a row has none."""
    rows = batch.arrivals_us
    return rows if all(rows) else ()


def _window_us(rows: Rows) -> tuple[int, int] | None:
    """From the last row's first token to the first row's last one, if that is a stretch of time."""
    begin, end = max([row[0] for row in rows]), min([row[-1] for row in rows])
    return (begin, end) if end > begin else None


def _stretches(batch: BatchEvent) -> list[_Stretch]:
    rows = _offsets_us(batch)
    if not rows:
        return []
    window = _window_us(rows)
    if window is not None:
        return [_stretch(rows, batch.prompt_tokens, *window)]
    order = sorted(range(len(rows)), key=lambda row: rows[row][0])
    if any(rows[earlier][-1] > rows[later][0] for earlier, later in itertools.pairwise(order)):
        return []
    return [
        _stretch((rows[row],), (batch.prompt_tokens[row],), rows[row][0], rows[row][-1])
        for row in order
        if rows[row][-1] > rows[row][0]
    ]


def _stretch(rows: Rows, prompts: Sequence[int], begin_us: int, end_us: int) -> _Stretch:
    # The step that makes token i of a row (from 0) attends to the prompt and i tokens behind it.
    ends = {}  # of each different row; arrivals of a row ascend
    for row in rows:
        if id(row) not in ends:  # rows that arrive together are one
            ends[id(row)] = bisect.bisect_right(row, begin_us), bisect.bisect_right(row, end_us)
    spans = [ends[id(row)] for row in rows]
    contexts = tuple([range(prompt + first, prompt + end) for (first, end), prompt in zip(spans, prompts, strict=True)])
    return _Stretch((end_us - begin_us) / 1e6, sum(map(len, contexts)) / len(rows), len(rows), contexts)
