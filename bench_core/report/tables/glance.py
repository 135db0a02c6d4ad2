"""What a run says at a glance: for each batch size the fastest method, those that are statistically tied with it, and
who needs least time to a first token, memory and energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench_core.contract.measures.cell import CellMetrics
from bench_core.contract.measures.repeats import BetweenRuns
from bench_core.report.column import Column, Sheet, sheet
from bench_core.report.decide.choose import Wanted, choose
from bench_core.report.decide.option import Option, Quantity, options_of
from bench_core.report.decide.quality import NEAR, NEAR_WORDS, quality_words, reference_perplexity
from bench_core.report.decide.ties import tied
from bench_core.report.explain.marks import MISFIT, WIDEST_COMPARED, throughput_text, told_interval, untold
from bench_core.report.explain.repeats import over_repeats
from bench_core.report.explain.same_batches import fastest
from bench_core.report.explain.visits import glance_note
from bench_core.report.format import gib, rate_within, seconds, significant
from bench_core.runs.view import Row, RunView


@dataclass(frozen=True)
class _Pace:
    """A method's throughput at one batch size, tokens/s.

    Attributes:
        written: as tables show it.
        half_width_tok_s: of the interval to compare by; ``None`` where there is none, and ``untold`` says why.
        quality: what it costs in quality; empty in a run without.
    """

    label: str
    throughput_tok_s: float
    written: str
    half_width_tok_s: float | None
    leads: bool
    untold: str
    quality: str

    @property
    def known(self) -> Quantity:
        """The throughput with the interval to compare by."""
        value, half = self.throughput_tok_s, self.half_width_tok_s
        return Quantity(value) if half is None else Quantity(value, value - half, value + half)


@dataclass(frozen=True)
class _Size:
    """A batch size with two ranked cells or more. ``near``: the fastest near the reference's quality and its number;
    ``None`` in a run without quality."""

    view: RunView
    batch_size: int
    ranked: list[Row]
    paces: list[_Pace]
    near: str | None


def _least(
    value: Callable[[RunView, CellMetrics], float | None], written: Callable[[float], str]
) -> Callable[[_Size], str | None]:
    """The method with the least of something, and how little that is."""

    def words(size: _Size) -> str | None:
        told = [(value(size.view, row.result.metrics), row) for row in size.ranked if row.result]
        found = [(number, row) for number, row in told if number is not None]
        if not found:
            return None
        least, row = min(found, key=lambda pair: pair[0])
        return f"{row.label}: {written(least)}"

    return words


def _fastest(size: _Size) -> str:
    return ", ".join(_with_quality(pace, pace.written) for pace in size.paces if pace.leads)


def _with_quality(pace: _Pace, number: str) -> str:
    return f"{pace.label}: {number}" + (f" ({pace.quality})" if pace.quality else "")


def _tied(size: _Size) -> str:
    """Methods whose throughput may as well be that of the fastest. One without an interval says nothing."""
    paces = size.paces
    lead = next(pace for pace in paces if pace.leads)
    if lead.half_width_tok_s is None:
        return lead.untold
    return ", ".join(pace.label for pace in paces if not pace.leads and tied(lead.known, pace.known)) or "none"


_ttft = _least(lambda _, metrics: metrics.ttft_s.mean if metrics.ttft_s else None, lambda value: f"{seconds(value)} s")
_memory = _least(lambda view, metrics: view.peak_memory_bytes(metrics), gib)
_energy = _least(
    lambda _, metrics: metrics.telemetry.joules_per_output_token if metrics.telemetry else None,
    lambda value: f"{significant(value, 3)} J/token",
)
_GLANCE: Sequence[Column[_Size]] = [
    Column("Batch size", "batch_size"),
    Column("Fastest", _fastest, unit="token/s", words=True, strong=lambda _: True),
    Column("Statistically tied with it", _tied, words=True),
    Column(f"Fastest within {NEAR_WORDS}", "near", unit="token/s", words=True),
    Column("Fastest first token", _ttft, words=True),
    Column("Least memory", _memory, words=True),
    Column("Least energy", _energy, words=True),
]


def _sizes(view: RunView, repeats: Mapping[str, BetweenRuns]) -> list[_Size]:
    """Batch sizes with two ranked cells or more."""
    sizes = []
    options = options_of(view)
    reference = reference_perplexity(options)
    said = {option.cell: quality_words(option, reference) for option in options}
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        ranked = view.ranked(rows)
        if len(ranked) > 1:
            paces = _over_repeats(ranked, repeats) if repeats else _paces(ranked, fastest(view, rows))
            paces = [replace(pace, quality=said[row.planned.cell]) for pace, row in zip(paces, ranked, strict=True)]
            near = None if reference is None else _near(options, size, dict(zip(_cells(ranked), paces, strict=True)))
            sizes.append(_Size(view, size, ranked, paces, near))
    return sizes


def _cells(rows: Sequence[Row]) -> list[str]:
    return [row.planned.cell for row in rows]


def _near(options: Sequence[Option], batch_size: int, paces: Mapping[str, _Pace]) -> str:
    """The fastest near the reference's quality, by the rule of a choice."""
    found = choose(options, Wanted(f"b{batch_size}", quality=NEAR)).ranked
    pace = paces[found[0].option.cell] if found else None
    return f"{pace.label}: {pace.written}" if pace else "none"


def fastest_lines(view: RunView) -> list[str]:
    """The fastest method of each batch size in a line of its own, and those that are statistically tied with it."""
    return [line for size in _sizes(view, over_repeats(view)) for line in _lines(size)]


def _lines(size: _Size) -> Iterator[str]:
    leads = ", ".join(_with_quality(pace, f"{pace.written} token/s") for pace in size.paces if pace.leads)
    yield f"Fastest at batch size {size.batch_size}: {leads}; statistically tied with it: {_tied(size)}"
    if size.near is not None:
        unit = "" if size.near == "none" else " token/s"
        yield f"Fastest at batch size {size.batch_size} within {NEAR_WORDS}: {size.near}{unit}"


def glance_sheet(view: RunView) -> Iterator[Sheet]:
    """One line for each batch size with two ranked cells or more."""
    repeats = over_repeats(view)
    sizes = _sizes(view, repeats)
    if not sizes:
        return
    repeated = (
        f" Throughput: the mean of up to {view.record.repeats} repeats, its interval by their spread; see Repeats."
        if repeats
        else ""
    )
    notes = (
        "Of the methods that are ranked. Statistically tied: the difference is no larger than the two intervals allow "
        "(root of the sum of their squares), and measuring longer would tell. Methods without an interval, or with "
        f"one wider than ± {WIDEST_COMPARED:.0%} (uneven), are not looked at.{repeated} Memory: peak in use over the "
        "batches that each measured, of which longer prompts need more; of an engine that reserves, what it reserved. "
        "Energy: where a counter can be read.",
        *glance_note(view),
    )
    columns = [column for column in _GLANCE if column.value != "near" or sizes[0].near is not None]
    yield sheet("At a glance", columns, sizes, notes)


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
            quality="",
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
            quality="",
        )
        for row in ranked
        if row.rate
    ]
