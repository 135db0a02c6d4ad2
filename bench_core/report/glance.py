"""What a run says at a glance: for each batch size the fastest method, those that cannot be told from it, and who needs
least time to a first token, memory and energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench_core.contract.metrics import CellMetrics
from bench_core.contract.repeats import BetweenRuns
from bench_core.report.format import ABSENT, gib, rate_within, seconds, significant
from bench_core.report.protocol import MISFIT, WIDEST_COMPARED, throughput_text, told_interval, untold
from bench_core.report.repeats import over_repeats
from bench_core.report.same_batches import fastest
from bench_core.report.sheet import Entry, Sheet
from bench_core.report.visits import glance_note
from bench_core.runs.view import Row, RunView


@dataclass(frozen=True)
class _Pace:
    """A method's throughput at one batch size, tokens/s.

    Attributes:
        written: as tables show it.
        half_width_tok_s: of the interval to compare by; ``None`` where there is none, and ``untold`` says why.
    """

    label: str
    throughput_tok_s: float
    written: str
    half_width_tok_s: float | None
    leads: bool
    untold: str


def glance_sheet(view: RunView) -> Iterator[Sheet]:
    """One line for each batch size with two ranked cells or more."""
    repeats = over_repeats(view)
    lines = []
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        ranked = view.ranked(rows)
        if len(ranked) < 2:
            continue
        paces = _over_repeats(ranked, repeats) if repeats else _paces(ranked, fastest(view, rows))
        lines.append(
            (
                Entry(str(size), size),
                Entry(", ".join(f"{pace.label}: {pace.written}" for pace in paces if pace.leads), strong=True),
                Entry(_not_told_apart(paces)),
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
    repeated = (
        f" Throughput: the mean of up to {view.record.repeats} repeats, its interval by their spread; see Repeats."
        if repeats
        else ""
    )
    notes = (
        "Of the methods that are ranked. Not told apart: the difference is no larger than the two intervals allow "
        "(root of the sum of their squares), and measuring longer would tell; methods without an interval, or with "
        f"one wider than ± {WIDEST_COMPARED:.0%} (uneven), are not looked at.{repeated} Memory: peak in use over the "
        "batches that each measured, of which longer prompts need more; of an engine that reserves, what it reserved. "
        "Energy: where a counter can be read.",
        *glance_note(view),
    )
    yield Sheet("At a glance", columns, tuple(lines), notes)


def _over_repeats(ranked: Sequence[Row], repeats: Mapping[str, BetweenRuns]) -> list[_Pace]:
    found = [(row.label, repeats[row.planned.cell]) for row in ranked]
    highest = max(summed.mean_tok_s for _, summed in found)
    return [
        _Pace(
            label,
            summed.mean_tok_s,
            rate_within(summed.mean_tok_s, summed.half_width_tok_s),
            summed.half_width_tok_s,
            leads=summed.mean_tok_s == highest,
            untold="" if summed.half_width_tok_s is not None else "one repeat" if summed.represents else MISFIT,
        )
        for label, summed in found
    ]


def _paces(ranked: Sequence[Row], best: frozenset[str]) -> list[_Pace]:
    return [
        _Pace(
            row.label,
            row.rate.throughput_tok_s,
            throughput_text(row),
            interval.half_width_tok_s if (interval := told_interval(row)) else None,
            leads=row.planned.cell in best,
            untold=untold(row),
        )
        for row in ranked
        if row.rate
    ]


def _not_told_apart(paces: Sequence[_Pace]) -> str:
    """Methods whose throughput may as well be that of the fastest. One without an interval says nothing."""
    lead = next(pace for pace in paces if pace.leads)
    if lead.half_width_tok_s is None:
        return lead.untold
    return ", ".join(pace.label for pace in paces if not pace.leads and _overlap(lead, pace)) or "none"


def _overlap(one: _Pace, other: _Pace) -> bool:
    if one.half_width_tok_s is None or other.half_width_tok_s is None:
        return False
    allowed = math.hypot(one.half_width_tok_s, other.half_width_tok_s)
    return abs(one.throughput_tok_s - other.throughput_tok_s) <= allowed


def _least(
    ranked: Sequence[Row], value: Callable[[CellMetrics], float | None], written: Callable[[float], str]
) -> Entry:
    found = [(number, row) for row in ranked if row.result and (number := value(row.result.metrics)) is not None]
    if not found:
        return Entry(ABSENT)
    least, row = min(found, key=lambda pair: pair[0])
    return Entry(f"{row.label}: {written(least)}")


def _joules(metrics: CellMetrics) -> float | None:
    return metrics.telemetry.joules_per_output_token if metrics.telemetry else None


def _joules_per_token(value: float) -> str:
    return f"{significant(value, 3)} J/token"


def _seconds(value: float) -> str:
    return f"{seconds(value)} s"
