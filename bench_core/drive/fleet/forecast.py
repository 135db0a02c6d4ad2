"""Which launch is expected on which worker: the queue itself, run with the estimates instead of the launches."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from bench_core.drive.fleet.queue import NOTHING_BEFORE, Before, JobQueue
from bench_core.drive.plan.plan import Job, Plan


def forecast(
    plan: Plan,
    workers: Sequence[str],
    seconds: Callable[[Job], float],
    *,
    together: bool = False,
    before: Before = NOTHING_BEFORE,
) -> dict[str, list[Job]]:
    """Worker to its launches, in order, if each takes what it is expected to."""
    queue = JobQueue(plan.jobs, workers, seconds, controls=plan.controls, together=together, before=before)
    found: dict[str, list[Job]] = {worker: [] for worker in workers}
    free = [(0.0, number) for number in range(len(workers))]
    while free:
        now_s, number = heapq.heappop(free)
        job = queue.take(workers[number])
        if job is not None:
            found[workers[number]].append(job)
            heapq.heappush(free, (now_s + queue.expected_s(job), number))
    return found
