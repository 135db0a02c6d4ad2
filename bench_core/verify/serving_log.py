"""What holds in every event log of a cell under load: of each request, of the load's course, and of its window."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence

from bench_core.contract.errors import first_line
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.protocol import PAUSE_AFTER_FAILED_S, ServeProtocol
from bench_core.contract.serving.requests import CourseEvent, GeneratorEvent, RequestEvent, WindowEvent
from bench_core.contract.serving.saturation import FEWEST_ANSWERED, in_flight
from bench_core.contract.serving.schedule import Schedule
from bench_core.contract.serving.window import LEAST_REQUESTS, LEAST_SECONDS, retraced
from bench_core.verify.clients import client_differences

# Arrivals are whole microseconds after a sending time; sums of both are known to this.
_SLACK_S = 2e-6
# The client looks about four times a second; a machine that is busy, later.
_LOOK_SLACK_S = 5.0
_HTTP_OK = 200
# Ends of a window at which the warm-up need not have ended.
_EARLY = ("saturated", "stopped", "schedule_used_up")


def log_differences(
    events: ServeEvents, spec: CellSpec, protocol: ServeProtocol, load: Serve, schedule: Schedule | None
) -> Iterator[str]:
    """One line for each thing that cannot be; of a kind that many requests share, the first and how many."""
    yield from _frame(events)
    yield from _grouped(events.requests, spec, protocol)
    yield from _taken_in(events)
    yield from client_differences(events, protocol, load)
    if load.concurrency is not None:
        yield from _closed_loop(events.requests, load.concurrency)
    if events.window is not None and events.requests:
        yield from _window(events, events.window, protocol, load, schedule)
        if events.course is not None:
            # What a client node says may be placed later than when it was heard: by what its clock is known to.
            slack_s = _SLACK_S + max((one.misplaced_s for one in events.clients), default=0.0)
            yield from _course(events.course, events.requests, events.window, protocol, load, schedule, slack_s)


def _frame(events: ServeEvents) -> Iterator[str]:
    """The log begins and ends as it must, and everything lies between."""
    start, end = events.start, events.end
    if start is None:
        yield "the log does not begin with its start"
    if end is None:
        yield "the log has no end"
        return
    if end.outcome is Outcome.OK and not any(request.ok for request in events.requests):
        yield "the log ends well, without an answered request"
    last_s = max((request.ended_s for request in events.requests), default=0.0)
    if last_s > end.t_s + _SLACK_S:
        yield "a request ends after the log's end"
    if events.window is not None and events.window.end_s > end.t_s + _SLACK_S:
        yield "the window ends after the log's end"
    if events.window is not None and (events.window.saturation_told_s or 0.0) > end.t_s + _SLACK_S:
        yield "saturation is told after the log's end"
    load = events.phases.get("load")
    first_s = min((request.scheduled_s for request in events.requests), default=None)
    if load is not None and first_s is not None and first_s < load.started_s + load.duration_s - _SLACK_S:
        yield "a request is sent before the server has answered for the first time"


def _grouped(requests: Sequence[RequestEvent], spec: CellSpec, protocol: ServeProtocol) -> Iterator[str]:
    first: dict[str, int] = {}
    counts: dict[str, int] = {}
    for request in requests:
        for what in _request(request, spec, protocol):
            first.setdefault(what, request.index)
            counts[what] = counts.get(what, 0) + 1
    for what, index in first.items():
        more = f" (and {counts[what] - 1} more)" if counts[what] > 1 else ""
        yield f"request {index}: {what}{more}"


def _request(r: RequestEvent, spec: CellSpec, protocol: ServeProtocol) -> Iterator[str]:
    """Of one request: its times in order, and its end in line with what came."""
    if r.sent_s is not None:
        if r.sent_s < r.scheduled_s - _SLACK_S:
            yield "was sent before it was to be"
        if r.headers_s is not None and r.headers_s < r.sent_s - _SLACK_S:
            yield "was answered before it was sent"
        if r.ended_s - r.sent_s > protocol.request_timeout_s + _LOOK_SLACK_S:
            yield "lasted longer than the limit for one request"
    if r.ended_s < (r.scheduled_s if r.sent_s is None else r.sent_s) - _SLACK_S:
        yield "ended before it was sent"
    last_s = r.last_token_s
    if last_s is not None and last_s > r.ended_s + _SLACK_S:
        yield "a token arrived after it had ended"
    if r.ok:
        yield from _answered(r, spec)
    elif not r.cause:
        yield f"ended as {r.end} without a cause"


def _answered(r: RequestEvent, spec: CellSpec) -> Iterator[str]:
    if r.status != _HTTP_OK or r.sent_s is None or r.cause:
        yield f"counts as answered, with HTTP status {r.status}" + (f" and the cause {r.cause!r}" if r.cause else "")
    if r.counted_by is None or r.output_tokens < 1:
        yield "counts as answered, without a token"
    if r.counted_by in ("ids", "usage") and sum(r.arrival_tokens) != r.output_tokens:
        yield f"{sum(r.arrival_tokens)} tokens arrived, {r.output_tokens} are counted"
    forced = spec.length == "forced" and r.counted_by != "events"
    if r.output_tokens > r.asked_tokens or (forced and r.output_tokens != r.asked_tokens):
        yield f"counts as answered, with {r.output_tokens} tokens of {r.asked_tokens}"


def _taken_in(events: ServeEvents) -> Iterator[str]:
    """Each load generator counts the tokens that it took in: those of its requests."""
    if not events.generators:
        if events.window is not None:
            yield "no load generator has told of itself"
        return
    told = {one.process: one for one in events.generators}
    for process in sorted({request.process for request in events.requests} | set(told)):
        mine = [request for request in events.requests if request.process == process]
        tokens = sum(sum(request.arrival_tokens) for request in mine)
        one = told.get(process)
        if one is None:
            yield f"load generator {process} has not told of itself"
            continue
        if one.tokens != tokens:
            yield f"load generator {process} took in {one.tokens} tokens, its requests have {tokens}"
        sent = [request.sent_s for request in mine if request.sent_s is not None]
        if sent and (min(sent) < one.started_s - _SLACK_S or max(sent) > one.ended_s + _SLACK_S):
            yield f"load generator {process} sent a request before it began or after it had ended"


def _closed_loop(requests: Sequence[RequestEvent], concurrency: int) -> Iterator[str]:
    """Each request but the first of each stream is to be sent when another has ended, or a pause after one that
    failed; so many at once, and no more. In logs of before there was a pause after refused connections alone."""
    ends = {request.ended_s for request in requests if request.end != "refused"}
    failed = sorted(request.ended_s + PAUSE_AFTER_FAILED_S for request in requests if not request.ok)
    free = [
        r
        for r in requests
        if r.index >= concurrency and r.scheduled_s not in ends and not _holds(failed, r.scheduled_s)
    ]
    if free:
        yield f"request {free[0].index}: was to be sent when no other had ended" + (
            f" (and {len(free) - 1} more)" if len(free) > 1 else ""
        )
    steps = sorted([(r.scheduled_s, 1) for r in requests] + [(r.ended_s, -1) for r in requests])
    at_once = most = 0
    for _, step in steps:
        at_once += step
        most = max(most, at_once)
    if most > concurrency:
        yield f"{most} requests were in flight at once, in a closed loop of {concurrency}"


def _holds(moments: Sequence[float], moment_s: float) -> bool:
    """Whether a moment is one of these, which ascend."""
    place = bisect.bisect_left(moments, moment_s - _SLACK_S)
    return place < len(moments) and moments[place] <= moment_s + _SLACK_S


def _window(
    events: ServeEvents, window: WindowEvent, protocol: ServeProtocol, load: Serve, schedule: Schedule | None
) -> Iterator[str]:
    """Its place in the load's course, its length, and why it ended."""
    requests = events.requests
    t0_s = _begun_s(requests, schedule)
    ramp_s, lasted_s = window.begin_s - t0_s, window.end_s - window.begin_s
    halved = abs(window.begin_s - (t0_s + window.end_s) / 2) <= _SLACK_S
    if ramp_s < -_SLACK_S:
        yield "the window begins before the load"
    early = window.reason in _EARLY and halved and not window.warmup_steady  # ended while the load was warming up
    if not window.warmup_steady and ramp_s < protocol.max_ramp_seconds - _SLACK_S and not early:
        yield f"the warm-up ended after {ramp_s:.1f} s without being steady, before its limit"
    if ramp_s > protocol.max_ramp_seconds + _LOOK_SLACK_S and not early:
        yield f"the warm-up lasted {ramp_s:.1f} s, its limit is {protocol.max_ramp_seconds:g} s"
    if window.warmup_steady and load.concurrency is not None:
        first = [request.ended_s for request in requests if request.index < load.concurrency]
        if len(first) < load.concurrency or max(first) > window.begin_s:
            yield "the warm-up ended before every stream had ended a request"
    if lasted_s > protocol.max_serve_seconds + _LOOK_SLACK_S:
        yield f"the window lasted {lasted_s:.1f} s, its limit is {protocol.max_serve_seconds:g} s"
    yield from _reason(requests, window, protocol, load, schedule)
    if any(one.ended_s < _needed_until_s(one, window, requests) for one in events.generators):
        yield "a load generator ended within the window"
    # Of a trace that is measured to its end, what was known at the looks tells when that was.
    drained = load.load == "trace" and events.course is not None and events.course.drains
    if (
        window.reason != "saturated"
        and not drained
        and not any(r.scheduled_s >= window.end_s - _idle_s(requests) for r in requests)
    ):
        yield "the window goes on after the last request"


def _needed_until_s(one: GeneratorEvent, window: WindowEvent, requests: Sequence[RequestEvent]) -> float:
    """When a load generator may have ended at the earliest: with nothing left to send it does so by itself, as soon as
    its own last request has ended."""
    if window.reason != "schedule_used_up":
        return window.end_s - _SLACK_S
    last_s = max((r.ended_s for r in requests if r.process == one.process), default=0.0)
    return min(window.end_s - _LOOK_SLACK_S, last_s - _SLACK_S)


def _course(
    course: CourseEvent,
    requests: Sequence[RequestEvent],
    window: WindowEvent,
    protocol: ServeProtocol,
    load: Serve,
    schedule: Schedule | None,
    slack_s: float,
) -> Iterator[str]:
    """The window follows from what was known at each look at the load, and no look knew what came after it."""
    try:
        follows = retraced(course, requests, load, protocol, schedule.requests if schedule is not None else None)
    except (ArithmeticError, ValueError) as error:
        yield f"no window follows from the looks at the load: {first_line(error)}"
        return
    if abs(course.start_s - _begun_s(requests, schedule)) > _SLACK_S:
        yield "the looks at the load are of one that began at another time"
    due_s = {request.index: request.scheduled_s for request in requests}
    due = ended = 0
    for t_s, due_by, ended_by in zip(course.t_s, course.due, course.ended, strict=True):
        if any(request.ended_s > t_s + slack_s for request in requests[ended:ended_by]):
            yield f"a look {t_s - course.start_s:.1f} s after the load's beginning knew of a request that ended later"
            return
        if any(due_s[index] > t_s + slack_s for index in course.order[due:due_by]):
            yield f"a look {t_s - course.start_s:.1f} s after the load's beginning knew of a request that was due later"
            return
        due, ended = due_by, ended_by
    if follows is None:
        yield "the window has not ended by the last look at the load"
    elif follows != window:
        names = [name for name in WindowEvent.model_fields if getattr(follows, name) != getattr(window, name)]
        told = (f"{name} is {getattr(window, name)} and follows as {getattr(follows, name)}" for name in names)
        yield f"the window is not what follows from the looks at the load: {', '.join(told)}"


def _begun_s(requests: Iterable[RequestEvent], schedule: Schedule | None) -> float:
    """When the load began: the schedule's zero."""
    if schedule is None or not schedule.offsets_us:
        return min(request.scheduled_s for request in requests)
    offsets = schedule.offsets_us
    return min(r.scheduled_s - offsets[r.index % len(offsets)] / 1e6 for r in requests)


def _idle_s(requests: Sequence[RequestEvent]) -> float:
    """The longest time between two requests' times, twice: after the last one follows no more than chance gives."""
    times = sorted(request.scheduled_s for request in requests)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return 2 * max(gaps, default=0.0) + _LOOK_SLACK_S


def _reason(
    requests: Sequence[RequestEvent],
    window: WindowEvent,
    protocol: ServeProtocol,
    load: Serve,
    schedule: Schedule | None,
) -> Iterator[str]:
    lasted_s = window.end_s - window.begin_s
    inside = [r for r in requests if window.begin_s <= r.scheduled_s < window.end_s]
    reason = window.reason
    if reason == "max_seconds" and lasted_s < protocol.max_serve_seconds - _SLACK_S:
        yield f"the window ended at its limit of {protocol.max_serve_seconds:g} s, after {lasted_s:.1f} s"
    if reason == "precise" and (lasted_s < LEAST_SECONDS - _SLACK_S or len(inside) < LEAST_REQUESTS):
        yield f"the window ended as precise after {lasted_s:.1f} s and {len(inside)} requests"
    if window.saturated:
        told_s = window.end_s if window.saturation_told_s is None else window.saturation_told_s
        begun = sorted(r.scheduled_s for r in requests)
        ended = sorted(r.ended_s for r in requests if r.end != "unfinished" and r.ended_s <= told_s)
        since_s = begun[0] + (told_s - begun[0]) / 3
        grown = in_flight(begun, ended, told_s) - in_flight(begun, ended, since_s)
        if not load.open_loop or len(ended) < FEWEST_ANSWERED or grown <= 0:
            yield "the window ended as saturated, and requests in flight did not grow"
    if reason == "schedule_used_up":
        last = max(r.index for r in requests)
        if not load.open_loop or (schedule is not None and last + 1 < len(schedule.prompts)):
            yield "the window ended with the schedule, of which requests were left"
    if reason != "saturated":
        left = [r for r in inside if r.end == "unfinished" and r.ended_s <= window.end_s]
        if left:
            yield f"request {left[0].index}: was left unfinished within the window"
