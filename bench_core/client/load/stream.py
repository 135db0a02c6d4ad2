"""Server-sent events, taken apart as their bytes come."""

from __future__ import annotations

DONE = b"[DONE]"


class EventStream:
    """Follows one stream; lines end in LF or CRLF. Fields other than ``data``, and comments, are passed over."""

    __slots__ = ("_data", "_held")

    def __init__(self) -> None:
        self._held = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that is complete with this piece."""
        *lines, self._held = (self._held + piece).split(b"\n")
        found = []
        for line in lines:
            if line in (b"", b"\r"):
                if self._data:
                    found.append(b"\n".join(self._data))
                    self._data = []
            else:
                self._take(line)
        return found

    def rest(self) -> list[bytes]:
        """At the stream's end: the data of a last event that no empty line has ended."""
        if self._held:
            self._take(self._held)
            self._held = b""
        data, self._data = self._data, []
        return [b"\n".join(data)] if data else []

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            begin = 6 if line.startswith(b" ", 5) else 5
            self._data.append(line[begin:-1] if line.endswith(b"\r") else line[begin:])
        elif line.rstrip(b"\r") == b"data":
            self._data.append(b"")
