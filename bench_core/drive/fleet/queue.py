"""Which job a free worker takes next: in the order of the plan for one worker, longest first for several."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench_core.contract.asked.scenario import Scenario
from bench_core.drive.plan.plan import Job

# A scenario and a repeat of it: what is compared in one table, and what keeps to one worker where that is asked for.
Block = tuple[str, int]


_LAUNCHES_EACH = 4  # of every worker, in the repeats that are ordered as one at the end


@dataclass(frozen=True)
class Before:
    """What earlier visits tell of a run's cells.

    Attributes:
        homes: the worker that has measured others of a block.
        took_s: seconds of a cell, by its method and its scenario's word, whichever repeat it was.
    """

    homes: Mapping[Block, str] = field(default_factory=dict)
    took_s: Mapping[tuple[str, str], float] = field(default_factory=dict)


NOTHING_BEFORE = Before()


@dataclass
class _Group:
    """Jobs that one worker measures, one after the other.

    Attributes:
        worker: that must; ``None``: whoever comes first.
    """

    jobs: deque[Job]
    seconds: float
    worker: str | None = None


class JobQueue:
    """The jobs of a call.

    Repeats come one after the other, as in the plan. As soon as there are several workers, the jobs of each are ordered
    by how long they take, the longest first, and the last repeats, of a few launches for each worker, as one: what is
    left for the end is then short (Graham's LPT rule).
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        workers: Sequence[str],
        seconds: Callable[[Job], float],
        *,
        controls: Sequence[Job] = (),
        together: bool = False,
        before: Before = NOTHING_BEFORE,
    ) -> None:
        """
        Args:
            jobs: in the order of the plan.
            seconds: what a job is expected to take, until it or an earlier repeat of it was measured.
            controls: those of the jobs that the workers measure first, one each, in their order.
            together: cells that are compared, a scenario of one repeat, are measured by one worker; each in a launch of
                its own, then.
        """
        self._workers = tuple(workers)
        self._seconds = seconds
        self._together = together
        self._homes = {block: home for block, home in before.homes.items() if home in self._workers}
        self._took_s = before.took_s
        self._measured: dict[tuple[str, tuple[Scenario, ...]], float] = {}
        first = {id(job): worker for job, worker in zip(controls, workers, strict=False)}
        self._own: dict[str, deque[Job]] = {worker: deque() for worker in workers}
        self._at_hand: deque[_Group] = deque()
        self._blocks: deque[list[Job]] = deque()
        repeat: int | None = None
        for job in jobs:
            if id(job) in first and len(self._workers) > 1:
                self._own[first[id(job)]].append(job)
                for scenario in job.scenarios:  # what it is compared with follows it
                    self._homes.setdefault((scenario.word, job.repeat), first[id(job)])
                continue
            if not self._blocks or job.repeat != repeat:
                self._blocks.append([])
                repeat = job.repeat
            self._blocks[-1].append(job)
        most = _LAUNCHES_EACH * len(self._workers)
        while len(self._blocks) > 1 and len(self._blocks[-2]) + len(self._blocks[-1]) <= most:
            last = self._blocks.pop()
            self._blocks[-1] += last

    def take(self, worker: str) -> Job | None:
        """The next job of a worker; ``None`` where nothing is left for it."""
        own = self._own.setdefault(worker, deque())
        if own:
            return own.popleft()
        while True:
            while not self._at_hand and self._blocks:
                self._at_hand.extend(self._groups(self._blocks.popleft()))
            found = next((group for group in self._at_hand if group.worker in (None, worker)), None)
            if found is not None:
                self._at_hand.remove(found)  # the first, but for groups of others before it
                own.extend(found.jobs)
                return own.popleft()
            if not self._blocks:
                return None
            self._at_hand.extend(self._groups(self._blocks.popleft()))

    def put_back(self, worker: str, left: Job) -> None:
        """A worker takes no more: what it has left is for another one; each cell tells where it ran."""
        own = self._own.pop(worker, deque())
        rest = [*([left] if left.scenarios else []), *own]
        if rest:
            self._at_hand.appendleft(_Group(deque(rest), 0.0))
        for group in self._at_hand:
            group.worker = None if group.worker == worker else group.worker
        self._homes = {block: home for block, home in self._homes.items() if home != worker}

    def took(self, job: Job, seconds: float) -> None:
        """How long a launch has really taken: for the next repeat of it."""
        self._measured[job.title, job.scenarios] = seconds

    def expected_s(self, job: Job) -> float:
        """What a job will take."""
        known = [self._took_s.get((job.title, scenario.word)) for scenario in job.scenarios]
        told = [seconds for seconds in known if seconds is not None]
        before = sum(told) if len(told) == len(known) else None
        return self._measured.get((job.title, job.scenarios)) or before or self._seconds(job)

    def _groups(self, block: Iterable[Job]) -> list[_Group]:
        if len(self._workers) < 2:
            return [_Group(deque([job]), 0.0) for job in block]
        if not self._together:
            groups = [_Group(deque([job]), self.expected_s(job)) for job in block]
        else:
            parts: dict[Block, list[Job]] = {}
            for job in block:
                for scenario in job.scenarios:
                    parts.setdefault((scenario.word, job.repeat), []).append(replace(job, scenarios=(scenario,)))
            groups = [
                _Group(deque(jobs), sum(map(self.expected_s, jobs)), self._homes.get(key))
                for key, jobs in parts.items()
            ]
        return sorted(groups, key=lambda group: -group.seconds)
