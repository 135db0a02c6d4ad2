"""How much a number has changed from one run to another, and how well that is known. Formulas only.

Changes are logarithms of new / old: a doubling and a halving are equally large, and the interval of a ratio is that of
a difference. It comes from the two intervals: its lower half is the root of the sum of squares of the new
number's lower and the old number's upper half, and so on (MOVER, the method of variance estimates recovery: Zou and
Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008). Degrees of freedom
are Welch and Satterthwaite's (Biometrika 34, 1947).

A run's interval knows nothing of what differs from start to start. Where cells were measured repeatedly, each repeat in
a process of its own, their spread counts: ``s`` is the standard deviation of the repeats' logarithms about their own
run's mean, of both runs together, and the change is known to ``t s sqrt(1/r + 1/r')``. Few repeats know ``s`` badly, so
it is the larger of the cell's own and that of all cells of its image, with the degrees of freedom of the latter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from bench_core.compare.side import Known
from bench_core.contract.statistics.interval import CONFIDENCE, student_quantile

_NORMAL = NormalDist()
# Both tails of a 95 % interval: one of them is what a verdict may be wrong by.
TAIL = (1 - CONFIDENCE) / 2
_NORMAL_QUANTILE = _NORMAL.inv_cdf(1 - TAIL)
_MANY = 1e6  # degrees of freedom of what is known as well as it ever will be


REACHES_0 = "no interval: a run's own one is so wide that it reaches to 0"


@dataclass(frozen=True)
class Change:
    """A change as the logarithm of new / old.

    Attributes:
        log: of the numbers as they are.
        below, above: how far the 95 % interval reaches from there; ``None`` where there is none.
        freedom: degrees of freedom.
        repeats: whether the spread of repeats is what it is known by.
        absent: why there is no interval.
    """

    log: float
    below: float | None = None
    above: float | None = None
    freedom: float = _MANY
    repeats: bool = False
    absent: str = ""

    @property
    def known(self) -> bool:
        """Whether it has an interval."""
        return self.below is not None and self.above is not None

    @property
    def relative(self) -> float:
        """New / old - 1."""
        return math.expm1(self.log)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval's ends, as relative changes."""
        if self.below is None or self.above is None:
            return None
        return math.expm1(self.log - self.below), math.expm1(self.log + self.above)


@dataclass(frozen=True)
class Spread:
    """Squares of deviations of repeats from their run's mean, as logarithms, and their degrees of freedom."""

    squares: float = 0.0
    freedom: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one cell's repeats in one run."""
        logs = [math.log(value) for value in values]
        mean = math.fsum(logs) / len(logs)
        return cls(math.fsum((one - mean) ** 2 for one in logs), len(logs) - 1)

    def __add__(self, other: Spread) -> Spread:
        """Both together."""
        return Spread(self.squares + other.squares, self.freedom + other.freedom)

    @property
    def variance(self) -> float:
        """Of one repeat; 0 where there is none to tell by."""
        return self.squares / self.freedom if self.freedom else 0.0


def total(spreads: Iterable[Spread]) -> Spread:
    """All together."""
    return sum(spreads, Spread())


def unpaired(old: Sequence[Known], new: Sequence[Known]) -> Change:
    """From the numbers of two runs, one of each repeat, and their intervals."""
    before, after = _mean(old), _mean(new)
    log = math.log(after.value / before.value)
    absent = before.absent or after.absent
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return Change(log, absent=absent or "no interval")
    if min(before.low, after.low) <= 0.0:
        return Change(log, absent=REACHES_0)
    down = (math.log(after.value / after.low), math.log(before.high / before.value))
    up = (math.log(after.high / after.value), math.log(before.value / before.low))
    freedom = _welch([(max(down[0], up[0]), after.freedom), (max(down[1], up[1]), before.freedom)])
    return Change(log, math.hypot(*down), math.hypot(*up), freedom)


def paired(ratio: Known) -> Change:
    """From new / old on the same batches."""
    log = math.log(ratio.value)
    if ratio.low is None or ratio.high is None:
        return Change(log, absent=ratio.absent)
    return Change(log, math.log(ratio.value / ratio.low), math.log(ratio.high / ratio.value), ratio.freedom)


def with_repeats(change: Change, repeats: tuple[int, int], own: Spread, of_image: Spread) -> Change:
    """The same with what repeats are apart by; as it is where none tell.

    Args:
        repeats: numbers in the old and the new run.
        own: of this cell, both runs; ``of_image``: of all cells of its image, this one among them.
    """
    if not of_image.freedom:
        return change
    error = math.sqrt(max(own.variance, of_image.variance) * (1 / repeats[0] + 1 / repeats[1]))
    half = student_quantile(of_image.freedom) * error
    below, above = max(change.below or 0.0, half), max(change.above or 0.0, half)
    wider = half >= min(change.below or 0.0, change.above or 0.0)
    freedom = float(of_image.freedom) if wider else change.freedom
    return Change(change.log, below, above, freedom, repeats=wider)


def with_starts(change: Change, deviation: float, repeats: tuple[int, int]) -> Change:
    """The same with a standard deviation between starts that is known from elsewhere, as a share of the number."""
    if change.below is None or change.above is None:
        return change
    half = _NORMAL_QUANTILE * deviation * math.sqrt(1 / repeats[0] + 1 / repeats[1])
    return Change(change.log, math.hypot(change.below, half), math.hypot(change.above, half), change.freedom)


def tail_of(distance: float, half: float, freedom: float) -> float:
    """The probability that chance alone brings a number as far as ``distance`` above a limit, or farther, whose 95 %
    interval reaches ``half`` towards it.

    Student's tail by Wallace's transformation to a normal one ("Bounds on normal approximations to Student's and the
    chi-square distributions", Annals of Mathematical Statistics 30, 1959): within a few per cent of the logarithm from
    three degrees of freedom on.
    """
    if half <= 0.0:
        return 0.0 if distance > 0 else 1.0
    t = distance / half * student_quantile(freedom)
    scale = (8 * freedom + 1) / (8 * freedom + 3)
    return _NORMAL.cdf(-math.copysign(scale * math.sqrt(freedom * math.log1p(t * t / freedom)), t))


def holm(tails: Sequence[float], level: float = TAIL) -> list[bool]:
    """Which of many are told apart from chance, so that the probability that any one is by chance is at most ``level``
    (Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979)."""
    found = [False] * len(tails)
    for place, index in enumerate(sorted(range(len(tails)), key=tails.__getitem__)):
        if tails[index] > level / (len(tails) - place):
            break
        found[index] = True
    return found


def _mean(known: Sequence[Known]) -> Known:
    """The mean of repeats, with the interval that their own ones make; one alone as it is."""
    if len(known) == 1:
        return known[0]
    n = len(known)
    value = math.fsum(one.value for one in known) / n
    halves = [
        (one.value - one.low, one.high - one.value) for one in known if one.low is not None and one.high is not None
    ]
    if len(halves) < n:
        return Known(value, absent=next(one.absent for one in known if one.low is None or one.high is None))
    low, high = (math.hypot(*(half[side] for half in halves)) / n for side in (0, 1))
    freedom = _welch([(max(half), one.freedom) for half, one in zip(halves, known, strict=True)])
    return Known(value, value - low, value + high, freedom)


def _welch(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum: (half width, degrees of freedom) of each part."""
    halves = [(half / student_quantile(freedom), freedom) for half, freedom in parts]
    whole = math.fsum(half**2 for half, _ in halves)
    if whole <= 0.0:
        return min(freedom for _, freedom in parts)
    return whole**2 / math.fsum(half**4 / freedom for half, freedom in halves)
