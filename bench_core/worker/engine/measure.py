"""One batch and one cell: warm-up, measured batches, batches for token times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from bench_core.contract.adapter import Adapter, Completion, Decoding, Describes, Direct, ReportsMemory
from bench_core.contract.measures.cpu_use import CpuReading
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import (
    BatchEvent,
    BatchPhase,
    EngineEvent,
    PhaseEvent,
    StopEvent,
    WarmupEndEvent,
)
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.statistics.steadiness import sample
from bench_core.contract.statistics.stopping import Sample, stop_reason, warmup_batch, warmup_end
from bench_core.worker.engine.clock import Clock, seconds
from bench_core.worker.engine.guard import check_arrivals, check_prompts, checked_outputs
from bench_core.worker.engine.sink import StampingSink


class StopRequested(Exception):
    """Somebody asked for a clean stop; raised between two batches."""


class CellRun:
    """Measures one cell with a loaded adapter.

    Args:
        send: takes each event when the clock does not run; returns when it has been written.
        stopping: asked between batches.
        direct: the image's own call of its engine, where it has one.
        cpu: reads the counters of CPU time, before and after each batch.
    """

    def __init__(
        self,
        adapter: Adapter,
        spec: CellSpec,
        workload: Workload,
        clock: Clock,
        send: Callable[[Record], None],
        stopping: Callable[[], bool],
        direct: Direct | None = None,
        cpu: Callable[[], CpuReading | None] = lambda: None,
    ) -> None:
        self._adapter = adapter
        self._spec = spec
        self._workload = workload
        self._batches = planned_batches(spec, workload)
        # Of this cell's own batches: nothing longer will come.
        self._longest = max(len(workload.prompts[row]) for batch in self._batches for row in batch)
        self._clock = clock
        self._send = send
        self._stopping = stopping
        self._direct = direct
        self._cpu = cpu
        self.phase: str = "prepare"
        self._decoding = Decoding(
            max_new_tokens=spec.max_new_tokens,
            eos_token_ids=() if spec.length == "forced" else spec.model.eos_token_ids,
            pad_token_id=spec.model.pad_token_id,
        )

    def run(self) -> None:
        """Prepares the shape and runs all batches; any exception is the caller's to classify, with ``phase``."""
        self._prepare()
        batches = self._batches
        protocol = self._spec.protocol
        live = self._spec.token_times in ("live", "engine")
        self._warm_up(live)
        measured = batches[: self._measure(live)]
        if self._spec.token_times == "separate":
            self._run_phase("latency", batches[: protocol.latency_batches], True)
        if self._direct is not None and protocol.direct_batches:
            self._run_pairs(measured[-protocol.direct_batches :], protocol.direct_rounds, live)
        if isinstance(self._adapter, ReportsMemory):
            self._send(EngineEvent(t_s=seconds(self._clock()), memory=dict(self._adapter.memory())))

    def _prepare(self) -> None:
        started = self._clock()
        self._adapter.prepare(self._spec.batch_size, self._longest, self._spec.max_new_tokens)
        ended = self._clock()
        self._send(PhaseEvent(phase="prepare", started_s=seconds(started), duration_s=seconds(ended - started)))
        if isinstance(self._adapter, Describes):
            facts = {str(key): str(value) for key, value in self._adapter.describe().items()}
            self._send(EngineEvent(t_s=seconds(self._clock()), facts=facts))

    def _warm_up(self, wanted: bool) -> None:
        """Runs batches until the protocol's rule says that the engine is warm, or that no more can be done."""
        self.phase = "warmup"
        rule = self._spec.protocol.warmup_rule
        done: list[Sample] = []
        end = None
        while end is None:
            rows = self._batches[warmup_batch(rule, len(done), len(self._batches))]
            done.append(self._next("warmup", len(done), rows, wanted))
            end = warmup_end(rule, done)
        self._send(WarmupEndEvent(t_s=seconds(self._clock()), end=end, rule=rule))

    def _measure(self, wanted: bool) -> int:
        """Runs batches until the protocol's rule says that it is enough; returns how many."""
        self.phase = "measure"
        rule = self._spec.protocol.stopping_rule
        available = len(self._workload.batches(self._spec.batch_size))
        whole = self._workload.whole_work(self._spec.batch_size)
        done: list[Sample] = []
        reason = None
        while reason is None:
            done.append(self._next("measure", len(done), self._batches[len(done)], wanted))
            reason = stop_reason(rule, done, available, whole)
        stop = StopEvent(
            t_s=seconds(self._clock()),
            reason=reason,
            rule=rule,
            available_batches=available,
            mean_work=whole.mean,
            work_spread=whole.spread,
        )
        self._send(stop)
        return len(done)

    def _next(self, phase: BatchPhase, index: int, rows: range, wanted: bool) -> Sample:
        if self._stopping():
            raise StopRequested
        batch = self._batch(phase, index, rows, wanted)
        self._send(batch)
        return sample(batch)

    def _run_phase(self, phase: BatchPhase, batches: Sequence[range], wanted: bool) -> None:
        self.phase = phase
        for index, rows in enumerate(batches):
            self._next(phase, index, rows, wanted)

    def _run_pairs(self, batches: Sequence[range], rounds: int, wanted: bool) -> None:
        """Each batch once more by the suite and once by the engine directly, one right after the other and in turns the
        first: a host that is quicker now than then is so for both."""
        sides: tuple[BatchPhase, BatchPhase] = ("paired", "direct")
        for index, (turn, (number, rows)) in enumerate(itertools.product(range(rounds), enumerate(batches))):
            for phase in sides if (turn + number) % 2 == 0 else reversed(sides):
                self.phase = phase
                self._next(phase, index, rows, wanted and phase == "paired")

    def _batch(self, phase: BatchPhase, index: int, rows: range, wanted: bool) -> BatchEvent:
        prompts = [list(self._workload.prompts[row]) for row in rows]
        check_prompts(prompts, self._spec.batch_size, self._longest, self._spec.model.vocab_size)
        digest = prompts_sha256(prompts)  # before the engine can touch the lists
        sink = StampingSink(len(prompts), self._clock, wanted)
        before = self._cpu()
        started = self._clock()
        if phase == "direct" and self._direct is not None:
            rows_of_ids = self._direct(self._adapter, prompts, self._decoding)
            ended = self._clock()
            completions: Sequence[Completion] = [Completion(ids) for ids in rows_of_ids]
        else:
            completions = self._adapter.generate(prompts, self._decoding, sink)
            ended = self._clock()
        after = self._cpu()
        outputs = checked_outputs(completions, len(prompts), self._decoding, self._spec.model.vocab_size)
        arrivals = sink.arrivals(started)
        if wanted:
            check_arrivals(arrivals, outputs)
        return BatchEvent(
            phase=phase,
            index=index,
            prompts=tuple(rows),
            prompts_digest=digest,
            prompt_tokens=tuple(len(self._workload.prompts[row]) for row in rows),
            started_s=seconds(started),
            latency_s=max(seconds(ended - started), 1e-9),
            outputs=outputs,
            arrivals=arrivals,
            cpu=(before, after) if before is not None and after is not None else None,
        )


def planned_batches(spec: CellSpec, workload: Workload) -> list[range]:
    """The batches that a cell may measure, as indices into the workload; at least one (the request has been checked).
    The stopping rule decides how many of them it does."""
    return workload.batches(spec.batch_size)[: spec.protocol.max_batches]


def progress_total(spec: CellSpec, workload: Workload) -> int:
    """Batches of all phases that a cell will run: at most, where rules decide; a warm-up by its floor."""
    measured = len(planned_batches(spec, workload))
    latency = min(measured, spec.protocol.latency_batches) if spec.token_times == "separate" else 0
    pairs = min(measured, spec.protocol.direct_batches) * spec.protocol.direct_rounds
    return spec.protocol.warmup_batches + measured + latency + 2 * pairs
