"""How long cells took and how they were measured: phases, tokens, intervals, reasons to stop, steadiness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench_core.contract.statistics.steadiness import Steadiness
from bench_core.report.cell import BATCHES, KEY, Cell, measured
from bench_core.report.column import Column, Entry, Sheet, raw, sheet
from bench_core.report.explain.marks import MARKS, UNSTEADY_MARK, misfit_note, misfit_words, untold
from bench_core.report.format import ABSENT, NOT_TOLD, milliseconds, percent, rate, seconds, signed_percent, significant
from bench_core.report.tables.results import THROUGHPUT
from bench_core.runs.view import RunView

_REASONS = {
    "precision": "precision",
    "busy": "precise, but busy",
    "workload": "end of workload",
    "max_seconds": "time limit",
    "max_batches": "batch limit",
    "exhaustive": "all measured",
}
_WARMUPS = {"flat": "flat", "trend": "still a trend"}


def _prompts_per_s(cell: Cell) -> float | None:
    return cell.row.planned.batch_size / cell.rate.batch_latency_s if cell.rate else None


TIMES: Sequence[Column[Cell]] = [
    *KEY,
    Column("Load", "metrics.load_s", seconds, unit="s", csv="load_s"),
    Column("Prepare", "metrics.prepare_s", seconds, unit="s", csv="prepare_s"),
    Column("TTFT median", "metrics.ttft_s.median", seconds, unit="s", csv="ttft_median_s", absent=NOT_TOLD),
    Column("TPOT median", "metrics.tpot_s.median", milliseconds, unit="ms", csv="tpot_median_s", absent=NOT_TOLD),
    Column("Latency stdev", "metrics.batch_latency_s.stdev", seconds, unit="s", csv="batch_latency_stdev_s"),
    replace(THROUGHPUT, written=rate, shown=None),
    Column("Prompts", _prompts_per_s, significant, unit="1/s", csv="prompts_per_s"),
    Column("Prefill", "metrics.phase_rates.prefill_tok_s", rate, unit="token/s", csv="prefill_tok_s", absent=NOT_TOLD),
    Column("Decode", "metrics.phase_rates.decode_tok_s", rate, unit="token/s", csv="decode_tok_s", absent=NOT_TOLD),
    BATCHES,
    Column("Token times", "metrics.token_times_source", csv="token_times_source", absent=NOT_TOLD, words=True),
]


def times_sheet(view: RunView) -> Sheet:
    """Phases of each cell, and its tokens' times."""
    notes = (
        "Stdev: of the batches' latencies, absent for one batch. Token times: who stamped them, the worker's clock or "
        "the engine's own; in separate batches where asking for them costs, so that throughput is measured without. "
        "Prompts: batch size / latency, prompts that are answered in a second.",
        "Prefill: prompt tokens / the mean of the rows' times to first token. Decode: output tokens after the first / "
        "the mean of the rows' times from first to last token. Both are not told where the engine does not say when "
        "tokens came, or works through a batch one prompt after the other.",
    )
    return sheet("Times", TIMES, measured(view), notes)


def _steadiness(cell: Cell) -> Steadiness | None:
    return cell.metrics.steadiness if cell.metrics else None


def _width(cell: Cell) -> Entry:
    """Of the interval, with the mark of one that is too wide to compare by; or why there is none."""
    interval, word = cell.rate.interval if cell.rate else None, untold(cell.row)
    mark = MARKS.get(word, "")
    if interval is None:
        return Entry(word, mark=mark)
    return Entry(percent(interval.relative_half_width), interval.relative_half_width, mark=mark)


def _warmup(cell: Cell) -> str | None:
    """How many batches, and what became of the test."""
    metrics = cell.metrics
    if metrics is None:
        return None
    steadiness = metrics.steadiness
    if steadiness.warmup is None:
        return f"{metrics.warmup_batches}"
    untested = "no time for a test" if steadiness.warmup_asked else "no test asked for"
    return f"{metrics.warmup_batches}, {_WARMUPS.get(steadiness.warmup, untested)}"


def _seen(cell: Cell) -> Entry:
    steadiness = _steadiness(cell)
    if steadiness is None:
        return Entry(ABSENT)
    if steadiness.unsteady:
        return Entry(f"unsteady: {'drift' if steadiness.drifts else 'warm-up'}", mark=UNSTEADY_MARK)
    return Entry("not tested" if steadiness.drift is None else "no trend seen")


MEASURED: Sequence[Column[Cell]] = [
    *KEY,
    Column(
        "Interval", "rate.interval.relative_half_width", unit="± %", csv="throughput_relative_half_width", shown=_width
    ),
    Column("Asked for", "metrics.steadiness.precision", percent, unit="± %", csv="precision"),
    Column("Prompts explain", "rate.explained", percent, unit="%", csv="explained_by_prompts"),
    BATCHES,
    Column("Measured", "metrics.measured_s", seconds, unit="s", csv="measured_s"),
    Column(
        "Stopped by",
        "metrics.steadiness.stop_reason",
        _REASONS.__getitem__,
        csv="stop_reason",
        absent=NOT_TOLD,
        words=True,
    ),
    Column("Warm-up", _warmup, words=True),
    Column(
        "Drift", "metrics.steadiness.drift.relative_change", signed_percent(2), unit="%", csv="drift_relative_change"
    ),
    Column("Steadiness", "metrics.steadiness.unsteady", csv="unsteady", shown=_seen, words=True),
]


def measured_sheet(view: RunView) -> Sheet:
    """How each cell was measured."""
    cells = [cell for cell in measured(view) if cell.rate is not None]
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
        *misfit_note(cell.row for cell in cells),
    )
    return sheet("How it was measured", MEASURED, cells, notes)


def _misfit(cell: Cell) -> str | None:
    return misfit_words(cell.rate.misfit) if cell.rate and cell.rate.misfit else None


def _distribution(name: str, *parts: str) -> tuple[Column[Cell], ...]:
    return raw(f"metrics.{name}_s", *parts, csv=f"{name}_{{}}_s")


# In the CSV alone.
RAW: Sequence[Column[Cell]] = [
    *raw("metrics", "warmup_batches", "rows", "prompt_tokens", "output_tokens", "output_tokens_per_batch"),
    *raw("metrics", "output_throughput_tok_s", "device_energy_joules"),
    *_distribution("batch_latency", "mean", "median", "min", "max"),
    *_distribution("ttft", "min", "max", "stdev"),
    *_distribution("tpot", "min", "max", "stdev"),
    *_distribution("itl", "mean", "median", "min", "max", "stdev"),
    *raw("rate.interval", "low_tok_s", "high_tok_s", csv="throughput_{}"),
    Column("", _misfit, csv="not_representative"),
    *raw("metrics.steadiness", "warmup"),
    *raw("metrics.steadiness.drift", "p_value", csv="drift_{}"),
]
