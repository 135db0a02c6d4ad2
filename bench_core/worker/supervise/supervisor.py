"""Watches over the engine's process: writes what it tells, samples beside it, judges how it ended.

The engine runs in a process of its own, so that a crash, a kill or a hang of it still leaves a cell with a verdict,
whoever started the container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import BinaryIO, Literal

from pydantic import ValidationError

from bench_core.contract.asked.protocol import Timeouts
from bench_core.contract.records.events import (
    BatchEvent,
    CellEnded,
    EndEvent,
    PhaseEvent,
    Progress,
    ScoreEvent,
    StartEvent,
)
from bench_core.contract.records.outcome import MARKED, Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.system.cell_writer import CellWriter
from bench_core.system.nvml import GpuReader
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.engine.job import BeginCell, BeginScore, CheckEvent, Job, parse_message
from bench_core.worker.engine.measure import progress_total
from bench_core.worker.engine.scoring import not_scored
from bench_core.worker.resolve import MeasureRequest
from bench_core.worker.sample.cgroup import oom_kills
from bench_core.worker.sample.sampler import Sampler
from bench_core.worker.supervise.limits import Watchdog
from bench_core.worker.supervise.log import EngineLog, last_line
from bench_core.worker.supervise.reaper import Reaper

_TERMINATION_GRACE_S = 10.0


class EngineHandle:
    """A running engine process with its three pipes."""

    def __init__(self, job: Job, echo: BinaryIO) -> None:
        control_read, self._control = os.pipe()
        events_read, events_write = os.pipe()
        log_read, log_write = os.pipe()
        self.process = subprocess.Popen(
            # -u: what the engine has printed is in the log's pipe before the event that follows it.
            [sys.executable, "-u", "-m", "bench_core.worker.engine.process", str(control_read), str(events_write)],
            stdin=subprocess.DEVNULL,
            stdout=log_write,
            stderr=log_write,
            pass_fds=(control_read, events_write),
            start_new_session=True,  # Ctrl-C is the supervisor's to pass on
        )
        for descriptor in (control_read, events_write, log_write):
            os.close(descriptor)
        self._reaper = Reaper(self.process.pid)
        self.events = os.fdopen(events_read, "rb")
        self.log = EngineLog(log_read, echo)
        self.oom_kills_before = oom_kills()
        self._tell(job.model_dump_json().encode() + b"\n")

    def acknowledge(self) -> None:
        """Lets the engine go on."""
        self._tell(b"\n")

    def _tell(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._control, data) :]
        except BrokenPipeError:
            pass  # it has ended; the end of its events says so

    def end(self) -> None:
        """Kills it and whatever it has forked."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def finish(self) -> int:
        """Waits for the exit and returns its code; a process that closed its events but stays is ended."""
        try:
            code = self.process.wait(timeout=_TERMINATION_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever the engine left running in its session
        self._reaper.join()
        self.log.join()
        self.events.close()
        os.close(self._control)
        return code


class Supervisor:
    """Measures the cells of one request; each ends with a verdict."""

    def __init__(
        self,
        request: MeasureRequest,
        workload: Workload,
        say: Callable[[Record], None],
        marked: str = "",
        timeouts: Timeouts | None = None,
    ) -> None:
        self._request = request
        self._workload = workload
        self._marked = marked
        self._timeouts = timeouts or Timeouts()
        self._totals = {spec.cell_id: progress_total(spec, workload) for spec in request.cells}
        self._say = say
        self._engine: EngineHandle | None = None
        self._stops = 0

    def measure(self) -> Outcome:
        """Runs engine processes until every cell has a verdict; returns the first that is not ``ok``, else ``ok``.

        An engine that dies takes only the cell in hand with it; the cells left get a fresh process. A failed load
        is the verdict on all, since it would fail again.
        """
        signal.signal(signal.SIGTERM, self._pass_on)
        signal.signal(signal.SIGINT, self._pass_on)
        left = list(self._request.cells)
        verdicts: list[Verdict] = []
        while left:
            judged = self._run_engine(left)
            verdicts.extend(judged)
            left = left[len(judged) :]
        return next((v.outcome for v in verdicts if v.outcome is not Outcome.OK), Outcome.OK)

    def _pass_on(self, _number: int, _frame: FrameType | None) -> None:
        """First signal: finish the batch in hand. Second: at once."""
        self._stops += 1
        if self._engine is not None:
            self._engine.process.send_signal(signal.SIGTERM if self._stops == 1 else signal.SIGKILL)

    def _run_engine(self, cells: list[CellSpec]) -> list[Verdict]:
        if self._stops:
            return [self.close(self.open(spec), _stopped(), "") for spec in cells]
        request = self._request
        job = Job(
            task="measure",
            image_folder=request.image_folder,
            artifact=request.artifact,
            workload=request.workload,
            cells=tuple(cells),
        )
        gpu = GpuReader(cells[0].gpu_uuid) if cells[0].gpu_uuid else None  # first: without it nothing is begun
        engine = EngineHandle(job, sys.stderr.buffer)
        self._engine = engine
        sampler = Sampler(engine.process.pid, gpu)
        sampler.start()
        watchdog = Watchdog(engine.process.pid, self._timeouts)
        session = _Session(self, engine, sampler, cells, watchdog)
        try:
            session.follow()
        finally:
            self._engine = None
            sampler.stop()
        watchdog.end()
        code = engine.finish()
        return session.judge(code)

    def open(self, spec: CellSpec) -> CellWriter:
        """A cell's folder, begun."""
        return CellWriter(self._request.run_folder, spec)

    def close(self, writer: CellWriter, verdict: Verdict, log: str) -> Verdict:
        """A cell's folder, ended, and the news of it."""
        if self._marked:
            verdict = verdict.model_copy(update={"evidence": {**verdict.evidence, MARKED: self._marked}})
        final = writer.end(verdict, log)
        self._say(CellEnded(cell=writer.spec.cell_id, outcome=final.outcome, cause=final.cause))
        return final

    def progress(self, spec: CellSpec, phase: str, done: int) -> None:
        """Tells how far a cell is."""
        line = {"cell": spec.cell_id, "phase": phase, "done": done, "of": max(self._totals[spec.cell_id], done)}
        self._say(Progress.model_validate(line))

    def not_scored(self, spec: CellSpec, cause: str) -> ScoreEvent:
        """What stands in the log of a cell whose engine ended while it was asked for probabilities."""
        return not_scored(self._workload, spec.protocol.score_texts, seconds(monotonic_ns()), cause)

    @property
    def out_of_memory_signs(self) -> tuple[str, ...]:
        """What this image's engine prints before it ends itself for want of memory."""
        return self._request.out_of_memory_signs

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self._stops > 0


class _Session:
    """One engine process's life, told by its messages."""

    def __init__(
        self,
        supervisor: Supervisor,
        engine: EngineHandle,
        sampler: Sampler,
        cells: list[CellSpec],
        watchdog: Watchdog,
    ) -> None:
        self._watchdog = watchdog
        self._supervisor = supervisor
        self._engine = engine
        self._sampler = sampler
        self._cells = {spec.cell_id: spec for spec in cells}
        self._left = list(cells)
        self._shared: list[Record] = []  # of the load, written at the head of every cell
        self._writer: CellWriter | None = None
        self._verdicts: list[Verdict] = []
        self._load_verdict: Verdict | None = None
        self._phase = "start"
        self._batches = 0
        self._garbled = False
        self._scoring: Literal["no", "asked", "told"] = "no"

    def follow(self) -> None:
        """Takes messages until the engine's end of the pipe is closed."""
        supervisor = self._supervisor
        supervisor.progress(self._left[0], "load", 0)
        self._watchdog.arm(self._phase)
        for line in self._engine.events:
            self._watchdog.disarm()
            self._sampler.sample()
            try:
                message = parse_message(line)
            except ValidationError:
                # Something wrote to a descriptor that is not its own: an event may be lost in it.
                self._garbled = True
                self._engine.process.kill()
                return
            self._take(message)
            if self._watchdog.expired is not None and isinstance(message, EndEvent):
                # Late, but told: the next cell is not this process's, which has been asked to stop.
                self._engine.end()
                return
            self._watchdog.arm(self._phase if self._left else "close")
            self._engine.acknowledge()

    def _take(self, message: Record) -> None:
        telemetry = self._sampler.take()
        if isinstance(message, StartEvent):  # the first line of a log; what was sampled until then stands below it
            self._record(message)
        if telemetry is not None:
            self._record(telemetry)
        if isinstance(message, BeginCell):
            self._begin(message.cell)
        elif isinstance(message, BeginScore):
            self._scoring, self._phase = "asked", "score"
        elif isinstance(message, EndEvent):
            self._end(message)
        elif not isinstance(message, StartEvent):
            self._record(message)
            self._follow_phase(message)

    def _begin(self, cell: str) -> None:
        spec = self._cells[cell]
        self._writer = self._supervisor.open(spec)
        for event in self._shared:
            self._writer.event(event)
        self._engine.log.begin_cell()
        self._watchdog.begin_cell()
        self._sampler.begin_cell()
        self._phase, self._batches, self._scoring = "prepare", 0, "no"
        self._supervisor.progress(spec, "prepare", 0)

    def _record(self, event: Record) -> None:
        if self._writer is not None:
            self._writer.event(event)
        else:
            self._shared.append(event)

    def _follow_phase(self, message: Record) -> None:
        """Knows which phase the engine is in, for the verdict if it dies there."""
        if isinstance(message, PhaseEvent):
            self._phase = {"start": "load", "load": "prepare", "prepare": "warmup"}.get(message.phase, self._phase)
        elif isinstance(message, ScoreEvent):
            self._scoring = "told"
        elif isinstance(message, BatchEvent) and self._writer is not None:
            self._batches += 1
            self._phase = message.phase
            self._supervisor.progress(self._writer.spec, message.phase, self._batches)

    def _end(self, message: EndEvent) -> None:
        verdict = Verdict(outcome=message.outcome, cause=message.cause, phase=message.phase, judged_by="worker")
        if message.outcome is not Outcome.OK:
            verdict = self._timeout() or verdict
        if self._writer is None:  # it could not be loaded
            self._load_verdict = verdict
            self._shared.append(message)
            return
        self._writer.event(message)
        self._close(self._writer, verdict)

    def _close(self, writer: CellWriter, verdict: Verdict) -> None:
        if verdict.outcome is not Outcome.OK:
            memory = self._sampler.memory().words
            verdict = verdict.model_copy(update={"evidence": {**memory, **verdict.evidence}})
        self._verdicts.append(self._supervisor.close(writer, verdict, self._engine.log.cell_text()))
        self._left.pop(0)
        self._writer = None
        self._watchdog.end_cell()

    def _close_measured(self, writer: CellWriter, died: Verdict) -> None:
        """A cell whose engine ended after its last batch, over its score: measured, and without a score."""
        if self._scoring == "asked":
            writer.event(self._supervisor.not_scored(writer.spec, died.cause))
        writer.event(EndEvent(t_s=seconds(monotonic_ns()), outcome=Outcome.OK))
        self._close(writer, Verdict(outcome=Outcome.OK, judged_by="worker", exit_code=died.exit_code))

    def judge(self, exit_code: int) -> list[Verdict]:
        """Verdicts of the cells this process has dealt with: the one in hand when it died, all if it never loaded."""
        if not self._left:
            return self._verdicts
        died = self._verdict_on_death(exit_code)
        if self._writer is not None and self._scoring != "no":
            self._close_measured(self._writer, died)
        elif self._writer is not None:
            self._close(self._writer, died)
        elif self._load_verdict is not None or not self._verdicts:
            # Nothing was begun: the load is what failed, for every cell alike.
            verdict = self._load_verdict or died
            for spec in list(self._left):
                writer = self._supervisor.open(spec)
                for event in self._shared:
                    writer.event(event)
                self._close(writer, verdict)
        return self._verdicts

    def _timeout(self, exit_code: int | None = None) -> Verdict | None:
        """The verdict where a limit was exceeded; what the engine did when it was stopped for it does not count."""
        expired = self._watchdog.expired
        if expired is None:
            return None
        evidence = {"limit": f"{expired.name} {expired.limit_s:g} s", "batches_done": str(self._batches)}
        evidence["stopped_by"] = "SIGKILL" if self._watchdog.killed else "SIGTERM"
        evidence |= self._last_line()
        return Verdict(
            outcome=Outcome.TIMEOUT,
            cause=expired.cause,
            phase=expired.phase,
            judged_by="worker",
            exit_code=exit_code,
            evidence=evidence,
        )

    def _last_line(self) -> dict[str, str]:
        said = last_line(self._engine.log.tail())
        return {"last_line": said} if said else {}

    def _verdict_on_death(self, exit_code: int) -> Verdict:
        timeout = self._timeout(exit_code)
        if timeout is not None:
            return timeout
        killed_for_memory = oom_kills() > self._engine.oom_kills_before
        printed = self._engine.log.tail()
        sign = next((sign for sign in self._supervisor.out_of_memory_signs if sign in printed.lower()), None)
        evidence = {"oom_kills": str(oom_kills())} if killed_for_memory else {}
        evidence |= self._last_line()
        memory = Outcome.OOM_LOAD if self._phase in ("start", "load") else Outcome.OOM_KV
        if killed_for_memory:
            outcome, cause = memory, "the kernel ended the engine: the container's memory limit was reached"
        elif self._garbled:
            outcome, cause = Outcome.CRASHED, "the engine's process wrote something else than events to their pipe"
        elif self._supervisor.stopped:
            return _stopped(self._phase, exit_code)
        elif exit_code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            outcome, cause = Outcome.KILLED, f"the engine was ended from outside by {signal.Signals(-exit_code).name}"
        elif sign is not None:
            outcome, cause = memory, f"the engine ended itself ({_words(exit_code)}), having said {sign!r}"
        elif exit_code < 0:
            outcome, cause = Outcome.CRASHED, f"the engine died of {_words(exit_code)}"
        else:
            outcome, cause = Outcome.CRASHED, f"the engine ended with {_words(exit_code)} before its work was done"
        return Verdict(
            outcome=outcome, cause=cause, phase=self._phase, judged_by="worker", exit_code=exit_code, evidence=evidence
        )


def _words(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"code {exit_code}"


def _stopped(phase: str | None = None, exit_code: int | None = None) -> Verdict:
    return Verdict(
        outcome=Outcome.KILLED, cause="stopped on request", phase=phase, judged_by="worker", exit_code=exit_code
    )


def run_self_check(job: Job) -> list[CheckEvent]:
    """Runs the contract suite in an engine process; a process that dies adds a failed check that says so."""
    engine = EngineHandle(job, sys.stderr.buffer)
    checks: list[CheckEvent] = []
    complete = False
    for line in engine.events:
        message = parse_message(line)
        if isinstance(message, CheckEvent):
            checks.append(message)
        complete = isinstance(message, EndEvent)
        engine.acknowledge()
    code = engine.finish()
    if code != 0 or not complete:
        detail = f"the engine's process ended with code {code} after {len(checks)} checks"
        checks.append(CheckEvent(name="survives", outcome="failed", detail=detail))
    return checks
