"""What a report says of how cells were measured: intervals, reasons to stop, steadiness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bench_core.contract.interval import FEWEST_BATCHES, Interval
from bench_core.contract.metrics import CellMetrics
from bench_core.contract.representation import Misfit
from bench_core.contract.steadiness import Steadiness
from bench_core.report.busy_host import BUSY, busy_note
from bench_core.report.cell_key import cell_key
from bench_core.report.format import ABSENT, percent, rate_within, seconds
from bench_core.report.sheet import Entry, Sheet
from bench_core.runs.view import Row

UNSTEADY_MARK = "¶"
FEW_MARK = "‖"
UNEVEN_MARK = "≀"
MISFIT_MARK = "◊"
UNSTEADY = "unsteady"
FEW_BATCHES = "few batches"
UNEVEN = "uneven"
NO_OUTPUT = "no output"
MISFIT = "not representative"
_MARKS = {
    UNSTEADY: UNSTEADY_MARK,
    FEW_BATCHES: FEW_MARK,
    UNEVEN: UNEVEN_MARK,
    MISFIT: MISFIT_MARK,
    BUSY: BUSY,
}
# A wider interval is shown and compared with nobody's: no difference between two methods could be told by it.
WIDEST_COMPARED = 0.5
_REASONS = {
    "precision": "precision",
    "busy": "precise, but busy",
    "workload": "end of workload",
    "max_seconds": "time limit",
    "max_batches": "batch limit",
    "exhaustive": "all measured",
}
_WARMUPS = {"flat": "flat", "trend": "still a trend"}


def throughput_text(row: Row) -> str:
    """Throughput with half its interval, however wide, where there is one."""
    if row.rate is None:
        return ABSENT
    interval = row.rate.interval
    return rate_within(row.rate.throughput_tok_s, interval.half_width_tok_s if interval else None)


def throughput_entry(row: Row, *, strong: bool, marks: Sequence[str] = ()) -> Entry:
    """The same, and behind the given marks those of what is to be known about it."""
    marks = [*marks, *(mark for remark, mark in _MARKS.items() if remark in remarks(row))]
    number = row.rate.throughput_tok_s if row.rate else None
    return Entry(throughput_text(row), number, strong=strong, mark=" ".join(marks))


def told_interval(row: Row) -> Interval | None:
    """The interval by which a throughput is compared: the one beside it, unless that is too wide to tell anything."""
    interval = row.rate.interval if row.rate else None
    return interval if interval is not None and interval.relative_half_width <= WIDEST_COMPARED else None


def untold(row: Row) -> str:
    """Why a throughput has no interval to be compared by, in a word or two; empty where it has one."""
    if row.rate is None or told_interval(row) is not None:
        return ""
    if row.rate.interval is not None:
        return UNEVEN
    if row.rate.misfit is not None:
        return MISFIT
    return FEW_BATCHES if len(row.pace) < FEWEST_BATCHES else NO_OUTPUT


def remarks(row: Row) -> list[str]:
    """The same in words, for where there are no footnotes."""
    if row.result is None:
        return []
    steadiness = row.result.metrics.steadiness
    words = (BUSY if row.disturbed else "", UNSTEADY if steadiness.unsteady else "", untold(row))
    return [word for word in words if word]


def mark_notes(rows: Sequence[Row]) -> list[str]:
    """Footnotes for the marks that stand in a table of these rows."""
    said = {remark for row in rows for remark in remarks(row)}
    notes = [*busy_note(rows)]
    if UNSTEADY in said:
        notes.append(
            f"{UNSTEADY_MARK} unsteady: latencies rose or fell while this was measured, or had not settled when "
            "warming up was given up; see How it was measured."
        )
    if FEW_BATCHES in said:
        notes.append(
            f"{FEW_MARK} {FEW_BATCHES}: fewer than five were measured, which give no interval; see How it was measured."
        )
    if UNEVEN in said:
        notes.append(
            f"{UNEVEN_MARK} {UNEVEN}: the measured batches differ so much from each other that the interval is wider "
            f"than ± {WIDEST_COMPARED:.0%}; who is fastest is not told by it; see How it was measured."
        )
    if MISFIT in said:
        notes.append(f"{MISFIT_MARK} {MISFIT}: {_NO_INTERVAL}; see How it was measured.")
    return notes


_NO_INTERVAL = "no interval is given, since the batches that were measured do not represent the workload"


def misfit_words(misfit: Misfit) -> str:
    """Which batches were measured, and in what they differ from the workload."""
    which = f"the first {misfit.measured_batches} of {misfit.batches} batches"
    own, whole = (
        f"{mean:.0f}" if mean >= 100 else f"{mean:.3g}" for mean in (misfit.measured_mean, misfit.workload_mean)
    )
    work = "prompt tokens" if misfit.work == "prompt_tokens" else "tokens in the longest prompt"
    if misfit.kind == "mean":
        return f"{which} have {own} {work} on average, all of them {whole}"
    return f"{which} are too much alike, or too different, in their {work} ({own} on average, all of them {whole})"


def _misfit_note(rows: Iterable[Row]) -> Iterator[str]:
    """What was found of each batch size, where intervals are withheld."""
    found: dict[str, None] = {}
    for row in rows:
        if row.rate is not None and row.rate.misfit is not None:
            found[f"at batch size {row.planned.batch_size}, {misfit_words(row.rate.misfit)}"] = None
    if found:
        yield (
            f"{MISFIT.capitalize()}: {_NO_INTERVAL}: {'; '.join(found)}. Prompts sorted or grouped by length are such "
            "a case: have them shuffled (--sample-order shuffled, the default), or measure all of them (--exhaustive)."
        )


def _warmup_words(metrics: CellMetrics) -> str:
    """How many batches, and what became of the test."""
    steadiness = metrics.steadiness
    if steadiness.warmup is None:
        return f"{metrics.warmup_batches}"
    untested = "no time for a test" if steadiness.warmup_asked else "no test asked for"
    return f"{metrics.warmup_batches}, {_WARMUPS.get(steadiness.warmup, untested)}"


def measured_sheet(rows: Sequence[Row]) -> Sheet:
    """How each cell was measured; ``rows`` in the order wanted."""
    lines = []
    for row in rows:
        if row.result is None or row.rate is None:
            continue
        metrics, steadiness = row.result.metrics, row.result.metrics.steadiness
        drift = steadiness.drift
        lines.append(
            (
                *cell_key(row),
                _width(row),
                percent_entry(steadiness.precision),
                percent_entry(row.rate.explained),
                Entry(str(metrics.batches), metrics.batches),
                Entry(seconds(metrics.measured_s), metrics.measured_s),
                Entry(_REASONS[steadiness.stop_reason] if steadiness.stop_reason else "not told"),
                Entry(_warmup_words(metrics)),
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
        "Warm-up: batches, and whether the last five of equal prompts show a trend. No test asked for: the limit on "
        "warm-up batches leaves no room for five. No time for a test: in cells measured before the five were always "
        "run, where they would not have fitted into the limit of seconds.",
        "Drift: the slope of the measured batches' latencies from first to last (Theil and Sen), differences of "
        "prompts and outputs taken out; unsteady if it is 1 % or more and chance would give as clear a trend in 2 % of "
        "cases at most (Mann and Kendall). Not tested with fewer than five batches.",
        *_misfit_note(rows),
    )
    return Sheet("How it was measured", columns, tuple(lines), notes)


def _width(row: Row) -> Entry:
    """Of the interval, with the mark of one that is too wide to compare by; or why there is none."""
    interval, word = row.rate.interval if row.rate else None, untold(row)
    if interval is None:
        return Entry(word, mark=_MARKS.get(word, ""))
    return replace(percent_entry(interval.relative_half_width), mark=_MARKS.get(word, ""))


def _steadiness(steadiness: Steadiness) -> Entry:
    if steadiness.unsteady:
        return Entry(f"unsteady: {'drift' if steadiness.drifts else 'warm-up'}", mark=UNSTEADY_MARK)
    return Entry("not tested" if steadiness.drift is None else "no trend seen")


def percent_entry(value: float | None) -> Entry:
    return Entry(ABSENT if value is None else percent(value), value)
