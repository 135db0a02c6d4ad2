"""A sample in a few numbers: mean, median, spread, and the percentiles that it carries."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import statistics
from collections.abc import Mapping, Sequence
from typing import overload

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
            stdev=_root(math.fsum([(value - mean) ** 2 for value in ordered]), len(ordered)),
            p90=percentile(ordered, 0.90),
            p95=percentile(ordered, 0.95),
            p99=percentile(ordered, 0.99),
        )

    @classmethod
    def of_counts(cls, counts: Mapping[float, int]) -> Distribution | None:
        """The same, to the last digit, of values that are counted: for hundreds of thousands of which few differ."""
        if not counts:
            return None
        ordered = _Counted(counts)
        mean = ordered.total(ordered.values) / len(ordered)
        middle = len(ordered) // 2
        return cls(
            n=len(ordered),
            mean=mean,
            median=ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2,
            min=ordered[0],
            max=ordered[len(ordered) - 1],
            stdev=_root(ordered.total([(value - mean) ** 2 for value in ordered.values]), len(ordered)),
            p90=percentile(ordered, 0.90),
            p95=percentile(ordered, 0.95),
            p99=percentile(ordered, 0.99),
        )


class _Counted(Sequence[float]):
    """Values in order, each as often as it was counted, without a list of them."""

    def __init__(self, counts: Mapping[float, int]) -> None:
        self.values = sorted(counts)
        self._times = [counts[value] for value in self.values]
        self._upto = list(itertools.accumulate(self._times))

    def __len__(self) -> int:
        return self._upto[-1]

    @overload
    def __getitem__(self, place: int) -> float: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[float]: ...
    def __getitem__(self, place: int | slice) -> float | Sequence[float]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        return self.values[bisect.bisect_right(self._upto, place)]

    def total(self, of_values: Sequence[float]) -> float:
        """The sum of something of each value, as often as that was counted. It rounds once, as that of a list does: a
        number is taken apart into two of half its digits (Dekker, 1971), and the product of a half with a count is
        exact."""
        sizes = [*filter(None, map(abs, of_values))]
        beyond = sizes and (max(sizes) > _LARGEST or min(sizes) < _SMALLEST)
        if beyond or max(self._times) > _LARGEST_COUNT:
            return math.fsum(itertools.chain.from_iterable(map(itertools.repeat, of_values, self._times)))
        apart = [value * _HALVES for value in of_values]
        high = [far - (far - value) for far, value in zip(apart, of_values, strict=True)]
        low = map(operator.sub, of_values, high)
        return math.fsum([*map(operator.mul, high, self._times), *map(operator.mul, low, self._times)])


# A half has 26 binary digits, of the 53 that a product may have. Beyond the other two something may over- or underflow.
_HALVES, _LARGEST_COUNT = 2.0**27 + 1.0, 2**27
_LARGEST, _SMALLEST = 1e250, 1e-250


def _root(squares: float, n: int) -> float | None:
    """Sample standard deviation, of the exact sum of squares: the same digits with every Python, as that of the
    standard library is not; ``None`` for one value."""
    return math.sqrt(squares / (n - 1)) if n > 1 else None


def percentile(ordered: Sequence[float], q: float) -> float | None:
    """The q-quantile of ascending values, or ``None`` where the sample does not carry it (see ``Distribution``)."""
    if len(ordered) * (1.0 - q) < VALUES_BEYOND_A_PERCENTILE - 1e-9:
        return None
    position = (len(ordered) - 1) * q
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
