"""The rule: which changes pass, which fail, and how long to measure what cannot be told. Formulas only.

With ``w`` the worsening, its 95 % interval and the bound ``b``, all as logarithms:

- PASS: the whole interval lies below the bound.
- FAIL: the whole interval lies above it, and still does when so many changes are looked at (Holm's procedure).
- INCONCLUSIVE: everything else.

A comparison passes only if every change passes, so that no correction is needed there (an intersection-union test:
Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24, 1982). It fails where a single
one fails, and of hundreds some would by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

from bench_core.compare.change import TAIL, Change, holm, tail_of
from bench_core.compare.quantities import Quantity

# A change that lies at the bound is never told from it. Nobody measures longer than for knowing it to this share of it.
FINEST = 0.25
# Peaks of memory are not drawn from a distribution; an allocator's and a driver's own come to less than this.
MEMORY_SLACK_BYTES = 32 * 2**20
_NORMAL = NormalDist()


class Verdict(str, Enum):
    """What is said of one change, or of one cell without numbers."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOTE = "NOTE"  # told, and no part of what is decided


WORST_FIRST = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.NOTE)


@dataclass(frozen=True)
class Judged:
    """A verdict and what there is to say of it.

    Attributes:
        cause: in words, where it is neither PASS nor FAIL by its interval.
        factor: how many times as much would have to be measured to tell; absent where more would not help.
    """

    verdict: Verdict
    cause: str = ""
    factor: float | None = None


def judge(changes: Sequence[tuple[Quantity, Change, float]]) -> list[Judged]:
    """Judges the changes of one comparison: (quantity, change, bound) of each. Those without an interval pass or fail
    by nothing, and count for nothing."""
    known = [(place, *line) for place, line in enumerate(changes) if line[1].known]
    tails = [_tail(quantity, change, bound) for _, quantity, change, bound in known]
    apart = holm(tails)
    found = [Judged(Verdict.INCONCLUSIVE, change.absent) for _, change, _ in changes]
    for (place, quantity, change, bound), seen in zip(known, apart, strict=True):
        found[place] = _judged(quantity, change, bound, seen=seen, among=len(known))
    return found


def judge_memory(old_bytes: float, new_bytes: float, quantity: Quantity, bound: float) -> Judged:
    """A peak that was measured once: it fails beyond the bound and the slack, and passes otherwise."""
    worse = quantity.worsening(math.log(new_bytes / old_bytes)) > quantity.limit(bound)
    return Judged(Verdict.FAIL if worse and new_bytes - old_bytes > MEMORY_SLACK_BYTES else Verdict.PASS)


def _sides(quantity: Quantity, change: Change) -> tuple[float, float, float]:
    """The worsening, and how far its interval reaches below and above."""
    assert change.below is not None  # noqa: S101  # the callers have looked
    assert change.above is not None  # noqa: S101
    low, high = (change.above, change.below) if quantity.higher_is_better else (change.below, change.above)
    return quantity.worsening(change.log), low, high


def _tail(quantity: Quantity, change: Change, bound: float) -> float:
    worse, low, _ = _sides(quantity, change)
    return tail_of(worse - quantity.limit(bound), low, change.freedom)


def _judged(quantity: Quantity, change: Change, bound: float, *, seen: bool, among: int) -> Judged:
    worse, low, high = _sides(quantity, change)
    limit = quantity.limit(bound)
    if worse + high < limit:
        return Judged(Verdict.PASS)
    if seen:
        return Judged(Verdict.FAIL)
    distance = max(abs(worse - limit), FINEST * limit)
    if worse <= limit:
        return Judged(Verdict.INCONCLUSIVE, "the noise is too large", (high / distance) ** 2)
    # To be told among so many, the last one that Holm looks at has the level of all.
    stricter = _NORMAL.inv_cdf(1 - TAIL / among) / _NORMAL.inv_cdf(1 - TAIL)
    cause = "the noise is too large" if worse - low <= limit else f"worse, which may be chance among {among} changes"
    return Judged(Verdict.INCONCLUSIVE, cause, max((low * stricter / distance) ** 2, 1.0))
