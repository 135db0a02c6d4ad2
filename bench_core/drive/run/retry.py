"""Trying again what failed for reasons of the environment: never a measurement, never for ever, never silently."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from bench_core.contract.errors import MayPass

PAUSES_S = (5.0, 20.0)  # after the first and the second failure; the third is final

T = TypeVar("T")


def pauses_s() -> tuple[float, ...]:
    """Before each further attempt, seconds; as they stand when asked."""
    return PAUSES_S


class Retries:
    """Runs steps of the preparation.

    Attributes:
        counted: step to how often it was tried again.
    """

    def __init__(self, tell: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> None:
        self._tell = tell
        self._sleep = sleep
        self.counted: Counter[str] = Counter()

    def run(self, what: str, step: Callable[[], T]) -> T:
        """The step's result, at most on the third attempt.

        Raises:
            MayPass: it failed for the third time.
            Exception: any other failure of the step, at once.
        """
        for pause_s in PAUSES_S:
            try:
                return step()
            except MayPass as error:
                self._tell(f"{what}: {error.cause}; trying again in {pause_s:.0f} s")
                self.counted[what] += 1
                self._sleep(pause_s)
        return step()
