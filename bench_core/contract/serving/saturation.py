"""Whether an open loop offers more than the server takes: requests in flight grow without end.

A number in flight that rises says little by itself. A loop fills up at its beginning: for as long as one request takes
where each has a slot of its own, and for much longer where all requests in flight share each step (at 80 % of its
capacity, 25 times as long as one request takes alone). So two things are asked (``outruns``):

1. **Do more requests come than end, by more than chance gives?** Of the last two thirds of the time so far, and not
   before a first request has ended. Told is a rise of three standard deviations (two, at the last look, where eight
   latencies of the first requests have passed), both of the requests that came and of those that were to come by the
   rate asked for. The variance is that of the arrivals (Poisson's, or none where the gaps are equal) and of the
   completions, by how far latencies scatter around the line of point 2. The lowest number in flight must have grown
   from each third of that time to the next.
2. **Does the server have no room for it?** Latencies are set against the number in flight that each request met in the
   first half of its time. The line through them says how many seconds each further request in flight adds to a
   latency. Its inverse is the rate that the server takes at most, be it a queue in order or a batch whose steps get
   longer. Told is a rate asked for that is 5 % above it (25 % for a cell to be ended early), with the slope less a
   standard error. Where a loop just fills up, the line is flat, or its rate is above what is asked for. No line is
   needed where half of what came has not ended: that is no filling up.

Nothing is told before eight requests were answered. A cell is ended early at eight latencies of its first requests, at
the earliest: a server may get slower before it gets faster again. Looks are few: each time that the time so far has
grown by a tenth, for as long as the load goes on, so in the drain behind the window too. The last look, when the
requests of the window have ended, needs no such time. So a window may be short beside a request's latency.

What is told needs requests, not time: of 8 slots and Poisson arrivals an overload of 30 % is mostly told when 300
requests were due. ``tests/contract/serving/saturation_servers.py`` simulates servers and prints how often each is told.
A cell that ends before has not been told saturated, and may be.

**Logs of before** were judged by the number in flight alone (``grows``), and until the window ended. That rule is kept
for them: a walk of arrivals and completions, both as irregular as a Poisson process, that rises by 3.3 of its standard
deviations; or a rise of ten equal stretches whose mean step is five of its standard errors. Neither before eight, or
sixteen, latencies of the first requests.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

SETTLED_ERRORS = 2.0
EARLY_ERRORS = 3.0  # before the last look, and before eight latencies of the first requests
SLOPE_ERRORS = 1.0
LAST_LOAD = 1.05
EARLY_LOAD = 1.25  # for a cell to be ended early: until the last look a server may take more again
FEWEST_ANSWERED = 8
LOOK_GROWTH = 1.1
MOST_RISE = 0.5  # of the arrivals: so much is no filling up, whatever the server
_FIRST_TO_FILL = 5  # requests, by whose latency a loop has begun to fill
_OF_LATENCY = 0.5  # from when a request was due, in which it meets others
_BLOCKS = 20  # of neighbouring requests, which have a mean latency
_MOSTLY = 0.9
_MOST_POINTS = 4000  # of a line: more of them say the same
# Of logs of before.
WALK_ERRORS = 3.3
STEP_ERRORS = 5.0
LEAST_RISE = 0.05
STEPS = 10
WALK_LATENCIES = 8.0
STEP_LATENCIES = 16.0
FIRST_REQUESTS = 20
# Of a stretch whose steps have no spread, as of a server in lockstep: a step is known to a request.
_LEAST_VARIANCE = 1.0


def in_flight(begun_s: Sequence[float], ended_s: Sequence[float], at_s: float) -> int:
    """Requests begun and not ended, from ascending times."""
    return bisect.bisect_right(begun_s, at_s) - bisect.bisect_right(ended_s, at_s)


class Known(NamedTuple):
    """One request that was answered, and when it was to be sent."""

    scheduled_s: float
    latency_s: float


class Seen(NamedTuple):
    """An open loop up to a moment.

    Attributes:
        start_s, now_s: when the load began, and the moment.
        until_s: all requests that were due before it have ended.
        begun_s, ended_s: ascending times at which requests were to be sent, and at which requests ended.
        answered: requests that were answered, by when they were due.
    """

    start_s: float
    now_s: float
    until_s: float
    begun_s: Sequence[float]
    ended_s: Sequence[float]
    answered: Sequence[Known]


def outruns(seen: Seen, rate_per_s: float | None, *, irregular: bool, last: bool) -> bool:
    """Whether more is offered than the server takes.

    Args:
        rate_per_s: requests/s that the load is to have; ``None``: as many as there were.
        irregular: whether arrivals scatter as those of a Poisson process; else they come in equal gaps.
        last: whether nothing more will be seen, and the requests of the window have ended.
    """
    first = [one.latency_s for one in seen.answered[:FIRST_REQUESTS]]
    filled_s = statistics.median(first[:_FIRST_TO_FILL]) if len(first) >= FEWEST_ANSWERED else math.inf
    since_s = seen.start_s + max((seen.now_s - seen.start_s) / 3, filled_s)
    settled = _is_late_enough(seen)
    if not 0 < filled_s <= seen.now_s - since_s or not (last or settled):
        return False
    arrived = bisect.bisect_right(seen.begun_s, seen.now_s) - bisect.bisect_right(seen.begun_s, since_s)
    left = bisect.bisect_right(seen.ended_s, seen.now_s) - bisect.bisect_right(seen.ended_s, since_s)
    rise = (arrived if rate_per_s is None else min(arrived, rate_per_s * (seen.now_s - since_s))) - left
    of_arrivals = float(arrived) if irregular else 0.0
    errors = SETTLED_ERRORS if last and settled else EARLY_ERRORS
    if rise <= errors * math.sqrt(of_arrivals) or not _minima_rise(seen.begun_s, seen.ended_s, since_s, seen.now_s):
        return False
    if settled and rise > MOST_RISE * arrived and rise > WALK_ERRORS * math.sqrt(arrived + left):
        return True
    line = _slowing(seen, _mostly_known_s(seen))
    if line is None:
        return False
    scatter = line.residual / statistics.median(first) ** 2
    offered_per_s = line.rate_per_s if rate_per_s is None else rate_per_s * line.share
    variance = max(of_arrivals + scatter * left, _LEAST_VARIANCE)
    return rise > errors * math.sqrt(variance) and offered_per_s * line.least > (LAST_LOAD if last else EARLY_LOAD)


def _is_late_enough(seen: Seen) -> bool:
    """Eight latencies of the first requests have passed. Of those that came first, not of those that were answered
    first, which are the short ones."""
    if len(seen.begun_s) < FIRST_REQUESTS:
        return False
    low = bisect.bisect_right(seen.answered, seen.begun_s[FIRST_REQUESTS - 1], key=_due)
    known = [one.latency_s for one in seen.answered[:low]][:FIRST_REQUESTS]
    median_s = statistics.median([*known, *[math.inf] * (FIRST_REQUESTS - len(known))])
    return seen.now_s - seen.start_s >= WALK_LATENCIES * median_s


class _Line(NamedTuple):
    """How latency grows with the number in flight.

    Attributes:
        least: seconds that each further request in flight adds, less a standard error.
        residual: variance of latencies around the line, s^2.
        rate_per_s: requests/s that were answered, of those due in that time; ``share``: of all that were due.
    """

    least: float
    residual: float
    rate_per_s: float
    share: float


def _slowing(seen: Seen, until_s: float) -> _Line | None:
    """Of the requests that were due in the last two thirds of the time until this moment; ``None`` where they are
    too few, or no two differ in the number in flight.

    A request that is longer than others meets more of what comes later, so that in a loop that fills up its own latency
    would seem to be the number's. So the number is taken over the mean latency of requests that came about then."""
    since_s = seen.start_s + (until_s - seen.start_s) / 3
    low = bisect.bisect_left(seen.answered, since_s, key=_due)
    high = bisect.bisect_left(seen.answered, until_s, key=_due)
    due = bisect.bisect_left(seen.begun_s, until_s) - bisect.bisect_left(seen.begun_s, since_s)
    some = seen.answered[low : high : math.ceil(max(high - low, 1) / _MOST_POINTS)]
    if len(some) < FEWEST_ANSWERED:
        return None
    in_flight_s = _area(seen.start_s, seen.begun_s, seen.ended_s)
    x = []
    blocks = min(_BLOCKS, len(some) // 4)
    for k in range(blocks):
        block = some[k * len(some) // blocks : (k + 1) * len(some) // blocks]
        mean_s = math.fsum(one.latency_s for one in block) / len(block)
        x += [
            (in_flight_s(one.scheduled_s + mean_s * _OF_LATENCY) - in_flight_s(one.scheduled_s))
            / (mean_s * _OF_LATENCY)
            for one in block
        ]
    y = [one.latency_s for one in some]
    if max(x) - min(x) <= 0:
        return None
    slope, intercept = statistics.linear_regression(x, y)
    squares = math.fsum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    residual = squares / (len(x) - 2)
    mean = math.fsum(x) / len(x)
    error = math.sqrt(residual / math.fsum((a - mean) ** 2 for a in x))
    return _Line(slope - SLOPE_ERRORS * error, residual, (high - low) / (until_s - since_s), (high - low) / due)


def _due(one: Known) -> float:
    return one.scheduled_s


def _mostly_known_s(seen: Seen) -> float:
    """Up to when all requests that were due have ended; where a slow one hides most of the others, up to when nine of
    ten have been answered. Those left out are the slow ones, of late more than before: the line is less steep for it.
    """
    answered = len(seen.answered)
    for due in range(len(seen.begun_s), 0, -1):
        at_s = seen.begun_s[due - 1]
        if at_s - seen.start_s <= 2 * (seen.until_s - seen.start_s):
            break
        while answered and seen.answered[answered - 1].scheduled_s > at_s:
            answered -= 1
        if answered >= _MOSTLY * due:
            return at_s
    return seen.until_s


def _area(start_s: float, begun_s: Sequence[float], ended_s: Sequence[float]) -> Callable[[float], float]:
    """The integral of the number in flight from the load's start to a moment."""
    begun = [0.0, *itertools.accumulate(at_s - start_s for at_s in begun_s)]
    ended = [0.0, *itertools.accumulate(at_s - start_s for at_s in ended_s)]

    def until(at_s: float) -> float:
        came, went = bisect.bisect_right(begun_s, at_s), bisect.bisect_right(ended_s, at_s)
        return (came - went) * (at_s - start_s) - begun[came] + ended[went]

    return until


def grows(begun_s: Sequence[float], ended_s: Sequence[float], start_s: float, now_s: float, latency_s: float) -> bool:
    """Whether the number in flight grows without end, by the rule that logs of before were judged by.

    Args:
        begun_s, ended_s: ascending times at which requests were to be sent, and at which requests ended.
        start_s: when the load began.
        latency_s: of a request when the load had just begun.
    """
    lasted_s = now_s - start_s
    if len(ended_s) < FIRST_REQUESTS or lasted_s < WALK_LATENCIES * latency_s:
        return False
    since_s = start_s + lasted_s / 3
    arrived = bisect.bisect_right(begun_s, now_s) - bisect.bisect_right(begun_s, since_s)
    left = bisect.bisect_right(ended_s, now_s) - bisect.bisect_right(ended_s, since_s)
    rise = arrived - left
    if rise <= 0 or not _minima_rise(begun_s, ended_s, since_s, now_s):
        return False
    if rise > WALK_ERRORS * math.sqrt(arrived + left):
        return True
    if lasted_s < STEP_LATENCIES * latency_s or rise < LEAST_RISE * arrived:
        return False
    edges = [since_s + (now_s - since_s) * k / STEPS for k in range(STEPS + 1)]
    numbers = [in_flight(begun_s, ended_s, edge) for edge in edges]
    steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    mean = rise / STEPS
    squares = math.fsum((step - mean) ** 2 for step in steps) / (STEPS - 1)
    return mean > STEP_ERRORS * math.sqrt(max(squares, _LEAST_VARIANCE) / STEPS)


def _minima_rise(begun_s: Sequence[float], ended_s: Sequence[float], since_s: float, now_s: float) -> bool:
    """Whether the lowest numbers in flight of three equal stretches ascend."""
    edges = [since_s + (now_s - since_s) * k / 3 for k in range(4)]
    first, second, third = (_lowest(begun_s, ended_s, low, high) for low, high in itertools.pairwise(edges))
    return first < second < third


def _lowest(begun_s: Sequence[float], ended_s: Sequence[float], low_s: float, high_s: float) -> int:
    """The lowest number in flight from one moment to another: at the first, or just after a request has ended."""
    begun = bisect.bisect_right(begun_s, low_s)
    ended = bisect.bisect_right(ended_s, low_s)
    lowest = begun - ended
    while ended < len(ended_s) and ended_s[ended] <= high_s:
        ended_at = ended_s[ended]
        ended += 1
        begun = bisect.bisect_right(begun_s, ended_at, begun)
        lowest = min(lowest, begun - ended)
    return lowest
