"""Facts of a machine, written alike by the driver on the host and by a worker in its container; read from /proc."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.records.placement import HostInfo


def cpu_name() -> str:
    """The processor's name from /proc/cpuinfo, or the machine's type where it has none."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.machine() or "unknown"


def available_cores() -> int:
    """Cores that this process may run on (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class CpuTimes:
    """Counters of some CPUs since the machine's start, summed: how many they are, idle and stolen seconds."""

    cpus: int
    idle_s: float
    steal_s: float


_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # of a CPU's line in /proc/stat: man 5 proc_stat


def cpu_times(cpus: frozenset[int], stat: Path = Path("/proc/stat")) -> CpuTimes | None:
    """Of those of these CPUs that there are, in a container too; ``None`` where the machine does not tell."""
    try:
        lines = [line.split() for line in stat.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
        found = [list(map(int, fields)) for name, *fields in lines if name[3:].isdigit() and int(name[3:]) in cpus]
        if not any(map(any, found)):  # none, or a sandbox that shows only noughts
            return None
        idle, stolen = sum(row[_IDLE] + row[_IOWAIT] for row in found), sum(row[_STEAL] for row in found)
    except (OSError, ValueError, IndexError):
        return None
    return CpuTimes(len(found), idle / _TICKS, stolen / _TICKS)


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def host_info() -> HostInfo:
    """The machine in a record."""
    return HostInfo(
        cpu=cpu_name(),
        cores=available_cores(),
        memory_bytes=memory_bytes(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )
