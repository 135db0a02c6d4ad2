"""What a run says at a glance: for each batch size the fastest method, those that cannot be told from it, and who needs
least time to a first token, memory and energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from bench_core.contract.interval import Interval
from bench_core.contract.metrics import CellMetrics
from bench_core.report.format import ABSENT, gib, seconds, significant
from bench_core.report.load import Row, RunView
from bench_core.report.protocol import FEW_BATCHES, throughput_text, told_interval
from bench_core.report.same_batches import fastest
from bench_core.report.sheet import Entry, Sheet
from bench_core.report.visits import glance_note


def glance_sheet(view: RunView) -> Iterator[Sheet]:
    """One line for each batch size with two ranked cells or more."""
    lines = []
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        ranked = view.ranked(rows)
        if len(ranked) < 2:
            continue
        best = fastest(view, rows)
        lines.append(
            (
                Entry(str(size), size),
                Entry(", ".join(_throughput(row) for row in ranked if row.planned.cell in best), strong=True),
                Entry(_not_told_apart(ranked, best)),
                _least(ranked, lambda metrics: metrics.ttft_s.mean if metrics.ttft_s else None, _seconds),
                _least(ranked, view.peak_memory_bytes, gib),
                _least(ranked, _joules, _joules_per_token),
            )
        )
    if not lines:
        return
    columns = (
        ("Batch size", True),
        ("Fastest (token/s)", False),
        ("Not told apart from it", False),
        ("First token soonest", False),
        ("Least memory", False),
        ("Least energy", False),
    )
    notes = (
        "Of the methods that are ranked. Not told apart: the difference is no larger than the two intervals allow "
        "(root of the sum of their squares), and measuring longer would tell; methods with too few batches for an "
        "interval are not looked at. Memory: peak in use over the batches that each measured, of which longer prompts "
        "need more; of an engine that reserves, what it reserved. Energy: where a counter can be read.",
        *glance_note(view),
    )
    yield Sheet("At a glance", columns, tuple(lines), notes)


def _not_told_apart(ranked: Sequence[Row], best: frozenset[str]) -> str:
    """Methods whose throughput may as well be that of the fastest. One without an interval says nothing."""
    known = next((told_interval(row) for row in ranked if row.planned.cell in best), None)
    if known is None:
        return FEW_BATCHES
    others = [(row.planned.label, told_interval(row)) for row in ranked if row.planned.cell not in best]
    return ", ".join(label for label, own in others if own is not None and _overlap(known, own)) or "none"


def _overlap(one: Interval, other: Interval) -> bool:
    allowed = math.hypot(one.half_width_tok_s, other.half_width_tok_s)
    return abs(_middle(one) - _middle(other)) <= allowed


def _middle(interval: Interval) -> float:
    return (interval.low_tok_s + interval.high_tok_s) / 2


def _throughput(row: Row) -> str:
    return f"{row.planned.label}: {throughput_text(row)}"


def _least(
    ranked: Sequence[Row], value: Callable[[CellMetrics], float | None], written: Callable[[float], str]
) -> Entry:
    found = [(number, row) for row in ranked if row.result and (number := value(row.result.metrics)) is not None]
    if not found:
        return Entry(ABSENT)
    least, row = min(found, key=lambda pair: pair[0])
    return Entry(f"{row.planned.label}: {written(least)}")


def _joules(metrics: CellMetrics) -> float | None:
    return metrics.telemetry.joules_per_output_token if metrics.telemetry else None


def _joules_per_token(value: float) -> str:
    return f"{significant(value, 3)} J/token"


def _seconds(value: float) -> str:
    return f"{seconds(value)} s"
