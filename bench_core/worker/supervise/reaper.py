"""Ending what an engine leaves running: helpers that it has started, in whatever session they have hidden."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time

from bench_core.worker.sample.sampler import descendants

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 10.0  # a process that the kernel cannot end (a device that hangs) is not waited for any longer


class Reaper:
    """Waits for one engine's process to exit and then ends all that descends from it.

    A helper in a session of its own is not reached by ending the engine's group, holds its pipes open, and would keep
    the supervisor reading for ever. Orphans become children of this process (the kernel calls it a subreaper), which
    starts nothing but engines, one at a time: so all its children that are left belong to the engine.
    """

    def __init__(self, engine_pid: int) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._engine = engine_pid
        self._thread = threading.Thread(target=self._follow, name="reaper", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Waits until nothing of the engine is left, for ten seconds at most; its process must have ended."""
        self._thread.join(_PATIENCE_S)

    def _follow(self) -> None:
        with contextlib.suppress(ChildProcessError):  # somebody has taken its exit code already
            os.waitid(os.P_PID, self._engine, os.WEXITED | os.WNOWAIT)
        deadline = time.monotonic() + _PATIENCE_S
        while left := [pid for pid in descendants(os.getpid()) if pid not in (os.getpid(), self._engine)]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):  # a grandchild becomes a child when its parent has gone
                    os.waitpid(pid, os.WNOHANG)
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
