"""95 % intervals of means, throughputs, percentiles and shares of requests that are not independent of each other.

Requests share a queue and a batch, so what follows a slow one is slow as well, and the formulas for independent values
are far too sure. Here the series, in order of time, is cut into equal blocks, whose means are nearly independent where
blocks are long ("batch means": Conway, "Some tactical problems in digital simulation", Management Science 10, 1963; Law
and Kelton, "Simulation Modeling and Analysis", chapter 9). From the spread of ``k`` block means follows the variance of
the whole mean, with these corrections:

1. As many blocks as show no clear correlation of neighbours: 64, then fewer, and 10 at the least. What correlation is
   left inflates the variance by that of a first-order autoregression, its bias taken out, a standard error added where
   the series has shown that it is correlated. Degrees of freedom are those that this correlation leaves.
2. Block means of a queue are skewed: now and then there is a busy period. Both ends are moved by the inverse of Hall's
   cubic transformation where that moves them outwards (Johnson, "Modified t tests and confidence intervals for
   asymmetrical populations", JASA 73, 1978; Hall, "On the removal of skewness by transformation", JRSS B 54, 1992).
   Both corrections together are Skart (Tafazzoli, Wilson, Lada and Steiger, INFORMS Journal on Computing 23, 2011).
3. A percentile is a mean in disguise: that of "the value lies above it". Its variance comes from the blocks as well,
   and the ends are order statistics (Woodruff, "Confidence intervals for medians and other position measures", JASA 47,
   1952).

Only few values, blocks without end alike and ends beyond the sample make an interval absent. None is refused for what
the values look like otherwise: a sample without a busy period looks best and is worst, so that such a rule would keep
those that mislead. The constants are chosen by simulation of queues whose truth is known;
``tests/contract/serving/test_serving_coverage.py`` holds them to it, and says where they end: in a window that is not
many times as long as a queue needs to forget, intervals are wide and cover too seldom.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from bench_core.contract.records.record import Record
from bench_core.contract.statistics.distribution import percentile
from bench_core.contract.statistics.interval import student_quantile

# Numbers of blocks that are tried, the most first. Fewer than ten say too little of their own spread.
BLOCKS = (64, 48, 32, 24, 16, 12, 10)
FEWEST_VALUES = BLOCKS[-1]
# Of a throughput: equal pieces of time; each number of blocks is a divisor.
_PIECES = 960
_CLEAR_ERRORS = 1.0
_GUARD_ERRORS = 1.0
_LIGHT_GUARD_ERRORS = 0.25
_HIGHEST_CORRELATION = 0.9
_LEAST_FREEDOM = 3.0
# Independent values that have to lie beyond a percentile, in effect, for it to have an interval. Beyond the 90th it is
# more: there the few samples of a queue that pass for large enough are those that missed its worst moments.
_EFFECTIVE_BEYOND = 2.0
_EFFECTIVE_FAR_BEYOND = 5.0
_FAR = 0.9
_FEW = f"fewer than {FEWEST_VALUES} values"
_ALIKE = "neighbouring tenths of the series are alike: it is too short for an interval"
_LITTLE_BEYOND = "so many of the values are alike that hardly any lies beyond the percentile independently"


class Estimate(Record):
    """A number and its 95 % interval, in the unit of its name.

    Attributes:
        value: what was measured.
        low, high: the interval's ends; ``None`` where the sample does not carry one.
        n: values that it is of.
        n_effective: independent values that would know it as well.
        absent: why there is no interval, in words; empty where there is one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = Field(ge=0)
    n_effective: float | None = None
    absent: str = ""

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width / value; infinite where there is no interval."""
        if self.low is None or self.high is None:
            return math.inf
        half = (self.high - self.low) / 2
        return half / abs(self.value) if self.value else (math.inf if half else 0.0)


class Spread(NamedTuple):
    """What the blocks of a series say of its mean.

    Attributes:
        mean: of all values.
        error: standard error of the mean.
        quantile: Student's, for 95 %.
        skew: of the mean, as Hall's transformation wants it: skewness of block means / (6 x root of their number).
        blocks: their number.
        alike: neighbouring blocks are alike even where there are only ten.
    """

    mean: float
    error: float
    quantile: float
    skew: float
    blocks: int
    alike: bool

    @property
    def below(self) -> float:
        """How far the interval reaches below the mean."""
        return max(_hall(self.quantile, self.skew), self.quantile) * self.error

    @property
    def above(self) -> float:
        """How far it reaches above."""
        return max(-_hall(-self.quantile, self.skew), self.quantile) * self.error


def spread(values: Sequence[float]) -> Spread:
    """Of ten values or more, in order of time."""
    n = len(values)
    mean = math.fsum(values) / n
    sums = [0.0, *itertools.accumulate(value - mean for value in values)]
    first = min(n, BLOCKS[0])
    residuals: list[float] = []
    blocks, lag, clear = first, 0.0, True
    for blocks in (first, *(k for k in BLOCKS if k < first)):
        edges = [i * n // blocks for i in range(blocks + 1)]
        residuals = [(sums[right] - sums[left]) * blocks / n for left, right in itertools.pairwise(edges)]
        lag = _correlation(residuals)
        clear = lag > _CLEAR_ERRORS / math.sqrt(blocks)
        if not clear:
            break
    squares = math.fsum(value * value for value in residuals)
    if squares <= 0.0:
        return Spread(mean, 0.0, student_quantile(blocks - 1), 0.0, blocks, False)
    guard = _LIGHT_GUARD_ERRORS if blocks == first else _GUARD_ERRORS
    rho = min(max(lag + guard / math.sqrt(blocks), 0.0), _HIGHEST_CORRELATION)
    variance = squares / (blocks - 1) / blocks * (1 + rho) / (1 - rho)
    freedom = max(blocks * (1 - rho * rho) / (1 + rho * rho) - 1, _LEAST_FREEDOM)
    skewness = math.fsum(value**3 for value in residuals) / blocks / (squares / blocks) ** 1.5
    return Spread(
        mean, math.sqrt(variance), student_quantile(freedom), skewness / (6 * math.sqrt(blocks)), blocks, clear
    )


def _correlation(residuals: Sequence[float]) -> float:
    """Of neighbours, its bias taken out (Marriott and Pope, Biometrika 41, 1954)."""
    squares = math.fsum(value * value for value in residuals)
    if squares <= 0.0:
        return 0.0
    n = len(residuals)
    return (n * math.fsum(a * b for a, b in itertools.pairwise(residuals)) / squares + 1) / (n - 4)


def _hall(quantile: float, skew: float) -> float:
    """The inverse of Hall's transformation; the quantile itself where there is no skewness."""
    if abs(skew) < 1e-6:
        return quantile
    cube = 1 + 6 * skew * (quantile - skew)
    return (math.copysign(abs(cube) ** (1 / 3), cube) - 1) / (2 * skew)


def batch_means(values: Sequence[float]) -> Estimate | None:
    """The mean of values in order of time; ``None`` for none."""
    n = len(values)
    if n < FEWEST_VALUES:
        return Estimate(value=math.fsum(values) / n, n=n, absent=_FEW) if n else None
    found = spread(values)
    if found.alike:
        return Estimate(value=found.mean, n=n, n_effective=effective(values, found), absent=_ALIKE)
    return Estimate(
        value=found.mean,
        low=found.mean - found.below,
        high=found.mean + found.above,
        n=n,
        n_effective=effective(values, found),
    )


def effective(values: Sequence[float], found: Spread) -> float:
    """Independent values that would know the mean as well: variance of the values / variance of their mean; at most
    their number."""
    n = len(values)
    if found.error <= 0.0:
        return float(n)
    variance = math.fsum((value - found.mean) ** 2 for value in values) / n
    return min(max(variance / found.error**2, 1.0), float(n))


def rate_interval(times_s: Sequence[float], amounts: Sequence[float], begin_s: float, end_s: float) -> Estimate:
    """Amounts per second between two moments, as tokens per second; what lies outside is left out.

    The window is cut into 960 equal pieces, whose amounts are the series. ``n`` is the number of times within it.
    """
    length_s = end_s - begin_s
    pieces = [0.0] * _PIECES
    n = 0
    for time_s, amount in zip(times_s, amounts, strict=True):
        if begin_s <= time_s < end_s:
            pieces[min(int((time_s - begin_s) / length_s * _PIECES), _PIECES - 1)] += amount
            n += 1
    value = math.fsum(pieces) / length_s
    if n < FEWEST_VALUES:
        return Estimate(value=value, n=n, absent=_FEW)
    found = batch_means([amount * _PIECES / length_s for amount in pieces])
    if found is None:  # pragma: no cover - there are pieces
        raise AssertionError
    low = None if found.low is None else max(found.low, 0.0)
    return found.model_copy(update={"value": value, "n": n, "low": low})


def percentile_interval(values: Sequence[float], q: float) -> Estimate | None:
    """The q-quantile (q from 0.5 on) of values in order of time; ``None`` where fewer than five lie beyond it.

    On the scale of log-odds the share of values above the quantile is nearly normal, and an end of the interval is
    always a share of the sample.
    """
    n = len(values)
    ordered = sorted(values)
    value = percentile(ordered, q)
    if value is None:
        return None
    if n < FEWEST_VALUES:
        return Estimate(value=value, n=n, absent=_FEW)
    if ordered[0] == ordered[-1]:
        return Estimate(value=value, low=value, high=value, n=n, n_effective=float(n))
    middle = ordered[round((n - 1) * q)]
    found = spread([float(one > middle) for one in values])
    if found.error <= 0.0:
        return Estimate(value=value, n=n, absent="too many values are equal to the percentile")
    known = _effective_share(found, n)
    # What the whole series says of its correlation counts as well: few values beyond say little of their own.
    beyond = min(known, effective(values, spread(values))) * (1 - q)
    error = 1 / math.sqrt(known * q * (1 - q))  # of the log-odds
    odds = math.log(q / (1 - q))
    # Where the true share above is larger than in the sample, the true quantile lies higher, by as much on this scale.
    low_q = _share(odds - found.below / found.error * error)
    high_q = _share(odds + found.above / found.error * error)
    absent = ""
    if found.alike:
        absent = _ALIKE
    elif beyond < (_EFFECTIVE_FAR_BEYOND if q > _FAR else _EFFECTIVE_BEYOND):
        absent = _LITTLE_BEYOND
    elif low_q * n < 1 or (1 - high_q) * n < 1:
        absent = "an end would lie beyond the sample"
    if absent:
        return Estimate(value=value, n=n, n_effective=known, absent=absent)
    low, high = ordered[math.floor(low_q * n) - 1], ordered[math.ceil(high_q * n) - 1]
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n, n_effective=known)


def _effective_share(found: Spread, n: int) -> float:
    """Independent values that would know a share as well: the binomial variance / that of the blocks."""
    if found.error <= 0.0:
        return float(n)
    return min(max(found.mean * (1 - found.mean) / found.error**2, 1.0), float(n))


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def share_interval(successes: Sequence[bool], latencies: Sequence[float] = ()) -> Estimate | None:
    """The share of successes, in order of time; ``None`` for none.

    Wilson's interval ("Probable inference, the law of succession, and statistical inference", JASA 22, 1927) with the
    effective number of values in place of theirs, and Student's quantile.

    Args:
        latencies: of the same requests, where they are known. Failures come in clusters as slow requests do, and few
            of them do not show it: no more values are effective than are for the mean latency.
    """
    n = len(successes)
    if not n:
        return None
    value = sum(successes) / n
    if n < FEWEST_VALUES:
        return Estimate(value=value, n=n, absent=_FEW)
    found = spread([float(one) for one in successes])
    known = _effective_share(found, n)
    if len(latencies) >= FEWEST_VALUES:
        known = min(known, effective(latencies, spread(latencies)))
    if found.alike:
        return Estimate(value=value, n=n, n_effective=known, absent=_ALIKE)
    low, high = wilson(value, known, found.quantile)
    return Estimate(value=value, low=low, high=high, n=n, n_effective=known)


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Both ends, from 0 to 1, for ``n`` independent values."""
    square = quantile * quantile
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)
