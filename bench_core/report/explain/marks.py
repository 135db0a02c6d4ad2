"""Marks beside throughputs, what they say, and the interval that a throughput is compared by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench_core.contract.measures.cell import CellMetrics
from bench_core.contract.measures.telemetry import MARKED_FROM_SHARE
from bench_core.contract.statistics.interval import FEWEST_BATCHES, Interval
from bench_core.contract.statistics.representation import Misfit
from bench_core.report.explain.busy_host import BUSY, busy_note
from bench_core.report.explain.waves import WAVES, waves_note
from bench_core.report.fleet.words import BESIDE, beside_note
from bench_core.report.format import ABSENT, rate_within
from bench_core.runs.view import Row

SEQUENTIAL_MARK = "†"
NOT_RANKED_MARK = "‡"
THROTTLED_MARK = "§"
THROTTLED_NOTE = (
    f"{THROTTLED_MARK} throttled: for {MARKED_FROM_SHARE:.0%} of the measured time or more the GPU's clocks were held "
    "back by heat or the board; see Device."
)
UNSTEADY_MARK = "¶"
FEW_MARK = "‖"
UNEVEN_MARK = "≀"
MISFIT_MARK = "◊"
SPECULATIVE_MARK = "⁂"
UNSTEADY = "unsteady"
FEW_BATCHES = "few batches"
UNEVEN = "uneven"
NO_OUTPUT = "no output"
MISFIT = "not representative"
SPECULATIVE = "speculative"
SPECULATIVE_NOTE = (
    "guesses tokens and checks several at once, so its speed depends on how many guesses are right, and that on the "
    "text: another workload gives another speed. Beyond the end of a text, where a forced length goes on, models "
    "repeat themselves, which is guessed easily."
)
MARKS = {
    SPECULATIVE: SPECULATIVE_MARK,
    WAVES: WAVES,
    UNSTEADY: UNSTEADY_MARK,
    FEW_BATCHES: FEW_MARK,
    UNEVEN: UNEVEN_MARK,
    MISFIT: MISFIT_MARK,
    BUSY: BUSY,
    BESIDE: BESIDE,
}
# A wider interval is shown and compared with nobody's: no difference between two methods could be told by it.
WIDEST_COMPARED = 0.5
_NO_INTERVAL = "no interval is given, since the batches that were measured do not represent the workload"


def is_throttled(metrics: CellMetrics) -> bool:
    """Whether a cell is marked."""
    return metrics.telemetry is not None and metrics.telemetry.is_throttled


def throughput_text(row: Row) -> str:
    """Throughput with half its interval, however wide, where there is one."""
    if row.rate is None:
        return ABSENT
    interval = row.rate.interval
    return rate_within(row.rate.throughput_tok_s, interval.half_width_tok_s if interval else None)


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
    words = (
        SPECULATIVE if row.speculative else "",
        WAVES if row.in_waves else "",
        BUSY if row.disturbed else "",
        BESIDE if row.beside_others else "",
        UNSTEADY if steadiness.unsteady else "",
        untold(row),
    )
    return [word for word in words if word]


def speculative_note(rows: Iterable[Row]) -> str:
    """What speculative decoding means for a number, and how many tokens a step gave, where that is told."""
    told = [
        f"{row.label} {per_step:.3g} at batch size {row.planned.batch_size}"
        for row in rows
        if row.speculative and row.result and (per_step := row.result.metrics.tokens_per_step) is not None
    ]
    return SPECULATIVE_NOTE + (f" Tokens of a row in a step: {', '.join(told)}." if told else "")


def mark_notes(rows: Sequence[Row]) -> list[str]:
    """Footnotes for the marks that stand in a table of these rows."""
    said = {remark for row in rows for remark in remarks(row)}
    notes = [f"{SPECULATIVE_MARK} {SPECULATIVE}: {speculative_note(rows)}"] if SPECULATIVE in said else []
    notes += [*waves_note(rows), *busy_note(rows), *beside_note(rows)]
    random = dict.fromkeys(row.label for row in rows if row.guesses_at_random)
    notes += [f"{NOT_RANKED_MARK} not ranked: {label}: speculative decoding on random weights" for label in random]
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


def misfit_note(rows: Iterable[Row]) -> Iterator[str]:
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
