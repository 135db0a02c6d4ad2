"""The interval of a median: known cases, and how often it holds the truth."""

from __future__ import annotations

import random

import pytest

from bench_core.contract.statistics.median import median_interval


@pytest.mark.parametrize("n", [0, 1, 5])
def test_few_values_have_none(n: int) -> None:
    """Five leave 2 / 2^5 = 6.25 % outside of their extremes."""
    assert median_interval([1.0] * n) is None


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6), (30, 10), (100, 40)])
def test_ranks_are_those_of_the_tables(n: int, rank: int) -> None:
    """As in Conover, "Practical Nonparametric Statistics", for 95 %."""
    values = list(range(1, n + 1))
    random.Random(n).shuffle(values)  # noqa: S311  # drawn again the same
    assert median_interval(values) == (rank, n + 1 - rank)


@pytest.mark.parametrize("n", [6, 9, 12, 24])
def test_it_holds_the_median_of_skewed_values(n: int) -> None:
    chance = random.Random(17 + n)  # noqa: S311  # drawn again the same
    held = 0
    for _ in range(2000):
        low, high = median_interval([chance.lognormvariate(0, 0.7) for _ in range(n)]) or (1.0, 1.0)
        held += low <= 1.0 <= high
    assert held / 2000 >= 0.945
