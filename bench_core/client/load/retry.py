"""Whether a request that was lost with its connection may be sent once more.

A server may end a connection that it has kept at the very moment at which the next request is on its way. Nobody reads
that request then, and its sender cannot know beforehand. RFC 9110, section 9.2.2, lets a client send such a request
again where it has means to detect that the first one was never applied. The kernel has them: it resets a connection
whose bytes nobody has read. A server that read a request and ended the connection without a word leaves no reset, and
that request has failed.
"""

from __future__ import annotations

import errno
import fcntl
import struct
import termios
from typing import Literal

from bench_core.client.load.connection import Connection, Flight
from bench_core.client.load.wire import End

# A server that first shuts a connection down and then closes it resets it with the second call; its thread may have to
# wait for a processor in between. It is shorter than the pause after a failed request, so no stream waits for it.
RESET_WITHIN_NS = 200_000_000
# Between client and server may be a proxy that reads what the server will not, and passes no reset on. A connection
# that was idle for so long was ended for that.
_IDLE_NS = 500_000_000
# Of this host, not of the server: descriptors, ports, memory of the kernel.
_OWN_LIMITS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)
_RESETS = (errno.ECONNRESET, errno.EPIPE)

Lost = Literal["unread", "unknown", "failed"]


def lost_how(connection: Connection, flight: Flight, error: OSError | None) -> Lost:
    """What became of a request whose connection has ended before the response was complete.

    Args:
        error: of the call that told of the end; ``None``: the server's end alone has come.

    Returns:
        ``unread``: on a connection that was kept from before, and nobody has read it: it may be sent again, once;
        ``unknown``: the same, where a reset may still come; ``failed``: it has failed.
    """
    idle_ns = flight.issued_ns - connection.idle_since_ns  # not above 0 where it was opened for this request
    if flight.pieces or flight.resent or idle_ns <= 0:
        return "failed"
    if error is not None:
        return "unread" if error.errno in _RESETS else "failed"
    if connection.unsent or _unacknowledged(connection) or connection.problem() or idle_ns > _IDLE_NS:
        return "unread"
    return "unknown"


def unopened(error: OSError) -> End:
    """How a request has ended for which no connection could be opened."""
    return "exhausted" if error.errno in _OWN_LIMITS else "refused"


def _unacknowledged(connection: Connection) -> int:
    """Bytes that the other end's kernel had not taken when it said that it ends the connection."""
    return int(struct.unpack("i", fcntl.ioctl(connection.fd, termios.TIOCOUTQ, b"\0" * 4))[0])
