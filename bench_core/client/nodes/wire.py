"""What goes between a client and the hosts that its load generators run on: one TCP connection for each host.

The host connects, so that it needs no open port, and both prove that they know the launch's secret (HMAC-SHA256 over
what the other has made up) before either takes the other at its word. What follows are frames as ``client.load.wire``
has them:

    from the host: ``HELLO`` (JSON: its name and its CPUs), ``PONG`` (number, and when the question was heard and
    answered, nanoseconds of its CLOCK_MONOTONIC), ``DATA`` (job, process, and bytes of that generator's pipe),
    ``GONE`` (job, process, and how it ended: one that had not said so itself has died)
    to the host: ``JOB`` (job, first process, how many, and the memory file of the jobs), ``PING`` (number), ``WORD``
    (a control word for all its generators), ``CLEAR`` (the job is over: end what still runs)

The end of the connection ends everything on the host. A machine that is gone without a word is noticed by the kernel,
which asks an idle connection for a sign of life.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import struct

HELLO, PONG, DATA, GONE, JOB, PING, WORD, CLEAR = range(8)
ONE = struct.Struct("<IH")  # job, process
JOB_HEAD = struct.Struct("<IHH")  # job, first process, how many
PING_HEAD = struct.Struct("<I")
PONG_HEAD = struct.Struct("<Iqq")

_NONCE_BYTES = 32
_PROOF_BYTES = hashlib.sha256().digest_size
_ANSWERS_WITHIN_S = 5.0
# An idle connection: after so many seconds, every so many, and so often without an answer before it is broken.
_IDLE_S, _EVERY_S, _TIMES = 5, 3, 4
_UNANSWERED_MS = 20_000  # of what was sent


def admit(connection: socket.socket, secret: bytes) -> bool:
    """The client's side: whether the other end knows the secret; it is then told that this one does.

    Raises:
        OSError: the connection ends, or nothing comes within seconds.
    """
    connection.settimeout(_ANSWERS_WITHIN_S)
    mine = secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(mine)
    theirs = _exactly(connection, _NONCE_BYTES)
    if not hmac.compare_digest(_exactly(connection, _PROOF_BYTES), _proof(secret, b"host", mine, theirs)):
        return False
    connection.sendall(_proof(secret, b"client", theirs, mine))
    connection.settimeout(None)
    return True


def enter(connection: socket.socket, secret: bytes) -> bool:
    """The host's side: whether the other end knows the secret too.

    Raises:
        OSError: the connection ends, or nothing comes within seconds.
    """
    connection.settimeout(_ANSWERS_WITHIN_S)
    theirs = _exactly(connection, _NONCE_BYTES)
    mine = secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(mine + _proof(secret, b"host", theirs, mine))
    known = hmac.compare_digest(_exactly(connection, _PROOF_BYTES), _proof(secret, b"client", mine, theirs))
    connection.settimeout(None)
    return known


def set_up(connection: socket.socket) -> None:
    """Nothing waits to be sent together with what follows, and a dead other end is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _TIMES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS)


def _proof(secret: bytes, role: bytes, *nonces: bytes) -> bytes:
    return hmac.new(secret, b"".join((role, *nonces)), hashlib.sha256).digest()


def _exactly(connection: socket.socket, size: int) -> bytes:
    held = b""
    while len(held) < size:
        piece = connection.recv(size - len(held))
        if not piece:
            raise ConnectionError("the other end has closed the connection")
        held += piece
    return held
