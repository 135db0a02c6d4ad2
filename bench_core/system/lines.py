"""Cutting a stream of bytes into lines, within bounds."""

from __future__ import annotations

from collections.abc import Callable

MAX_LINE_BYTES = 1 << 20


class LineSplitter:
    """Hands over whole lines; a line beyond 1 MiB is cut there and its rest dropped."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes the next piece of the stream."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._append(part)
            self._flush()
        self._append(rest)

    def end(self) -> None:
        """The stream has ended; hands over what is left."""
        if self._buffer:
            self._flush()

    def _append(self, part: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._buffer)
        self._buffer += part[: max(0, room)]

    def _flush(self) -> None:
        line = bytes(self._buffer)
        self._buffer.clear()
        self._take(line)


class Tail:
    """Keeps the last bytes of a stream."""

    def __init__(self, limit_bytes: int = 64 * 1024) -> None:
        self._limit = limit_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes the next piece."""
        self._data += data
        if len(self._data) > 2 * self._limit:
            del self._data[: -self._limit]

    def text(self) -> str:
        """What is kept, unreadable bytes as escapes."""
        return bytes(self._data[-self._limit :]).decode("utf-8", "backslashreplace")
