"""A sample in a few numbers: mean, median, spread, and the percentiles that it carries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import Field

from bench_core.contract.records.record import Record

# A percentile q of n values is given only if at least this many values lie beyond it: p90 from 50 values, p99 from 500.
VALUES_BEYOND_A_PERCENTILE = 5


class Distribution(Record):
    """A sample in a few numbers, in the unit of its name.

    ``stdev`` is the sample standard deviation (n - 1), absent for one value. A percentile is absent where fewer than
    five values lie beyond it; percentiles interpolate linearly (Hyndman and Fan, 1996, type 7).
    """

    n: int = Field(ge=1)
    mean: float
    median: float
    min: float
    max: float
    stdev: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """Summarises values in any order; ``None`` for none at all."""
        if not values:
            return None
        ordered = sorted(values)
        mean = statistics.fmean(ordered)
        return cls(
            n=len(ordered),
            mean=mean,
            median=statistics.median(ordered),
            min=ordered[0],
            max=ordered[-1],
            stdev=_stdev(ordered, mean) if len(ordered) > 1 else None,
            p90=percentile(ordered, 0.90),
            p95=percentile(ordered, 0.95),
            p99=percentile(ordered, 0.99),
        )


def _stdev(values: Sequence[float], mean: float) -> float:
    """Sample standard deviation in two passes of exact sums: the same digits with every Python, as that of the
    standard library is not."""
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def percentile(ordered: Sequence[float], q: float) -> float | None:
    """The q-quantile of ascending values, or ``None`` where the sample does not carry it (see ``Distribution``)."""
    if len(ordered) * (1.0 - q) < VALUES_BEYOND_A_PERCENTILE - 1e-9:
        return None
    position = (len(ordered) - 1) * q
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
