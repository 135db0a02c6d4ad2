"""The supervisor's side of the load generators: starts them, reads what they hand over, tells them to stop."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from bench_core.client.ask import Address, Ask
from bench_core.client.intake import START_IN_S, Finished, Intake, Share, jobs_of
from bench_core.client.load.wire import Job, job_bytes
from bench_core.client.process import Process, start_process
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.requests import RequestEvent

_READ_BYTES = 1 << 20
_READY_WITHIN_S = 60.0
_ENDED_WITHIN_S = 60.0
_SECOND = 1_000_000_000


class Generators:
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

    Attributes:
        started: of each request that was sent, by index: when it was scheduled, seconds of CLOCK_MONOTONIC. It may be
            a moment behind.
        done: whether all generators have ended.

    Raises:
        BadInput, MachineFailure: the host has no address, or a generator does not start.
        ValueError: the parts of the load contradict each other.
    """

    def __init__(
        self, server: Address, entry: ServerEntry, *, asks: Sequence[Ask], load: Serve,
        order: Sequence[int] | None = None, total: int | None = None, offsets_us: Sequence[int] = (),
        timeout_s: float = 600.0, connections: int = 16, processes: int = 1, cpus: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self._intake = Intake(entry, asks, order)
        self.started = self._intake.started
        self._timeout_s = timeout_s
        self._select = selectors.DefaultSelector()
        self._processes: list[Process] = []
        own = [(cpus[number % len(cpus)],) if cpus else () for number in range(processes)]
        share = Share(load, total, tuple(offsets_us), timeout_s, connections)
        jobs = jobs_of(resolved(server), self._intake, share, own)
        try:
            self._launch(jobs)
            self._until(lambda: all(one.ready for one in self._processes), _READY_WITHIN_S, "to connect")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Generators:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def done(self) -> bool:
        """Whether all generators have ended; ``finish`` does not wait then."""
        return all(one.facts is not None for one in self._processes)

    def start(self, t0_s: float | None = None) -> float:
        """Begins at T0, seconds of CLOCK_MONOTONIC (``time.monotonic``), a moment from now by default; T0 as the
        generators have it, in whole nanoseconds: a request that is due at T0 is not due before it."""
        t0_ns = int((time.monotonic() + START_IN_S if t0_s is None else t0_s) * _SECOND)
        self._tell(f"start {t0_ns}\n")
        return t0_ns / _SECOND

    def stop_issuing(self) -> None:
        """No further request is sent; those in flight go on."""
        self._tell("stop\n")

    def abort(self) -> None:
        """The load ends at once; what is in flight is ``unfinished``."""
        self._tell("abort\n")

    def poll(self, timeout_s: float) -> list[RequestEvent]:
        """Requests that have ended since the last call; waits for one for so many seconds.

        Raises:
            MachineFailure: a generator has died.
        """
        end = time.monotonic() + timeout_s
        while True:
            left = end - time.monotonic()
            self._take(max(left, 0.0) if not self._intake.events else 0.0)
            if self._intake.events or left <= 0 or self.done:
                return self._intake.taken()

    def finish(self) -> Finished:
        """Waits until all generators have ended, which they do once they were told to or have nothing left to do: for
        the time limit of one request, and a minute.

        Raises:
            MachineFailure: one has died, or does not end: it was not told to, and a request takes too long.
        """
        self._until(lambda: self.done, self._timeout_s + _ENDED_WITHIN_S, "to end")
        events = self._intake.taken()
        generators = [self._intake.told(one) for one in self._processes]
        self.close()
        return Finished(events, generators)

    def close(self) -> None:
        """Ends what still runs. May be called again."""
        for one in self._processes:
            if one.process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.process.wait(1.0 if one.facts is not None else 0.0)
                one.process.kill()
            one.process.wait()
            for fd in (one.control, one.results):
                with contextlib.suppress(OSError):
                    os.close(fd)
            one.said.close()
        self._processes.clear()
        self._select.close()

    def _launch(self, jobs: list[Job]) -> None:
        memory = os.memfd_create("load")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(job_bytes(jobs, self._intake.blobs))
            for job in jobs:
                self._processes.append(start_process(job.process, memory))
        finally:
            os.close(memory)
        for one in self._processes:
            self._select.register(one.results, selectors.EVENT_READ, one)

    def _tell(self, line: str) -> None:
        for one in self._processes:
            with contextlib.suppress(BrokenPipeError):  # it has ended, or its death is told by its results
                os.write(one.control, line.encode())

    def _until(self, reached: Callable[[], bool], within_s: float, what: str) -> None:
        end = time.monotonic() + within_s
        while not reached():
            left = end - time.monotonic()
            if left <= 0:
                raise MachineFailure(f"a load generator took more than {within_s:g} s {what}")
            self._take(left)

    def _take(self, timeout_s: float) -> None:
        """Reads what the generators have handed over."""
        for key, _ in self._select.select(timeout_s):
            one: Process = key.data
            data = os.read(one.results, _READ_BYTES)
            if not data:
                self._select.unregister(one.results)
                if one.facts is None:
                    raise MachineFailure(f"load generator {one.number} has died: {one.last_words()}")
            for kind, content in one.frames.feed(data):
                self._intake.take(one, kind, content)


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
