"""What a load generator hands to its supervisor, without ever waiting for it while a load runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
from array import array
from collections import deque

from bench_core.client.load.wire import SENT, Response, frame, response_frame

# Linux pipes hold 64 KiB unless asked for more; an unprivileged process may ask for 1 MiB.
_PIPE_BYTES = 1 << 20
_PIECE = 1 << 16


class Outbox:
    """Responses and sent requests on their way into a pipe.

    Attributes:
        full: whether the pipe took nothing when it was last tried.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.full = False
        self._ended: deque[Response] = deque()
        self._sent = array("q")
        self._writing = memoryview(b"")
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # slower with a smaller one
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def add(self, response: Response) -> None:
        """One request has ended."""
        self._ended.append(response)

    def add_sent(self, index: int, scheduled_ns: int) -> None:
        """One request was sent."""
        self._sent.append(index)
        self._sent.append(scheduled_ns)

    @property
    def waits(self) -> bool:
        """Whether there is something to write."""
        return bool(self._writing or self._ended or self._sent)

    def step(self) -> None:
        """Writes one piece, of 64 KiB at most.

        Raises:
            OSError: nobody reads any more.
        """
        if not self._writing:
            self._writing = memoryview(self._next())
        try:
            self._writing = self._writing[os.write(self.fd, self._writing[:_PIECE]) :]
            self.full = False
        except BlockingIOError:
            self.full = True

    def _next(self) -> bytes:
        # What was sent goes first: a request is known to have been sent before it is known to have ended.
        if self._sent:
            content, self._sent = self._sent.tobytes(), array("q")
            return frame(SENT, content)
        return response_frame(self._ended.popleft()) if self._ended else b""

    def flush(self, last: bytes = b"") -> None:
        """Writes all that is left, and ``last`` after it; waits for the reader.

        Raises:
            OSError: nobody reads any more.
        """
        os.set_blocking(self.fd, True)
        while self.waits:
            self.step()
        rest = memoryview(last)
        while rest:
            rest = rest[os.write(self.fd, rest) :]
        os.set_blocking(self.fd, False)
