"""Whether a series rises or falls: Mann and Kendall's test, and Theil and Sen's slope. No clock, no randomness.

Sources: Mann, "Nonparametric tests against trend", Econometrica 13 (1945); Kendall, "Rank Correlation Methods" (1975),
for the statistic, its variance with ties and the normal approximation with continuity correction; Sen, "Estimates of
the regression coefficient based on Kendall's tau", JASA 63 (1968), for the slope; Yue and Wang, "The Mann-Kendall test
modified by effective sample size to detect trend in serially correlated hydrological series", Water Resources
Management 18 (2004), for the variance of a correlated series, with the correlation estimated after the trend has been
taken out.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from pydantic import Field

from bench_core.contract.records.record import Record

# Pairs grow with the square of a series' length: a longer one is first averaged in consecutive blocks.
_LONGEST = 64
# Up to here the distribution of the statistic is counted out (Kendall 1975, table 1); beyond, it is normal enough.
_EXACT_UP_TO = 10
# The correlation of fewer values than this cannot be told from chance.
_CORRELATED_FROM = 20
_HIGHEST_CORRELATION = 0.9


class Trend(Record):
    """A test for a trend.

    Attributes:
        n: values tested, before they were averaged in blocks.
        p_value: two-sided probability of a trend at least as clear in a series that has none.
        relative_change: Theil and Sen's slope over the whole series / its median; 0.02: it rose by 2 %.
    """

    n: int = Field(ge=2)
    p_value: float
    relative_change: float

    def is_seen(self, significance: float, tolerance: float) -> bool:
        """Whether it is unlikely to be chance and large enough to matter: both limits are inclusive."""
        return self.p_value <= significance and abs(self.relative_change) >= tolerance


def trend(values: Sequence[float]) -> Trend:
    """Tests a series of two positive values or more, in order of time."""
    n = len(values)
    series = _blocks(values)
    slope = _slope(series)
    # Written out: a large run spends a twentieth of its reading here.
    statistic = sum(
        [(later > earlier) - (later < earlier) for k, earlier in enumerate(series) for later in series[k + 1 :]]
    )
    ties = [count for count in Counter(series).values() if count > 1]
    if len(series) <= _EXACT_UP_TO and not ties:
        p_value = _exact_p_value(len(series), abs(statistic))
    else:
        p_value = _normal_p_value(series, statistic, ties, slope)
    return Trend(n=n, p_value=p_value, relative_change=slope * (len(series) - 1) / statistics.median(series))


def _blocks(values: Sequence[float]) -> list[float]:
    """The series, or means of consecutive blocks of it that differ in size by one value at most."""
    n = len(values)
    if n <= _LONGEST:
        return list(values)
    edges = [k * n // _LONGEST for k in range(_LONGEST + 1)]
    return [math.fsum(values[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]


def _slope(series: Sequence[float]) -> float:
    """Median of the slopes of all pairs, per step (Sen 1968)."""
    return statistics.median(
        [(later - earlier) / step for k, earlier in enumerate(series) for step, later in enumerate(series[k + 1 :], 1)]
    )


def _exact_p_value(n: int, statistic: int) -> float:
    """Among all orders of ``n`` different values, the share whose statistic lies at least as far from 0."""
    counts = _inversions(n)
    pairs = n * (n - 1) // 2
    beyond = sum(count for inversions, count in enumerate(counts) if abs(pairs - 2 * inversions) >= statistic)
    return beyond / math.factorial(n)


@lru_cache(maxsize=_EXACT_UP_TO)
def _inversions(n: int) -> tuple[int, ...]:
    """How many orders of ``n`` values have 0, 1, 2 ... inversions (Mahonian numbers)."""
    counts = [1]
    for size in range(2, n + 1):
        longer = [0] * (len(counts) + size - 1)
        for inversions, count in enumerate(counts):
            for more in range(size):
                longer[inversions + more] += count
        counts = longer
    return tuple(counts)


def _normal_p_value(series: Sequence[float], statistic: int, ties: Sequence[int], slope: float) -> float:
    n = len(series)
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    correlation = _correlation([value - slope * k for k, value in enumerate(series)])
    variance *= (1 + correlation) / (1 - correlation)
    if variance <= 0:
        return 1.0  # every value is the same
    z = max(abs(statistic) - 1, 0) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def _correlation(residuals: Sequence[float]) -> float:
    """Between neighbours, 0 to 0.9, its bias taken out (Marriott and Pope 1954, Kendall 1954); 0 for a short series."""
    n = len(residuals)
    if n < _CORRELATED_FROM:
        return 0.0
    mean = math.fsum(residuals) / n
    squares = math.fsum((value - mean) ** 2 for value in residuals)
    if squares <= 0:
        return 0.0
    lag = math.fsum((a - mean) * (b - mean) for a, b in itertools.pairwise(residuals)) / squares
    return min(max((n * lag + 1) / (n - 4), 0.0), _HIGHEST_CORRELATION)
