"""A serving cell's course: when the load stands still, when it is measured well enough, when it is too much.

Decided from what has been seen; no clock is read. The client's supervisor tells of each request that is due and of each
that has ended, and asks about every quarter of a second what follows.

**What counts.** Of a request in flight nothing is known, and requests in flight are the slow ones. So every look
reaches up to the earliest request in flight and no further: all that was to be sent before it has ended, and all tokens
up to then are counted. A look lags by one latency, and leaves nobody out.

A trace has no warm-up, and is measured until the last of its requests has ended. **Warm-up** of other loads ends
when the second half of the time since the start shows no trend (Mann and Kendall; see
``contract.statistics.trend``) in time to first token, end-to-end latency and output tokens/s, each in at most eight
blocks. Not before every stream of a closed loop has ended a request, and five requests are in that half; in an open
loop not before twenty requests, and three times their mean latency. The test is made each time the time seen has grown
by a fifth: of a queue near its capacity a test finds a trend now and then, which costs a fifth more. At
``max_ramp_seconds`` the warm-up ends with whatever there is.

**Measuring** ends when throughput and the named percentile of time to first token are as precise as asked for, at two
looks running, of which each needs a tenth more time (``contract.statistics.stopping`` says why looks are few and why
two); not before five seconds and thirty requests. Other ends: the longest time, the most requests, the schedule's end,
and an open loop that offers more than the server takes (``serving.saturation``).

**Drain.** The load goes on until the requests that were due in the window have ended, for a minute at most. Of an open
loop that is looked at as well: where a request's latency is long beside the window, it is there that too much load is
seen. The window stays as it is, and says when that was told. A server that was told saturated is not waited for.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.protocol import DRAIN_S, ServeFields
from bench_core.contract.serving.requests import CourseEvent, RequestEvent, StopReason, WindowEvent
from bench_core.contract.serving.saturation import FIRST_REQUESTS, LOOK_GROWTH, Known, Seen, grows, outruns
from bench_core.contract.statistics.correlated import Estimate, percentile_interval, rate_interval
from bench_core.contract.statistics.trend import trend

BLOCKS = 8
FEWEST_IN_HALF = 5
RAMP_LATENCIES = 3.0
RAMP_GROWTH = 1.2
SIGNIFICANCE = 0.05
# A change of less over the tested half is of no matter, however clear.
TOLERANCE = 0.02
LEAST_SECONDS = 5.0
LEAST_REQUESTS = 30
_SECONDS_AFTER_START = 0.5  # the first look for a trend
_PIECE_S = 0.005


class Look(NamedTuple):
    """What follows from what was seen so far.

    Attributes:
        phase: ``warming``, ``measuring``, ``ended``: the window has.
        over: nothing more is to be seen: requests of the window have ended, or are not waited for.
        window: the window, as soon as it has ended.
        in_flight: requests that are due and have not ended.
        ended: requests that have ended, in warm-up or in the window.
        throughput: output tokens/s in the window so far, at its last look; ``None`` before the first.
        ttft_s: the named percentile of time to first token, likewise.
    """

    phase: Literal["warming", "measuring", "ended"]
    over: bool
    window: WindowEvent | None
    in_flight: int
    ended: int
    throughput: Estimate | None
    ttft_s: Estimate | None


class _Answered(NamedTuple):
    scheduled_s: float
    ttft_s: float
    latency_s: float


class Course:
    """Of one serving cell.

    Args:
        load: what the cell varies.
        options: how it is measured.
        start_s: when the load begins.
        requests: of the schedule; ``None``: without end.
        max_requests: that are to be measured at most; ``None``: no limit.
        drains: a trace is measured until its last request has ended. Without it until that is sent, as in logs of
            before: of requests that all come at once hardly a token was counted.
        follows: the drain is looked at too, and more load than the server takes is told by ``saturation.outruns``.
            Without it by ``saturation.grows``, as in logs of before.
    """

    def __init__(
        self,
        load: Serve,
        options: ServeFields,
        start_s: float,
        *,
        requests: int | None = None,
        max_requests: int | None = None,
        drains: bool = True,
        follows: bool = True,
    ) -> None:
        self._drains = drains and load.load == "trace"
        self._follows = follows
        self._load, self._options, self._start_s = load, options, start_s
        self._requests, self._max_requests = requests, max_requests
        self._due: list[float] = []
        self._ended: list[float] = []
        self._open: list[float] = []  # a heap of due times, some of which have ended
        self._gone: Counter[float] = Counter()  # those, still in the heap
        self._answered: list[_Answered] = []
        self._first_streams: set[int] = set()
        self._tokens: dict[int, int] = {}  # by pieces of time from the start, so that a look costs the same at any rate
        # A recorded load is short of requests and has no state to stand still in: all of it is measured.
        self._begin_s: float | None = start_s if load.load == "trace" else None
        self._steady = load.load == "trace"
        self._next_ramp_s = start_s + _SECONDS_AFTER_START
        self._next_growth_s = start_s + _SECONDS_AFTER_START
        self._next_precise_s = math.inf
        self._precise_looks = 0
        self._window: WindowEvent | None = None
        self._over = False
        self._throughput: Estimate | None = None
        self._ttft: Estimate | None = None

    def sent(self, scheduled_s: float) -> None:
        """A request is due, whether or not its bytes are out."""
        bisect.insort(self._due, scheduled_s)
        heapq.heappush(self._open, scheduled_s)

    def finished(self, event: RequestEvent) -> None:
        """A request has ended, well or not. It was told of before by ``sent``, with the same time."""
        bisect.insort(self._ended, event.ended_s)
        self._gone[event.scheduled_s] += 1
        if self._load.concurrency is not None and event.index < self._load.concurrency:
            self._first_streams.add(event.index)
        if event.sent_s is not None:
            after_s = event.sent_s - self._start_s
            for at_us, count in zip(event.arrivals_us, event.arrival_tokens, strict=True):
                piece = int((after_s + at_us / 1e6) / _PIECE_S)
                self._tokens[piece] = self._tokens.get(piece, 0) + count
        first_s = event.first_token_s
        if event.ok and first_s is not None:
            one = _Answered(event.scheduled_s, first_s - event.scheduled_s, event.ended_s - event.scheduled_s)
            bisect.insort(self._answered, one)

    def stop(self, now_s: float) -> Look:
        """Ends the window from outside; a cell that is still warming up has the latter half of its time as window."""
        if self._window is None:
            self._end(now_s, "stopped")
        self._over = True
        return self._look()

    def look(self, now_s: float) -> Look:
        """What follows at this time, which never goes back."""
        if self._window is None and self._is_too_much(now_s):
            self._end(now_s, "saturated")
        if self._window is None and self._begin_s is None:
            self._warm(now_s)
        if self._window is None:
            self._measure(now_s)
        if self._window is not None and not self._over:
            self._drain(now_s, self._window)
        return self._look()

    def _drain(self, now_s: float, window: WindowEvent) -> None:
        """What the load shows behind the window."""
        done = window.saturated or self._known_until_s(now_s) > window.end_s or now_s - window.end_s > DRAIN_S
        if not window.saturated and self._follows and now_s > window.end_s and self._is_too_much(now_s, last=done):
            self._window = window.model_copy(update={"saturation_told_s": now_s})
            done = True
        self._over = done

    def _is_too_much(self, now_s: float, *, last: bool = False) -> bool:
        """Whether an open loop is seen to offer more than the server takes. Asked now and then, and at the end."""
        if not self._load.open_loop or (now_s < self._next_growth_s and not last):
            return False
        self._next_growth_s = self._start_s + (now_s - self._start_s) * LOOK_GROWTH
        if not self._follows:
            if len(self._answered) < FIRST_REQUESTS:
                return False
            latency_s = statistics.median(one.latency_s for one in self._answered[:FIRST_REQUESTS])
            return grows(self._due, self._ended, self._start_s, now_s, latency_s)
        if self._sent_all(now_s):  # what is left in flight gets fewer
            return False
        answered = [Known(one.scheduled_s, one.latency_s) for one in self._answered]
        seen = Seen(self._start_s, now_s, self._known_until_s(now_s), self._due, self._ended, answered)
        irregular = self._load.arrivals == "poisson"
        return outruns(seen, self._load.request_rate, irregular=irregular, last=last)

    def _look(self) -> Look:
        phase: Literal["warming", "measuring", "ended"] = "warming" if self._begin_s is None else "measuring"
        return Look(
            phase="ended" if self._window is not None else phase,
            over=self._over,
            window=self._window,
            in_flight=len(self._due) - len(self._ended),
            ended=len(self._ended),
            throughput=self._throughput,
            ttft_s=self._ttft,
        )

    def _known_until_s(self, now_s: float) -> float:
        """Up to when everything is known: the earliest request in flight."""
        while self._open and self._gone[self._open[0]]:
            self._gone[self._open[0]] -= 1
            if not self._gone[self._open[0]]:
                del self._gone[self._open[0]]
            heapq.heappop(self._open)
        return min(self._open[0], now_s) if self._open else now_s

    def _end(self, now_s: float, reason: StopReason) -> None:
        begin_s = (self._start_s + now_s) / 2 if self._begin_s is None else self._begin_s
        self._window = WindowEvent(
            begin_s=begin_s, end_s=max(now_s, begin_s + 1e-6), warmup_steady=self._steady, reason=reason
        )

    # Warm-up

    def _warm(self, now_s: float) -> None:
        late = now_s - self._start_s >= self._options.max_ramp_seconds
        if not late and now_s < self._next_ramp_s:
            return
        until_s = self._known_until_s(now_s)
        self._steady = self._seen_enough(until_s) and self._stands_still(until_s)
        self._next_ramp_s = self._start_s + (now_s - self._start_s) * RAMP_GROWTH
        if self._steady or late:
            self._begin_s = now_s
            self._next_precise_s = now_s + LEAST_SECONDS

    def _seen_enough(self, until_s: float) -> bool:
        if self._load.concurrency is not None:
            return len(self._first_streams) >= self._load.concurrency
        known = self._between(self._start_s, until_s)
        if len(known) < FIRST_REQUESTS:
            return False
        mean_s = math.fsum(one.latency_s for one in known) / len(known)
        return until_s - self._start_s >= RAMP_LATENCIES * mean_s

    def _between(self, low_s: float, high_s: float) -> list[_Answered]:
        """Answered requests that were due from one moment to before another, in that order."""
        low = bisect.bisect_left(self._answered, low_s, key=lambda one: one.scheduled_s)
        high = bisect.bisect_left(self._answered, high_s, key=lambda one: one.scheduled_s)
        return self._answered[low:high]

    def _stands_still(self, until_s: float) -> bool:
        half_s = (self._start_s + until_s) / 2
        known = self._between(half_s, until_s)
        if len(known) < FEWEST_IN_HALF:
            return False
        blocks = min(BLOCKS, len(known))
        rates = [0.0] * blocks
        for time_s, count in zip(*self._tokens_between(half_s, until_s), strict=True):
            rates[min(int((time_s - half_s) / (until_s - half_s) * blocks), blocks - 1)] += count
        series = (
            _means([one.ttft_s for one in known], blocks),
            _means([one.latency_s for one in known], blocks),
            rates,
        )
        return all(min(one) > 0 and not trend(one).is_seen(SIGNIFICANCE, TOLERANCE) for one in series)

    def _tokens_between(self, low_s: float, high_s: float) -> tuple[list[float], list[int]]:
        """Times, to a piece, and numbers of tokens."""
        low, high = (round((edge_s - self._start_s) / _PIECE_S) for edge_s in (low_s, high_s))
        kept = [(piece, count) for piece, count in self._tokens.items() if low <= piece < high]
        times_s = [min(max(self._start_s + (piece + 0.5) * _PIECE_S, low_s), high_s) for piece, _ in kept]
        return times_s, [count for _, count in kept]

    # Measuring

    def _measure(self, now_s: float) -> None:
        if self._begin_s is None:
            if self._used_up(now_s):
                self._end(now_s, "schedule_used_up")
            return
        if now_s >= self._next_precise_s and self._is_precise(now_s, self._begin_s):
            self._end(now_s, "precise")
        elif self._max_requests is not None and self._ended_since(self._begin_s) >= self._max_requests:
            self._end(now_s, "max_requests")
        elif self._used_up(now_s):
            # The last of them has ended between two looks, and what follows is no part of the load.
            self._end(self._ended[-1] + 1e-6 if self._drains else now_s, "schedule_used_up")
        elif now_s - self._begin_s >= self._options.max_serve_seconds:
            self._end(now_s, "max_seconds")

    def _used_up(self, now_s: float) -> bool:
        """Whether an open loop has sent its last request: from then on the load falls. Of a trace, whether it has ended
        too."""
        return self._sent_all(now_s) and (not self._drains or len(self._ended) >= len(self._due))

    def _sent_all(self, now_s: float) -> bool:
        """Whether the last request of the schedule was due."""
        return self._requests is not None and len(self._due) >= self._requests and self._due[-1] <= now_s

    def _ended_since(self, time_s: float) -> int:
        return len(self._ended) - bisect.bisect_left(self._ended, time_s)

    def _is_precise(self, now_s: float, begin_s: float) -> bool:
        until_s = self._known_until_s(now_s)
        known = self._between(begin_s, until_s)
        self._next_precise_s = begin_s + (now_s - begin_s) * LOOK_GROWTH
        if until_s - begin_s < LEAST_SECONDS or len(known) < LEAST_REQUESTS:
            return False
        self._throughput = rate_interval(*self._tokens_between(begin_s, until_s), begin_s, until_s)
        self._ttft = percentile_interval([one.ttft_s for one in known], self._options.ttft_percentile / 100)
        narrow = (
            self._throughput.relative_half_width <= self._options.serve_precision
            and self._ttft is not None
            and self._ttft.relative_half_width <= self._options.ttft_precision
        )
        self._precise_looks = self._precise_looks + 1 if narrow else 0
        return self._precise_looks >= 2


def retraced(
    course: CourseEvent,
    requests: Sequence[RequestEvent],
    load: Serve,
    options: ServeFields,
    scheduled: int | None = None,
) -> WindowEvent | None:
    """The window that follows from what a client knew at its looks; ``None`` where none has ended.

    Args:
        requests: of the log, in its order.
        scheduled: requests of the schedule; ``None``: without end.

    Raises:
        ValueError: a look knew of a request that is not in the log.
    """
    due_s = {request.index: request.scheduled_s for request in requests}
    if len(requests) < max(course.ended, default=0) or not due_s.keys() >= set(course.order):
        raise ValueError("a look knew of a request that is not in the log")
    again = Course(load, options, course.start_s, requests=scheduled, drains=course.drains, follows=course.follows)
    due = ended = 0
    window = None
    for now_s, due_by, ended_by in zip(course.t_s, course.due, course.ended, strict=True):
        for index in course.order[due:due_by]:
            again.sent(due_s[index])
        for request in requests[ended:ended_by]:
            again.finished(request)
        due, ended = due_by, ended_by
        look = again.look(now_s)
        window = look.window
        if look.over or (window is not None and not course.follows):
            return window
    return window


def _means(values: Sequence[float], blocks: int) -> list[float]:
    """Means of consecutive blocks that differ in size by one value at most."""
    edges = [k * len(values) // blocks for k in range(blocks + 1)]
    return [math.fsum(values[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]
