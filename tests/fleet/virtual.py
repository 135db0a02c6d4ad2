"""An executor on a virtual clock: a launch takes as long as it is told to, and nothing waits for it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench_core.contract.records import layout
from bench_core.contract.records.events import CellEnded, Progress
from bench_core.contract.records.outcome import EXIT_OK, Outcome, Verdict
from bench_core.drive.fleet.executor import Event, Free, Lost, Over, Said, Task, Worker
from bench_core.drive.launch.launcher import Ended


@dataclass(frozen=True)
class Ran:
    """One launch: its cells, its worker, and when it began and ended, seconds."""

    cells: tuple[str, ...]
    worker: str
    began_s: float
    ended_s: float


class VirtualExecutor:
    """Workers that exist only here. Each launch says what a worker says, and leaves what the core judges by.

    Args:
        seconds: that a launch takes.
        lost_s: workers that are lost, and when.
    """

    def __init__(
        self,
        workers: tuple[Worker, ...],
        seconds: Callable[[Task], float],
        lost_s: Mapping[str, float] | None = None,
    ) -> None:
        self.workers = workers
        self.now_s = 0.0
        self.ran: list[Ran] = []
        self.stops = 0
        self._seconds = seconds
        self._lost_s = dict(lost_s or {})
        self._coming: list[tuple[float, int, Event, tuple[str, ...], float]] = []
        self._number = itertools.count()
        self._tasks: dict[str, Task] = {}

    def submit(self, task: Task, worker: Worker) -> None:
        """Begins it now, or after its pause."""
        assert worker.name not in self._tasks, "a worker does one launch at a time"
        self._tasks[worker.name] = task
        began_s = self.now_s + task.pause_s
        ended_s = began_s + self._seconds(task)
        cells = tuple(cell.cell_id for cell in task.assignment.cells)
        lost_s = self._lost_s.get(worker.name)
        if lost_s is not None and lost_s < ended_s:
            self._push(max(lost_s, self.now_s), Lost(worker, "its host does not answer"), cells, began_s)
            return
        for cell in cells:
            self._say(ended_s, worker, Progress(cell=cell, phase="measure", done=1, of=1).model_dump_json())
        for cell in cells:
            self._say(ended_s, worker, CellEnded(cell=cell, outcome=Outcome.OK).model_dump_json())
        ended = Ended(EXIT_OK, False, "", began_s, ended_s)
        self._push(ended_s, Over(worker, ended), cells, began_s)
        self._push(ended_s, Free(worker), (), began_s)

    def next_event(self) -> Event:
        """The clock goes on to it."""
        self.now_s, _, event, cells, began_s = heapq.heappop(self._coming)
        if isinstance(event, Over):
            self._leave(self._tasks[event.worker.name], cells)
            self.ran.append(Ran(cells, event.worker.name, began_s, self.now_s))
        if isinstance(event, Free | Lost):
            del self._tasks[event.worker.name]
        return event

    def stop(self) -> None:
        """What runs is ended to the end, since it takes no time."""
        self.stops += 1

    def _say(self, at_s: float, worker: Worker, line: str) -> None:
        self._push(at_s, Said(worker, line.encode()), (), at_s)

    def _push(self, at_s: float, event: Event, cells: tuple[str, ...], began_s: float) -> None:
        heapq.heappush(self._coming, (at_s, next(self._number), event, cells, began_s))

    @staticmethod
    def _leave(task: Task, cells: tuple[str, ...]) -> None:
        """The two files that a verdict is read from; a log would be the worker's work."""
        run = task.launch.folders.run
        assert run is not None
        for cell in cells:
            folder = layout.cell_folder(run, cell)
            folder.mkdir(parents=True)
            (folder / layout.RESULT_FILE).write_text("{}", encoding="utf-8")
            (folder / layout.OUTCOME_FILE).write_text(
                Verdict(outcome=Outcome.OK, judged_by="worker").to_json(), encoding="utf-8"
            )
