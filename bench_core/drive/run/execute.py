"""Running a plan: launch, measure, collect."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from bench_core.contract.asked.read_manifest import ReadManifest
from bench_core.contract.asked.scenario import Offline
from bench_core.contract.measures.cpu_use import BusyRule
from bench_core.contract.records.outcome import EXIT_MACHINE, Outcome, Verdict
from bench_core.contract.records.run import GpuInfo
from bench_core.contract.records.spec import Assignment, plan_cells
from bench_core.contract.serving.cell import CapacityAsk
from bench_core.contract.serving.load import Serve
from bench_core.drive.ask.request import Request
from bench_core.drive.fleet.executor import Executor, Task, Worker, follow
from bench_core.drive.fleet.placement import workers_of
from bench_core.drive.fleet.pool import HostPool
from bench_core.drive.fleet.queue import NOTHING_BEFORE, Before, JobQueue
from bench_core.drive.launch.launcher import Ended, Folders, Launch, Launcher, LineTaker
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.material.schedules import place_schedules
from bench_core.drive.plan.estimate import job_estimate_s
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.collect import judge, stated_cause
from bench_core.drive.run.conduct import Conduct, Finished, Stop, Told, failed
from bench_core.drive.run.cpu_gate import CpuGate
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.drive.run.progress import Display
from bench_core.drive.run.retry import Retries
from bench_core.system.locks import Locks

__all__ = ["Execution", "Finished", "pass_on_signals"]

# A worker speaks at the end of every phase and batch, and ends an engine that exceeds a limit; it is given that much
# more for its own work before the box counts as dead.
_SILENCE_SLACK_S = 300.0
OWN_ERROR_STEP = "the suite's own error"


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
        executor: Executor | None = None,
    ) -> None:
        """
        Args:
            run: the folder of the run that cells belong to, where they are not measured into it: those of a trial. Its
                gate and locks are then that run's as well.
            executor: what runs the launches; the devices of this host where there is none.
        """
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
        self._stop = Stop()
        self._here = executor is None
        self._executor: Executor = executor or self._pool()

    def _pool(self) -> HostPool:
        """The devices of this host."""
        suite = self._request.suite
        workers = workers_of(self._gpus, suite.cpu_slices, self._launcher.name, suite.gpus_per_cell)
        # Of several slices of the CPUs each would see its neighbours; each batch looks at the slice's own CPUs.
        cpu_gate = self._cpu_gate if len(workers) == 1 else None
        return HostPool(self._launcher, workers, self._locks, self._gate, cpu_gate)

    def measure_own_error(self, jobs: Sequence[Job], prepared: Prepared, run_folder: Path) -> None:
        """Measures the scripted engine, on the first device where there are several; the report reads what it left."""
        if jobs:
            self._display.step(OWN_ERROR_STEP)
        for job in jobs:
            if self._stop.ending:
                return
            task = replace(self._task(job, prepared, run_folder), gated=False)
            ended = self._follow(task, lambda _line: None)
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
                labels={"self-check": job.title},
            )
            largest = max((s.batch_size for s in job.scenarios if isinstance(s, Offline)), default=1)
            one = replace(job, scenarios=(Offline(batch_size=largest),))
            task = Task(launch, self.assignment(one, prepared), job.title, gated=False)
            ended = self._follow(task, told.append)
            if ended.exit_code == EXIT_MACHINE:
                raise failed(ended)
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
        before: Before = NOTHING_BEFORE,
    ) -> Finished:
        """Launches every job, on each device one at a time, and returns the verdicts; the folder is there already.

        Args:
            jobs: those of the plan that can be launched; all where that is ``None``.
            judged: verdicts on cells of the others.
            before: what earlier visits tell of where cells were measured, and how long that took.
        """
        finished = Finished(run_folder, kept=dict(kept))
        told = Told(finished, self._display, self._cells)
        self._display.measures(run_folder, prepared.workload, self._plan.cells)
        for cell, verdict in (judged or {}).items():
            told.verdict(cell, verdict)

        def task_of(job: Job, mark: str, pause_s: float) -> Task:
            return replace(self._task(job, prepared, run_folder), mark=mark, pause_s=pause_s)

        home = self._run or run_folder
        queue = self._queue(self._plan.jobs if jobs is None else jobs, prepared, before)
        conduct = Conduct(self._executor, queue, task_of, told, finished, prepared, home, self._stop, self._display)
        self._measuring = True
        try:
            conduct.run()
            if finished.refusal is None:
                self._measure_alone(prepared, finished)
        finally:
            self._measuring = False
        return finished

    def _queue(self, jobs: Sequence[Job], prepared: Prepared, before: Before) -> JobQueue:
        suite = self._request.suite

        def seconds(job: Job) -> float:
            weights_bytes, prompts = prepared.model.weights_bytes, len(prepared.workload.prompts)
            return job_estimate_s(job, self._plan.device, suite, weights_bytes, prompts)

        return JobQueue(
            jobs,
            [worker.name for worker in self._executor.workers],
            seconds,
            controls=self._plan.controls,
            together=suite.compare_on_one_gpu,
            before=before,
        )

    def _measure_alone(self, prepared: Prepared, finished: Finished) -> None:
        """The sample of cells that tells what neighbours cost: each where it was measured beside them."""
        for job, beside in self._plan.alone:
            worker, verdict = finished.ran_on.get(beside), finished.verdicts.get(beside)
            if self._stop.ending:
                return
            if worker is None or verdict is None or verdict.outcome is not Outcome.OK:
                continue
            task = self._task(job, prepared, finished.run_folder)
            ended = follow(self._executor, task, worker, lambda _line: None)
            if ended is None:
                return
            for cell, found in judge(finished.run_folder, list(job.cells), ended).items():
                if found.outcome is not Outcome.OK:
                    self._display.note(f"{beside}, again and alone: {found.outcome.value}: {found.cause}")
                else:
                    self._display.note(f"{beside} was measured again alone, as {cell}")

    def settle(self, what: str) -> None:
        """After a box that is no cell's: the memory of the GPUs must have come back before the next one, or marks its
        cells."""
        for gpu in self._gpus:
            self._gate.leave(gpu.uuid, what)

    def await_free_cpus(self) -> None:
        """Before something is measured on the CPUs: nobody else may be using them. On a GPU nothing is waited for, and
        another executor's hosts look for themselves.

        Raises:
            BadInput: others use them.
        """
        if not self._gpus and self._here:
            self._cpu_gate.enter(lambda: self._stop.ending)

    def stop(self) -> None:
        """Ends the run after the batch in hand; a second call ends it at once.

        Raises:
            KeyboardInterrupt: nothing is being measured, so that there is nothing to finish.
        """
        self._stop.ending = True
        self._stop.asked += 1
        self._display.stopping(self._stop.asked, measuring=self._measuring)
        if not self._measuring:
            raise KeyboardInterrupt
        self._executor.stop()

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The devices that cells are measured on, side by side."""
        return self._executor.workers

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.ending

    def search(self, job: Job, prepared: Prepared, run_folder: Path, ask: CapacityAsk) -> Ended:
        """One launch in which a client searches for a server's capacity.

        Raises:
            BadInput: as :meth:`assignment`, or the device is busy.
        """
        task = self._task(job, prepared, run_folder)
        task = replace(task, assignment=task.assignment.model_copy(update={"capacity": ask}))
        told = Told(Finished(run_folder), self._display, self._cells)
        self._display.measures(run_folder, prepared.workload, job.planned())
        self._measuring = True
        try:
            return self._follow(task, partial(told.line, job.cells))
        finally:
            self._measuring = False

    def _task(self, job: Job, prepared: Prepared, run_folder: Path) -> Task:
        """The launch of a job's cells.

        Raises:
            BadInput: as :meth:`assignment`.
        """
        home = self._run or run_folder
        launch = Launch(
            image=job.image,
            target="measure",
            arguments=(),
            folders=Folders(prepared.model_folder, job.artifact, data=self._request.data, run=run_folder),
            labels={"run": home.name, "job": job.title, "cells": ",".join(job.cells)},
            silence_limit_s=_SILENCE_SLACK_S + self._request.suite.timeouts.longest_step_s,
            client_processes=self._request.suite.client_processes if job.served else 0,
        )
        return Task(launch, self.assignment(job, prepared, home), job.title, holds=home)

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
            manifest=ReadManifest.of(job.image.folder),
        )

    def _follow(self, task: Task, on_line: LineTaker) -> Ended:
        """One launch on the first device, while nothing else runs.

        Raises:
            KeyboardInterrupt: somebody asked to stop before it had begun.
        """
        ended = follow(self._executor, task, self._executor.workers[0], on_line)
        if ended is None:
            raise KeyboardInterrupt
        return ended


def pass_on_signals(execution: Execution) -> None:
    """From now on a signal to this process stops that execution."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        execution.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
