"""Samples memory, power and clocks beside the engine, from the supervisor's process, which no engine can starve."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.records.outcome import MemoryEvidence
from bench_core.system.nvml import Readings
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.sample.cgroup import memory_limit_bytes
from bench_core.worker.sample.rapl import PackageEnergy
from bench_core.worker.supervise.last_memory import LastMemory

INTERVAL_S = 0.05  # 20 samples a second: below 0.1 % of one core, and several per batch of anything worth measuring
_FAMILY_INTERVAL_S = 1.0
_NICENESS = -10  # where it is allowed (not in a hardened container): first in line on a machine that engines fill
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """A process and all its descendants that live now."""
    found, open_pids = [], [pid]
    while open_pids:
        current = open_pids.pop()
        found.append(current)
        # A process or thread may end at any moment while it is looked at; it then has no children here.
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{current}/task"):
                with contextlib.suppress(OSError):
                    children = Path(f"/proc/{current}/task/{task}/children").read_text().split()
                    open_pids.extend(int(child) for child in children)
    return found


def rss_bytes(pids: list[int]) -> int | None:
    """Resident memory of these processes, summed (shared pages count for each); ``None`` if all are gone."""
    total, alive = 0, False
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
        except OSError:
            continue
        total += int(fields[1]) * _PAGE_BYTES
        alive = True
    return total if alive else None


class Sampler:
    """Samples one process tree and, where there are any, the GPUs of its cell together, until stopped."""

    def __init__(self, pid: int, gpu: Readings | None) -> None:
        self._pid = pid
        self._gpu = gpu
        self._packages = PackageEnergy()
        self._lock = threading.Lock()
        self._rows: list[tuple[float, dict[str, Any]]] = []
        self._memory = LastMemory()
        self._family: list[int] = [pid]
        self._family_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sampler", daemon=True)

    def start(self) -> None:
        """Begins sampling in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Ends sampling; what was sampled can still be taken."""
        self._stop.set()
        self._thread.join()

    def sample(self) -> None:
        """Takes one sample now, in the calling thread: so that the end of a phase has a reading of its own."""
        with self._lock:
            now = seconds(monotonic_ns())
            if now >= self._family_until:
                self._family = descendants(self._pid)
                self._family_until = now + _FAMILY_INTERVAL_S
            row: dict[str, Any] = {"rss_bytes": rss_bytes(self._family)}
            row["package_energy_uj"] = self._packages.read_uj()
            if self._gpu is not None:
                row |= {
                    "device_used_bytes": self._gpu.used_bytes(),
                    "power_w": self._gpu.power_w(),
                    "energy_mj": self._gpu.energy_mj(),
                    "sm_clock_mhz": self._gpu.sm_clock_mhz(),
                    "memory_clock_mhz": self._gpu.memory_clock_mhz(),
                    "temperature_c": self._gpu.temperature_c(),
                    "utilisation_percent": self._gpu.utilisation_percent(),
                    "throttle_reasons": self._gpu.throttle_reasons(),
                }
            self._rows.append((now, row))
            self._memory.add(row["rss_bytes"], row.get("device_used_bytes"))

    def take(self) -> TelemetryEvent | None:
        """The samples since the last call, and forgets them; ``None`` if there are none."""
        with self._lock:
            rows, self._rows = self._rows, []
        if not rows:
            return None
        columns: dict[str, Any] = {name: tuple(row[name] for _, row in rows) for name in rows[0][1]}
        if all(value is None for value in columns["package_energy_uj"]):
            columns["package_energy_uj"] = None  # the usual case: no column of nothing
        return TelemetryEvent(t_s=tuple(t for t, _ in rows), **columns)

    def begin_cell(self) -> None:
        """The highest readings begin anew."""
        with self._lock:
            self._memory.begin_cell()

    def memory(self) -> MemoryEvidence:
        """The last readings while the engine lived and the highest since the cell began."""
        with self._lock:
            return self._memory.evidence(memory_limit_bytes())

    def _loop(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._stop.wait(INTERVAL_S):
            self.sample()
