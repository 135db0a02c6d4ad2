"""Cells whose load came from other hosts: their clocks in the log, and what follows from the comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.protocol import ServeProtocol
from bench_core.contract.statistics.clocks import MOST_DRIFT, ClientEvent, ClockRounds

_SECOND = 1_000_000_000
_SLACK_S = 2e-6


def client_differences(events: ServeEvents, protocol: ServeProtocol, load: Serve) -> Iterator[str]:
    """One line for each thing that cannot be."""
    clients = events.clients
    if not clients and (events.window is None or not protocol.client_nodes):
        return
    if len(clients) != protocol.client_nodes or len({one.node for one in clients}) != len(clients):
        yield f"{len(clients)} client nodes have told of their clocks, asked for were {protocol.client_nodes}"
        return
    told = sorted(process for one in clients for process in one.processes)
    if told != sorted(one.process for one in events.generators) or any(
        len(one.processes) != protocol.client_processes for one in clients
    ):
        yield "load generators and client nodes do not fit together"
    for one in clients:
        for what in _clock(one):
            yield f"client node {one.node}: {what}"
    yield from _beginning(events, load)


def _clock(one: ClientEvent) -> Iterator[str]:
    """The offset that its stamps were moved by is the one that was found, and the later one fits to it."""
    moved_ns, found_ns = one.start_there_ns - one.start_ns, one.before.offset_ns
    if moved_ns != found_ns:
        yield (
            f"its requests were moved by {moved_ns / _SECOND:.9f} s, its clock was found to be ahead by "
            f"{found_ns / _SECOND:.9f} s, to within {one.bound_s * 1e6:.1f} µs"
        )
    for when, rounds in (("before", one.before), ("after", one.after)):
        if not _in_order(rounds):
            yield f"the questions to its clock {when} the load are not in the order of time"
        yield from (f"{what}, {when} the load" for what in _apart(rounds))
    if max(one.before.back) > one.start_ns or min(one.after.asked) < one.start_ns:
        yield "its clock was not compared before and after the load"
    most_s = one.bound_s + one.bound_after_s + MOST_DRIFT * max(one.lasted_s, 0.0)
    if abs(one.drift_s) > most_s:
        yield f"its clock has moved by {one.drift_s * 1e6:.1f} µs against the other, more than {most_s * 1e6:.1f} µs"


def _in_order(rounds: ClockRounds) -> bool:
    times = [time for pair in zip(rounds.asked, rounds.back, strict=True) for time in pair]
    there = [time for pair in zip(rounds.heard, rounds.answered, strict=True) for time in pair]
    return all(first <= second for column in (times, there) for first, second in itertools.pairwise(column))


def _apart(rounds: ClockRounds) -> Iterator[str]:
    """Every question leaves room for the offset that the shortest one says, within its bound."""
    offset, bound = rounds.offset_ns, rounds.bound_ns
    for asked, heard, answered, back in zip(rounds.asked, rounds.heard, rounds.answered, rounds.back, strict=True):
        room = bound + int(MOST_DRIFT * abs(asked - rounds.at_ns))
        if answered - back - room <= offset <= heard - asked + room:
            continue
        yield "no offset fits to all questions to its clock"
        return


def _beginning(events: ServeEvents, load: Serve) -> Iterator[str]:
    """All hosts began at one moment: in a closed loop all streams at once."""
    starts = {one.start_ns for one in events.clients}
    if len(starts) > 1:
        yield "client nodes were given different beginnings of the load"
    start_s = min(starts) / _SECOND
    if events.course is not None and abs(events.course.start_s - start_s) > _SLACK_S:
        yield "client nodes were given another beginning than the looks at the load have"
    if load.concurrency is None:
        return
    first = [request for request in events.requests if request.index < load.concurrency]
    if any(abs(request.scheduled_s - start_s) > _SLACK_S for request in first):
        yield "a stream did not begin with the load"
