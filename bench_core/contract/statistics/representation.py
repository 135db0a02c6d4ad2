"""Whether the batches that were measured represent the workload, as far as the work in them can tell.

A cell measures the first batches of its workload. Where the prompts were shuffled these are a random sample, and where
the dataset's own order says nothing of their lengths they are as good as one. Where it is sorted, grouped or cyclic
they are not, and an interval from them is narrow around a wrong number. The work in every batch of the workload is
known beforehand, so this is a question of survey sampling that can be answered: do the measured batches look like a
simple random sample, without replacement, of the batches there are? For each kind of work (a batch's prompt tokens, and
those of its longest prompt), three things are looked at:

1. The mean of the measured batches' ranks among all (Wilcoxon 1945, "Individual comparisons by ranking methods", with
   the variance of a finite population; Cochran, "Sampling Techniques", 3rd ed. 1977, chapter 2): whether they are
   longer or shorter than the others. Sorted, grouped and drifting orders end here.
2. The mean distance of these ranks from the middle (Ansari and Bradley, "Rank-sum tests for dispersions", Annals of
   Mathematical Statistics 31, 1960): whether they are too much alike, or extremes. An order from the middle outwards,
   or the rise at the beginning of a long cycle, has the right mean and shows nothing of what else there is.
3. How far their mean work is from the workload's, in standard errors by their own spread: whether they would have known
   the workload's work, which is known, from themselves. Where one batch in ten is much longer and none of these was
   measured, ranks see nothing unlikely, and the batches know nothing of the long ones. Random samples of works with a
   long tail do this often, so it is no misfit by itself: the plain ratio speaks for such batches alone, and a line
   through them has an interval that grows with how far it must reach. ``contract.workload_rate`` uses that, or nothing.

Where one of them says no, the difference may still be too small to matter. How much it can matter is bounded: time does
not grow faster than work, so that throughput is wrong by no more than the distance between the two distributions of
work (Kantorovich and Rubinstein's, Wasserstein's first) / the workload's mean. Up to ``HARMLESS`` it is added to the
interval's half width; above, there is no interval. Nothing here looks at a latency.

The limits are chosen by simulation; ``tests/contract/test_contract_coverage.py`` holds them to it, and to how seldom a
random sample is taken for none.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from bench_core.contract.records.record import Record

# In standard deviations of a random sample's mean: 0.3 % of random samples lie beyond.
RANKS_BEYOND = 3.0
# In standard errors by the sample's own spread, which few batches know badly: Student's 0.99 quantile of seven degrees.
MEANS_APART = 3.5
# Of the workload's mean work. What is added to an interval must not be most of it.
HARMLESS = 0.02
# More groups would tell nothing that five to a few hundred measured batches could show.
GROUPS = 64

WorkName = Literal["prompt_tokens", "longest_prompt_tokens"]


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(later < earlier for earlier, later in itertools.pairwise(values)):
        raise ValueError("the values are not in order")
    return values


Spread = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=2.0**53)], ...],
    Field(min_length=1, max_length=GROUPS),
    AfterValidator(_ascending),
]


class WorkSpread(Record):
    """How work is spread over the full batches of a workload, for each kind of work.

    Ascending; of more than 64 batches the means of 64 equal parts of them in that order (a batch on an edge is shared).
    """

    prompt_tokens: Spread
    longest_prompt_tokens: Spread


class Misfit(Record):
    """Why measured batches do not represent their workload.

    Attributes:
        measured_batches, batches: the first so many, of so many full ones.
        work: what shows it.
        kind: ``mean``: the measured batches have more of it or less; ``spread``: as much on average, and they are too
            much alike or too little.
        measured_mean, workload_mean: of that work in a batch, tokens.
    """

    measured_batches: int = Field(ge=1)
    batches: int = Field(ge=1)
    work: WorkName
    kind: Literal["mean", "spread"]
    measured_mean: float
    workload_mean: float


class Likeness(NamedTuple):
    """What was found.

    Attributes:
        misfit: why the measured batches do not represent the workload; ``None`` where they do.
        apart: the same of what a line may yet make good: by ranks they are like the others, and their mean is apart.
        allowance: what the difference may make of a throughput at most, as a share of it; 0 for what a random sample
            differs by.
    """

    misfit: Misfit | None = None
    apart: Misfit | None = None
    allowance: float = 0.0


WHOLLY_ALIKE = Likeness()


def spread_of(values: Sequence[float]) -> tuple[float, ...]:
    """One of the columns of :class:`WorkSpread`.

    Whole numbers are added up as such, so that parts of equal works are equal.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n <= GROUPS:
        return tuple(map(float, ordered))
    sums = [0, *itertools.accumulate(ordered)]
    edges = [divmod(k * n, GROUPS) for k in range(GROUPS)]
    upto = [*(sums[whole] * GROUPS + part * ordered[whole] for whole, part in edges), sums[n] * GROUPS]
    return tuple(sorted((high - low) / n for low, high in itertools.pairwise(upto)))


def likeness(measured: Sequence[float], name: WorkName, spread: Spread, mean: float, batches: int) -> Likeness:
    """How the first batches' work of one kind, in the order measured, stands to that of all ``batches`` of a workload,
    whose mean is ``mean``."""
    n = len(measured)
    if n >= batches or n < 2:
        return WHOLLY_ALIKE
    by_rank = _unlike_by_rank(measured, _Ranks.of(spread), batches)
    if by_rank is None and not _apart(measured, mean):
        return WHOLLY_ALIKE
    distance = _distance(measured, spread) / mean
    if distance <= HARMLESS:
        return Likeness(allowance=distance)
    own = math.fsum(measured) / n
    misfit = Misfit(
        measured_batches=n, batches=batches, work=name, kind=by_rank or "mean", measured_mean=own, workload_mean=mean
    )
    return Likeness(misfit=misfit) if by_rank is not None else Likeness(apart=misfit)


def _apart(measured: Sequence[float], mean: float) -> bool:
    own = math.fsum(measured) / len(measured)
    error = statistics.stdev(measured, own) / math.sqrt(len(measured))
    return abs(own - mean) > max(MEANS_APART * error, 1e-9 * mean)


def _unlike_by_rank(measured: Sequence[float], ranks: _Ranks, batches: int) -> Literal["mean", "spread"] | None:
    n = len(measured)
    finite = math.sqrt((batches - n) / (batches - 1) / n)
    places = [ranks.place(value) for value in measured]
    if abs(statistics.fmean(places) - ranks.centre) > RANKS_BEYOND * finite * ranks.stdev:
        return "mean"
    from_middle = statistics.fmean(abs(place - ranks.centre) for place in places)
    return "spread" if abs(from_middle - ranks.width) > RANKS_BEYOND * finite * ranks.width_stdev else None


class _Ranks(NamedTuple):
    """Places of values among all, from 0 to 1; equal values share the middle of theirs.

    Attributes:
        centre, stdev: of all batches' places.
        width, width_stdev: of their distances from the centre.
    """

    spread: tuple[float, ...]
    centre: float
    stdev: float
    width: float
    width_stdev: float

    @classmethod
    def of(cls, spread: tuple[float, ...]) -> _Ranks:
        return _ranks(spread)

    def place(self, value: float) -> float:
        return _place(self.spread, value)


def _place(spread: tuple[float, ...], value: float) -> float:
    return (bisect.bisect_left(spread, value) + bisect.bisect_right(spread, value)) / 2 / len(spread)


@lru_cache(maxsize=64)
def _ranks(spread: tuple[float, ...]) -> _Ranks:
    places = [_place(spread, value) for value in spread]
    centre = statistics.fmean(places)
    widths = [abs(place - centre) for place in places]
    # A little more than nothing: equal works are never too far apart.
    return _Ranks(
        spread,
        centre,
        statistics.pstdev(places) + 1e-9,
        statistics.fmean(widths),
        statistics.pstdev(widths) + 1e-9,
    )


def _distance(measured: Sequence[float], spread: tuple[float, ...]) -> float:
    """Area between the two distribution functions (Vallender 1974: Wasserstein's first distance on a line)."""
    ordered = sorted(measured)
    n, k = len(ordered), len(spread)
    edges = sorted({i / n for i in range(n + 1)} | {j / k for j in range(k + 1)})
    area = 0.0
    for low, high in itertools.pairwise(edges):
        middle = (low + high) / 2
        area += (high - low) * abs(ordered[min(int(middle * n), n - 1)] - spread[min(int(middle * k), k - 1)])
    return area
