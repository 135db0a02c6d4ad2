"""Whether an open loop offers more than the server takes: requests in flight grow without end.

Below capacity the number in flight comes back to where it was, if slowly: in a queue at 90 % it wanders far. Above
capacity it grows by the difference of arrivals and completions. Two tests, of the last two thirds of the time so far;
either tells:

1. **A walk that chance does not explain.** Arrivals and completions that are both as irregular as a Poisson process
   make the number in flight a random walk, whose variance is the number of both. Told is a rise of 3.3 of its standard
   deviations. Below capacity a queue is drawn back, so that such a rise is rarer than for the walk.
2. **A rise that its own steps do not explain.** A server under load completes requests more regularly than that. The
   rise is cut into ten equal stretches of time; told is a mean step of five of its standard errors, by the spread of
   the steps. The steps of a queue at rest sum to nearly nothing. The rise must be a twentieth of the arrivals: what
   fills up at the beginning is no overload.

For both, the lowest number in flight must have grown from each third of that time to the next. Nothing is told before
twenty requests have ended, nor before eight (test 2: sixteen) times the latency of the first of them: until then a loop
fills up. Looks are few: each time that the time so far has grown by a tenth.

What is told needs requests: the walk of an overload of 30 % about 500, that of 10 % some thousands, where arrivals and
lengths are as irregular as can be; a tenth of that where they are regular. A cell that ends before has not been told
saturated, and may be. ``tests/contract/serving/test_serving_window.py`` simulates it.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

WALK_ERRORS = 3.3
STEP_ERRORS = 5.0
LEAST_RISE = 0.05
STEPS = 10
WALK_LATENCIES = 8.0
STEP_LATENCIES = 16.0
FIRST_REQUESTS = 20
LOOK_GROWTH = 1.1
# Of a stretch whose steps have no spread, as of a server in lockstep: a step is known to a request.
_LEAST_STEP_ERROR = 1.0


def in_flight(begun_s: Sequence[float], ended_s: Sequence[float], at_s: float) -> int:
    """Requests begun and not ended, from ascending times."""
    return bisect.bisect_right(begun_s, at_s) - bisect.bisect_right(ended_s, at_s)


def grows(begun_s: Sequence[float], ended_s: Sequence[float], start_s: float, now_s: float, latency_s: float) -> bool:
    """Whether the number in flight grows without end.

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
    return mean > STEP_ERRORS * math.sqrt(max(squares, _LEAST_STEP_ERROR) / STEPS)


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
