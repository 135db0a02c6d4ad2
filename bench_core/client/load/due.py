"""Which request a load generator sends next, and when: at its time, or when a stream of a closed loop is free."""

from __future__ import annotations

import heapq

from bench_core.client.load.wire import Job

NEVER_NS = 1 << 62


class Due:
    """The requests of one process that were not sent yet. Times are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        free: of a closed loop: when each stream without a request may send its next, a heap.
        stopped: nothing more is sent.
    """

    __slots__ = ("_next", "_offsets_us", "_processes", "_streams", "_t0_ns", "_total", "free", "stopped")

    def __init__(self, job: Job) -> None:
        self._offsets_us, self._streams = job.offsets_us, job.streams
        self._next, self._processes, self._total = job.process, job.processes, job.total
        self._t0_ns = 0
        self.free: list[int] = []
        self.stopped = False

    def begin(self, t0_ns: int) -> None:
        """The load begins at this time."""
        self._t0_ns = t0_ns
        self.free = [t0_ns] * self._streams

    @property
    def left(self) -> bool:
        """Whether there are any that may be sent."""
        return self._next < self._total and not self.stopped

    def at_ns(self) -> int:
        """When the next is due."""
        if self.stopped or self._next >= self._total:
            return NEVER_NS
        if self._offsets_us:
            return self._t0_ns + self._offsets_us[self._next] * 1000
        return self.free[0] if self.free else NEVER_NS

    def take(self, now_ns: int) -> tuple[int, int] | None:
        """Index and scheduled time of the next, which is the caller's now; ``None`` where none is due."""
        due_ns = self.at_ns()
        if due_ns > now_ns:
            return None
        if not self._offsets_us:
            heapq.heappop(self.free)
        index = self._next
        self._next += self._processes
        return index, due_ns

    def add(self, at_ns: int) -> None:
        """A stream of a closed loop may send its next request at this time."""
        heapq.heappush(self.free, at_ns)
