"""The cells of one request: their folders, and the news of them."""

from __future__ import annotations

from collections.abc import Callable

from bench_core.contract.records.events import CellEnded, Progress, ScoreEvent
from bench_core.contract.records.outcome import MARKED, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.system.cell_writer import CellWriter
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.engine.measure import progress_total
from bench_core.worker.engine.scoring import not_scored
from bench_core.worker.resolve import MeasureRequest


class Cells:
    """What a supervisor and the sessions of its engines write and tell of cells."""

    def __init__(self, request: MeasureRequest, workload: Workload, say: Callable[[Record], None], marked: str) -> None:
        self._run_folder = request.run_folder
        self._workload = workload
        self._marked = marked
        self._totals = {spec.cell_id: progress_total(spec, workload) for spec in request.cells}
        self._say = say

    def open(self, spec: CellSpec) -> CellWriter:
        """A cell's folder, begun."""
        return CellWriter(self._run_folder, spec)

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
