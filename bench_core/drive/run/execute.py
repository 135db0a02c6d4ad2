"""Running a plan: launch, measure, collect."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput, MachineFailure, MayPass
from bench_core.contract.measures.cpu_use import BusyRule
from bench_core.contract.records.events import CellEnded, Progress, parse_stdout
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_MACHINE, EXIT_OK, Outcome, Verdict
from bench_core.contract.records.run import GpuInfo
from bench_core.contract.records.spec import Assignment, plan_cells
from bench_core.contract.serving.cell import CapacityAsk
from bench_core.contract.serving.load import Serve
from bench_core.drive.ask.request import Request
from bench_core.drive.launch.launcher import Ended, Folders, Launch, Launcher, LineTaker
from bench_core.drive.material.prepared import Prepared, lacks
from bench_core.drive.material.schedules import place_schedules
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.assignment import handed_over
from bench_core.drive.run.collect import judge, require_there, set_aside, stated_cause
from bench_core.drive.run.cpu_gate import CpuGate
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.drive.run.progress import Display
from bench_core.drive.run.retry import Retries, pauses_s
from bench_core.system.locks import Locks

# A worker speaks at the end of every phase and batch, and ends an engine that exceeds a limit; it is given that much
# more for its own work before the box counts as dead.
_SILENCE_SLACK_S = 300.0
OWN_ERROR_STEP = "the suite's own error"


@dataclass
class Finished:
    """A run's verdicts, and how long each launch took.

    Attributes:
        verdicts: of the cells measured now.
        kept: of the cells asked for that an earlier visit has measured.
        launch_s: job title to seconds from the box's making to its removal, the engine's own work included; of the
            last launch, where a box died and another one went on.
        refusal: why the rest was not measured, where this machine did not allow it.
    """

    run_folder: Path
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    kept: dict[str, Verdict] = field(default_factory=dict)
    launch_s: dict[str, float] = field(default_factory=dict)
    refusal: BadInput | None = None

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


class Execution:
    """One run of one plan."""

    def __init__(
        self,
        request: Request,
        plan: Plan,
        launcher: Launcher,
        gpus: list[GpuInfo],
        display: Display,
        locks: Locks | None = None,
        gate: GpuGate | None = None,
        run: Path | None = None,
    ) -> None:
        """``run`` is the folder of the run that cells belong to, where they are not measured into it: those of a trial.
        Its gate and locks are then that run's as well."""
        self._run = run
        self._request = request
        self._plan = plan
        self._launcher = launcher
        self._gpus = gpus
        self._display = display
        self._locks = locks or Locks()
        self._gate = gate or GpuGate(request.suite.on_busy, request.suite.busy_wait_s, display.note)
        for gpu in gpus:
            self._gate.begin(gpu.uuid)
        rule = BusyRule(cpus=request.suite.busy_cpus)
        self._cpu_gate = CpuGate(request.suite.on_busy, request.suite.busy_wait_s, rule, display.note)
        self._cells = len(plan.to_measure)  # once: asked for at the end of each cell, beside an engine that is measured
        self._measuring = False
        self.retries = Retries(display.note)
        self._lock = threading.Lock()
        self._stopping = False
        self._stops = 0  # asked for

    def measure_own_error(self, jobs: Sequence[Job], prepared: Prepared, run_folder: Path) -> None:
        """Measures the scripted engine, on the first GPU where there are several; the report reads what it left."""
        if jobs:
            self._display.step(OWN_ERROR_STEP)
        gpu = self._gpus[0] if self._gpus else None
        for job in jobs:
            if self._stopping:
                return
            launch = self._launch_of(job, job.cells, gpu, prepared, run_folder, "")
            ended = self._launch(launch, self.assignment(job, prepared, run_folder), lambda _line: None)
            self.settle(job.title)
            if ended.exit_code == EXIT_MACHINE:  # the cells that follow will meet it too
                self._display.trouble(f"the suite's own error: {stated_cause(ended.stderr_tail)}")
            for cell, verdict in judge(run_folder, list(job.cells), ended).items():
                if verdict.outcome is not Outcome.OK:
                    self._display.trouble(f"the suite's own error: {cell}: {verdict.outcome.value}: {verdict.cause}")

    def self_check(self, prepared: Prepared, jobs: Sequence[Job]) -> dict[str, list[str]]:
        """Runs the contract suite of each job's image; job title to the lines of its checks.

        Raises:
            MachineFailure: this machine did not let it run, or as ``run`` of a launcher.
        """
        lines: dict[str, list[str]] = {}
        for job in jobs:
            told: list[bytes] = []
            launch = Launch(
                image=job.image,
                target="measure",
                arguments=("--self-check",),
                folders=Folders(prepared.model_folder, job.artifact, data=self._request.data),
                gpu=self._gpus[0] if self._gpus else None,
                labels={"self-check": job.title},
            )
            alone = replace(job, scenarios=(Offline(batch_size=1),))
            ended = self._launch(launch, self.assignment(alone, prepared), told.append)
            if ended.exit_code == EXIT_MACHINE:
                raise _failed(ended)
            if ended.exit_code not in (0, 1) or not told:
                failure = {"name": "starts", "outcome": "failed", "detail": stated_cause(ended.stderr_tail)}
                told.append(json.dumps(failure).encode())
            lines[job.title] = [line.decode("utf-8", "replace") for line in told]
        return lines

    def measure(
        self,
        prepared: Prepared,
        run_folder: Path,
        kept: Mapping[str, Verdict],
        jobs: Sequence[Job] | None = None,
        judged: Mapping[str, Verdict] | None = None,
    ) -> Finished:
        """Launches every job, on each GPU one at a time, and returns the verdicts; the folder is there already.

        Args:
            jobs: those of the plan that can be launched; all where that is ``None``.
            judged: verdicts on cells of the others.
        """
        finished = Finished(run_folder, kept=dict(kept))
        self._display.measures(run_folder, prepared.workload, self._plan.cells)
        for cell, verdict in (judged or {}).items():
            finished.verdicts[cell] = verdict
            self._tell_end(cell, verdict, finished)
        queue = deque(self._plan.jobs if jobs is None else jobs)
        boxes: list[GpuInfo | None] = list(self._gpus) or [None]

        def work(gpu: GpuInfo | None) -> None:
            while True:
                with self._lock:
                    if not queue or self._stopping:
                        return
                    job = queue.popleft()
                try:
                    self._run_job(job, gpu, prepared, finished)
                except MachineFailure as error:
                    if isinstance(error, MayPass):  # the Docker engine, which is everybody's
                        self._stopping = True
                        self._launcher.stop()
                        raise
                    with self._lock:  # of this card, perhaps: another one may take what is left of it
                        left = job.without(frozenset(finished.verdicts))
                        queue.extendleft([left] if left.scenarios else [])
                    raise
                except BaseException:
                    self._stopping = True  # the other GPUs end their batch in hand, and the run ends with this error
                    self._launcher.stop()
                    raise

        self._measuring = True
        with ThreadPoolExecutor(max_workers=len(boxes)) as pool:
            futures = [pool.submit(work, gpu) for gpu in boxes]
        self._measuring = False
        for error in filter(None, (future.exception() for future in futures)):
            if not isinstance(error, BadInput):
                raise error
            finished.refusal = finished.refusal or error
        return finished

    def settle(self, what: str) -> None:
        """After a box that is no cell's: the memory of the GPUs must have come back before the next one, or marks its
        cells."""
        for gpu in self._gpus:
            self._gate.leave(gpu.uuid, what)

    def await_free_cpus(self) -> None:
        """Before something is measured on the CPUs: nobody else may be using them. On a GPU nothing is waited for.

        Raises:
            BadInput: others use them.
        """
        if not self._gpus:
            self._cpu_gate.enter(lambda: self._stopping)

    def stop(self) -> None:
        """Ends the run after the batch in hand; a second call ends it at once.

        Raises:
            KeyboardInterrupt: nothing is being measured, so that there is nothing to finish.
        """
        self._stopping = True
        self._stops += 1
        self._display.stopping(self._stops, measuring=self._measuring)
        if not self._measuring:
            raise KeyboardInterrupt
        self._launcher.stop()

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self._stopping

    def _run_job(self, job: Job, gpu: GpuInfo | None, prepared: Prepared, finished: Finished) -> None:
        left = job
        lost, engine_lost = "", False  # why a cell is measured again
        pauses = list(pauses_s())  # before it is tried again what the machine did not let begin or end
        while left.scenarios and not self._stopping:
            self._display.between()
            mark = self._gate.enter(gpu.uuid, lambda: self._stopping) if gpu else ""
            self.await_free_cpus()
            if self._stopping:
                return
            mark = "; ".join(filter(None, (mark, lost)))
            launch = self._launch_of(job, left.cells, gpu, prepared, finished.run_folder, mark)
            cells = list(left.cells)
            assignment = self.assignment(left, prepared, self._run or finished.run_folder)
            ended = self._launch(launch, assignment, partial(self._line, cells, finished))
            require_there(self._run or finished.run_folder)  # before anything is written into it again
            if ended.exit_code == EXIT_BAD_INPUT and lacks(prepared, job):
                ended = replace(ended, exit_code=EXIT_MACHINE)  # what it reads has gone since it was made ready
            if ended.removed:
                self._display.trouble(
                    f"{job.title} left what is no file in the run's folder: {', '.join(ended.removed)}"
                )
            verdicts = judge(finished.run_folder, cells, ended, interrupted=self._stops > 1)
            # An engine that is shut down asks its containers to stop: the worker then says so itself.
            again = [cell for cell, verdict in verdicts.items() if verdict.outcome is Outcome.KILLED]
            again = again if ended.engine_lost and not self._stopping else []
            if again and not engine_lost:  # once: what was done of the cell in hand says nothing of it
                engine_lost = True
                lost = "measured again: the Docker engine went away during the first attempt"
                set_aside(finished.run_folder, *again)
                verdicts = {cell: verdict for cell, verdict in verdicts.items() if cell not in again}
                self._display.trouble(f"the Docker engine went away; measuring again: {', '.join(again)}")
            with self._lock:
                for cell, verdict in verdicts.items():
                    told = cell in finished.verdicts
                    finished.verdicts[cell] = verdict
                    if not told:
                        self._tell_end(cell, verdict, finished)
                finished.launch_s[job.title] = ended.ended_s - ended.started_s
            left = left.without(verdicts)
            if gpu:
                self._gate.leave(gpu.uuid, job.title)
            if ended.exit_code == EXIT_MACHINE:
                failure = _failed(ended)
                if not pauses:
                    raise failure
                lost = f"this machine failed before it: {failure.cause}"
                self._pause(job, failure, pauses.pop(0))
                set_aside(finished.run_folder, *left.cells)

    def _pause(self, job: Job, failure: MachineFailure, pause_s: float) -> None:
        self._display.trouble(f"{job.title}: {failure.cause}; trying again in {pause_s:.0f} s")
        until = time.monotonic() + pause_s
        while time.monotonic() < until and not self._stopping:
            time.sleep(0.2)

    def _line(self, cells: list[str], finished: Finished, line: bytes) -> None:
        """News of the cells of one box; an engine may write into its supervisor's pipe, so others' are no news."""
        news = parse_stdout(line)
        if news is None or news.cell not in cells:
            return
        if isinstance(news, Progress):
            with self._lock:
                self._display.progress(news)
        elif isinstance(news, CellEnded):
            with self._lock:
                finished.verdicts[news.cell] = Verdict(outcome=news.outcome, cause=news.cause, judged_by="worker")
                self._display.ended(news, len(finished.verdicts), self._cells)

    def _tell_end(self, cell: str, verdict: Verdict, finished: Finished) -> None:
        news = CellEnded(cell=cell, outcome=verdict.outcome, cause=verdict.cause)
        self._display.ended(news, len(finished.verdicts), self._cells)

    def search(self, job: Job, prepared: Prepared, run_folder: Path, ask: CapacityAsk) -> Ended:
        """One launch in which a client searches for a server's capacity.

        Raises:
            BadInput: as :meth:`assignment`, or the device is busy.
        """
        gpu = self._gpus[0] if self._gpus else None
        mark = self._gate.enter(gpu.uuid, lambda: self._stopping) if gpu else ""
        self.await_free_cpus()
        assignment = self.assignment(job, prepared, run_folder).model_copy(update={"capacity": ask})
        self._display.measures(run_folder, prepared.workload, job.planned())
        self._measuring = True
        try:
            launch = self._launch_of(job, job.cells, gpu, prepared, run_folder, mark)
            return self._launch(launch, assignment, partial(self._line, list(job.cells), Finished(run_folder)))
        finally:
            self._measuring = False
            if gpu:
                self._gate.leave(gpu.uuid, job.title)

    def _launch_of(
        self, job: Job, cells: Sequence[str], gpu: GpuInfo | None, prepared: Prepared, run_folder: Path, mark: str
    ) -> Launch:
        return Launch(
            image=job.image,
            target="measure",
            arguments=("--marked", mark) if mark else (),
            folders=Folders(prepared.model_folder, job.artifact, data=self._request.data, run=run_folder),
            gpu=gpu,
            labels={"run": (self._run or run_folder).name, "job": job.title, "cells": ",".join(cells)},
            silence_limit_s=_SILENCE_SLACK_S + self._request.suite.timeouts.longest_step_s,
            client_processes=self._request.suite.client_processes if job.served else 0,
            run_lock=self._locks.run_descriptor(self._run or run_folder),
        )

    def assignment(self, job: Job, prepared: Prepared, run_folder: Path | None = None) -> Assignment:
        """The cells of a job as its box will read them.

        Args:
            run_folder: that keeps the schedules of cells under load.

        Raises:
            BadInput: the image does not take its options on this device.
        """
        suite, manifest, device = self._request.suite, job.image.manifest, self._plan.device
        asked = {name: getattr(suite, name) for name in job.limits}
        lower = {name: limit for name, limit in job.limits.items() if asked[name] is None or limit < asked[name]}
        options = suite.model_copy(update=lower)
        variant = manifest.variant(job.variant, job.options, device)
        data, placed = self._request.data, {}
        loads = tuple(scenario for scenario in job.scenarios if isinstance(scenario, Serve))
        if loads and run_folder is not None:
            placed = place_schedules(loads, suite, len(prepared.workload.prompts), prepared.trace, data, run_folder)
        cells = plan_cells(
            options, manifest, variant, device, job.scenarios, prepared.model, prepared.workload.reference, job.repeat,
            {word: one.schedule.digest for word, one in placed.items()},
        )  # fmt: skip
        return Assignment(
            cells=cells,
            workload=str(prepared.workload_path.relative_to(data)),
            schedules={word: str(one.path.relative_to(data)) for word, one in placed.items()},
            threads=suite.threads,
            timeouts=suite.timeouts,
        )

    def _launch(self, launch: Launch, assignment: Assignment, on_stdout: LineTaker) -> Ended:
        with handed_over(assignment, self._request.data) as path:
            arguments = ("--assignment", path, *launch.arguments)
            return self._launcher.run(replace(launch, arguments=arguments), on_stdout)


def pass_on_signals(execution: Execution) -> None:
    """From now on a signal to this process stops that execution."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        execution.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _failed(ended: Ended) -> MachineFailure:
    return MachineFailure(stated_cause(ended.stderr_tail), "mend that, then --resume the run")
