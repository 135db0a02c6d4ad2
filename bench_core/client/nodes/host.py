"""A host that load generators run on, for a client elsewhere: starts them, passes on what they say, ends with it.

A driver starts it as a module, ``--client HOST:PORT --name NAME --parent PID``, with the launch's secret in the
environment. It connects to the client, listens on nothing, and ends when that connection does.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import time

from bench_core.client.load.wire import Frames, frame
from bench_core.client.nodes.wire import (
    CLEAR,
    DATA,
    GONE,
    HELLO,
    JOB,
    JOB_HEAD,
    ONE,
    PING,
    PING_HEAD,
    PONG,
    PONG_HEAD,
    WORD,
    enter,
    set_up,
)
from bench_core.client.process import Process, memory_file, start_process
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records.outcome import EXIT_MACHINE, EXIT_OK
from bench_core.contract.serving.sidecar import CLIENT_SECRET
from bench_core.system.processes import end_with_parent

_READ_BYTES = 1 << 20
_REACHED_WITHIN_S = 90.0  # the client's container is being started meanwhile
_PAUSE_S = 0.2


class Host:
    """One connection to a client.

    Args:
        connection: open, and both ends have proved themselves.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        self._frames = Frames()
        self._job = 0
        self._processes: list[Process] = []
        self._cpus = sorted(os.sched_getaffinity(0))
        self._select = selectors.DefaultSelector()
        self._select.register(connection, selectors.EVENT_READ, None)
        self._send(HELLO, json.dumps({"name": name, "cpus": self._cpus}).encode())

    def serve(self) -> None:
        """Until the client ends the connection.

        Raises:
            OSError: it breaks.
        """
        try:
            while True:
                for key, _ in self._select.select():
                    if key.data is not None:
                        self._pass_on(key.data)
                        continue
                    data = self._connection.recv(_READ_BYTES)
                    heard_ns = time.monotonic_ns()
                    if not data:
                        return
                    for kind, content in self._frames.feed(data):
                        self._take(kind, content, heard_ns)
        finally:
            self._clear()

    def _take(self, kind: int, content: bytes, heard_ns: int) -> None:
        if kind == PING:
            (number,) = PING_HEAD.unpack(content)
            self._send(PONG, PONG_HEAD.pack(number, heard_ns, time.monotonic_ns()))
        elif kind == WORD:
            for one in self._processes:
                one.tell(content)
        elif kind == JOB:
            self._begin(content)
        elif kind == CLEAR:
            self._clear()

    def _begin(self, content: bytes) -> None:
        self._clear()
        self._job, first, count = JOB_HEAD.unpack_from(content)
        # What passes on what generators say has the CPUs that none of them is bound to, where there are such.
        os.sched_setaffinity(0, self._cpus[count:] or self._cpus)
        with memory_file(memoryview(content)[JOB_HEAD.size :]) as memory:
            for number in range(first, first + count):
                try:
                    one = start_process(number, memory)
                except MachineFailure as error:
                    self._send(GONE, ONE.pack(self._job, number) + error.cause.encode())
                    return
                self._processes.append(one)
                self._select.register(one.results, selectors.EVENT_READ, one)

    def _pass_on(self, one: Process) -> None:
        if one.results not in self._select.get_map():  # cleared meanwhile, in the same round
            return
        data = os.read(one.results, _READ_BYTES)
        if data:
            self._send(DATA, ONE.pack(self._job, one.number) + data)
            return
        self._select.unregister(one.results)
        self._send(GONE, ONE.pack(self._job, one.number) + one.last_words().encode())

    def _clear(self) -> None:
        for one in self._processes:
            if one.results in self._select.get_map():
                self._select.unregister(one.results)
            one.end()
        self._processes.clear()

    def _send(self, kind: int, content: bytes) -> None:
        self._connection.sendall(frame(kind, content))


def connected(address: tuple[str, int], secret: bytes) -> socket.socket:
    """A connection to the client, both ends proved; tries for a while, since the client may still be starting.

    Raises:
        MachineFailure: nobody answers there, or it is somebody else.
    """
    deadline = time.monotonic() + _REACHED_WITHIN_S
    while True:
        try:
            connection = socket.create_connection(address, timeout=_PAUSE_S * 10)
            set_up(connection)
            if enter(connection, secret):
                return connection
            cause = "who answers there does not know this launch's secret"
            connection.close()
        except OSError as error:  # a port that Docker has published answers before anybody is behind it
            cause = str(error.strerror or error)
        if time.monotonic() > deadline:
            raise MachineFailure(
                f"{address[0]}:{address[1]} cannot be reached from this host: {cause}",
                "client nodes need a way to the address that --serve-address names: routes, firewall",
            )
        time.sleep(_PAUSE_S)


def main() -> int:
    """Serves one client; exit code 3 where it cannot be reached or is lost."""
    parser = argparse.ArgumentParser(description="Load generators for a client elsewhere; started by a driver.")
    parser.add_argument("--client", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    end_with_parent(given.parent)
    host, _, port = given.client.rpartition(":")
    try:
        with connected((host, int(port)), bytes.fromhex(os.environ.pop(CLIENT_SECRET))) as connection:
            Host(connection, given.name).serve()
    except (BadInput, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"error: {error.cause if isinstance(error, BadInput) else error}\n")
        return EXIT_MACHINE
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
