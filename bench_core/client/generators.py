"""The supervisor's side of the load generators: starts them, reads what they hand over, tells them to stop."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from bench_core.client.ask import Address, Ask
from bench_core.client.load.wire import END, READY, RESPONSE, SENT, Facts, Job, job_bytes, read_response
from bench_core.client.process import Process, start_process
from bench_core.client.read import Reader
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.protocol import PAUSE_AFTER_REFUSED_S
from bench_core.contract.serving.requests import GeneratorEvent, RequestEvent

_READ_BYTES = 1 << 20
_READY_WITHIN_S = 60.0
_ENDED_WITHIN_S = 60.0
_START_IN_S = 0.05
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Finished:
    """What is left when all generators have ended.

    Attributes:
        requests: that no ``poll`` has returned; those in flight at an abort are ``unfinished``.
        generators: what each process says of itself, in their order.
    """

    requests: list[RequestEvent]
    generators: list[GeneratorEvent]


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
        self._asks = list(asks)
        self._order = tuple(order if order is not None else range(len(asks)))
        self._reader = Reader(entry)
        self._timeout_s = timeout_s
        self.started: dict[int, float] = {}
        self._events: list[RequestEvent] = []
        self._select = selectors.DefaultSelector()
        self._processes: list[Process] = []
        if not self._asks or not self._order or load.open_loop != bool(offsets_us):
            raise ValueError("a load has requests, and an open loop, and no other, has their times")
        total = total if total is not None else (len(offsets_us) or len(self._order))
        if load.open_loop and total > len(offsets_us):
            raise ValueError("a request of an open loop has no time")
        jobs = self._jobs(_resolved(server), load, total, tuple(offsets_us), timeout_s, connections, processes, cpus)
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
        t0_ns = int((time.monotonic() + _START_IN_S if t0_s is None else t0_s) * _SECOND)
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
            self._take(max(left, 0.0) if not self._events else 0.0)
            if self._events or left <= 0 or self.done:
                events, self._events = self._events, []
                return events

    def finish(self) -> Finished:
        """Waits until all generators have ended, which they do once they were told to or have nothing left to do: for
        the time limit of one request, and a minute.

        Raises:
            MachineFailure: one has died, or does not end: it was not told to, and a request takes too long.
        """
        self._until(lambda: self.done, self._timeout_s + _ENDED_WITHIN_S, "to end")
        events, self._events = self._events, []
        generators = [
            GeneratorEvent(
                process=one.number,
                started_s=one.facts.started_ns / _SECOND,
                ended_s=one.facts.ended_ns / _SECOND,
                cpu_s=one.facts.cpu_ns / _SECOND,
                busy_s=one.facts.busy_ns / _SECOND,
                longest_turn_s=one.facts.longest_turn_ns / _SECOND,
                tokens=one.tokens,
                cpus=one.facts.cpus,
            )
            for one in self._processes
            if one.facts is not None
        ]
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

    def _jobs(
        self, address: tuple[str, int], load: Serve, total: int, offsets_us: tuple[int, ...], timeout_s: float,
        connections: int, processes: int, cpus: Sequence[int],
    ) -> list[Job]:  # fmt: skip
        blobs, at = [], 0
        for ask in self._asks:
            blobs.append((at, len(ask.data)))
            at += len(ask.data)
        jobs = []
        for number in range(processes):
            streams = _share(load.concurrency or 0, number, processes)
            opened = streams if load.concurrency else _share(connections, number, processes)
            own = (cpus[number % len(cpus)],) if cpus else ()
            jobs.append(
                Job(
                    number, processes, *address, int(timeout_s * _SECOND), int(PAUSE_AFTER_REFUSED_S * _SECOND), opened,
                    streams, total, self._order, tuple(blobs), offsets_us, own,
                )
            )  # fmt: skip
        return jobs

    def _launch(self, jobs: list[Job]) -> None:
        memory = os.memfd_create("load")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(job_bytes(jobs, [ask.data for ask in self._asks]))
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
                self._take_frame(one, kind, content)

    def _take_frame(self, one: Process, kind: int, content: bytes) -> None:
        if kind == RESPONSE:
            response = read_response(content)
            ask = self._asks[self._order[response.index % len(self._order)]]
            event = self._reader.read(response, ask, one.number)
            one.tokens += sum(event.arrival_tokens)
            self._events.append(event)
        elif kind == SENT:
            pairs = array("q", content)
            for index, scheduled_ns in zip(pairs[::2], pairs[1::2], strict=True):
                self.started[index] = scheduled_ns / _SECOND
        elif kind == READY:
            one.ready = True
        elif kind == END:
            one.facts = Facts(**json.loads(content))


def _share(whole: int, number: int, among: int) -> int:
    """What process ``number`` has of it: as even as whole numbers allow."""
    return whole // among + (number < whole % among)


def _resolved(server: Address) -> tuple[str, int]:
    """The numeric address, so that nothing is looked up while a load runs.

    Raises:
        BadInput: the host has none.
    """
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BadInput(f"{server.host}: {error.strerror or error}", "the server's host has no address") from error
    return str(found[0][4][0]), server.port
