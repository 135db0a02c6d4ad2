"""The engine's own process: imports the adapter, loads the model, measures cell after cell, tells the supervisor."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType

from bench_core.contract.adapter import Adapter
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records.digest import own_code_sha256
from bench_core.contract.records.events import EndEvent, PhaseEvent, StartEvent
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.system.machine import host_info
from bench_core.system.processes import end_with_parent
from bench_core.worker.engine import image, scoring
from bench_core.worker.engine.clock import monotonic_ns, seconds, utc_now
from bench_core.worker.engine.failure import classify
from bench_core.worker.engine.job import BeginCell, BeginScore, Channel, Job
from bench_core.worker.engine.measure import CellRun
from bench_core.worker.sample.cpu_meter import CpuMeter


class StopFlag:
    """Set by SIGTERM or SIGINT; read between batches."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True


def main(control_fd: int, events_fd: int, workload: Workload | None = None) -> int:
    """Runs one job; returns the process's exit code, which is 0 whenever the supervisor was told how it ended.

    Args:
        workload: the job's, where this process has read it before it was an engine's: twice in memory, it would be
            counted as the engine's.
    """
    end_with_parent()  # a supervisor that has gone already shows at the first message
    os.dup2(2, 1)  # what engines print is not an event
    channel = Channel(control_fd, events_fd)
    job = channel.receive_job()
    process = EngineProcess(job, channel, workload)
    if job.task == "self-check":
        from bench_core.worker import selfcheck  # noqa: PLC0415  # no cell needs it

        selfcheck.run(job, channel)
        return 0
    return process.measure()


class EngineProcess:
    """One variant, loaded once, and its cells."""

    def __init__(self, job: Job, channel: Channel, workload: Workload | None = None) -> None:
        self._job = job
        self._workload = workload
        self._channel = channel
        self._stop = StopFlag()
        self._meter = CpuMeter(os.getppid())  # before an engine binds this process to some of its CPUs
        self._adapter: Adapter | None = None
        self._phase = "start"

    def measure(self) -> int:
        """Loads and measures every cell of the job. A failure ends the process, after it has been told."""
        try:
            workload = self._workload or Workload.read(self._job.workload)
            manifest = Manifest.load(self._job.image_folder)
            adapter = self._load(manifest)
            direct = image.load_direct(self._job.image_folder, manifest)
            for spec in self._job.cells:
                self._channel.send(BeginCell(cell=spec.cell_id))
                run = CellRun(
                    adapter,
                    spec,
                    workload,
                    monotonic_ns,
                    self._channel.send,
                    lambda: self._stop.is_set,
                    direct,
                    self._meter.read,
                )
                try:
                    run.run()
                finally:
                    self._phase = run.phase
                clean = self._score(adapter, spec, workload)
                self._channel.send(EndEvent.model_validate({"t_s": seconds(monotonic_ns()), "outcome": "ok"}))
                if not clean:
                    return 0  # what is left in this process must not reach the next cell: it gets a fresh one
            self._phase = "close"
            adapter.close()
        except Exception as error:  # noqa: BLE001  # whatever an engine raises is a result, with its cause
            traceback.print_exc()
            if self._phase == "close":
                return 0  # every cell has ended well; the log has the traceback
            outcome, cause = classify(error, self._phase, self._adapter)
            self._channel.send(
                EndEvent.model_validate(
                    {"t_s": seconds(monotonic_ns()), "outcome": outcome, "phase": self._phase, "cause": cause}
                )
            )
        return 0

    def _score(self, adapter: Adapter, spec: CellSpec, workload: Workload) -> bool:
        """Asks for probabilities where the cell is to; returns whether the next cell may use the same process.

        Not after a failure. Nor on a CPU, where resident memory is what a run compares: an allocator that has held the
        logits of a whole text keeps growing otherwise than before (seen: 93 MiB in the next cell of a 135M model). A
        GPU's memory is given back when an adapter prepares its next shape, and loading there is dear.
        """
        texts = spec.protocol.score_texts
        if not texts:
            return True
        self._channel.send(BeginScore())
        event, raised = scoring.score(adapter, workload, texts, monotonic_ns, lambda: self._stop.is_set)
        self._channel.send(event)
        if event.cause != scoring.NO_SCORE:
            scoring.give_back_memory()
        return not raised and (spec.device != "cpu" or event.cause == scoring.NO_SCORE)

    def _load(self, manifest: Manifest) -> Adapter:
        spec = self._job.cells[0]
        host = host_info()
        self._channel.send(
            StartEvent(
                t_s=seconds(monotonic_ns()),
                wall_time_utc=utc_now(),
                versions=image.versions(manifest),
                host={"cpu": host.cpu, "cores": str(host.cores), "system": host.system},
                harness=own_code_sha256(),
            )
        )
        started = monotonic_ns()
        adapter = image.load_adapter(self._job.image_folder, manifest, spec.gpus)
        self._adapter = adapter
        self._send_phase("start", started)
        self._phase = "load"
        variant = manifest.variant(spec.variant, spec.options, spec.device)
        started = monotonic_ns()
        image.load_model(adapter, self._job.artifact, variant, spec)
        self._send_phase("load", started)
        self._phase = "prepare"
        return adapter

    def _send_phase(self, phase: str, started_ns: int) -> None:
        ended = monotonic_ns()
        self._channel.send(
            PhaseEvent.model_validate(
                {"phase": phase, "started_s": seconds(started_ns), "duration_s": seconds(ended - started_ns)}
            )
        )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
