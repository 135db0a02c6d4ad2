"""A stand-in for what takes an adapter's tokens."""

from __future__ import annotations

from collections.abc import Sequence


class Sink:
    """Keeps which rows got a token, step by step."""

    wanted = True

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def step(self, rows: Sequence[int]) -> None:
        self.steps.append(list(rows))

    def __call__(self, row: int, count: int = 1) -> None: ...

    def engine(self, row: int, monotonic_s: Sequence[float]) -> None: ...
