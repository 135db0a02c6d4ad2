"""The loop of a load generator: sends requests at their times and stamps what comes back.

In the loop nothing is parsed but the framing, and nothing is written while a socket has something to read. Reads come
first in each turn, then requests that are due, then, where no socket is ready, what the supervisor is to be handed.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque

from bench_core.client.load.answer import Answers
from bench_core.client.load.connection import CONNECTING, ENDING, IDLE, READING, SENDING, Connection, Flight
from bench_core.client.load.due import NEVER_NS, Due
from bench_core.client.load.framing import BadFraming
from bench_core.client.load.outbox import Outbox
from bench_core.client.load.retry import RESET_WITHIN_NS, lost_how, unopened
from bench_core.client.load.timer import Timer
from bench_core.client.load.wire import End, Facts, Job

_SECOND = 1_000_000_000
_READ_BYTES = 16384
# So few sockets in one turn that a request that is due waits for them a fraction of a millisecond.
_SOCKETS_PER_TURN = 64
_REQUESTS_PER_TURN = 64
# A timer wakes a process some time after it has expired, on a virtual machine up to 0.1 ms; the loop is woken this much
# before a request is due and looks at its sockets until then.
_AWAKE_BEFORE_NS = 100_000
# Responses wait for a moment without work no longer than this.
_HANDED_WITHIN_NS = _SECOND // 4
_MOST_BYTES = 1 << 28
# One that ends it with each answer, whatever its headers say, does so just after the answer (llama-server). Until this
# long after it a connection is left alone.
_SETTLED_NS = _SECOND // 200
_LEVEL, _EDGE = select.EPOLLIN, select.EPOLLIN | select.EPOLLET


class Loop:
    """Runs one job.

    Args:
        job: what to do.
        blobs: bytes of the distinct requests.
        control: pipe of control words, non-blocking.
        outbox: of the results.
    """

    def __init__(self, job: Job, blobs: list[memoryview], control: int, outbox: Outbox) -> None:
        self._job = job
        self._blobs = blobs
        self._outbox = outbox
        self._family = socket.AF_INET6 if ":" in job.host else socket.AF_INET
        self._connections: dict[int, Connection] = {}
        self._free: list[Connection] = []
        self._flights: dict[int, Flight] = {}  # by index, in the order of issue, which is that of their time limits
        self._carried: dict[int, Connection] = {}
        self._ending: deque[tuple[int, Connection]] = deque()  # since when, in the order of time
        self._dropped: list[Connection] = []
        self._due = Due(job)
        self._answers = Answers(job.fields)
        self._t0_ns = 0
        self._abort = False
        self._timeout_ns = NEVER_NS
        self._handed_ns = 0
        self._busy_ns = 0
        self._longest_ns = 0
        self._timer = Timer()
        self._control = control
        self._words = b""
        self._epoll = select.epoll()
        self._epoll.register(self._timer.fd, _EDGE)
        self._epoll.register(control, _LEVEL)
        self._epoll.register(outbox.fd, 0)

    def connect(self, within_s: float) -> int:
        """Opens the connections that are to be there before the clock runs; how many there are after ``within_s``."""
        for _ in range(self._job.connections):
            try:
                self._open()
            except OSError:  # its request will tell
                break
        end = time.monotonic() + within_s
        while time.monotonic() < end and any(one.state == CONNECTING for one in self._connections.values()):
            for fd, events in self._epoll.poll(0.05):
                if fd in self._connections:
                    self._on_other(self._connections[fd], events)
        return len(self._free)

    def wait_for_start(self) -> bool:
        """Waits for the word to start; whether it was that and no other."""
        while not self._t0_ns and not self._abort and not self._due.stopped:
            for fd, events in self._epoll.poll():
                if fd == self._control:
                    self._take_words()
                elif fd in self._connections:
                    self._on_other(self._connections[fd], events)
        return bool(self._t0_ns) and not self._abort

    def run(self) -> Facts:
        """Sends all requests, or as many as it may, and waits for their answers; hands over all but the last frame.

        Raises:
            OSError: the supervisor has gone.
        """
        self._due.begin(self._t0_ns)
        started_ns, cpu_ns = max(self._t0_ns, time.monotonic_ns()), time.process_time_ns()
        while not self._over():
            self._turn()
        now = time.monotonic_ns()
        facts = Facts(
            started_ns, max(now, started_ns), time.process_time_ns() - cpu_ns, self._busy_ns, self._longest_ns,
            self._job.cpus,
        )  # fmt: skip
        for flight in list(self._flights.values()):
            self._end(flight, "unfinished", "in flight when the load ended", now)
        self._outbox.flush()
        return facts

    def _over(self) -> bool:
        return self._abort or not (self._flights or self._due.left)

    def _turn(self) -> None:
        """Waits for something to do, and does it."""
        clock = time.monotonic_ns
        outbox = self._outbox
        due_ns = self._due.at_ns()
        blocks = -1.0
        writes = outbox.waits and not outbox.full
        if writes or due_ns - _AWAKE_BEFORE_NS <= clock():
            blocks = 0.0
        else:
            wake_ns = min(due_ns - _AWAKE_BEFORE_NS, self._timeout_ns)
            self._timer.wake_at(0 if wake_ns >= NEVER_NS // 2 else wake_ns)
        ready = self._epoll.poll(blocks, _SOCKETS_PER_TURN)
        looked_ns = clock()
        if ready:
            self._read(ready)
        while self._dropped:
            self._dropped.pop().sock.close()
        now_ns = clock() if ready else looked_ns
        if due_ns <= now_ns or self._due.free:
            self._issue(now_ns)
        if self._timeout_ns <= now_ns:
            self._time_out(now_ns)
        if writes and (not ready or now_ns - self._handed_ns > _HANDED_WITHIN_NS):
            self._hand_over(now_ns)
        turn_ns = clock() - looked_ns
        self._busy_ns += turn_ns
        self._longest_ns = max(self._longest_ns, turn_ns)

    def _read(self, ready: list[tuple[int, int]]) -> None:
        """Everything that is ready: the only part of the loop that runs for each token."""
        connections, clock = self._connections, time.monotonic_ns
        for fd, events in ready:
            connection = connections.get(fd)
            if connection is None:
                self._on_own(fd, events)
                continue
            if connection.state != READING:
                self._on_other(connection, events)
                continue
            try:
                data = connection.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lost(connection, error)
                continue
            self._came(connection, data, clock())

    def _came(self, connection: Connection, data: bytes, now_ns: int) -> None:
        """What a read has brought; nothing, where the connection has ended."""
        flight = connection.flight
        if flight is None or not data:
            self._lost(connection)
            return
        flight.times.append(now_ns)
        flight.pieces.append(data)
        flight.size += len(data)
        try:
            complete = connection.framing.feed(data)
        except BadFraming as error:
            self._fail(connection, "garbage", str(error))
            return
        if complete:
            self._complete(connection, flight, now_ns)
        elif flight.size > _MOST_BYTES:
            self._fail(connection, "garbage", f"a response of more than {_MOST_BYTES} bytes")

    def _complete(self, connection: Connection, flight: Flight, now_ns: int) -> None:
        keeps = connection.framing.keeps_alive and connection.state == READING
        connection.flight = None
        if keeps:
            connection.answered = True
            connection.framing.reset()
            connection.state, connection.idle_since_ns = IDLE, now_ns
            self._free.append(connection)
        else:
            self._drop(connection)
        self._end(flight, "ok", "", now_ns)

    def _lost(self, connection: Connection, error: OSError | None = None) -> None:
        """The server has ended the connection, or the network has."""
        flight, now_ns = connection.flight, time.monotonic_ns()
        if flight is None:
            self._drop(connection)
            return
        if error is None and connection.framing.closed():
            self._complete(connection, flight, now_ns)
            return
        how = lost_how(connection, flight, error)
        if how == "unread":
            self._resend(connection, flight)
        elif how == "unknown":  # until a reset comes; epoll tells of one whatever it is asked for
            connection.state = ENDING
            self._epoll.modify(connection.fd, 0)
            self._ending.append((now_ns, connection))
            self._timeout_ns = min(self._timeout_ns, now_ns + RESET_WITHIN_NS)
        else:
            self._broken(connection, flight, error, now_ns)

    def _broken(self, connection: Connection, flight: Flight, error: OSError | None, at_ns: int) -> None:
        how = "the connection was closed" if error is None else error.strerror or str(error)
        self._fail(connection, "broken", f"{how} after {flight.size} bytes of the response", at_ns)

    def _resend(self, connection: Connection, flight: Flight) -> None:
        """On a new connection. It keeps its scheduled time, so that what it has lost counts."""
        flight.resent, flight.sent_ns = True, 0
        connection.flight = None
        self._drop(connection)
        self._send_on_new(flight)

    def _fail(self, connection: Connection, end: End, cause: str, at_ns: int = 0) -> None:
        """``at_ns``: when it ended; 0: now."""
        flight = connection.flight
        connection.flight = None
        self._drop(connection)
        if flight is not None:
            self._end(flight, end, cause, at_ns or time.monotonic_ns())

    def _end(self, flight: Flight, end: End, cause: str, now_ns: int) -> None:
        """Of a request, however it ended; in a closed loop its stream goes on."""
        del self._flights[flight.index]
        self._carried.pop(flight.index, None)
        self._outbox.add(flight.response(end, cause, now_ns))
        job = self._job
        if not job.offsets_us:
            tokens = job.tokens[job.order[flight.index % len(job.order)]]
            good = end == "ok" and self._answers.good(flight.pieces, *tokens)
            self._due.add(now_ns + (0 if good else job.pause_ns))

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        if connection.state == IDLE:
            self._free.remove(connection)
        self._epoll.unregister(connection.fd)
        self._dropped.append(connection)  # closed after the turn: until then no other may have its number

    def _issue(self, now_ns: int) -> None:
        """Sends what is due, no more of it than may pass before sockets and control words are looked at again."""
        job = self._job
        for _ in range(_REQUESTS_PER_TURN):
            if (request := self._due.take(now_ns)) is None:
                return
            index, scheduled_ns = request
            now_ns = time.monotonic_ns()
            flight = Flight(index, self._blobs[job.order[index % len(job.order)]], scheduled_ns, now_ns)
            self._flights[index] = flight
            self._timeout_ns = min(self._timeout_ns, now_ns + job.timeout_ns)
            connection = self._idle(now_ns)
            if connection is not None:
                self._carry(connection, flight)
                self._send(connection)
            else:
                self._send_on_new(flight)

    def _idle(self, now_ns: int) -> Connection | None:
        """The one that has been idle longest; those that the server has ended are dropped."""
        while self._free:
            oldest = self._free[0]
            if oldest.answered and now_ns - oldest.idle_since_ns < _SETTLED_NS:
                return None
            if not oldest.ended():
                return self._free.pop(0)
            self._drop(oldest)
        return None

    def _open(self) -> Connection:
        connection = Connection(self._family, (self._job.host, self._job.port))
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLOUT)
        return connection

    def _carry(self, connection: Connection, flight: Flight) -> None:
        connection.flight, connection.unsent = flight, flight.data
        self._carried[flight.index] = connection

    def _send_on_new(self, flight: Flight) -> None:
        try:
            connection = self._open()
        except OSError as error:
            self._end(flight, unopened(error), error.strerror or str(error), time.monotonic_ns())
            return
        connection.idle_since_ns = time.monotonic_ns()
        self._carry(connection, flight)

    def _send(self, connection: Connection) -> None:
        flight = connection.flight
        if flight is None:
            return
        try:
            whole = connection.send()
        except OSError as error:
            connection.state = SENDING
            self._lost(connection, error)
            return
        if whole:
            flight.sent_ns = time.monotonic_ns()
            self._outbox.add_sent(flight.index, flight.scheduled_ns)
            if connection.state == SENDING:
                self._epoll.modify(connection.fd, _LEVEL)
            connection.state = READING
        elif connection.state != SENDING:
            connection.state = SENDING
            self._epoll.modify(connection.fd, _LEVEL | select.EPOLLOUT)

    def _on_other(self, connection: Connection, events: int) -> None:
        """A connection that has something to tell and is not being read from."""
        if connection.state == CONNECTING:
            if problem := connection.problem():
                self._fail(connection, "refused", problem)
                return
            self._epoll.modify(connection.fd, _LEVEL)
            connection.state, connection.idle_since_ns = IDLE, time.monotonic_ns()
            if connection.flight is None:
                self._free.append(connection)
            else:
                connection.state = READING
                self._send(connection)
        elif connection.state == ENDING and connection.flight is not None:
            self._resend(connection, connection.flight)
        elif connection.state == IDLE:
            self._drop(connection)  # closed by the server, or it says what nobody has asked
        elif events & ~select.EPOLLOUT:  # an answer to half a request: it says why the rest is not wanted
            try:
                data = connection.recv(_READ_BYTES)
            except OSError as error:
                self._lost(connection, error)
                return
            self._came(connection, data, time.monotonic_ns())
        else:
            self._send(connection)

    def _on_own(self, fd: int, events: int) -> None:
        """A descriptor that is no connection; or one that was dropped earlier in this turn."""
        if fd == self._timer.fd:
            self._timer.woke()
        elif fd == self._control:
            self._take_words()
        elif fd == self._outbox.fd:
            self._outbox.full = False
            self._abort |= bool(events & select.EPOLLERR)  # nobody reads any more
            self._epoll.modify(fd, 0)

    def _take_words(self) -> None:
        data = os.read(self._control, 4096)
        if not data:
            self._abort = True
            self._epoll.unregister(self._control)
        *lines, self._words = (self._words + data).split(b"\n")
        for line in lines:
            word, _, rest = line.partition(b" ")
            self._due.stopped |= word == b"stop"
            self._abort |= word == b"abort"
            if word == b"start":
                self._t0_ns = int(rest)

    def _time_out(self, now_ns: int) -> None:
        """Ends the requests whose time is up, and those whose connection has ended without a reset."""
        while self._ending and self._ending[0][0] + RESET_WITHIN_NS <= now_ns:
            ended_ns, connection = self._ending.popleft()
            if connection.flight is not None:
                self._broken(connection, connection.flight, None, ended_ns)
        limit_ns = self._job.timeout_ns
        self._timeout_ns = self._ending[0][0] + RESET_WITHIN_NS if self._ending else NEVER_NS
        while self._flights:
            flight = next(iter(self._flights.values()))
            if flight.issued_ns + limit_ns > now_ns:
                self._timeout_ns = min(self._timeout_ns, flight.issued_ns + limit_ns)
                return
            self._fail(self._carried[flight.index], "timeout", f"no complete response after {limit_ns / _SECOND:g} s")

    def _hand_over(self, now_ns: int) -> None:
        self._outbox.step()
        self._handed_ns = now_ns
        if self._outbox.full:
            self._epoll.modify(self._outbox.fd, select.EPOLLOUT)
