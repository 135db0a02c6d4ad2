"""One cell measured several times, each time in a box of its own: how far the runs are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from pydantic import Field

from bench_core.contract.records.record import Record
from bench_core.contract.statistics.distribution import Distribution
from bench_core.contract.statistics.interval import student_quantile
from bench_core.contract.statistics.workload_rate import WorkloadRate

FEWEST_TO_AGREE = 3


class BetweenRuns(Record):
    """Throughput over the repeats of a cell, tokens/s.

    Attributes:
        runs: repeats with numbers.
        mean_tok_s, low_tok_s, high_tok_s: of the repeats' own throughputs: their mean, the lowest, the highest.
        half_width_tok_s: of the mean's 95 % confidence interval, Student's, by the repeats' spread; absent for one, and
            where a repeat's batches do not represent the workload: all repeats begin with the same batches, so that
            they agree on a wrong number.
        represents: whether no repeat's batches were found not to.
        stdev_tok_s, relative_stdev: sample standard deviation (n - 1) of them, and that / mean; absent for one repeat.
        within_relative_half_width: mean of the repeats' own relative half widths (95 %), to set beside it; absent where
            a repeat has no interval.
        agreeing: repeats whose throughput lies within what the others say: their mean ± the mean half width of their
            intervals and ``stdev_tok_s``. One without an interval adds no width, which is the stricter way. Absent for
            fewer than three repeats, and where batches do not represent the workload.
    """

    runs: int = Field(ge=1)
    mean_tok_s: float
    low_tok_s: float
    high_tok_s: float
    half_width_tok_s: float | None
    represents: bool = True
    stdev_tok_s: float | None
    relative_stdev: float | None
    within_relative_half_width: float | None
    agreeing: int | None


def between_runs(repeats: Sequence[WorkloadRate]) -> BetweenRuns | None:
    """Sums up the repeats of one cell; ``None`` for none."""
    spread = Distribution.of([rate.throughput_tok_s for rate in repeats])
    if spread is None:
        return None
    represents = all(rate.misfit is None for rate in repeats)
    widths = [rate.interval.relative_half_width for rate in repeats if rate.interval is not None]
    return BetweenRuns(
        runs=spread.n,
        mean_tok_s=spread.mean,
        low_tok_s=spread.min,
        high_tok_s=spread.max,
        half_width_tok_s=_half_width(spread) if represents else None,
        represents=represents,
        stdev_tok_s=spread.stdev,
        relative_stdev=spread.stdev / spread.mean if spread.stdev is not None and spread.mean > 0 else None,
        within_relative_half_width=sum(widths) / len(widths) if len(widths) == len(repeats) else None,
        agreeing=_agreeing(repeats, spread.stdev) if represents else None,
    )


def _half_width(spread: Distribution) -> float | None:
    return None if spread.stdev is None else student_quantile(spread.n - 1) * spread.stdev / math.sqrt(spread.n)


def _agreeing(repeats: Sequence[WorkloadRate], stdev_tok_s: float | None) -> int | None:
    if stdev_tok_s is None or len(repeats) < FEWEST_TO_AGREE:
        return None
    known = [(rate.throughput_tok_s, rate.interval.half_width_tok_s if rate.interval else 0.0) for rate in repeats]
    found = 0
    for index, (own, _) in enumerate(known):
        others = [*known[:index], *known[index + 1 :]]
        middle = fmean(throughput for throughput, _ in others)
        found += abs(own - middle) <= fmean(half_width for _, half_width in others) + stdev_tok_s
    return found
