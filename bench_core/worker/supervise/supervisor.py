"""Watches over the engine's process: writes what it tells, samples beside it, judges how it ended.

The engine runs in a process of its own, so that a crash, a kill or a hang of it still leaves a cell with a verdict,
whoever started the container.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from bench_core.contract.asked.protocol import Timeouts
from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.events import EndEvent
from bench_core.contract.records.outcome import Outcome, Verdict, stopped_on_request
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.system.nvml import reader_of
from bench_core.worker.engine.job import CheckEvent, Job, parse_message
from bench_core.worker.resolve import MeasureRequest
from bench_core.worker.sample.sampler import Sampler
from bench_core.worker.supervise.cells import Cells
from bench_core.worker.supervise.child import EngineHandle
from bench_core.worker.supervise.limits import Watchdog
from bench_core.worker.supervise.session import Session


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
        self._cells = Cells(request, workload, say, marked)
        self._timeouts = timeouts or Timeouts()
        self._engine: EngineHandle | None = None
        self._stops = 0
        self._lives = 0

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
            return [self._cells.close(self._cells.open(spec), stopped_on_request(), "") for spec in cells]
        request = self._request
        job = Job(
            task="measure",
            image_folder=request.image_folder,
            artifact=request.artifact,
            workload=request.workload,
            cells=tuple(cells),
        )
        # Before NVML is opened, which would be in the engine's hands too.
        engine = EngineHandle(job, sys.stderr.buffer, first=self._lives == 0, workload=self._workload)
        self._lives += 1
        try:
            gpu = reader_of(cells[0].cards)
        except MachineFailure:  # without it nothing is measured
            engine.end()
            engine.finish()
            raise
        self._engine = engine
        sampler = Sampler(engine.process.pid, gpu)
        sampler.start()
        watchdog = Watchdog(engine.process.pid, self._timeouts)
        session = Session(self._cells, engine, sampler, cells, watchdog)
        try:
            session.follow()
        finally:
            self._engine = None
            sampler.stop()
        watchdog.end()
        code = engine.finish()
        return session.judge(code, request.out_of_memory_signs, stopped=self._stops > 0)


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
