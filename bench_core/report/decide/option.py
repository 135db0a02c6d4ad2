"""A cell of any kind in the numbers that a decision needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench_core.contract.measures.repeats import BetweenRuns
from bench_core.contract.statistics.correlated import Estimate
from bench_core.report.explain.marks import SPECULATIVE, is_throttled, remarks, told_interval, untold
from bench_core.report.explain.repeats import over_repeats
from bench_core.report.explain.same_batches import compared_rates
from bench_core.report.served import load_points
from bench_core.runs.view import DAMAGED, Row, RunView, ServedRow

THROTTLED, SEQUENTIAL, SATURATED = "throttled", "sequential", "saturated"


@dataclass(frozen=True)
class Quantity:
    """A number and its 95 % interval, in the unit of its name; ``None`` where there is no interval to compare by."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @classmethod
    def of(cls, found: Estimate | None) -> Quantity | None:
        """Of an estimate of a cell under load."""
        return None if found is None else cls(found.value, found.low, found.high)


@dataclass(frozen=True)
class Option:
    """One planned cell; a number is ``None`` where it has none, or where it is not known.

    Attributes:
        cell: its name; ``image`` and ``variant``: of its plan; ``method``: its name in tables.
        point: word of what the cells beside it have in common: ``b16``, ``c16``, ``r8``; ``point_words``: the same for
            people, as ``batch size 16``.
        outcome: ``ok``, or how it failed; ``cause``: why, in one line.
        unranked: why a cell with numbers is compared with no other; empty where it is compared.
        scripted: of the scripted engine, which is never ranked.
        remarks: what else is to be known of its numbers, in a word or two each.
        throughput_tok_s: output tokens/s; its interval only where one is told. Of a grid that was measured several
            times, the mean of the repeats and the interval by their spread.
        compared_tok_s: what closed batches are ranked by, tokens/s: the same, or for a cell without an interval what
            the batches say that others measured too (``same_batches.compared_rates``).
        ttft_s, tpot_s: mean over prompts of closed batches, median over requests under load.
        ttft_p99_s, tpot_p99_s: under load, where enough requests tell.
        memory_bytes: peak: on the GPU where the run had one, else of the engine's processes.
        unused_bytes: of the memory, what the engine's pool reserved and did not fill; a smaller pool might do.
        joules_per_token: energy of the device for each output token.
        bits: for each weight.
        nll_increase: nats for each token above the reference's; 0 for the reference itself. Neither this nor the next
            of random weights, of which no text is likelier than another.
        perplexity: of the fixed text.
        repeat: which of several measurements of the same cell.
        run: the run's name, where cells of several runs stand beside each other.
    """

    cell: str
    image: str
    variant: str
    method: str
    point: str
    point_words: str
    batch_size: int | None
    concurrency: int | None
    request_rate: float | None
    outcome: str
    cause: str
    unranked: str
    scripted: bool
    remarks: tuple[str, ...]
    throughput_tok_s: Quantity | None = None
    compared_tok_s: float | None = None
    ttft_s: Quantity | None = None
    tpot_s: Quantity | None = None
    ttft_p99_s: Quantity | None = None
    tpot_p99_s: Quantity | None = None
    memory_bytes: int | None = None
    unused_bytes: int | None = None
    joules_per_token: float | None = None
    bits: float | None = None
    nll_increase: float | None = None
    perplexity: float | None = None
    repeat: int = 1
    run: str = ""

    @property
    def ranked(self) -> bool:
        """Whether it has numbers that may be compared with others'."""
        return self.throughput_tok_s is not None and not self.unranked and not self.scripted


def options_of(view: RunView) -> tuple[Option, ...]:
    """All planned cells but further repeats: closed batches by size, then load points; each in the plan's order."""
    return (*_batches(view), *_under_load(view))


def points_of(options: tuple[Option, ...]) -> dict[str, str]:
    """Word and words of every batch size and load point, in the order in which they first occur."""
    return {option.point: option.point_words for option in options}


def _batches(view: RunView) -> Iterator[Option]:
    repeats = over_repeats(view)
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        compared = {} if repeats else compared_rates(view, rows)
        for row in rows:
            summed = repeats.get(row.planned.cell)
            throughput = _over_repeats(summed) if summed and row.result else _throughput(row)
            value = throughput.value if throughput else None
            yield _batch(view, row, throughput, compared.get(row.planned.cell, value))


def _over_repeats(summed: BetweenRuns) -> Quantity:
    mean, half = summed.mean_tok_s, summed.half_width_tok_s
    return Quantity(mean) if half is None else Quantity(mean, mean - half, mean + half)


def _throughput(row: Row) -> Quantity | None:
    if row.rate is None or row.result is None:
        return None
    interval = told_interval(row)
    ends = (interval.low_tok_s, interval.high_tok_s) if interval else (None, None)
    return Quantity(row.rate.throughput_tok_s, *ends)


def _batch(view: RunView, row: Row, throughput: Quantity | None, compared_tok_s: float | None) -> Option:
    planned, metrics = row.planned, row.result.metrics if row.result else None
    judged = view.quality if not view.record.model.synthetic else None
    quality = judged.cells.get(planned.cell) if judged else None
    score = quality.likelihood if quality else None
    increase = quality.difference.nat_per_token if quality and quality.difference else None
    if increase is None and score is not None and judged and row.label == judged.likelihood_reference:
        increase = 0.0
    told = throughput is not None and throughput.low is not None
    said = [word for word in remarks(row) if not (told and word == untold(row))]
    said += [SEQUENTIAL] if row.sequential and planned.batch_size > 1 else []
    said += [THROTTLED] if metrics is not None and is_throttled(metrics) else []
    return Option(
        cell=planned.cell, image=planned.image, variant=planned.variant, method=row.label,
        point=planned.scenario.word, point_words=planned.scenario.words,
        batch_size=planned.batch_size, concurrency=None, request_rate=None,
        outcome=DAMAGED if row.damage else row.status, cause=row.problem,
        unranked=view.unranked(row), scripted=not planned.ranked, remarks=tuple(said),
        throughput_tok_s=throughput,
        compared_tok_s=compared_tok_s,
        ttft_s=Quantity(metrics.ttft_s.mean) if metrics and metrics.ttft_s else None,
        tpot_s=Quantity(metrics.tpot_s.mean) if metrics and metrics.tpot_s else None,
        memory_bytes=view.peak_memory_bytes(metrics) if metrics else None,
        unused_bytes=metrics.unused_bytes if metrics else None,
        joules_per_token=metrics.telemetry.joules_per_output_token if metrics and metrics.telemetry else None,
        bits=row.bits.per_weight if row.bits else None,
        nll_increase=increase,
        perplexity=score.perplexity if score else None,
        repeat=planned.repeat,
    )  # fmt: skip


def _under_load(view: RunView) -> Iterator[Option]:
    for load in load_points(view):
        for row in view.served:
            if row.load.word == load.word and row.planned.repeat == 1:
                yield _served(view, row)


def _served_remarks(row: ServedRow) -> tuple[str, ...]:
    saturated = row.result is not None and row.result.metrics.saturated
    return ((SPECULATIVE,) if row.speculative else ()) + ((SATURATED,) if saturated else ())


def _peak_under_load(view: RunView, row: ServedRow) -> int | None:
    """As of closed batches: of the GPU where the run had one, else of the server's processes."""
    if row.result is None:
        return None
    return row.result.metrics.device_peak_bytes if view.on_cuda else row.result.host_peak_bytes


def _served(view: RunView, row: ServedRow) -> Option:
    planned, load = row.planned, row.load
    metrics = row.result.metrics if row.result else None
    ttft, tpot = (metrics.ttft_s, metrics.tpot_s) if metrics else (None, None)
    telemetry = metrics.telemetry if metrics else None
    throughput = Quantity.of(metrics.output_throughput_tok_s) if metrics else None
    return Option(
        cell=planned.cell, image=planned.image, variant=planned.variant, method=row.label,
        point=load.word, point_words=load.words,
        batch_size=None, concurrency=load.concurrency, request_rate=load.request_rate,
        outcome=DAMAGED if row.damage else row.status, cause=row.problem,
        unranked=row.unranked, scripted=not planned.ranked,
        remarks=_served_remarks(row),
        throughput_tok_s=throughput,
        compared_tok_s=throughput.value if throughput else None,
        ttft_s=Quantity.of(ttft.p50) if ttft else None,
        tpot_s=Quantity.of(tpot.p50) if tpot else None,
        ttft_p99_s=Quantity.of(ttft.p99) if ttft else None,
        tpot_p99_s=Quantity.of(tpot.p99) if tpot else None,
        memory_bytes=_peak_under_load(view, row),
        joules_per_token=telemetry.joules_per_output_token if telemetry else None,
        repeat=planned.repeat,
    )  # fmt: skip
