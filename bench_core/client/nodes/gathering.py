"""The client's side of the hosts that its load generators run on: waits for them, asks for their clocks, hears them."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bench_core.client.load.wire import Frames, frame
from bench_core.client.nodes.wire import HELLO, PING, PING_HEAD, PONG, PONG_HEAD, admit, set_up
from bench_core.contract.errors import MachineFailure
from bench_core.contract.statistics.clocks import ClockRounds

_READ_BYTES = 1 << 20
_COME_WITHIN_S = 90.0
_LOOK_S = 0.2
_ANSWERS_WITHIN_S = 10.0
# The shortest of so many rounds; fewer over a slow line, where the first second says as much.
_ROUNDS, _LEAST_ROUNDS, _ROUNDS_S = 100, 8, 1.0
_HINT = "see what the node says, then --resume the run"


@dataclass(eq=False)
class Remote:
    """A host that has come.

    Attributes:
        cpus: that it may use.
        waiting: what it has said while it was asked for its clock.
    """

    name: str
    cpus: tuple[int, ...]
    connection: socket.socket
    frames: Frames
    waiting: deque[tuple[int, bytes]] = field(default_factory=deque)

    def send(self, kind: int, content: bytes) -> None:
        """One frame.

        Raises:
            MachineFailure: the host has gone.
        """
        try:
            self.connection.sendall(frame(kind, content))
        except OSError as error:
            raise self.gone(error) from error

    def heard(self) -> list[tuple[int, bytes]]:
        """The frames that are there now; waits for bytes.

        Raises:
            MachineFailure: the host has gone.
        """
        try:
            data = self.connection.recv(_READ_BYTES)
        except OSError as error:
            raise self.gone(error) from error
        if not data:
            raise self.gone(None)
        return list(self.frames.feed(data))

    def gone(self, error: OSError | None) -> MachineFailure:
        """As a failure of the environment."""
        how = "it has closed its connection" if error is None else str(error.strerror or error)
        return MachineFailure(f"client node {self.name} is lost: {how}", _HINT)

    def rounds(self) -> ClockRounds:
        """Asks for its clock.

        Raises:
            MachineFailure: it has gone, or does not answer.
        """
        columns: tuple[list[int], ...] = ([], [], [], [])
        began_s = time.monotonic()
        self.connection.settimeout(_ANSWERS_WITHIN_S)
        for number in range(_ROUNDS):
            asked = time.monotonic_ns()
            self.send(PING, PING_HEAD.pack(number))
            for column, value in zip(columns, (asked, *self._answer(number)), strict=True):
                column.append(value)
            if number + 1 >= _LEAST_ROUNDS and time.monotonic() - began_s > _ROUNDS_S:
                break
        self.connection.settimeout(None)
        asked_ns, heard_ns, answered_ns, back_ns = map(tuple, columns)
        return ClockRounds(asked=asked_ns, heard=heard_ns, answered=answered_ns, back=back_ns)

    def _answer(self, number: int) -> tuple[int, int, int]:
        """When the question was heard, answered, and the answer back."""
        while True:
            frames = self.heard()
            back = time.monotonic_ns()
            for kind, content in frames:
                if kind != PONG:
                    self.waiting.append((kind, content))
                    continue
                told, heard, answered = PONG_HEAD.unpack(content)
                if told == number:
                    return heard, answered, back


class Gathering:
    """Listens for the hosts of one launch.

    Args:
        address: that is listened on, which is where the hosts find this client or a port that leads to it.
        count: hosts that come.

    Attributes:
        hosts: that have come, by name, once :meth:`gather` has returned.

    Raises:
        MachineFailure: the address is not this host's, or the port is taken.
    """

    def __init__(self, address: tuple[str, int], count: int, secret: bytes) -> None:
        self._count, self._secret = count, secret
        self.hosts: list[Remote] = []
        try:
            self._listener = socket.create_server(address)
        except OSError as error:
            raise MachineFailure(f"no client node could come to {address[0]}:{address[1]}: {error.strerror}") from error

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def gather(self, stopped: Callable[[], bool]) -> None:
        """Waits until all have come, or a stop is asked for.

        Raises:
            MachineFailure: one does not come.
        """
        deadline = time.monotonic() + _COME_WITHIN_S
        while len(self.hosts) < self._count and not stopped():
            self._listener.settimeout(_LOOK_S)
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self._meet(connection)
            if time.monotonic() > deadline:
                names = ", ".join(host.name for host in self.hosts) or "none"
                raise MachineFailure(
                    f"{len(self.hosts)} of {self._count} client nodes have come within {_COME_WITHIN_S:g} s: {names}",
                    "client nodes need a way to the address that --serve-address names: routes, firewall",
                )
        self._listener.close()
        self.hosts.sort(key=lambda host: host.name)

    def _meet(self, connection: socket.socket) -> None:
        """Somebody has connected: one of the hosts, or a stranger, who is let go."""
        try:
            set_up(connection)
            if not admit(connection, self._secret):
                connection.close()
                return
            remote = Remote("", (), connection, Frames())
            connection.settimeout(_ANSWERS_WITHIN_S)
            frames: list[tuple[int, bytes]] = []
            while not frames:
                frames = remote.heard()
            ((kind, content),) = frames
            told = json.loads(content)
            if kind != HELLO:
                raise ValueError("no greeting")
            remote.name, remote.cpus = str(told["name"]), tuple(map(int, told["cpus"]))
            connection.settimeout(None)
        except (OSError, ValueError, KeyError, TypeError, MachineFailure):
            connection.close()
            return
        self.hosts.append(remote)

    def close(self) -> None:
        """Ends what runs on the hosts."""
        self._listener.close()
        for host in self.hosts:
            host.connection.close()


def selector_of(hosts: list[Remote]) -> selectors.BaseSelector:
    """Waits for any of them."""
    found = selectors.DefaultSelector()
    for host in hosts:
        found.register(host.connection, selectors.EVENT_READ, host)
    return found
