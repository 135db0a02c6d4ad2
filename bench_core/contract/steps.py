"""Decode steps and prompt reading of a cell, from its batches: how long they took and how much they had before them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from bench_core.contract.events import BatchEvent
from bench_core.contract.record import Record


class DecodeSteps(Record):
    """The stretch of each batch in which all its rows decode together, all batches summed.

    That stretch begins with the last row's first token and ends with the first row's last one, so that no prompt is
    read in it and every step has every row. Of an engine that works through a batch one prompt after the other, each
    row is a stretch of its own.

    Attributes:
        steps: in all stretches; ``rows``: of one step, mean.
        step_s: seconds of one step, mean: sum of the stretches / steps.
        context_tokens: positions that one row of a step attends to, mean over rows and steps (prompt, what was
            generated before, and the token in hand).
    """

    steps: float = Field(gt=0)
    rows: float = Field(gt=0)
    step_s: float = Field(gt=0)
    context_tokens: float = Field(gt=0)


class PromptReading(Record):
    """Reading the prompts of one batch, mean over batches whose rows decode together.

    Attributes:
        prompt_tokens: of the batch.
        attended_pairs: pairs of a token and a position that it attends to: sum over rows of p(p + 1)/2.
        seconds: from the batch's start to the last row's first token. An engine that decodes some rows before it has
            read the others spends part of it on that.
    """

    rows: float = Field(gt=0)
    prompt_tokens: float = Field(gt=0)
    attended_pairs: float = Field(gt=0)
    seconds: float = Field(gt=0)


@dataclass(frozen=True)
class _Stretch:
    """Seconds, steps and rows of one stretch, and the sum of the context over its tokens."""

    seconds: float
    steps: float
    rows: int
    tokens: int
    context: int


def decode_steps(batches: Sequence[BatchEvent]) -> DecodeSteps | None:
    """Of batches with token times; ``None`` where rows neither decode together nor one after the other, or where the
    tokens of a row arrived at one moment."""
    stretches = [stretch for batch in batches for stretch in _stretches(batch)]
    steps = math.fsum(stretch.steps for stretch in stretches)
    if steps <= 0:
        return None
    return DecodeSteps(
        steps=steps,
        rows=math.fsum(stretch.rows * stretch.steps for stretch in stretches) / steps,
        step_s=math.fsum(stretch.seconds for stretch in stretches) / steps,
        context_tokens=sum(stretch.context for stretch in stretches) / sum(stretch.tokens for stretch in stretches),
    )


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
    )


def _offsets_us(batch: BatchEvent) -> list[tuple[int, ...]]:
    """Arrival times of every row; nothing where a row has none."""
    if batch.arrivals is None:
        return []
    rows = [batch.arrivals.of_row(row) for row in range(len(batch.prompts))]
    return rows if all(rows) else []


def _window_us(rows: list[tuple[int, ...]]) -> tuple[int, int] | None:
    """From the last row's first token to the first row's last one, if that is a stretch of time."""
    begin, end = max(row[0] for row in rows), min(row[-1] for row in rows)
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
        _stretch([rows[row]], (batch.prompt_tokens[row],), rows[row][0], rows[row][-1])
        for row in order
        if rows[row][-1] > rows[row][0]
    ]


def _stretch(rows: list[tuple[int, ...]], prompts: Sequence[int], begin_us: int, end_us: int) -> _Stretch:
    # The step that makes token i of a row (from 0) attends to the prompt and i tokens behind it.
    contexts = [
        prompt + index
        for row, prompt in zip(rows, prompts, strict=True)
        for index, arrival in enumerate(row)
        if begin_us < arrival <= end_us
    ]
    return _Stretch((end_us - begin_us) / 1e6, len(contexts) / len(rows), len(rows), len(contexts), sum(contexts))
