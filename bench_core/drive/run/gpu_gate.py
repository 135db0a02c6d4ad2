"""Before each box: is the GPU ours alone, and has the memory of the box before come back?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pynvml

from bench_core.contract.errors import BadInput
from bench_core.drive.run.gpus import memory_came_back
from bench_core.prepare.disk import readable
from bench_core.system.processes import name_of

OnBusy = Literal["wait", "refuse", "ignore"]

# A context without work (a desktop, a sharing daemon) holds less and disturbs no measurement.
SMALL_BYTES = 256 * 1024 * 1024
# In use although no process is shown for it: drivers keep up to 1 GiB for themselves on the largest cards.
NAMELESS_BYTES = 1536 * 1024 * 1024
BUSY_PERCENT = 10
# NVML's utilisation looks back up to a second, and an ended process is listed a moment longer.
GRACE_S = 5.0
_POLL_S = 1.0


@dataclass(frozen=True)
class Occupant:
    """A process on a GPU; ``memory_bytes`` is ``None`` where NVML does not tell."""

    pid: int
    name: str
    memory_bytes: int | None

    @property
    def words(self) -> str:
        """``process 1234 (python), 12.0 GB``."""
        held = "memory not told" if self.memory_bytes is None else readable(self.memory_bytes)
        return f"process {self.pid} ({self.name}), {held}"


@dataclass(frozen=True)
class Occupancy:
    """What a GPU does now.

    Attributes:
        occupants: processes with a compute context.
        used_bytes: memory in use by all, the driver's own share included.
        utilisation_percent: share of the last sampling period in which a kernel ran; ``None`` where not told.
    """

    occupants: tuple[Occupant, ...]
    used_bytes: int
    utilisation_percent: int | None

    @property
    def trouble(self) -> str:
        """What would disturb a measurement, in one line; empty for a free GPU."""
        large = [o.words for o in self.occupants if o.memory_bytes is None or o.memory_bytes > SMALL_BYTES]
        if large:
            return "; ".join(large)
        if (self.utilisation_percent or 0) > BUSY_PERCENT:
            named = "; ".join(o.words for o in self.occupants) or "no process is shown"
            return f"{self.utilisation_percent} % utilisation ({named})"
        if self.used_bytes > NAMELESS_BYTES:
            return f"{readable(self.used_bytes)} in use by processes that NVML does not show here"
        return ""


def look(uuid: str) -> Occupancy | None:
    """Asks NVML; ``None`` where it does not answer for this GPU."""
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        used = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    except pynvml.NVMLError:
        return None
    occupants: list[Occupant] = []
    with contextlib.suppress(pynvml.NVMLError):
        occupants = [_occupant(process) for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    utilisation = None
    with contextlib.suppress(pynvml.NVMLError):
        utilisation = int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    return Occupancy(tuple(occupants), used, utilisation)


def _occupant(process: Any) -> Occupant:
    held = process.usedGpuMemory
    return Occupant(
        int(process.pid), name_of(int(process.pid)) or "name not readable", None if held is None else int(held)
    )


class GpuGate:
    """Lets a box start on a GPU, or says why not.

    Args:
        on_busy: wait for up to ``wait_s`` and then refuse; refuse after a short grace; or go on and mark the cells.
        tell: takes one line when it begins to wait.
    """

    def __init__(
        self,
        on_busy: OnBusy,
        wait_s: float,
        tell: Callable[[str], None],
        *,
        look_at: Callable[[str], Occupancy | None] = look,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_busy = on_busy
        self._limit_s = {"wait": wait_s, "refuse": min(GRACE_S, wait_s), "ignore": GRACE_S}[on_busy]
        self._tell = tell
        self._look = look_at
        self._sleep = sleep
        self._clock = clock
        self._baseline: dict[str, int] = {}
        self._not_back: dict[str, str] = {}
        self._lock = threading.Lock()

    def begin(self, uuid: str) -> None:
        """Before anything of this call runs on a GPU: what is in use now is what must come back, unless a later box
        finds less."""
        now = self._look(uuid)
        if now is not None:
            with self._lock:
                self._baseline.setdefault(uuid, now.used_bytes)

    def enter(self, uuid: str, stopping: Callable[[], bool] = lambda: False) -> str:
        """Waits until a GPU is free; returns a mark for the cells that follow, in one line, empty where all is well.

        Raises:
            BadInput: it is not free; names who is on it.
        """
        with self._lock:
            mark = self._not_back.pop(uuid, "")
        now = self._look(uuid)
        deadline = self._clock() + self._limit_s
        told = False
        while now is not None and now.trouble and self._clock() < deadline and not stopping():
            if not told:
                self._tell(f"{uuid} is busy: {now.trouble}; waiting for at most {self._limit_s:.0f} s")
                told = True
            self._sleep(_POLL_S)
            now = self._look(uuid)
        if now is None:
            return mark
        if now.trouble and not stopping():
            if self._on_busy != "ignore":
                raise BadInput(
                    f"{uuid} is busy: {now.trouble}",
                    "go on when it is free (--resume), or --on-busy ignore, which marks the cells",
                )
            mark = "; ".join(filter(None, (mark, f"the GPU was busy: {now.trouble}")))
        with self._lock:
            self._baseline[uuid] = min(now.used_bytes, self._baseline.get(uuid, now.used_bytes))
        return mark

    def leave(self, uuid: str, what: str) -> None:
        """After a box: waits until its memory has come back. What has not is the next cells' mark."""
        baseline = self._baseline.get(uuid)
        if baseline is None or memory_came_back(uuid, baseline):
            return
        now = self._look(uuid)
        more = readable(max(0, now.used_bytes - baseline)) if now is not None else "some"
        text = f"{more} of GPU memory had not come back after {what}"
        self._tell(f"{uuid}: {text}")
        with self._lock:
            self._not_back[uuid] = text
