"""Launches on the devices of this host, one thread for each: what they wait for are processes and a Docker engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from queue import SimpleQueue

from bench_core.drive.fleet.executor import Event, Failed, Free, Over, Said, Task, Worker
from bench_core.drive.launch.launcher import Ended, Launcher
from bench_core.drive.run.assignment import handed_over
from bench_core.drive.run.cpu_gate import CpuGate
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.system.locks import Locks

_LOOK_S = 0.2  # how often a pause looks whether somebody has asked to stop


class HostPool:
    """The executor of this host.

    Args:
        cpu_gate: of a single worker on the CPUs; neighbours on others' CPUs would be what it sees.
    """

    def __init__(
        self,
        launcher: Launcher,
        workers: Sequence[Worker],
        locks: Locks,
        gate: GpuGate,
        cpu_gate: CpuGate | None,
    ) -> None:
        self._launcher = launcher
        self._workers = tuple(workers)
        self._locks = locks
        self._gate = gate
        self._cpu_gate = cpu_gate
        self._events: SimpleQueue[Event] = SimpleQueue()  # which a signal's handler does not lock out
        self._stopping = False

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The devices."""
        return self._workers

    def submit(self, task: Task, worker: Worker) -> None:
        """In a thread of its own."""
        threading.Thread(target=self._run, args=(task, worker), name=worker.name).start()

    def next_event(self) -> Event:
        """Waits; a signal is handled meanwhile."""
        return self._events.get()

    def stop(self) -> None:
        """SIGTERM to every launch, then SIGKILL."""
        self._stopping = True
        self._launcher.stop()

    def _run(self, task: Task, worker: Worker) -> None:
        try:
            ended = self._launched(task, worker)
            if ended is not None:
                self._events.put(Over(worker, ended))
                for gpu in worker.gpus if task.gated else ():
                    self._gate.leave(gpu.uuid, task.title)
        except BaseException as error:  # noqa: BLE001  # the core's to judge, in its own thread
            self._events.put(Failed(worker, error))
        finally:
            self._events.put(Free(worker))

    def _launched(self, task: Task, worker: Worker) -> Ended | None:
        """``None`` where a stop came before.

        Raises:
            BadInput: the device is busy.
            OSError: the cells' file cannot be written.
        """
        until = time.monotonic() + task.pause_s
        while time.monotonic() < until and not self._stopping:
            time.sleep(_LOOK_S)
        mark = ""
        if task.gated and not self._stopping:
            marks = [self._gate.enter(gpu.uuid, self._is_stopping) for gpu in worker.gpus]
            mark = "; ".join(filter(None, marks))
            if worker.gpu is None and self._cpu_gate is not None:
                self._cpu_gate.enter(self._is_stopping)
            if self._stopping:
                return None
        mark = "; ".join(filter(None, (mark, task.mark)))
        launch = task.launch
        data = launch.folders.data
        assert data is not None  # noqa: S101  # cells have a workload
        assignment = task.assignment
        if worker.placement is not None:
            assignment = assignment.model_copy(update={"placement": worker.placement})
        with handed_over(assignment, data) as path:
            arguments = ("--assignment", path, *launch.arguments, *(("--marked", mark) if mark else ()))
            lock = self._locks.run_descriptor(task.holds) if task.holds is not None else None
            launch = replace(
                launch, arguments=arguments, gpu=worker.gpu, other_gpus=worker.other_gpus, run_lock=lock,
                placement=worker.placement,
            )  # fmt: skip
            return self._launcher.run(launch, lambda line: self._events.put(Said(worker, line)))

    def _is_stopping(self) -> bool:
        return self._stopping
