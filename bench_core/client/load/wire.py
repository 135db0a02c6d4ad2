"""What goes between a supervisor and its load generators: a job in, frames out, three control words in.

The job lies in one memory file that all generators of a supervisor map, so that large prompts are there once:

    8 bytes, little-endian: length of the head; the head, JSON (``Job``); the requests' bytes, one after the other

The frames on the results' pipe begin with a length and a kind (``FRAME``):

    ``ready``: connections are open; a ``start`` may be sent
    ``sent``: pairs (index, scheduled nanoseconds), 64 bits each, of requests that were sent since the last such frame
    ``response``: one request that has ended, see ``Response``
    ``end``: JSON (``Facts``); nothing follows

The control words are lines: ``start <nanoseconds of CLOCK_MONOTONIC>``, ``stop`` (send nothing more), ``abort`` (end
now; what is in flight comes back as unfinished). The control pipe's end is an ``abort``.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench_core.client.load.answer import Fields

FRAME = struct.Struct("<IB")
READY, SENT, RESPONSE, END = range(4)
_HEAD_LENGTH = struct.Struct("<Q")
_RESPONSE = struct.Struct("<QqqqBBHI")

# As ``contract.serving.requests.RequestEnd``, and ``exhausted``: this host could open no connection.
End = Literal["ok", "refused", "broken", "garbage", "timeout", "unfinished", "exhausted"]
_ENDS: tuple[End, ...] = ("ok", "refused", "broken", "garbage", "timeout", "unfinished", "exhausted")
_NEVER = -1
_SHARED = ("order", "blobs", "tokens", "fields", "offsets_us")
_LONGEST_CAUSE = 300


@dataclass(frozen=True, slots=True)
class Job:
    """What one process of the load generators is to do; the others have the same but for ``process``.

    Attributes:
        process, processes: it sends the requests whose index leaves ``process`` when divided by ``processes``.
        host, port: of the server; an address, no name.
        timeout_ns: for one request, from its sending.
        pause_ns: of a stream of a closed loop, after a request that failed.
        connections: opened before the clock, by this process.
        streams: of a closed loop, by this process; 0: an open loop.
        total: requests of the whole schedule.
        order: request k has the bytes ``blobs[order[k % len(order)]]``.
        blobs: (place, length) of each distinct request's bytes, from the head's end.
        tokens: (fewest, most) of a good answer to each distinct request.
        fields: where a response tells what.
        offsets_us: of an open loop, when each request is sent, microseconds after the start.
        cpus: that it may run on; empty: all.
    """

    process: int
    processes: int
    host: str
    port: int
    timeout_ns: int
    pause_ns: int
    connections: int
    streams: int
    total: int
    order: tuple[int, ...]
    blobs: tuple[tuple[int, int], ...]
    tokens: tuple[tuple[int, int], ...]
    fields: Fields
    offsets_us: tuple[int, ...] = ()
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a process says of itself at its end; see ``contract.serving.requests.GeneratorEvent``."""

    started_ns: int
    ended_ns: int
    cpu_ns: int
    busy_ns: int
    longest_turn_ns: int
    cpus: tuple[int, ...]


@dataclass(slots=True)
class Response:
    """One request that has ended, as it came. Times are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        sent_ns: when its last byte was handed to the kernel; ``None``: it never was.
        ended_ns: when it was complete, or had failed.
        cause: why it failed, one line.
        times_ns: of each read of the connection, when it had returned.
        pieces: what each of these reads brought.
        resent: the first sending was lost with a connection that the server ended, unread; times are of the second.
    """

    index: int
    scheduled_ns: int
    sent_ns: int | None
    ended_ns: int
    end: End
    cause: str
    times_ns: Sequence[int]
    pieces: Sequence[bytes]
    resent: bool = False


def job_bytes(jobs: Sequence[Job], blobs: Sequence[bytes]) -> bytes:
    """The memory file of these jobs, in the order of their processes."""
    told = [asdict(job) for job in jobs]
    shared = {name: told[0][name] for name in _SHARED}
    own = [{name: value for name, value in job.items() if name not in _SHARED} for job in told]
    head = json.dumps({"shared": shared, "jobs": own}, separators=(",", ":")).encode()
    return b"".join((_HEAD_LENGTH.pack(len(head)), head, *blobs))


def read_job(content: memoryview, process: int) -> tuple[Job, list[memoryview]]:
    """The job of one process and the distinct requests' bytes, not copied.

    Raises:
        ValueError, KeyError, TypeError, IndexError, struct.error: this is no such file.
    """
    (length,) = _HEAD_LENGTH.unpack_from(content)
    begin = _HEAD_LENGTH.size + length
    head = json.loads(bytes(content[_HEAD_LENGTH.size : begin]))
    told: dict[str, Any] = {**head["shared"], **head["jobs"][process]}
    for name in ("blobs", "tokens"):
        told[name] = [tuple(pair) for pair in told[name]]
    told["fields"] = Fields(**told["fields"])
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    job = Job(**fields)
    return job, [content[begin + place : begin + place + size] for place, size in job.blobs]


def frame(kind: int, content: bytes) -> bytes:
    """One frame."""
    return FRAME.pack(len(content), kind) + content


def response_frame(response: Response) -> bytes:
    """The frame of one response."""
    cause = response.cause.encode("utf-8", "replace")[:_LONGEST_CAUSE]
    sent = _NEVER if response.sent_ns is None else response.sent_ns
    fixed = _RESPONSE.pack(
        response.index, response.scheduled_ns, sent, response.ended_ns,
        _ENDS.index(response.end), response.resent, len(cause), len(response.pieces),
    )  # fmt: skip
    times, lengths = array("q", response.times_ns), array("I", map(len, response.pieces))
    return frame(RESPONSE, b"".join((fixed, cause, times.tobytes(), lengths.tobytes(), *response.pieces)))


def read_response(content: bytes) -> Response:
    """What ``response_frame`` wrote."""
    index, scheduled, sent, ended, end, resent, cause_length, count = _RESPONSE.unpack_from(content)
    at = _RESPONSE.size + cause_length
    cause = content[_RESPONSE.size : at].decode("utf-8", "replace")
    times, lengths = array("q"), array("I")
    times.frombytes(content[at : at + 8 * count])
    at += 8 * count
    lengths.frombytes(content[at : at + 4 * count])
    at += 4 * count
    pieces = []
    for length in lengths:
        pieces.append(content[at : at + length])
        at += length
    sent_ns = None if sent == _NEVER else sent
    return Response(index, scheduled, sent_ns, ended, _ENDS[end], cause, times, pieces, bool(resent))


class Frames:
    """Takes apart what comes out of a pipe."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(kind, content) of each frame that is complete with this piece."""
        held = self._held
        held += data
        at = 0
        while len(held) - at >= FRAME.size:
            length, kind = FRAME.unpack_from(held, at)
            end = at + FRAME.size + length
            if len(held) < end:
                break
            yield kind, bytes(held[at + FRAME.size : end])
            at = end
        del held[:at]
