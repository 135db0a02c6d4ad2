"""Queues whose truth is known, served first come, first served, and the requests that a client would record of them.

M/M/c by Erlang: with arrivals at rate r, c servers and mean service 1, a request waits with probability C, and then
longer than t with probability exp(-(c - r) t) (Cooper, "Introduction to Queueing Theory", 2nd ed. 1981, chapter 3).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bench_core.contract.serving.requests import RequestEvent
from bench_core.contract.serving.window import Course, Look

START_S = 1000.0  # of a load
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


def in_one_batch(
    drawn: random.Random,
    doubled_by: float,
    rho: float,
    until_s: float,
    *,
    most: int | None = None,
    gap: Draw = exponential,
    service: Draw = fixed,
) -> Iterator[Served]:
    """Requests that share every step, from time 0, when there are none. A request alone takes 1 s in the mean, and n at
    once 1 + n / ``doubled_by`` times as long, so that the server takes ``doubled_by`` requests/s at most; with no more
    than ``most`` at once, so many / how long they take. Others wait, in order."""
    taken = doubled_by if most is None else most / (1 + most / doubled_by)
    now_s = done = 0.0
    arrival_s = gap(drawn) / (taken * rho)
    batch: list[tuple[float, int, float, float]] = []  # work done when it ends; number, when it came and began
    waiting: deque[tuple[int, float, float]] = deque()
    came = 0
    ended: dict[int, Served] = {}
    told = 0
    while batch or arrival_s < until_s:
        pace = 1 / (1 + len(batch) / doubled_by)
        end_s = now_s + (batch[0][0] - done) / pace if batch else math.inf
        if arrival_s < min(until_s, end_s):
            done += (arrival_s - now_s) * pace if batch else 0.0
            now_s = arrival_s
            waiting.append((came, now_s, service(drawn)))
            came += 1
            arrival_s += gap(drawn) / (taken * rho)
        else:
            done, number, at_s, begun_s = heapq.heappop(batch)
            now_s = end_s
            ended[number] = Served(at_s, begun_s - at_s, now_s - begun_s)
        while waiting and (most is None or len(batch) < most):
            number, at_s, work = waiting.popleft()
            heapq.heappush(batch, (done + work, number, at_s, now_s))
        while told in ended:
            yield ended.pop(told)
            told += 1


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


def run(
    course: Course, served: Iterable[Served], *, every_s: float = 0.25, tokens: int = 5, drained: bool = False
) -> Look:
    """Feeds a course as a supervisor would, until its window ends; ``drained``: until nothing more is to be seen."""
    waiting = iter(enumerate(served))
    following = next(waiting, None)
    ends: list[tuple[float, int, RequestEvent]] = []
    now_s = START_S
    look = course.look(now_s)
    while not look.over if drained else look.phase != "ended":
        now_s += every_s
        while following is not None and START_S + following[1].at_s <= now_s:
            index, one = following
            done = event(index, one, tokens, START_S)
            course.sent(done.scheduled_s)
            heapq.heappush(ends, (done.ended_s, index, done))
            following = next(waiting, None)
        while ends and ends[0][0] <= now_s:
            course.finished(heapq.heappop(ends)[2])
        look = course.look(now_s)
        assert now_s < START_S + 4000
    return look
