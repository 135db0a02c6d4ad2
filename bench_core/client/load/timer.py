"""A timer that wakes an epoll loop at an exact time.

The time limit of ``epoll_wait`` is whole milliseconds, as Python passes it on; a timer descriptor has nanoseconds.
Python 3.13 has it in ``os``; before that it takes ctypes.
"""

from __future__ import annotations

import ctypes
import os

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_SECOND = 1_000_000_000


class _Times(ctypes.Structure):
    """``struct itimerspec``: the interval, which is zero here, and the time, each as seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class Timer:
    """Of CLOCK_MONOTONIC, nanoseconds, as ``time.monotonic_ns``.

    Register ``fd`` for EPOLLIN with EPOLLET: then it need not be read when it has woken the loop.

    Raises:
        OSError: the kernel gives no timer.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.fd: int = library.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._set = library.timerfd_settime
        self._times = _Times(0, 0, 0, 0)
        self._pointer = ctypes.byref(self._times)
        self._at = 0

    def wake_at(self, at_ns: int) -> None:
        """Wakes at this time, at once where it has passed; 0: not at all. Replaces what was asked before."""
        if at_ns == self._at:
            return
        self._at = at_ns
        self._times.s, self._times.ns = divmod(at_ns, _SECOND)
        if self._set(self.fd, _TFD_TIMER_ABSTIME, self._pointer, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def woke(self) -> None:
        """To be told when it has woken the loop, so that the same time can be asked for again."""
        self._at = 0

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self.fd)
