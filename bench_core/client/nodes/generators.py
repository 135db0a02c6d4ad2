"""One load on one server, sent by load generators on several hosts: the same to its user as ``client.generators``."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from bench_core.client.ask import Address, Ask
from bench_core.client.generators import resolved
from bench_core.client.intake import START_IN_S, Finished, Intake, Share, jobs_of
from bench_core.client.load.wire import Facts, Frames, job_bytes
from bench_core.client.nodes.gathering import Gathering, Remote, selector_of
from bench_core.client.nodes.wire import CLEAR, DATA, DIED, JOB, JOB_HEAD, ONE, WORD
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import MachineFailure
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.requests import RequestEvent
from bench_core.contract.statistics.clocks import ClientEvent, ClockRounds

_READY_WITHIN_S = 60.0
_ENDED_WITHIN_S = 60.0
_SECOND = 1_000_000_000
_JOBS = itertools.count(1)


@dataclass(eq=False)
class _Generator:
    """A load generator on another host."""

    number: int
    host: Remote
    frames: Frames = field(default_factory=Frames)
    ready: bool = False
    tokens: int = 0
    facts: Facts | None = None


class NodeGenerators:
    """One load on one server, from processes on each of several hosts.

    Each host is given the schedule's zero as a moment of its own clock, and every stamp of a request is of that one
    clock. What comes from a host is moved as a whole by its clock's offset, in whole nanoseconds: times between two
    stamps of a request stay what they are, and the offset decides only where the request lies among those of others.

    Args:
        gathering: the hosts.
        server: where they reach the server.
        processes: load generators on each host; the others as ``client.generators.Generators`` has them.

    Raises:
        BadInput, MachineFailure: the server has no address, or a generator does not start.
        ValueError: the parts of the load contradict each other.
    """

    def __init__(
        self, gathering: Gathering, server: Address, entry: ServerEntry, *, asks: Sequence[Ask], load: Serve,
        order: Sequence[int] | None = None, total: int | None = None, offsets_us: Sequence[int] = (),
        timeout_s: float = 600.0, connections: int = 16, processes: int = 1,
    ) -> None:  # fmt: skip
        self._hosts = gathering.hosts
        self._intake = Intake(entry, asks, order)
        self.started = self._intake.started
        self._timeout_s = timeout_s
        self._job = next(_JOBS)
        self._lost: MachineFailure | None = None
        self._start_ns = 0
        self._before: dict[Remote, ClockRounds] = {}
        self._generators = [
            _Generator(place * processes + number, host)
            for place, host in enumerate(self._hosts)
            for number in range(processes)
        ]
        cpus = [host.cpus[number : number + 1] for host in self._hosts for number in range(processes)]
        jobs = jobs_of(
            resolved(server), self._intake, Share(load, total, tuple(offsets_us), timeout_s, connections), cpus
        )
        self._select = selector_of(self._hosts)
        try:
            content = job_bytes(jobs, self._intake.blobs)
            for place, host in enumerate(self._hosts):
                host.send(JOB, JOB_HEAD.pack(self._job, place * processes, processes) + content)
            self._until(lambda: all(one.ready for one in self._generators), _READY_WITHIN_S, "to connect")
            self._before = {host: host.rounds() for host in self._hosts}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> NodeGenerators:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def done(self) -> bool:
        """Whether all generators have ended."""
        return all(one.facts is not None for one in self._generators)

    def start(self, t0_s: float | None = None) -> float:
        """Begins at T0, seconds of this host's CLOCK_MONOTONIC; T0 in whole nanoseconds."""
        t0_ns = int((time.monotonic() + START_IN_S if t0_s is None else t0_s) * _SECOND)
        self._start_ns = t0_ns
        for host in self._hosts:
            host.send(WORD, f"start {t0_ns + self._before[host].offset_ns}\n".encode())
        return t0_ns / _SECOND

    def stop_issuing(self) -> None:
        """No further request is sent; those in flight go on."""
        self._tell(b"stop\n")

    def abort(self) -> None:
        """The load ends at once; what is in flight is ``unfinished``."""
        self._tell(b"abort\n")

    def poll(self, timeout_s: float) -> list[RequestEvent]:
        """Requests that have ended since the last call; waits for one for so many seconds.

        Raises:
            MachineFailure: a host is lost, or a generator has died; what had ended by then was returned before.
        """
        end = time.monotonic() + timeout_s
        while True:
            left = end - time.monotonic()
            if self._lost is None:
                try:
                    self._take(max(left, 0.0) if not self._intake.events else 0.0)
                except MachineFailure as error:
                    self._lost = error
            if self._lost is not None and not self._intake.events:
                raise self._lost
            if self._intake.events or left <= 0 or self.done:
                return self._intake.taken()

    def finish(self) -> Finished:
        """Waits until all generators have ended, and compares the clocks again.

        Raises:
            MachineFailure: a host is lost, or a generator has died or does not end.
        """
        self._until(lambda: self.done, self._timeout_s + _ENDED_WITHIN_S, "to end")
        after = {host: host.rounds() for host in self._hosts}
        clients = [
            ClientEvent(
                node=host.name,
                processes=tuple(one.number for one in self._generators if one.host is host),
                before=self._before[host],
                after=after[host],
                start_ns=self._start_ns,
                start_there_ns=self._start_ns + self._before[host].offset_ns,
            )
            for host in self._hosts
        ]
        told = [self._intake.told(one, self._before[one.host].offset_ns) for one in self._generators]
        events = self._intake.taken()
        self.close()
        return Finished(events, told, clients)

    def close(self) -> None:
        """Ends what still runs on the hosts. May be called again."""
        for host in self._hosts:
            with contextlib.suppress(MachineFailure):
                host.send(CLEAR, b"")
        self._select.close()

    def _tell(self, word: bytes) -> None:
        for host in self._hosts:
            with contextlib.suppress(MachineFailure):  # the next look at it says so
                host.send(WORD, word)

    def _until(self, reached: Callable[[], bool], within_s: float, what: str) -> None:
        end = time.monotonic() + within_s
        while not reached():
            left = end - time.monotonic()
            if self._lost is not None:
                raise self._lost
            if left <= 0:
                raise MachineFailure(f"a load generator took more than {within_s:g} s {what}")
            self._take(left)

    def _take(self, timeout_s: float) -> None:
        """Hears the hosts.

        Raises:
            MachineFailure: one is lost, or a generator has died.
        """
        waits = [host for host in self._hosts if host.waiting]
        for host in waits:
            while host.waiting:
                self._take_frame(host, *host.waiting.popleft())
        lost: MachineFailure | None = None
        for key, _ in self._select.select(0.0 if waits else timeout_s):
            host = key.data
            try:
                for kind, content in host.heard():
                    self._take_frame(host, kind, content)
            except MachineFailure as error:  # what others have told by now counts all the same
                lost = error
        if lost is not None:
            raise lost

    def _take_frame(self, host: Remote, kind: int, content: bytes) -> None:
        if kind not in (DATA, DIED):
            return
        job, number = ONE.unpack_from(content)
        if job != self._job:  # of an earlier one, on its way when that was over
            return
        one = self._generators[number]
        rest = content[ONE.size :]
        if kind == DIED:
            words = rest.decode("utf-8", "replace")
            raise MachineFailure(f"load generator {number} on client node {host.name} has died: {words}")
        before = self._before.get(host)
        for inner, told in one.frames.feed(rest):
            self._intake.take(one, inner, told, before.offset_ns if before is not None else 0)
