"""Facts of a machine, written alike by the driver on the host and by a worker in its container; read from /proc."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from bench_core.contract.run import HostInfo


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
