"""Which job a free worker takes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from bench_core.drive.plan.plan import Job


class JobQueue:
    """Jobs in the order in which they are begun, whoever is free."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting = deque(jobs)

    def take(self, _worker: str) -> Job | None:
        """The next job of a worker; ``None`` where nothing is left for it."""
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, job: Job) -> None:
        """What a worker that takes no more has left of a job, for another one."""
        self._waiting.appendleft(job)
