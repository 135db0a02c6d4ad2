"""Time limits of an engine's phases, and what happens to an engine that exceeds one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass

from bench_core.contract.asked.protocol import Timeouts
from bench_core.worker.engine.clock import monotonic_ns, seconds

# After SIGTERM: an engine that is only slow ends its batch and its cell itself, one that hangs is killed.
GRACE_S = 5.0
_CLOSE_S = 120.0


def limit_of_phase(timeouts: Timeouts, phase: str) -> tuple[str, float]:
    """The limit that counts in a phase: the option's name and the seconds."""
    if phase in ("start", "load"):
        return "load", timeouts.load_timeout_s
    if phase == "prepare":
        return "prepare", timeouts.prepare_timeout_s
    return ("close", _CLOSE_S) if phase == "close" else ("batch", timeouts.batch_timeout_s)


@dataclass(frozen=True)
class Expiry:
    """A limit that was exceeded."""

    name: str
    phase: str
    limit_s: float

    @property
    def cause(self) -> str:
        """One line."""
        what = "the cell did not end" if self.name == "cell" else f"no end of the {self.phase} phase's step"
        return f"{what} within {self.limit_s:g} s (--{self.name}-timeout-s)"


class Watchdog:
    """Ends one engine process (the leader of its session) that is silent for longer than its phase allows.

    Armed while the engine works and disarmed while the supervisor deals with its message; ``expired`` tells of the
    limit that was exceeded, ``killed`` whether SIGTERM was not enough.
    """

    def __init__(self, pid: int, timeouts: Timeouts, grace_s: float = GRACE_S) -> None:
        self._pid = pid
        self._timeouts = timeouts
        self._grace_s = grace_s
        self._changed = threading.Condition()
        self._deadline_s: float | None = None
        self._armed: Expiry | None = None
        self._cell_deadline_s: float | None = None
        self._over = False
        self.expired: Expiry | None = None
        self.killed = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def begin_cell(self) -> None:
        """The cell's own time begins."""
        with self._changed:
            self._cell_deadline_s = _now_s() + self._timeouts.cell_timeout_s

    def end_cell(self) -> None:
        """The cell has ended."""
        with self._changed:
            self._cell_deadline_s = None

    def arm(self, phase: str) -> None:
        """The engine goes on, in this phase."""
        name, limit_s = limit_of_phase(self._timeouts, phase)
        with self._changed:
            deadline_s, armed = _now_s() + limit_s, Expiry(name, phase, limit_s)
            if self._cell_deadline_s is not None and self._cell_deadline_s < deadline_s:
                deadline_s, armed = self._cell_deadline_s, Expiry("cell", phase, self._timeouts.cell_timeout_s)
            self._deadline_s, self._armed = deadline_s, armed
            self._changed.notify()

    def disarm(self) -> None:
        """The engine has said something and waits."""
        with self._changed:
            self._deadline_s = None
            self._changed.notify()

    def end(self) -> None:
        """The engine's process has ended; it is signalled no more."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._over:
                left_s = None if self._deadline_s is None else self._deadline_s - _now_s()
                if left_s is None or left_s > 0:
                    self._changed.wait(left_s)
                    continue
                self.expired, self._deadline_s = self._armed, None
                self._signal(signal.SIGTERM)
                # Whatever it says now does not save it: its group is gone when the grace is over.
                if not self._changed.wait_for(lambda: self._over, self._grace_s):
                    self.killed = True
                    self._signal(signal.SIGKILL)
                return

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number is signal.SIGKILL:
                os.killpg(self._pid, number)  # children that it forked hold its pipes open
            else:
                os.kill(self._pid, number)


def _now_s() -> float:
    return seconds(monotonic_ns())
