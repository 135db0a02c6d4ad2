"""Steps of engines that may give a row several tokens: what a sink is told of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench_core.contract.adapter import tell_step


class Sink:
    """Keeps what it was told, in order."""

    wanted = True

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def __call__(self, row: int, count: int = 1) -> None:
        self.told.append((row, -count))

    def step(self, rows: Sequence[int]) -> None:
        self.told.append(tuple(rows))

    def engine(self, row: int, monotonic_s: Sequence[float]) -> None:
        raise AssertionError("the worker stamps")


@pytest.mark.parametrize(
    ("rows", "counts", "told"),
    [
        ([2, 0, 1], [1, 1, 1], [(2, 0, 1)]),
        ([0, 1, 2, 3], [1, 3, 0, 1], [(1, -3), (0, 3)]),
        ([0, 1], [2, 2], [(0, -2), (1, -2)]),
        ([4], [0], []),
        ([], [], []),
    ],
)
def test_rows_with_one_token_are_told_at_once_and_others_one_by_one(
    rows: list[int], counts: list[int], told: list[tuple[int, ...]]
) -> None:
    sink = Sink()
    tell_step(sink, rows, counts)
    assert sink.told == told
