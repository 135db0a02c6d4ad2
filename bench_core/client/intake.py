"""What comes of load generators, wherever they run: frames become events, and jobs are parts of one load."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench_core.client.ask import Ask
from bench_core.client.load.wire import END, READY, RESPONSE, SENT, Facts, Job, read_response
from bench_core.client.read import Reader, fields_of
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.protocol import PAUSE_AFTER_FAILED_S
from bench_core.contract.serving.requests import GeneratorEvent, RequestEvent

_SECOND = 1_000_000_000


class Generator(Protocol):
    """One load generator, as it has told of itself."""

    number: int
    ready: bool
    tokens: int
    facts: Facts | None


@dataclass(frozen=True)
class Share:
    """A load that several processes send parts of.

    Attributes:
        total: requests of the schedule; ``None``: as many as there are offsets, or asks.
        connections: of an open loop, opened before the clock, by all together.
    """

    load: Serve
    total: int | None
    offsets_us: tuple[int, ...]
    timeout_s: float
    connections: int


class Intake:
    """The events of one load.

    Attributes:
        order: request k is the ask ``order[k % len(order)]``.
        blobs: the bytes of the distinct asks; ``tokens``: (fewest, most) of a good answer to each.
        fields: where a response tells what.
        started: of each request that was sent, by index: when it was scheduled, seconds of this host's CLOCK_MONOTONIC.
        events: requests that have ended and were not taken yet.
    """

    def __init__(self, entry: ServerEntry, asks: Sequence[Ask], order: Sequence[int] | None) -> None:
        self._asks = list(asks)
        self._reader = Reader(entry)
        self.fields = fields_of(entry)
        self.tokens = tuple((ask.fewest_tokens, ask.asked_tokens) for ask in self._asks)
        self.order = tuple(order if order is not None else range(len(asks)))
        self.blobs = [ask.data for ask in self._asks]
        self.started: dict[int, float] = {}
        self.events: list[RequestEvent] = []

    def take(self, one: Generator, kind: int, content: bytes, ahead_ns: int = 0) -> None:
        """One frame. ``ahead_ns``: by how much the clock of its stamps is ahead of this host's: all stamps of a request
        are moved by the same, so that no time between two of them changes."""
        if kind == RESPONSE:
            response = read_response(content)
            if ahead_ns:
                response.scheduled_ns -= ahead_ns
                response.sent_ns = None if response.sent_ns is None else response.sent_ns - ahead_ns
                response.ended_ns -= ahead_ns
                response.times_ns = [at - ahead_ns for at in response.times_ns]
            ask = self._asks[self.order[response.index % len(self.order)]]
            event = self._reader.read(response, ask, one.number)
            one.tokens += sum(event.arrival_tokens)
            self.events.append(event)
        elif kind == SENT:
            pairs = array("q", content)
            for index, scheduled_ns in zip(pairs[::2], pairs[1::2], strict=True):
                self.started[index] = (scheduled_ns - ahead_ns) / _SECOND
        elif kind == READY:
            one.ready = True
        elif kind == END:
            one.facts = Facts(**json.loads(content))

    def taken(self) -> list[RequestEvent]:
        """The events, once."""
        events, self.events = self.events, []
        return events

    @staticmethod
    def told(one: Generator, ahead_ns: int = 0) -> GeneratorEvent:
        """What a generator that has ended says of itself; ``ahead_ns`` as for ``take``."""
        facts = one.facts
        assert facts is not None  # noqa: S101  # it has ended
        ahead_ns = ahead_ns if facts.started_ns else 0  # one that was never started tells no time
        return GeneratorEvent(
            process=one.number,
            started_s=(facts.started_ns - ahead_ns) / _SECOND,
            ended_s=(facts.ended_ns - ahead_ns) / _SECOND,
            cpu_s=facts.cpu_ns / _SECOND,
            busy_s=facts.busy_ns / _SECOND,
            longest_turn_s=facts.longest_turn_ns / _SECOND,
            tokens=one.tokens,
            cpus=facts.cpus,
        )


def jobs_of(address: tuple[str, int], intake: Intake, share: Share, cpus: Sequence[tuple[int, ...]]) -> list[Job]:
    """The jobs of as many processes as ``cpus`` has entries: the CPUs of each, all where an entry is empty.

    Raises:
        ValueError: the parts of the load contradict each other.
    """
    load, offsets_us = share.load, share.offsets_us
    if not intake.blobs or not intake.order or load.open_loop != bool(offsets_us):
        raise ValueError("a load has requests, and an open loop, and no other, has their times")
    total = share.total if share.total is not None else (len(offsets_us) or len(intake.order))
    if load.open_loop and total > len(offsets_us):
        raise ValueError("a request of an open loop has no time")
    blobs, at = [], 0
    for data in intake.blobs:
        blobs.append((at, len(data)))
        at += len(data)
    jobs = []
    processes = len(cpus)
    for number in range(processes):
        streams = _part(load.concurrency or 0, number, processes)
        opened = streams if load.concurrency else _part(share.connections, number, processes)
        jobs.append(
            Job(
                number, processes, *address, int(share.timeout_s * _SECOND), int(PAUSE_AFTER_FAILED_S * _SECOND),
                opened, streams, total, intake.order, tuple(blobs), intake.tokens, intake.fields, offsets_us,
                cpus[number],
            )
        )  # fmt: skip
    return jobs


def _part(whole: int, number: int, among: int) -> int:
    """What process ``number`` has of it: as even as whole numbers allow."""
    return whole // among + (number < whole % among)
