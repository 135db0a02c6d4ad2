"""Processes of this machine: whether one lives, what it is called, and never outliving the one that one works for."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int | None = None) -> None:
    """Has the kernel kill this process when its parent ends, however that ends.

    Args:
        parent_pid: who should be the parent; if that one has ended before this call, this process ends now.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        raise SystemExit("the process that started this one has gone")


def stat_fields(pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` from the third on (its state), see proc_pid_stat(5); empty where there is no such
    process, or where it has ended and was not yet waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    fields = text.rpartition(")")[2].split()
    return [] if fields[:1] in ([], ["Z"], ["X"]) else fields


def alive(pid: int) -> bool:
    """Whether there is a process of this number that has not ended."""
    return bool(stat_fields(pid))


def name_of(pid: int) -> str | None:
    """What the kernel calls a process; ``None`` where it does not say."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
