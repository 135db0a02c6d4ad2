"""An engine's process made of this one: what both need of the suite is imported once."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

LOOK_S = 0.002
_HIGHEST_DESCRIPTOR = os.sysconf("SC_OPEN_MAX")


def can_fork() -> bool:
    """Whether this process is one thread: what another one holds in the moment of a fork is held for ever."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


class Forked:
    """A child that runs a function, in a session of its own; used as :class:`subprocess.Popen` is."""

    def __init__(self, run: Callable[[], int], output_fd: int, keep: Sequence[int]) -> None:
        """
        Args:
            run: its answer is the exit code.
            output_fd: where the child's standard output and error go; its standard input is empty.
            keep: descriptors that the child has beside these, and no others.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self.pid = os.fork()
        if not self.pid:
            _live(run, output_fd, keep)

    def send_signal(self, number: int) -> None:
        """To the child, unless it has been waited for."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while it lives."""
        with self._lock:
            if self.returncode is None:
                found, status = os.waitpid(self.pid, os.WNOHANG)
                if found:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it lives on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                import subprocess  # noqa: PLC0415  # of no engine that is made of this process

                raise subprocess.TimeoutExpired("the engine's process", timeout or 0.0)
            time.sleep(LOOK_S)
        return code


def _live(run: Callable[[], int], output_fd: int, keep: Sequence[int]) -> NoReturn:
    """The child's whole life: nothing that the parent has in hand (files, locks, handlers of signals and of its exit)
    reaches it."""
    code = 1
    try:
        atexit._clear()  # noqa: SLF001  # the parent's
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        at = 3
        for descriptor in sorted(keep):
            os.closerange(at, descriptor)
            at = descriptor + 1
        os.closerange(at, _HIGHEST_DESCRIPTOR)
        # What is printed is in the pipe before the event that follows it: no buffers.
        sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False))
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True, errors="backslashreplace")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True, errors="backslashreplace")
        sys.argv = ["bench_core.worker.engine.process"]
        code = run()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # as at the end of any process
        traceback.print_exc()
    finally:
        os._exit(_ended(code))


def _ended(code: int) -> int:
    """What an engine has left for the end of its process is done, as it would be: threads, then what it registered."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    return code
