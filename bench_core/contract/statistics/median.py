"""How well a median is known, whatever the distribution of the values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench_core.contract.statistics.interval import CONFIDENCE


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The narrowest pair of order statistics that holds the median with 95 % confidence or more.

    How many independent values lie below the median is binomial with 1/2, whatever they come from: the k-th smallest
    and the k-th largest hold it unless fewer than k lie on one side (Thompson, "On confidence ranges for the median and
    other expectation distributions for populations of unknown distribution form", Annals of Mathematical Statistics 7,
    1936). ``None`` for fewer than six values, of which not even the extremes do.
    """
    n, ordered = len(values), sorted(values)
    outside, kept = 0.0, 0
    for below in range((n + 1) // 2):
        outside += 2 * math.comb(n, below) / 2**n
        if outside > 1 - CONFIDENCE:
            break
        kept = below + 1
    return (ordered[kept - 1], ordered[n - kept]) if kept else None
