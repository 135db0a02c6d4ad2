"""The engine's process as its supervisor holds it: a job goes in, events and what it prints come out."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

from bench_core.contract.records.workload import Workload
from bench_core.worker.engine import process as engine_process
from bench_core.worker.engine.job import Job, make_ready
from bench_core.worker.sample.cgroup import oom_kills
from bench_core.worker.supervise.forked import LOOK_S, Forked, can_fork
from bench_core.worker.supervise.log import EngineLog
from bench_core.worker.supervise.reaper import Reaper

if TYPE_CHECKING:  # imported where an engine is started anew
    import subprocess

_TERMINATION_GRACE_S = 10.0


class EngineHandle:
    """A running engine process with its three pipes.

    The first of a supervisor is made of itself, which saves a second import of the suite; later ones, when NVML is open
    or there are threads, are started anew.
    """

    def __init__(self, job: Job, echo: BinaryIO, *, first: bool = True, workload: Workload | None = None) -> None:
        """
        Args:
            first: nothing of an engine or of a GPU has been in this process yet.
            workload: that of the job, where it has been read: an engine's process made of this one has it already.
        """
        control_read, self._control = os.pipe()
        events_read, events_write = os.pipe()
        log_read, log_write = os.pipe()
        if first and can_fork():
            make_ready()
            self.process = _forked(control_read, events_write, log_write, workload)
        else:
            self.process = _anew(control_read, events_write, log_write)
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
        deadline = time.monotonic() + _TERMINATION_GRACE_S
        while (code := self.process.poll()) is None and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        if code is None:
            self.process.kill()
            code = self.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever the engine left running in its session
        self._reaper.join()
        self.log.join()
        self.events.close()
        os.close(self._control)
        return code


# Either is in a session of its own: Ctrl-C is the supervisor's to pass on.


def _forked(
    control_read: int, events_write: int, log_write: int, workload: Workload | None
) -> Forked | subprocess.Popen[bytes]:
    def run() -> int:
        return engine_process.main(control_read, events_write, workload)

    return Forked(run, log_write, (control_read, events_write))


def _anew(control_read: int, events_write: int, log_write: int) -> Forked | subprocess.Popen[bytes]:
    import subprocess  # noqa: PLC0415  # the first engine is made of this process

    return subprocess.Popen(
        # -u: what the engine has printed is in the log's pipe before the event that follows it.
        [sys.executable, "-u", "-m", "bench_core.worker.engine.process", str(control_read), str(events_write)],
        stdin=subprocess.DEVNULL,
        stdout=log_write,
        stderr=log_write,
        pass_fds=(control_read, events_write),
        start_new_session=True,
    )
