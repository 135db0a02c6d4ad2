"""When two numbers may as well be the same: one rule for batches, for cells under load, for choices and verdicts."""

from __future__ import annotations

import math
from typing import Protocol


class Known(Protocol):
    """A number and its interval; ``None`` where there is no interval to compare by."""

    @property
    def value(self) -> float:
        """What was measured."""
        ...

    @property
    def low(self) -> float | None:
        """The lower end."""
        ...

    @property
    def high(self) -> float | None:
        """The upper end."""
        ...


def tied(one: Known, other: Known) -> bool:
    """Whether two numbers may as well be the same: their difference is no larger than the sides of their intervals that
    face each other allow (root of the sum of squares). One without an interval is tied with nobody.

    Of an interval that is as long on both sides, as those of closed batches are, a side is half its width.
    """
    lower, higher = (one, other) if one.value <= other.value else (other, one)
    if lower.high is None or higher.low is None:
        return False
    return higher.value - lower.value <= math.hypot(lower.high - lower.value, higher.value - higher.low)
