"""One engine process's life, told by its messages: what becomes of them, and of the cells that it had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ValidationError

from bench_core.contract.records.events import BatchEvent, EndEvent, PhaseEvent, ScoreEvent, StartEvent
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.system.cell_writer import CellWriter
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.engine.job import BeginCell, BeginScore, parse_message
from bench_core.worker.sample.cgroup import oom_kills
from bench_core.worker.sample.sampler import Sampler
from bench_core.worker.supervise.cells import Cells
from bench_core.worker.supervise.child import EngineHandle
from bench_core.worker.supervise.limits import Watchdog
from bench_core.worker.supervise.verdict import Death, on_timeout


class Session:
    """One engine process's life, told by its messages."""

    def __init__(
        self,
        cells: Cells,
        engine: EngineHandle,
        sampler: Sampler,
        left: list[CellSpec],
        watchdog: Watchdog,
    ) -> None:
        self._watchdog = watchdog
        self._cells = cells
        self._engine = engine
        self._sampler = sampler
        self._specs = {spec.cell_id: spec for spec in left}
        self._left = list(left)
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
        self._cells.progress(self._left[0], "load", 0)
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
        spec = self._specs[cell]
        self._writer = self._cells.open(spec)
        for event in self._shared:
            self._writer.event(event)
        self._engine.log.begin_cell()
        self._watchdog.begin_cell()
        self._sampler.begin_cell()
        self._phase, self._batches, self._scoring = "prepare", 0, "no"
        self._cells.progress(spec, "prepare", 0)

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
            self._cells.progress(self._writer.spec, message.phase, self._batches)

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
        self._verdicts.append(self._cells.close(writer, verdict, self._engine.log.cell_text()))
        self._left.pop(0)
        self._writer = None
        self._watchdog.end_cell()

    def _close_measured(self, writer: CellWriter, died: Verdict) -> None:
        """A cell whose engine ended after its last batch, over its score: measured, and without a score."""
        if self._scoring == "asked":
            writer.event(self._cells.not_scored(writer.spec, died.cause))
        writer.event(EndEvent(t_s=seconds(monotonic_ns()), outcome=Outcome.OK))
        self._close(writer, Verdict(outcome=Outcome.OK, judged_by="worker", exit_code=died.exit_code))

    def judge(self, exit_code: int, out_of_memory_signs: Sequence[str], *, stopped: bool) -> list[Verdict]:
        """Verdicts of the cells this process has dealt with: the one in hand when it died, all if it never loaded.

        Args:
            out_of_memory_signs: what this image's engine prints before it ends itself for want of memory.
            stopped: a stop was asked for.
        """
        if not self._left:
            return self._verdicts
        died = self._timeout(exit_code) or self._death(exit_code, stopped=stopped).verdict(out_of_memory_signs)
        if self._writer is not None and self._scoring != "no":
            self._close_measured(self._writer, died)
        elif self._writer is not None:
            self._close(self._writer, died)
        elif self._load_verdict is not None or not self._verdicts:
            # Nothing was begun: the load is what failed, for every cell alike.
            verdict = self._load_verdict or died
            for spec in list(self._left):
                writer = self._cells.open(spec)
                for event in self._shared:
                    writer.event(event)
                self._close(writer, verdict)
        return self._verdicts

    def _timeout(self, exit_code: int | None = None) -> Verdict | None:
        return on_timeout(self._watchdog, self._batches, self._engine.log.tail(), exit_code)

    def _death(self, exit_code: int, *, stopped: bool) -> Death:
        kills = oom_kills()
        return Death(
            exit_code=exit_code,
            phase=self._phase,
            printed=self._engine.log.tail(),
            oom_kills=kills,
            killed_for_memory=kills > self._engine.oom_kills_before,
            garbled=self._garbled,
            stopped=stopped,
        )
