"""``worker.log``: what an engine prints, kept within bounds."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import termios
import threading
import time
from typing import BinaryIO

from bench_core.contract.errors import shortened

MAX_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 1 << 16
_TAIL_BYTES = 1 << 16
_SETTLING_S = 2.0


class EngineLog:
    """Drains a pipe in a thread, so that a talkative engine never blocks; keeps the first 4 MiB of each cell.

    What was printed before the first cell (while loading) stands at the head of every cell's log.
    """

    def __init__(self, pipe_fd: int, echo: BinaryIO) -> None:
        self._fd = pipe_fd
        self._echo = echo
        self._lock = threading.Lock()
        self._shared = bytearray()
        self._current = bytearray()
        self._in_cell = False
        self._tail = bytearray()
        self._lost_bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._drain, name="engine log", daemon=True)
        self._thread.start()

    def begin_cell(self) -> None:
        """What comes from now on belongs to a new cell."""
        self._settle()
        with self._lock:
            self._in_cell = True
            self._current.clear()
            self._tail.clear()
            self._lost_bytes = 0

    def cell_text(self) -> str:
        """The current cell's log so far; unreadable bytes are shown as escapes."""
        self._settle()
        with self._lock:
            raw = bytes(self._shared + self._current)
            lost = self._lost_bytes
        text = raw.decode("utf-8", "backslashreplace")
        return text + (f"\n[{lost} more bytes were printed and not kept]\n" if lost else "")

    def tail(self) -> str:
        """The last of what the engine has printed since the cell began (or ever, where none has), 64 KiB at most; also
        where the log is full."""
        self._settle()
        with self._lock:
            return bytes(self._tail[-_TAIL_BYTES:]).decode("utf-8", "backslashreplace")

    def join(self) -> None:
        """Waits until the engine's end of the pipe is closed (by its exit), at most two seconds; closes this end."""
        self._thread.join(timeout=_SETTLING_S)
        if not self._thread.is_alive() and not self._closed:
            self._closed = True
            os.close(self._fd)

    def _settle(self) -> None:
        """Waits until what the engine has printed so far has been read; a process that never stops printing is not
        waited for. On a busy machine the thread may be far behind the engine's events."""
        waiting = array.array("i", [0])
        deadline = time.monotonic() + _SETTLING_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            with self._lock:
                fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
            if not waiting[0]:
                return
            time.sleep(0.001)

    def _drain(self) -> None:
        while True:
            select.select([self._fd], [], [])
            # Under the lock, so that a piece is either still in the pipe or already in a buffer.
            with self._lock:
                piece = os.read(self._fd, _PIECE_BYTES)
                if not piece:
                    return
                buffer = self._current if self._in_cell else self._shared
                room = max(0, MAX_BYTES - len(buffer))
                buffer.extend(piece[:room])
                self._tail += piece
                if len(self._tail) > 2 * _TAIL_BYTES:
                    del self._tail[:-_TAIL_BYTES]
                self._lost_bytes += len(piece) - len(piece[:room])
                kept = piece[:room]
            if kept:
                # Draining goes on if nobody reads the echo any more: else the engine would hang in its own print.
                with contextlib.suppress(OSError, ValueError):
                    self._echo.write(kept)
                    self._echo.flush()


def last_line(text: str) -> str:
    """The last line that says anything, at most 300 characters, printable; empty where there is none."""
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return shortened("".join(char if char.isprintable() else "?" for char in line), 300)
