"""Before each box of a run on the CPU: are the CPUs ours alone? What ``gpu_gate`` is for a GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import BusyRule, CpuReading, CpuUse, cpu_use, taken_by_others
from bench_core.drive.run.gpu_gate import GRACE_S, OnBusy
from bench_core.system.machine import cpu_times
from bench_core.system.processes import name_of, stat_fields

LOOK_S = 1.0
_NAMED = 3
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Look:
    """What others did on the CPUs for a second, and who: (process number, name, CPUs), the busiest first."""

    use: CpuUse
    busiest: tuple[tuple[int, str, float], ...] = ()

    @property
    def words(self) -> str:
        """``others took 1.98 of 2 CPUs (99 %): process 4711 (python) 0.99``."""
        named = ", ".join(f"process {pid} ({name}) {cpus:.2f}" for pid, name, cpus in self.busiest[:_NAMED])
        return f"others took {taken_by_others(self.use)}: {named or 'no process of theirs is seen here'}"


def look(seconds: float = LOOK_S) -> Look | None:
    """Looks for so long at the CPUs that this process may use; ``None`` where the machine does not tell."""
    first, processes = _reading(), _cpu_s_by_process()
    time.sleep(seconds)
    last, after = _reading(), _cpu_s_by_process()
    use = cpu_use(first, last) if first is not None and last is not None else None
    if use is None:
        return None
    rates = {pid: (after[pid] - processes.get(pid, 0.0)) / use.window_s for pid in after}
    busiest = sorted((pid for pid in rates if rates[pid] > 0), key=lambda pid: -rates[pid])
    return Look(use, tuple((pid, name_of(pid) or "ended", rates[pid]) for pid in busiest))


def _reading() -> CpuReading | None:
    times = cpu_times(frozenset(os.sched_getaffinity(0)))
    if times is None:
        return None
    return CpuReading(
        t_s=time.monotonic(),
        cpus=times.cpus,
        idle_s=times.idle_s,
        steal_s=times.steal_s,
        own_s=time.process_time(),
    )


def _cpu_s_by_process() -> dict[int, float]:
    """CPU time of every process that is seen but this one."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and (fields := stat_fields(int(entry))):
            found[int(entry)] = (int(fields[11]) + int(fields[12])) / _TICKS  # utime, stime
    return found


class CpuGate:
    """Lets a box start on the CPUs, or says why not.

    Args:
        on_busy: wait for up to ``wait_s`` and then refuse; refuse after a short grace; or do not look: each batch is
            looked at in any case, and cells that others disturb are marked.
        rule: from when on others disturb: the same as for cells.
        tell: takes one line when it begins to wait.
    """

    def __init__(
        self,
        on_busy: OnBusy,
        wait_s: float,
        rule: BusyRule,
        tell: Callable[[str], None],
        *,
        look_at: Callable[[], Look | None] = look,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_busy = on_busy
        self._limit_s = wait_s if on_busy == "wait" else min(GRACE_S, wait_s)
        self._rule = rule
        self._tell = tell
        self._look = look_at
        self._clock = clock

    def enter(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Waits until the CPUs are free.

        Raises:
            BadInput: they are not; names who uses them most.
        """
        if self._on_busy == "ignore":
            return
        deadline = self._clock() + self._limit_s
        told = False
        while (now := self._look()) is not None and self._rule.is_broken(now.use) and not stopping():
            if self._clock() >= deadline:
                raise BadInput(
                    f"the CPUs are busy: {now.words}",
                    "again when they are free (--resume a run that has begun), or --on-busy ignore, which marks the "
                    "cells that others disturb",
                )
            if not told:
                self._tell(f"the CPUs are busy: {now.words}; waiting for at most {self._limit_s:.0f} s")
                told = True
