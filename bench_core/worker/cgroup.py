"""What the kernel did to this container."""

from __future__ import annotations

from pathlib import Path


def oom_kills() -> int:
    """How often the kernel has killed for memory in this container (cgroup v2 or v1), 0 where it does not tell."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0
