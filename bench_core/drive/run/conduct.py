"""The cells of a call, over whatever runs their launches: begins, listens, judges, tries again. One thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench_core.contract.errors import BadInput, MachineFailure, MayPass
from bench_core.contract.records import layout
from bench_core.contract.records.events import CellEnded, Progress, parse_stdout
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_MACHINE, EXIT_OK, Outcome, Verdict
from bench_core.drive.fleet.executor import Event, Executor, Failed, Free, Lost, Over, Said, Task, Worker
from bench_core.drive.fleet.queue import JobQueue
from bench_core.drive.launch.launcher import Ended
from bench_core.drive.material.prepared import Prepared, lacks
from bench_core.drive.plan.plan import Job
from bench_core.drive.run.collect import judge, require_there, set_aside, stated_cause
from bench_core.drive.run.progress import Display
from bench_core.drive.run.retry import pauses_s


@dataclass
class Finished:
    """A run's verdicts, and how long each launch took.

    Attributes:
        verdicts: of the cells measured now.
        kept: of the cells asked for that an earlier visit has measured.
        launch_s: job title to seconds from the box's making to its removal, the engine's own work included; of the
            last launch, where a box died and another one went on.
        refusal: why the rest was not measured, where this machine did not allow it.
        ran_on: cell to the worker that measured it now.
    """

    run_folder: Path
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    kept: dict[str, Verdict] = field(default_factory=dict)
    launch_s: dict[str, float] = field(default_factory=dict)
    refusal: BadInput | None = None
    ran_on: dict[str, Worker] = field(default_factory=dict)

    @property
    def all_verdicts(self) -> dict[str, Verdict]:
        """Of every cell that was asked for and reached."""
        return {**self.kept, **self.verdicts}

    @property
    def exit_code(self) -> int:
        """0 if every cell that was asked for ended well."""
        verdicts = self.all_verdicts.values()
        good = all(verdict.outcome in (Outcome.OK, Outcome.SKIPPED) for verdict in verdicts)
        return EXIT_OK if good and verdicts else EXIT_FAILED


@dataclass
class Stop:
    """Whether a run is to end.

    Attributes:
        asked: how often somebody asked for it.
        ending: nothing more is begun: somebody asked, or something failed that ends the run.
    """

    asked: int = 0
    ending: bool = False


class Told:
    """Verdicts as they become known, each told once."""

    def __init__(self, finished: Finished, display: Display, cells: int) -> None:
        self._finished = finished
        self._display = display
        self._cells = cells

    def line(self, cells: Sequence[str], line: bytes) -> None:
        """News of the cells of one box; an engine may write into its supervisor's pipe, so others' are no news."""
        news = parse_stdout(line)
        if news is None or news.cell not in cells:
            return
        if isinstance(news, Progress):
            self._display.progress(news)
        elif isinstance(news, CellEnded):
            verdict = Verdict(outcome=news.outcome, cause=news.cause, judged_by="worker")
            self._finished.verdicts[news.cell] = verdict
            self._display.ended(news, len(self._finished.verdicts), self._cells)

    def verdict(self, cell: str, verdict: Verdict) -> None:
        """What a cell's folder says in the end."""
        told = cell in self._finished.verdicts
        self._finished.verdicts[cell] = verdict
        if not told:
            news = CellEnded(cell=cell, outcome=verdict.outcome, cause=verdict.cause)
            self._display.ended(news, len(self._finished.verdicts), self._cells)


@dataclass
class _Attempt:
    """A job on its way through one launch or more.

    Attributes:
        left: without the cells that have their verdict.
        lost: why a cell is measured again.
        pauses: seconds before each further attempt at what the machine did not let begin or end.
        given_up: its worker takes no more.
    """

    job: Job
    left: Job
    lost: str = ""
    engine_lost: bool = False
    given_up: bool = False
    pause_s: float = 0.0
    pauses: list[float] = field(default_factory=lambda: list(pauses_s()))


class Conduct:
    """One call of ``Execution.measure``.

    Args:
        task_of: the launch of what is left of a job, with its mark, after a pause in seconds.
        home: the folder of the run that the cells belong to.
    """

    def __init__(
        self,
        executor: Executor,
        queue: JobQueue,
        task_of: Callable[[Job, str, float], Task],
        told: Told,
        finished: Finished,
        prepared: Prepared,
        home: Path,
        stop: Stop,
        display: Display,
    ) -> None:
        self._executor = executor
        self._queue = queue
        self._task_of = task_of
        self._told = told
        self._finished = finished
        self._prepared = prepared
        self._home = home
        self._stop = stop
        self._display = display
        self._at: dict[Worker, _Attempt] = {}
        self._idle = list(executor.workers)
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Until every job has its verdicts, or the run is to end and every launch has.

        Raises:
            Exception: what ended the run and is no refusal; a refusal stands in ``finished``.
        """
        while True:
            self._begin()
            if not self._at:
                break
            event = self._executor.next_event()
            try:
                self._handle(event)
            except BaseException as error:  # noqa: BLE001  # the launches that run are ended and judged first
                self._fail(event.worker, error)
            if isinstance(event, Free | Lost):
                self._settle(event)
        for kept in self._errors:
            if not isinstance(kept, BadInput):
                raise kept
            self._finished.refusal = self._finished.refusal or kept

    def _begin(self) -> None:
        """Gives every free worker what there is for it."""
        still = []
        for worker in self._idle:
            job = None if self._stop.ending else self._queue.take(worker.name)
            if job is None:
                still.append(worker)
            else:
                self._submit(worker, _Attempt(job, job))
        self._idle = still

    def _submit(self, worker: Worker, attempt: _Attempt) -> None:
        if not self._at:  # nothing is being measured
            self._display.between()
        try:
            task = self._task_of(attempt.left, attempt.lost, attempt.pause_s)
        except BaseException as error:  # noqa: BLE001  # as in run
            self._at[worker] = attempt
            self._fail(worker, error)
            self._at.pop(worker, None)
            return
        self._at[worker] = attempt
        self._executor.submit(task, worker)

    def _handle(self, event: Event) -> None:
        attempt = self._at[event.worker]
        if isinstance(event, Said):
            self._told.line(attempt.left.cells, event.line)
        elif isinstance(event, Over):
            self._judge(event.worker, attempt, event.ended)
        elif isinstance(event, Failed | Lost):
            raise event.error

    def _settle(self, event: Free | Lost) -> None:
        """A worker has nothing in hand any more: goes on with its job, or takes another one, or none."""
        attempt = self._at.pop(event.worker)
        if isinstance(event, Lost) or attempt.given_up:
            return
        if attempt.left.scenarios and not self._stop.ending:
            self._submit(event.worker, attempt)
        else:
            self._idle.append(event.worker)

    def _fail(self, worker: Worker, error: BaseException) -> None:
        """This worker takes no more. Where only its device may be at fault, another one may take what it has left; all
        else ends the run with this error, once the other launches have ended their batch in hand."""
        self._errors.append(error)
        attempt = self._at[worker]
        attempt.given_up = True
        if isinstance(error, MachineFailure) and not isinstance(error, MayPass):
            left = attempt.left.without(self._finished.verdicts)
            if left.scenarios and (self._home / layout.RUN_FILE).is_file():  # it is not there where that is the failure
                set_aside(self._finished.run_folder, *left.cells)
                self._display.trouble(f"{error.cause}; what it has left is for others: {', '.join(left.cells)}")
            self._queue.put_back(worker.name, left)
            return
        if not self._stop.ending:
            self._stop.ending = True
            self._executor.stop()

    def _judge(self, worker: Worker, attempt: _Attempt, ended: Ended) -> None:
        """After a launch: a verdict for each of its cells, or another attempt.

        Raises:
            MachineFailure: the machine has failed it for the last time, or the run's folder has gone.
        """
        job, folder, cells = attempt.job, self._finished.run_folder, list(attempt.left.cells)
        require_there(self._home)  # before anything is written into it again
        if ended.exit_code == EXIT_BAD_INPUT and lacks(self._prepared, job):
            ended = replace(ended, exit_code=EXIT_MACHINE)  # what it reads has gone since it was made ready
        if ended.removed:
            self._display.trouble(f"{job.title} left what is no file in the run's folder: {', '.join(ended.removed)}")
        verdicts = judge(folder, cells, ended, interrupted=self._stop.asked > 1)
        # An engine that is shut down asks its containers to stop: the worker then says so itself.
        again = [cell for cell, verdict in verdicts.items() if verdict.outcome is Outcome.KILLED]
        again = again if ended.engine_lost and not self._stop.ending else []
        if again and not attempt.engine_lost:  # once: what was done of the cell in hand says nothing of it
            attempt.engine_lost = True
            attempt.lost = "measured again: the Docker engine went away during the first attempt"
            set_aside(folder, *again)
            verdicts = {cell: verdict for cell, verdict in verdicts.items() if cell not in again}
            self._display.trouble(f"the Docker engine went away; measuring again: {', '.join(again)}")
        for cell, verdict in verdicts.items():
            self._told.verdict(cell, verdict)
            self._finished.ran_on[cell] = worker
        self._finished.launch_s[job.title] = ended.ended_s - ended.started_s
        self._queue.took(attempt.left, ended.ended_s - ended.started_s)
        attempt.left, attempt.pause_s = attempt.left.without(verdicts), 0.0
        if ended.exit_code == EXIT_MACHINE:
            failure = failed(ended)
            if not attempt.pauses:
                raise failure
            attempt.lost = f"this machine failed before it: {failure.cause}"
            attempt.pause_s = attempt.pauses.pop(0)
            self._display.trouble(f"{job.title}: {failure.cause}; trying again in {attempt.pause_s:.0f} s")
            set_aside(folder, *attempt.left.cells)


def failed(ended: Ended) -> MachineFailure:
    """A worker's word that the machine has failed it."""
    return MachineFailure(stated_cause(ended.stderr_tail), "mend that, then --resume the run")
