"""What a run cost in time on its device, method by method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench_core.report.column import Column, Sheet, sheet
from bench_core.report.explain.device_time import STUDY_PROMPTS, STUDY_WARMUP_BATCHES, Spent, by_method, total
from bench_core.report.format import digits, seconds, significant
from bench_core.runs.view import RunView

_Line = tuple[str, Spent]
_HOUR_S = 3600.0

_DEVICE_TIME: Sequence[Column[_Line]] = [
    Column("Method", lambda line: line[0], words=True),
    Column("Cells", lambda line: line[1].cells),
    Column("Loading", lambda line: line[1].loads_s, seconds, unit="s"),
    Column("Preparing and batches", lambda line: line[1].cells_s, seconds, unit="s"),
    Column("In all", lambda line: line[1].all_s, seconds, unit="s"),
    Column("Study's protocol", lambda line: line[1].study_s, lambda value: significant(value / _HOUR_S, 3), unit="h"),
    Column("Times as long", lambda line: line[1].study_s / line[1].all_s, digits(3)),
]


def device_time_sheet(view: RunView) -> Iterator[Sheet]:
    """Seconds that each method took, beside what the study's own protocol would have taken."""
    found = by_method(view)
    if found:
        lines = [line for line in (*found.items(), ("All", total(found.values()))) if line[1].all_s]
        yield sheet("Device time", _DEVICE_TIME, lines, _NOTES)


_NOTES = (
    "Spent by the engines: starting, loading, caches, and every batch, those for warm-up, token times and parity "
    f"included. Study's protocol: for each cell a load of its own, {STUDY_WARMUP_BATCHES} discarded batch and "
    f"{STUDY_PROMPTS} prompts, at the mean batch latency measured here; computed, not run.",
)
