"""Load generators on this host: starts them, reads what they hand over, tells them when to begin and to stop."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Sequence

from bench_core.client.ask import Address, Ask
from bench_core.client.intake import Intake, Share, jobs_of
from bench_core.client.load.wire import Job, job_bytes
from bench_core.client.load_generators import Finished, LoadGenerators
from bench_core.client.process import Process, memory_file, start_process
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.serving.load import Serve

_READ_BYTES = 1 << 20


class Generators(LoadGenerators):
    """One load on one server, from one or several processes.

    Args:
        server: where it listens; a name is looked up now.
        entry: how it is read.
        asks: the distinct requests (``ask.Asker``).
        load: closed or open loop.
        order: request k is ``asks[order[k % len(order)]]``; by default they come in their order, again and again.
        total: requests of the schedule; by default as many as there are offsets, or asks.
        offsets_us: of an open loop, ascending: when each request is sent, microseconds after T0.
        timeout_s: for one request, from its sending.
        connections: of an open loop, opened before the clock: the number of requests expected in flight. Others are
            opened when they are needed.
        processes: load generators.
        cpus: of which process i gets the i-th, around; by default none is bound.

    Raises:
        BadInput, MachineFailure: the host has no address, or a generator does not start.
        ValueError: the parts of the load contradict each other.
    """

    def __init__(
        self, server: Address, entry: ServerEntry, *, asks: Sequence[Ask], load: Serve,
        order: Sequence[int] | None = None, total: int | None = None, offsets_us: Sequence[int] = (),
        timeout_s: float = 600.0, connections: int = 16, processes: int = 1, cpus: Sequence[int] = (),
    ) -> None:  # fmt: skip
        super().__init__(Intake(entry, asks, order), timeout_s)
        self._select = selectors.DefaultSelector()
        self._processes: list[Process] = []
        own = [(cpus[number % len(cpus)],) if cpus else () for number in range(processes)]
        share = Share(load, total, tuple(offsets_us), timeout_s, connections)
        jobs = jobs_of(resolved(server), self._intake, share, own)
        try:
            self._launch(jobs)
            self._until_connected()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends what still runs. May be called again."""
        for one in self._processes:
            one.end()
        self._processes.clear()
        self._select.close()

    @property
    def _generators(self) -> Sequence[Process]:
        return self._processes

    def _launch(self, jobs: list[Job]) -> None:
        with memory_file(job_bytes(jobs, self._intake.blobs)) as memory:
            for job in jobs:
                self._processes.append(start_process(job.process, memory))
        for one in self._processes:
            self._select.register(one.results, selectors.EVENT_READ, one)

    def _begin(self, t0_ns: int) -> None:
        self._tell(f"start {t0_ns}\n".encode())

    def _tell(self, word: bytes) -> None:
        for one in self._processes:
            one.tell(word)

    def _take(self, timeout_s: float) -> None:
        lost: MachineFailure | None = None
        for key, _ in self._select.select(timeout_s):
            one: Process = key.data
            data = os.read(one.results, _READ_BYTES)
            if not data:
                self._select.unregister(one.results)
                if one.facts is None:
                    lost = MachineFailure(f"load generator {one.number} has died: {one.last_words()}")
            for kind, content in one.frames.feed(data):
                self._intake.take(one, kind, content)
        if lost is not None:
            raise lost

    def _finished(self) -> Finished:
        return Finished(self._intake.taken(), [self._intake.told(one) for one in self._processes])


def resolved(server: Address) -> tuple[str, int]:
    """The numeric address, so that nothing is looked up while a load runs.

    Raises:
        BadInput: the host has none.
    """
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BadInput(f"{server.host}: {error.strerror or error}", "the server's host has no address") from error
    return str(found[0][4][0]), server.port
