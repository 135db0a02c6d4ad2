"""How well a throughput is known: the 95 % confidence interval of a ratio of sums, from its batches.

Throughput is sum of tokens / sum of latencies. Its error follows by linearisation (the delta method; Cochran,
"Sampling Techniques", 3rd ed. 1977, chapter 6) from the residuals ``tokens - throughput x latency`` of the batches. The
interval is Student's, with three corrections, because batches of one process are neither independent nor normal, and
because a rule that stops when the interval is narrow stops too early by chance:

1. Neighbouring batches are alike. The variance of the mean is that of a first-order autoregression with the correlation
   of neighbouring residuals, its bias taken out (Marriott and Pope, Biometrika 41, 1954; Kendall, the same volume), and
   one standard error added, since what few batches show of a correlation is little. Only a positive one counts.
   Degrees of freedom are those that a correlated series leaves to its variance (Bayley and Hammersley, "The effective
   number of independent observations in an autocorrelated time series", Supplement to the JRSS 8, 1946).
2. Latencies are skewed. Student's interval then covers too seldom by a term of skewness squared / n (Hall, "The
   Bootstrap and Edgeworth Expansion", 1992, chapter 2); the half width grows by such a term. So do intervals for
   simulations that are stopped by their width: Tafazzoli, Wilson, Lada and Steiger, "Performance of Skart: a skewness-
   and autoregression-adjusted batch-means procedure", INFORMS Journal on Computing 23 (2011).
3. Stopping early goes together with a variance that is small by chance (Singham and Schruben, "Finite-sample
   performance of absolute precision stopping rules", INFORMS Journal on Computing 24, 2012): a term of 1 / n, beside
   what ``contract.stopping`` does about it.

The constants of 1 to 3 are chosen by simulation; ``tests/contract/test_contract_coverage.py`` holds them to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from pydantic import Field

from bench_core.contract.records.record import Record

CONFIDENCE = 0.95
# Fewer say too little of their own spread. The "at least 5 batches".
FEWEST_BATCHES = 5
_HIGHEST_CORRELATION = 0.9
_CORRELATION_ERRORS = 1.0
_SKEWNESS_TERM = 2.0
_STOPPING_TERM = 2.0


class Interval(Record):
    """The 95 % confidence interval of a throughput, tokens/s.

    Attributes:
        low_tok_s, high_tok_s: throughput - and + half width.
        relative_half_width: half width / throughput; 0.01: within 1 %.
        correlation: of neighbouring batches as it was reckoned with, 0 where they show none.
    """

    low_tok_s: float
    high_tok_s: float
    relative_half_width: float = Field(ge=0)
    correlation: float = Field(ge=0, lt=1)

    @property
    def half_width_tok_s(self) -> float:
        """Half its width."""
        return (self.high_tok_s - self.low_tok_s) / 2

    def widened(self, by: float) -> Interval:
        """The same with a share of the throughput added to both halves."""
        middle = (self.low_tok_s + self.high_tok_s) / 2
        return self.model_copy(
            update={
                "low_tok_s": self.low_tok_s - by * middle,
                "high_tok_s": self.high_tok_s + by * middle,
                "relative_half_width": self.relative_half_width + by,
            }
        )


def throughput_interval(
    tokens: Sequence[int], latencies_s: Sequence[float], *, least_freedom: float = 1.0
) -> Interval | None:
    """The interval from output tokens and latency of each batch, in order of time.

    ``None`` for fewer than five batches, and where nothing was generated.

    Args:
        least_freedom: degrees of freedom that are left to batches however alike neighbours are. 1 is what logs of
            before the workload was looked at were judged by; ``contract.workload_rate`` says why it is 3 there.
    """
    n = len(tokens)
    if n < FEWEST_BATCHES or sum(tokens) <= 0:
        return None
    throughput = sum(tokens) / math.fsum(latencies_s)
    mean_tokens = sum(tokens) / n
    residuals = [(count - throughput * s) / mean_tokens for count, s in zip(tokens, latencies_s, strict=True)]
    return interval_around(throughput, residuals, least_freedom=least_freedom)


def interval_around(
    throughput_tok_s: float,
    residuals: Sequence[float],
    *,
    least_freedom: float,
    columns: int = 0,
    leverage: float = 0.0,
    likeness: float = 1.0,
) -> Interval:
    """The interval of a throughput from what is left of the batches' differences.

    Args:
        residuals: relative to the throughput, in order of time; their sum is 0.
        least_freedom: as in ``throughput_interval``.
        columns: slopes that were fitted beside the mean.
        leverage: variance that these add to the mean / variance of one residual.
        likeness: of independent residuals, how many times -1 / n their lag-1 correlation is expected to be, for having
            been fitted. 1 for a mean alone.
    """
    squares = math.fsum(value * value for value in residuals)
    half_width, correlation = 0.0, 0.0
    if squares > 0.0:
        n = len(residuals)
        lag = math.fsum(a * b for a, b in itertools.pairwise(residuals)) / squares
        correlation = _guarded(lag, n, likeness)
        # Variance of the mean of n values / variance of one x n, and what the sample's variance lacks by the same
        # cause.
        inflation = min(_inflation(correlation, n), n / 2)
        variance = squares / (n - columns - inflation) * inflation * (1 / n + leverage)
        freedom = max((n - columns) * (1 - correlation**2) / (1 + correlation**2) - 1, least_freedom)
        skewness = math.fsum(value**3 for value in residuals) / n / (squares / n) ** 1.5
        widening = 1 + (_STOPPING_TERM + _SKEWNESS_TERM * skewness**2) / n
        half_width = student_quantile(freedom) * math.sqrt(variance) * widening
    return Interval(
        low_tok_s=throughput_tok_s * (1 - half_width),
        high_tok_s=throughput_tok_s * (1 + half_width),
        relative_half_width=half_width,
        correlation=correlation,
    )


def _guarded(lag: float, n: int, likeness: float) -> float:
    """A lag-1 correlation without its bias of -(likeness + 4 x it) / n, one standard error higher, 0 to 0.9."""
    unbiased = min(max((n * lag + likeness) / (n - 4), -_HIGHEST_CORRELATION), _HIGHEST_CORRELATION)
    guarded = unbiased + _CORRELATION_ERRORS * math.sqrt((1 - unbiased**2) / n)
    return min(max(guarded, 0.0), _HIGHEST_CORRELATION)


def _inflation(correlation: float, n: int) -> float:
    """n x variance of the mean / variance of one value, of a first-order autoregression."""
    rest = 1 - correlation
    return (1 + correlation) / rest - 2 * correlation * (1 - correlation**n) / (n * rest * rest)


def student_quantile(freedom: float) -> float:
    """The 0.975 quantile of Student's distribution with 1 degree of freedom or more, also between whole numbers.

    Hill, "Algorithm 396: Student's t-quantiles", Communications of the ACM 13 (1970). Exact at 1 and 2, five digits
    from 3 on, never too small; between 1 and 2, which is met in older logs alone, up to 17 % too large.
    """
    return _quantile(round(freedom, 2))


@lru_cache(maxsize=4096)
def _quantile(freedom: float) -> float:
    tails = 1 - CONFIDENCE
    if freedom <= 1.0:
        return 1 / math.tan(tails * math.pi / 2)
    if freedom == 2.0:
        return math.sqrt(2 / (tails * (2 - tails)) - 2)
    a = 1 / (freedom - 0.5)
    b = 48 / (a * a)
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * tails) ** (2 / freedom)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tails / 2)
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        z = ((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3
        y = ((1 / z + 0.5 / (freedom + 4)) * y - 1) * (freedom + 1) / (freedom + 2) + 1 / y
    return math.sqrt(freedom * y)
