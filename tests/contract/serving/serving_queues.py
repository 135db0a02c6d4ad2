"""Queues whose truth is known, served first come, first served, and the requests that a client would record of them.

M/M/c by Erlang: with arrivals at rate r, c servers and mean service 1, a request waits with probability C, and then
longer than t with probability exp(-(c - r) t) (Cooper, "Introduction to Queueing Theory", 2nd ed. 1981, chapter 3).
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench_core.contract.serving.requests import RequestEvent

BASE_S = 0.05  # of a time to first token without waiting


class Served(NamedTuple):
    """One request: when it came, what it waited, how long it was served."""

    at_s: float
    wait_s: float
    service_s: float

    @property
    def ended_s(self) -> float:
        return self.at_s + self.wait_s + self.service_s


Draw = Callable[[random.Random], float]


def seeded(seed: int) -> random.Random:
    """The source of a simulation."""
    return random.Random(seed)  # noqa: S311


def exponential(drawn: random.Random) -> float:
    return -math.log(1.0 - drawn.random())


def uniform(drawn: random.Random) -> float:
    return 0.5 + drawn.random()


def narrow(drawn: random.Random) -> float:
    return 0.95 + 0.1 * drawn.random()


def fixed(drawn: random.Random) -> float:
    return 1.0


def open_loop(
    drawn: random.Random,
    servers: int,
    rho: float,
    until_s: float,
    *,
    gap: Draw = exponential,
    service: Draw = exponential,
) -> Iterator[Served]:
    """Requests from time 0, when all servers are free; mean service is 1 s, ``rho`` what is offered / what is taken."""
    free = [0.0] * servers
    at_s = 0.0
    while True:
        at_s += gap(drawn) / (servers * rho)
        if at_s >= until_s:
            return
        begun_s = max(at_s, free[0])
        service_s = service(drawn)
        heapq.heapreplace(free, begun_s + service_s)
        yield Served(at_s, begun_s - at_s, service_s)


def closed_loop(drawn: random.Random, streams: int, until_s: float, service: Draw) -> Iterator[Served]:
    """Each stream sends its next request when one has ended; nobody waits. In order of sending."""
    free = [0.0] * streams
    while free[0] < until_s:
        at_s, service_s = free[0], service(drawn)
        heapq.heapreplace(free, at_s + service_s)
        yield Served(at_s, 0.0, service_s)


class Truth:
    """Of time to first token in an M/M/c queue at rest."""

    def __init__(self, servers: int, rho: float) -> None:
        offered = servers * rho
        term = total = 1.0
        for k in range(1, servers):
            term *= offered / k
            total += term
        last = term * offered / servers / (1 - rho)
        self.waits = last / (total + last)
        self._drain = servers * (1 - rho)

    @property
    def mean_s(self) -> float:
        return BASE_S + self.waits / self._drain

    def percentile_s(self, q: float) -> float:
        return BASE_S + max(math.log(self.waits / (1 - q)) / self._drain, 0.0)

    def share_within(self, limit_s: float) -> float:
        return 1 - self.waits * math.exp(-self._drain * (limit_s - BASE_S)) if limit_s >= BASE_S else 0.0


def event(index: int, served: Served, tokens: int = 5, start_s: float = 0.0) -> RequestEvent:
    """What a client records of it: tokens in even steps from the first one to the end."""
    first_s = min(BASE_S, served.service_s / 2)
    step_s = (served.service_s - first_s) / max(tokens - 1, 1)
    at_us = tuple(round((served.wait_s + first_s + k * step_s) * 1e6) for k in range(tokens))
    return RequestEvent(
        index=index, prompt=0, prompt_digest="d", prompt_tokens=10,
        scheduled_s=start_s + served.at_s, sent_s=start_s + served.at_s,
        arrivals_us=at_us, arrival_tokens=(1,) * tokens,
        ended_s=start_s + served.ended_s, output_tokens=tokens, asked_tokens=tokens, counted_by="ids", end="ok",
    )  # fmt: skip
