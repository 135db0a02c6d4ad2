"""Ending a box that says nothing any more: its supervisor hangs, or the machine below it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

GRACE_S = 10.0


class Silence:
    """Watches one box; without a word for ``limit_s`` it is asked to end, and after ten seconds more it is ended.

    Args:
        limit_s: seconds; ``None`` for a box that need not speak.
        ask: SIGTERM to the box.
        end: SIGKILL to the box.
    """

    def __init__(
        self, limit_s: float | None, ask: Callable[[], None], end: Callable[[], None], grace_s: float = GRACE_S
    ) -> None:
        self._limit_s = limit_s
        self._ask = ask
        self._end = end
        self._grace_s = grace_s
        self._heard_s = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)
        self.too_long = False

    def __enter__(self) -> Silence:
        self._heard_s = time.monotonic()
        if self._limit_s is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._limit_s is not None:
            self._thread.join(timeout=self._grace_s)  # the thread may itself hang in a daemon that does not answer

    def heard(self) -> None:
        """It has said something."""
        self._heard_s = time.monotonic()

    def _watch(self) -> None:
        assert self._limit_s is not None  # noqa: S101  # see __enter__
        while (left_s := self._heard_s + self._limit_s - time.monotonic()) > 0:
            if self._over.wait(left_s):
                return
        self.too_long = True
        self._ask()
        if not self._over.wait(self._grace_s):
            self._end()
