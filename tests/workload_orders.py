"""Ten orders of one workload's prompts, and some random ones: what a dataset may come in."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence


def orders(lengths: Sequence[int], rows: int) -> dict[str, list[int]]:
    """The same prompts, by their lengths, in orders that have a name; ``rows`` prompts are a batch."""
    ordered, n = sorted(lengths), len(lengths)
    drawn = random.Random(1)  # noqa: S311  # test data
    batches = n // rows
    return {
        "sorted": ordered,
        "reversed": ordered[::-1],
        "grouped": _grouped(ordered, drawn),
        "alternating": _alternating(ordered, rows),
        "cyclic, short": _cyclic(ordered, batches // 10),
        "cyclic, long": _cyclic(ordered, 2),
        "from the middle": [ordered[place] for place in _from_the_middle(n)],
        "from both ends": [ordered[place] for place in reversed(_from_the_middle(n))],
        "waves": _by(ordered, lambda place: math.sin(2 * math.pi * place * 4 / n) + drawn.gauss(0.0, 0.1)),
        "drifting": _by(ordered, lambda place: place / n + drawn.random()),
    }


def _by(ordered: Sequence[int], key: Callable[[int], float]) -> list[int]:
    """At each place the length whose rank is that of the place's key."""
    keys = [key(place) for place in range(len(ordered))]
    found = [0] * len(ordered)
    for rank, place in enumerate(sorted(range(len(ordered)), key=keys.__getitem__)):
        found[place] = ordered[rank]
    return found


def _grouped(ordered: Sequence[int], drawn: random.Random) -> list[int]:
    """The middle third, the long one, the short one; mixed within: three datasets one after the other."""
    third = len(ordered) // 3
    groups = [list(ordered[third : 2 * third]), list(ordered[2 * third :]), list(ordered[:third])]
    for group in groups:
        drawn.shuffle(group)
    return [length for group in groups for length in group]


def _alternating(ordered: Sequence[int], rows: int) -> list[int]:
    """A batch of the shorter half, one of the longer, and so on; each half mixed."""
    half = len(ordered) // (2 * rows) * rows
    halves = []
    for part, seed in ((ordered[:half], 2), (ordered[half:], 3)):
        mixed = list(part)
        random.Random(seed).shuffle(mixed)  # noqa: S311
        halves.append(mixed)
    short, long = halves
    found: list[int] = []
    for place in range(0, half, rows):
        found += short[place : place + rows] + long[place : place + rows]
    return found + long[half:]


def _cyclic(ordered: Sequence[int], cycles: int) -> list[int]:
    """Rising from the shortest to the longest, again and again."""
    return [length for cycle in range(cycles) for length in ordered[cycle::cycles]]


def _from_the_middle(n: int) -> list[int]:
    """Places outwards from the middle, above and below in turn."""
    return sorted(range(n), key=lambda place: abs(2 * place - n + 0.5))
