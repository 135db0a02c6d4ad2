"""One connection to the server, and the request that is in flight on it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from bench_core.client.load.framing import Framing
from bench_core.client.load.wire import End, Response

CONNECTING, IDLE, SENDING, READING, ENDING = range(5)


class Flight:
    """A request on its way. Times are nanoseconds; ``sent_ns`` is 0 until its last byte was handed to the kernel."""

    __slots__ = ("data", "index", "issued_ns", "pieces", "resent", "scheduled_ns", "sent_ns", "size", "times")

    def __init__(self, index: int, data: memoryview, scheduled_ns: int, issued_ns: int) -> None:
        self.index = index
        self.data = data
        self.scheduled_ns = scheduled_ns
        self.issued_ns = issued_ns
        self.sent_ns = 0
        self.times: list[int] = []
        self.pieces: list[bytes] = []
        self.size = 0
        self.resent = False

    def response(self, end: End, cause: str, ended_ns: int) -> Response:
        """What is handed on when it has ended."""
        return Response(
            self.index, self.scheduled_ns, self.sent_ns or None, ended_ns, end, cause, self.times, self.pieces,
            self.resent,
        )  # fmt: skip


class Connection:
    """A non-blocking socket, being connected when it is made.

    Attributes:
        answered: whether a response has come whole on it.
        state: CONNECTING, IDLE (connected, no request), SENDING (a request that the kernel took in part), READING,
            ENDING (the server has ended it without a word, and a reset may follow).
        idle_since_ns: when it last had nothing to do.
        unsent: what of the request is still to be sent.

    Raises:
        OSError: it was refused at once, or this process may open no more.
    """

    __slots__ = ("answered", "fd", "flight", "framing", "idle_since_ns", "recv", "sock", "state", "unsent")

    def __init__(self, family: int, address: tuple[str, int]) -> None:
        self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            problem = self.sock.connect_ex(address)
            if problem not in (0, errno.EINPROGRESS):
                raise OSError(problem, os.strerror(problem))
        except OSError:
            self.sock.close()
            raise
        self.fd = self.sock.fileno()
        self.recv = self.sock.recv
        self.framing = Framing()
        self.answered = False
        self.state = CONNECTING
        self.flight: Flight | None = None
        self.idle_since_ns = 0
        self.unsent = memoryview(b"")

    def problem(self) -> str:
        """Why it could not be connected; empty where it is."""
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return os.strerror(number) if number else ""

    def ended(self) -> bool:
        """Whether the server has ended it, as far as the kernel knows."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self) -> bool:
        """Sends what the kernel takes; whether that was the rest of the request.

        Raises:
            OSError: the connection is no more.
        """
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.sock.send(self.unsent) :]
        return not self.unsent
