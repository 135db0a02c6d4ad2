"""A Docker engine of one's own whose CPU time the kernel counts apart from everything else's: engine, and containers.

A machine that others use tells by the clock what they left; CPU time tells what was used, whoever was there.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from private_engine import PrivateEngine

# Control groups of version 1, where CPU time has a tree of its own, or of version 2.
_VERSION_1 = Path("/sys/fs/cgroup/cpuacct")


class _Group:
    """A control group for what is put into it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = (_VERSION_1 if _VERSION_1.is_dir() else Path("/sys/fs/cgroup")) / name

    def seconds(self) -> float:
        """CPU time of all that has ever been in it, and below it; 0 before it is there."""
        with contextlib.suppress(OSError):
            if _VERSION_1.is_dir():
                return int((self.path / "cpuacct.usage").read_text()) * 1e-9
            words = (self.path / "cpu.stat").read_text().split()
            return int(words[words.index("usage_usec") + 1]) * 1e-6
        return 0.0

    def take(self, pid: int) -> None:
        """A process, and what it starts from now on."""
        self.path.mkdir(exist_ok=True)
        (self.path / "cgroup.procs").write_text(str(pid))


class CountedEngine(PrivateEngine):
    """A private engine in two control groups. Needs root."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = _Group(f"{self.home.name}-engine")
        self.boxes = _Group(f"{self.home.name}-containers")

    def _begin(self, *command: str) -> subprocess.Popen[bytes]:
        if command[0] == "dockerd":
            groups = ("--cgroup-parent", f"/{self.boxes.name}", "--exec-opt", "native.cgroupdriver=cgroupfs")
            command = (*command, *groups)
        process = super()._begin(*command)
        self.engine.take(process.pid)
        return process

    def remove(self) -> None:
        """Ends it and leaves nothing."""
        super().remove()
        for group in (self.engine, self.boxes):
            for path in [group.path, *Path("/sys/fs/cgroup").glob(f"*/{group.name}")]:
                with contextlib.suppress(OSError):
                    path.rmdir()
