"""Never outliving the process that one works for."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int | None = None) -> None:
    """Has the kernel kill this process when its parent ends, however that ends.

    Args:
        parent_pid: who should be the parent; if that one has ended before this call, this process ends now.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        raise SystemExit("the process that started this one has gone")
