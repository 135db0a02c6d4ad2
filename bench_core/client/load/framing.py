"""HTTP/1.1 framing: where a response ends, whatever pieces it comes in.

One state machine serves both sides of the client: the load generator, which must only know when a response is
complete, and the reader, which wants the body. It looks at each byte of a body's framing and at none of its content.
"""

from __future__ import annotations

_HEAD, _SIZE, _DATA, _CRLF, _TRAILER, _FIXED, _TO_CLOSE, _DONE = range(8)
_LONGEST_HEAD = 65536
_LONGEST_SIZE_LINE = 1024
# A chunk of 2^60 bytes is no response.
_MOST_HEX_DIGITS = 15
_HEX = b"0123456789abcdefABCDEF"
_DIGITS = b"0123456789"
_NO_BODY = (204, 304)


class BadFraming(ValueError):
    """What came is no HTTP/1.1 response; the message says why, in one line."""


class Framing:
    """Follows one response. ``feed`` each piece as it comes; call ``closed`` where the connection ends.

    Attributes:
        status: of the status line; 0 before it was there.
        headers: by name in lower case; of a name that comes twice, both values with a comma between.
        keeps_alive: whether the connection can take another request when this response is complete.
        body: its pieces in order, filled where ``keep_body``.
    """

    __slots__ = ("_held", "_left", "_state", "body", "headers", "keep_body", "keeps_alive", "status")

    def __init__(self, keep_body: bool = False) -> None:
        self.keep_body = keep_body
        self.reset()

    def reset(self) -> None:
        """Begins with the next response of the connection."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.keeps_alive = True
        self.body: list[bytes] = []
        self._state = _HEAD
        self._held = b""
        self._left = 0

    @property
    def complete(self) -> bool:
        """Whether the whole response was there."""
        return self._state == _DONE

    def feed(self, data: bytes) -> bool:
        """Takes the next piece; whether the response is complete with it.

        Raises:
            BadFraming: this is no HTTP/1.1 response.
        """
        at, end = 0, len(data)
        if self._state == _SIZE and not self._held and not self.keep_body:
            at = self._whole_chunks(data, end)
        while at < end:
            state = self._state
            if state == _SIZE:
                at = self._size(data, at)
            elif state in (_DATA, _FIXED):
                taken = min(self._left, end - at)
                if self.keep_body:
                    self.body.append(data[at : at + taken])
                at += taken
                self._left -= taken
                if not self._left:
                    self._state = _CRLF if state == _DATA else _DONE
            elif state == _CRLF:
                at = self._after_chunk(data, at)
            elif state == _HEAD:
                at = self._head(data, at)
            elif state == _TRAILER:
                at = self._trailer(data, at)
            elif state == _TO_CLOSE:
                if self.keep_body:
                    self.body.append(data[at:])
                at = end
            else:
                # More than was announced: nobody knows whose answer the next bytes would be.
                self.keeps_alive = False
                return True
        return self._state == _DONE

    def _whole_chunks(self, data: bytes, end: int) -> int:
        """Passes over chunks that lie in one read as a whole, as nearly all do; where what is left begins."""
        at = 0
        while at < end:
            stop = data.find(b"\r\n", at)
            digits = data[at:stop]
            if stop <= at or len(digits) > _MOST_HEX_DIGITS or digits.strip(_HEX):
                break
            size = int(digits, 16)
            after = stop + 4 + size
            if not size or after > end or data[after - 2 : after] != b"\r\n":
                break
            at = after
        return at

    def closed(self) -> bool:
        """The connection has ended; whether the response was complete by then."""
        if self._state == _TO_CLOSE:
            self._state = _DONE
        self.keeps_alive = False
        return self._state == _DONE

    def _line(self, data: bytes, at: int, longest: int) -> tuple[bytes | None, int]:
        """The line that ends in ``data``, with what was held of it before, and where the next begins."""
        stop = data.find(b"\r\n", at)
        if not self._held and stop >= 0:
            return data[at:stop], stop + 2
        # A line in several reads: its CR may have come with one and its LF with the next.
        held = self._held + data[at:]
        stop = held.find(b"\r\n")
        if (stop if stop >= 0 else len(held)) > longest:
            raise BadFraming(f"a line of more than {longest} bytes")
        if stop < 0:
            self._held = held
            return None, len(data)
        taken = stop + 2 - len(self._held)
        self._held = b""
        return held[:stop], at + taken

    def _size(self, data: bytes, at: int) -> int:
        line, at = self._line(data, at, _LONGEST_SIZE_LINE)
        if line is None:
            return at
        digits = line if not line.strip(_HEX) else line.partition(b";")[0].rstrip(b" \t")
        if not digits or digits.strip(_HEX) or len(digits) > _MOST_HEX_DIGITS:
            raise BadFraming(f"a chunk of size {_shown(line)}")
        self._left = int(digits, 16)
        self._state = _DATA if self._left else _TRAILER
        return at

    def _after_chunk(self, data: bytes, at: int) -> int:
        ending = self._held + data[at : at + 2 - len(self._held)]
        if not b"\r\n".startswith(ending):
            raise BadFraming("a chunk that is longer than its size")
        at += len(ending) - len(self._held)
        if len(ending) == 2:
            self._held, self._state = b"", _SIZE
        else:
            self._held = ending
        return at

    def _trailer(self, data: bytes, at: int) -> int:
        line, at = self._line(data, at, _LONGEST_HEAD)
        if line is not None and not line:
            self._state = _DONE
        return at

    def _head(self, data: bytes, at: int) -> int:
        held = self._held + data[at:]
        stop = held.find(b"\r\n\r\n")
        if stop < 0:
            if not (held.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(held)):
                raise BadFraming(f"no HTTP: {_shown(held)}")
            if len(held) > _LONGEST_HEAD:
                raise BadFraming(f"headers of more than {_LONGEST_HEAD} bytes")
            self._held = held
            return len(data)
        at += stop + 4 - len(self._held)
        self._held = b""
        lines = held[:stop].split(b"\r\n")
        version = self._status_line(lines[0])
        if self.status < 200 and self.status != 101:
            self.status = 0  # "100 Continue": the response itself is still to come
            return at
        self._header_lines(lines[1:])
        self._choose_body(version)
        return at

    def _status_line(self, line: bytes) -> bytes:
        version, _, rest = line.partition(b" ")
        code = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or code.strip(_DIGITS) or rest[3:4] not in b" ":
            raise BadFraming(f"no HTTP: {_shown(line)}")
        self.status = int(code)
        if not 100 <= self.status <= 599:
            raise BadFraming(f"HTTP status {self.status}")
        return version

    def _header_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise BadFraming(f"no header: {_shown(line)}")
            key, text = name.decode("latin-1").lower(), value.strip().decode("latin-1")
            self.headers[key] = f"{self.headers[key]},{text}" if key in self.headers else text

    def _choose_body(self, version: bytes) -> None:
        """How the body's end is known: RFC 9112, section 6.3."""
        said = {word.strip().lower() for word in self.headers.get("connection", "").split(",")}
        self.keeps_alive = "close" not in said and (version == b"HTTP/1.1" or "keep-alive" in said)
        coding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if self.status in _NO_BODY:
            self._state = _DONE
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise BadFraming(f"transfer coding {_shown(coding.encode())}")
            self._state = _SIZE
        elif length is not None:
            values = {value.strip() for value in length.split(",")}
            (text,) = values if len(values) == 1 else ("",)
            if not (text.isascii() and text.isdigit() and len(text) <= _MOST_HEX_DIGITS):
                raise BadFraming(f"content length {_shown(length.encode())}")
            self._left = int(text)
            self._state = _FIXED if self._left else _DONE
        else:
            self.keeps_alive = False
            self._state = _TO_CLOSE


def _shown(data: bytes) -> str:
    """Foreign bytes for a message: short, printable, in one line."""
    return repr(data[:60].decode("latin-1"))
