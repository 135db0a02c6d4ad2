"""Which driver started a container: enough to know later whether that very process still lives."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench_core.system.processes import stat_fields

PREFIX = "llm-bench.driver-"
_KEYS = ("host", "boot", "namespace", "uid", "pid", "started")


@dataclass(frozen=True)
class DriverIdentity:
    """A driver's process, unmistakable on its machine.

    Attributes:
        host: the machine's name.
        boot: the kernel's id of this boot; a process number means nothing in another.
        namespace: the kernel's id of the process numbers' name space: a driver in a container has numbers of its own.
        uid: whose it is; others' processes may be hidden.
        pid: its number there.
        started: clock ticks from boot to its start, since numbers are used again.
    """

    host: str
    boot: str
    namespace: str
    uid: str
    pid: str
    started: str

    @property
    def labels(self) -> dict[str, str]:
        """As labels of a container."""
        return {f"{PREFIX}{key}": getattr(self, key) for key in _KEYS}

    @classmethod
    def of_labels(cls, labels: Mapping[str, str]) -> DriverIdentity | None:
        """Read back; ``None`` where a label is missing."""
        values = [labels.get(f"{PREFIX}{key}") for key in _KEYS]
        found = [value for value in values if value is not None]
        return cls(*found) if len(found) == len(_KEYS) else None

    def has_ended(self, me: DriverIdentity) -> bool | None:
        """Whether that process is known to have ended, as seen by ``me``; ``None`` where it cannot be known: another
        machine, name space or user.

        A driver of an earlier boot of a machine of this name counts as ended.
        """
        if (self.host, self.uid) != (me.host, me.uid):
            return None
        if self.boot != me.boot:
            return True
        if self.namespace != me.namespace:
            return None
        return _started(self.pid) != self.started


@cache
def this_driver() -> DriverIdentity:
    """This process."""
    pid = str(os.getpid())
    return DriverIdentity(
        host=platform.node(),
        boot=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        namespace=str(os.stat("/proc/self/ns/pid").st_ino),
        uid=str(os.getuid()),
        pid=pid,
        started=_started(pid) or "unknown",
    )


def _started(pid: str) -> str | None:
    """Start of a living process in clock ticks since boot; ``None`` where there is none."""
    fields = stat_fields(int(pid)) if pid.isdigit() else []
    return fields[19] if fields else None
