"""What a report says of how cells were measured: intervals, reasons to stop, steadiness."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench_core.contract.interval import Interval
from bench_core.contract.steadiness import Steadiness
from bench_core.report.cell_key import cell_key
from bench_core.report.format import ABSENT, percent, rate_within, seconds
from bench_core.report.load import Row
from bench_core.report.sheet import Entry, Sheet

UNSTEADY_MARK = "¶"
FEW_MARK = "‖"
UNSTEADY = "unsteady"
FEW_BATCHES = "few batches"
_MARKS = {UNSTEADY: UNSTEADY_MARK, FEW_BATCHES: FEW_MARK}
# A wider one says nothing but that there is nothing to say: few batches, and unlike each other.
WIDEST_TOLD = 0.5
_REASONS = {
    "precision": "precision",
    "workload": "end of workload",
    "max_seconds": "time limit",
    "max_batches": "batch limit",
    "exhaustive": "all measured",
}
_WARMUPS = {"flat": "flat", "trend": "still a trend", "not_tested": "not tested"}


def throughput_text(row: Row) -> str:
    """Throughput with half its interval, as far as that says anything."""
    if row.rate is None:
        return ABSENT
    interval = told_interval(row)
    return rate_within(row.rate.throughput_tok_s, interval.half_width_tok_s if interval else None)


def throughput_entry(row: Row, *, strong: bool, marks: Sequence[str] = ()) -> Entry:
    """The same, and behind the given marks those of what is to be known about it."""
    marks = [*marks, *(mark for remark, mark in _MARKS.items() if remark in remarks(row))]
    number = row.rate.throughput_tok_s if row.rate else None
    return Entry(throughput_text(row), number, strong=strong, mark=" ".join(marks))


def told_interval(row: Row) -> Interval | None:
    """The interval that stands beside a throughput, unless it is too wide to say anything."""
    interval = row.rate.interval if row.rate else None
    return interval if interval is not None and interval.relative_half_width <= WIDEST_TOLD else None


def remarks(row: Row) -> list[str]:
    """The same in words, for where there are no footnotes."""
    if row.result is None:
        return []
    steadiness = row.result.metrics.steadiness
    found = [UNSTEADY] if steadiness.unsteady else []
    return [*found, FEW_BATCHES] if told_interval(row) is None else found


def mark_notes(rows: Iterable[Row]) -> list[str]:
    """Footnotes for the marks that stand in a table of these rows."""
    said = {remark for row in rows for remark in remarks(row)}
    notes = []
    if UNSTEADY in said:
        notes.append(
            f"{UNSTEADY_MARK} unsteady: latencies rose or fell while this was measured, or had not settled when "
            "warming up was given up; see How it was measured."
        )
    if FEW_BATCHES in said:
        notes.append(
            f"{FEW_MARK} {FEW_BATCHES}: fewer than five were measured, or so few and so unlike that their interval is "
            f"wider than ± {WIDEST_TOLD:.0%}; see How it was measured."
        )
    return notes


def measured_sheet(rows: Sequence[Row]) -> Sheet:
    """How each cell was measured; ``rows`` in the order wanted."""
    lines = []
    for row in rows:
        if row.result is None or row.rate is None:
            continue
        metrics, steadiness, interval = row.result.metrics, row.result.metrics.steadiness, row.rate.interval
        drift = steadiness.drift
        end = f", {_WARMUPS[steadiness.warmup]}" if steadiness.warmup else ""
        lines.append(
            (
                *cell_key(row),
                percent_entry(interval.relative_half_width) if interval else Entry(FEW_BATCHES, mark=FEW_MARK),
                percent_entry(steadiness.precision),
                percent_entry(row.rate.explained),
                Entry(str(metrics.batches), metrics.batches),
                Entry(seconds(metrics.measured_s), metrics.measured_s),
                Entry(_REASONS[steadiness.stop_reason] if steadiness.stop_reason else "not told"),
                Entry(f"{metrics.warmup_batches}{end}"),
                Entry(f"{drift.relative_change * 100:+.2f}", drift.relative_change) if drift else Entry(ABSENT),
                _steadiness(steadiness),
            )
        )
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Interval (± %)", True),
        ("Asked for (± %)", True),
        ("Prompts explain (%)", True),
        ("Batches", True),
        ("Measured (s)", True),
        ("Stopped by", False),
        ("Warm-up", False),
        ("Drift (%)", True),
        ("Steadiness", False),
    )
    notes = (
        "Interval: half of throughput's 95 % confidence interval / throughput, for the whole workload, with what "
        "correlated and skewed batches take away from its certainty; it tells of this run, not of the next. Measured: "
        "from the first measured batch to the last.",
        "Prompts explain: how much of the differences between batches follows from their prompt tokens and their "
        "longest prompts. Where it is much, throughput, latency and interval are estimated for the prompts of the "
        f"whole workload (regression estimator); {ABSENT} where they are those of the measured batches as they are.",
        "Warm-up: batches, and whether the last five of equal prompts show a trend; not tested where that would have "
        "cost more than the limits allow.",
        "Drift: the slope of the measured batches' latencies from first to last (Theil and Sen), differences of "
        "prompts and outputs taken out; unsteady if it is 1 % or more and chance would give as clear a trend in 2 % of "
        "cases at most (Mann and Kendall). Not tested with fewer than five batches.",
    )
    return Sheet("How it was measured", columns, tuple(lines), notes)


def _steadiness(steadiness: Steadiness) -> Entry:
    if steadiness.unsteady:
        return Entry(f"unsteady: {'drift' if steadiness.drifts else 'warm-up'}", mark=UNSTEADY_MARK)
    return Entry("not tested" if steadiness.drift is None else "no trend seen")


def percent_entry(value: float | None) -> Entry:
    return Entry(ABSENT if value is None else percent(value), value)
