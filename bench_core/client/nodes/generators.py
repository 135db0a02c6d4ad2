"""Load generators on several other hosts: gives each its share, compares clocks, takes in what the hosts pass on."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench_core.client.ask import Address, Ask
from bench_core.client.generators import resolved
from bench_core.client.intake import Intake, Share, jobs_of
from bench_core.client.load.wire import Facts, Frames, job_bytes
from bench_core.client.load_generators import Finished, LoadGenerators
from bench_core.client.nodes.gathering import Gathering, Remote, selector_of
from bench_core.client.nodes.wire import CLEAR, DATA, GONE, JOB, JOB_HEAD, ONE, WORD
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import MachineFailure
from bench_core.contract.serving.load import Serve
from bench_core.contract.statistics.clocks import ClientEvent, ClockRounds

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


class NodeGenerators(LoadGenerators):
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
        super().__init__(Intake(entry, asks, order), timeout_s)
        self._job = next(_JOBS)
        self._start_ns = 0
        self._before: dict[Remote, ClockRounds] = {}
        self._there = [
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
            self._until_connected()
            self._before = {host: host.rounds() for host in self._hosts}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends what still runs on the hosts. May be called again."""
        for host in self._hosts:
            with contextlib.suppress(MachineFailure):
                host.send(CLEAR, b"")
        self._select.close()

    @property
    def _generators(self) -> Sequence[_Generator]:
        return self._there

    def _begin(self, t0_ns: int) -> None:
        """Each host hears of T0 by its own clock."""
        self._start_ns = t0_ns
        for host in self._hosts:
            host.send(WORD, f"start {t0_ns + self._before[host].offset_ns}\n".encode())

    def _tell(self, word: bytes) -> None:
        for host in self._hosts:
            with contextlib.suppress(MachineFailure):  # the next look at it says so
                host.send(WORD, word)

    def _take(self, timeout_s: float) -> None:
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

    def _finished(self) -> Finished:
        """With the clocks compared again."""
        after = {host: host.rounds() for host in self._hosts}
        clients = [
            ClientEvent(
                node=host.name,
                processes=tuple(one.number for one in self._there if one.host is host),
                before=self._before[host],
                after=after[host],
                start_ns=self._start_ns,
                start_there_ns=self._start_ns + self._before[host].offset_ns,
            )
            for host in self._hosts
        ]
        told = [self._intake.told(one, self._before[one.host].offset_ns) for one in self._there]
        return Finished(self._intake.taken(), told, clients)

    def _take_frame(self, host: Remote, kind: int, content: bytes) -> None:
        if kind not in (DATA, GONE):
            return
        job, number = ONE.unpack_from(content)
        if job != self._job:  # of an earlier one, on its way when that was over
            return
        one = self._there[number]
        rest = content[ONE.size :]
        if kind == GONE:
            if one.facts is not None:
                return
            words = rest.decode("utf-8", "replace")
            raise MachineFailure(f"load generator {number} on client node {host.name} has died: {words}")
        before = self._before.get(host)
        for inner, told in one.frames.feed(rest):
            self._intake.take(one, inner, told, before.offset_ns if before is not None else 0)
