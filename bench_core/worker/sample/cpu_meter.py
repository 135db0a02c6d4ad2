"""Reads the kernel's counters of CPU time: idle time of the CPUs that a cell may use, and what its processes ran.

A container sees its machine's /proc/stat, and the counter of its own control group. Without a container the processes
are counted one by one, from the supervisor downwards; what has ended counts with its parent, who waited for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench_core.contract.measures.cpu_use import CpuReading
from bench_core.system.machine import cpu_times
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.sample.sampler import descendants

_TICKS = os.sysconf("SC_CLK_TCK")
# utime and stime, cutime and cstime, counted from the field behind the name: man 5 proc_pid_stat.
_ITSELF, _WAITED_FOR = slice(11, 13), slice(13, 15)
# Version 2, then version 1 as it is mounted; seconds a unit.
_COUNTERS = (("", "cpu.stat", 1e-6), ("cpuacct", "cpuacct.usage", 1e-9), ("cpu,cpuacct", "cpuacct.usage", 1e-9))


class CpuMeter:
    """Of one cell: a supervisor's process and all that descends from it, on the CPUs that this process may use now."""

    def __init__(self, root_pid: int, *, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._cpus = frozenset(os.sched_getaffinity(0))
        self._stat = proc / "stat"
        self._own = container_counter(cgroup, root_pid) or partial(tree_cpu_s, root_pid, proc)

    def read(self) -> CpuReading | None:
        """The counters now; ``None`` where the machine does not tell them."""
        try:
            own_s = self._own()
        except (OSError, ValueError, LookupError):
            return None
        t_s, times = seconds(monotonic_ns()), cpu_times(self._cpus, self._stat)
        if times is None:
            return None
        return CpuReading(t_s=t_s, cpus=times.cpus, idle_s=times.idle_s, steal_s=times.steal_s, own_s=round(own_s, 6))


def container_counter(cgroup: Path, root_pid: int) -> Callable[[], float] | None:
    """Reads the CPU time of the control group at hand, seconds, if nobody is in it but this cell (and the first process
    of its container): a machine's own root group is no cell's."""
    family = {1, *descendants(root_pid)}
    for folder, name, unit in _COUNTERS:
        path = cgroup / folder / name
        try:
            members = {int(word) for word in (path.parent / "cgroup.procs").read_text(encoding="ascii").split()}
            if members and members <= family and root_pid in members:
                _counted_s(path, unit)
                return partial(_counted_s, path, unit)
        except (OSError, ValueError, LookupError):
            continue
    return None


def _counted_s(path: Path, unit_s: float) -> float:
    words = path.read_text(encoding="ascii").split()
    return unit_s * int(words[0] if len(words) == 1 else words[words.index("usage_usec") + 1])


def tree_cpu_s(root_pid: int, proc: Path = Path("/proc")) -> float:
    """CPU time of a process and all its descendants, those included that have ended and were waited for; seconds."""
    total_s = 0.0
    for pid in descendants(root_pid):
        with contextlib.suppress(OSError, ValueError):
            fields = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            total_s += sum(map(int, fields[_WAITED_FOR])) / _TICKS
            try:  # the clock of a process counts nanoseconds; its number is made as by clock_getcpuclockid(3)
                total_s += time.clock_gettime((~pid << 3) | 2)
            except OSError:
                total_s += sum(map(int, fields[_ITSELF])) / _TICKS
    return total_s
