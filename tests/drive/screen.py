"""The driver on a terminal of a given size, and what a person sees there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import NoReturn

import pyte
from conftest import ROOT

CTRL_C = b"\x03"


class Screen:
    """One call of the driver, on a terminal that understands what xterm does.

    Attributes:
        seen: every row that was ever to be seen, as it was.
    """

    def __init__(self, root: Path, *arguments: str, columns: int, rows: int = 40, term: str = "xterm") -> None:
        folders = [f"--{name}={root / name}" for name in ("results", "data", "models")]
        command = [sys.executable, "-m", "bench_core.drive", *arguments, *folders]
        environment = {**os.environ, "TERM": term}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "CI"):
            environment.pop(name, None)
        size = struct.pack("HHHH", rows, columns, 0, 0)
        self.pid, self._terminal = pty.fork()
        if not self.pid:  # pragma: no cover - another process
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.chdir(ROOT)
            os.execvpe(command[0], command, environment)  # noqa: S606  # no shell is wanted
        self._shown = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._shown)
        self.seen: set[str] = set()

    @property
    def rows(self) -> list[str]:
        """What stands there now."""
        return [row.rstrip() for row in self._shown.display]

    @property
    def words(self) -> str:
        """All of it in one line: where a text is folded does not matter."""
        return " ".join(" ".join(self.rows).split())

    @property
    def cursor_is_hidden(self) -> bool:
        """Whether a person would type blindly."""
        return bool(self._shown.cursor.hidden)

    def press(self, key: bytes) -> None:
        """As a person does."""
        os.write(self._terminal, key)

    def until(self, text: str, seconds: float = 300.0) -> None:
        """Waits until this can be read, wherever it is folded.

        Raises:
            AssertionError: the driver has ended, or it has not come.
        """
        deadline = time.monotonic() + seconds
        while text not in self.words:
            if time.monotonic() > deadline or not self._read():
                self._give_up(f"{text!r} has not come")

    def end(self, seconds: float = 300.0) -> int:
        """Waits for the end; the exit code."""
        deadline = time.monotonic() + seconds
        while self._read():
            if time.monotonic() > deadline:
                self._give_up("it has not ended")
        _, status = os.waitpid(self.pid, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)

    def _give_up(self, why: str) -> NoReturn:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        shown = "\n".join(self.rows)
        raise AssertionError(f"{why}:\n{shown}")

    def _read(self) -> bool:
        """Takes what there is, within a tenth of a second; whether more may come."""
        if not select.select([self._terminal], [], [], 0.1)[0]:
            return True
        try:
            piece = os.read(self._terminal, 1 << 16)
        except OSError:  # the other end is closed
            return False
        self._stream.feed(piece)
        self.seen.update(self.rows)
        return bool(piece)
