"""Closing in on the border between what holds and what does not: the one search of ``min_memory`` and ``max_batch``."""

from __future__ import annotations

from collections.abc import Callable


class Unanswered(Exception):
    """A search that ends without an answer; its text says why, in one line."""


def narrow(
    good: float, bad: float, middle: Callable[[float, float], float | None], holds: Callable[[float], bool]
) -> tuple[float, float]:
    """Tries what lies between a value that holds and one that does not until nothing worth trying is left.

    Args:
        middle: (good, bad) to the value to try next, strictly between them; ``None`` where they are near enough.
        holds: tries a value; what it raises ends the search.

    Returns:
        The last value that held and the last that did not. Nothing is known of what lies beyond them: that what holds
        is on one side of the border is taken for granted.
    """
    while (value := middle(good, bad)) is not None:
        if holds(value):
            good = value
        else:
            bad = value
    return good, bad
