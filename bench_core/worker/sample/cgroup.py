"""What the kernel did to this container."""

from __future__ import annotations

from pathlib import Path

LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NO_LIMIT_BYTES = 1 << 62


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


def memory_limit_bytes() -> int | None:
    """The memory limit of this container (cgroup v2 or v1), ``None`` where it has none or it is not told."""
    for path in LIMIT_FILES:
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        # Version 1 says "none" with the largest number of whole pages that it can hold.
        return int(text) if text.isdigit() and int(text) < _NO_LIMIT_BYTES else None
    return None
