"""What a client records of each request, and of a cell's course: the raw events of a serving cell.

All times are seconds of CLOCK_MONOTONIC, one clock for all containers of a machine.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench_core.contract.records.record import Record

Moment = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0)]

# How the cause of a refused request begins whose host could open no connection.
NONE_LEFT = "the client has no connection left"
RequestEnd = Literal["ok", "refused", "status", "broken", "garbage", "wrong_length", "timeout", "unfinished"]


class RequestEvent(Record):
    """One request, written after it has ended.

    Attributes:
        index: its place in the schedule, from 0; in a closed loop the order of sending.
        process: of the client's load generators.
        prompt: index into the workload.
        prompt_digest: of the ids that were sent (``digest.prompts_sha256`` of this one prompt, its first 16 digits).
        prompt_tokens: that were sent.
        scheduled_s: when it was to be sent; in a closed loop when the request before it, on the same stream, had ended,
            and a pause later where that failed (``serving.protocol``); in logs of before where it was refused.
        sent_s: when its last byte was handed to the kernel; ``None`` where it never was.
        headers_s: when the response's first byte was there.
        arrivals_us: when tokens were there, one entry for each read of the connection that brought some: whole
            microseconds after ``sent_s``, ascending.
        arrival_tokens: how many tokens each of these brought.
        ended_s: when the response was complete, or the request had failed.
        output_tokens: by ``counted_by``: the ids that the server returned, its usage record, or its events.
        asked_tokens: that it was to write.
        output_digest: of the ids returned (as ``prompt_digest``), where the server returns them.
        end: ``ok``; ``refused``: no connection; ``status``: another HTTP status than 200; ``broken``: the connection
            ended before the response; ``garbage``: what came was no such response; ``wrong_length``: another number of
            tokens than was forced; ``timeout``; ``unfinished``: in flight when the cell ended.
        status: the HTTP status, where one came.
        cause: what was wrong, one line.
        usage_prompt_tokens: prompt tokens as the server counts them, where it says so.
        cached_tokens: of these, served from the prefix cache, where it says so.
        resent: it was sent twice: the first time on a kept connection that the server ended without having read it.
            ``sent_s`` and what follows are of the second time; ``scheduled_s`` is as it was.
    """

    type: Literal["request"] = "request"
    index: Count
    process: Count = 0
    prompt: Count
    prompt_digest: str
    prompt_tokens: Count
    scheduled_s: Moment
    sent_s: Moment | None
    headers_s: Moment | None = None
    arrivals_us: tuple[Count, ...] = ()
    arrival_tokens: tuple[Annotated[int, Field(ge=1)], ...] = ()
    ended_s: Moment
    output_tokens: Count
    asked_tokens: Count
    counted_by: Literal["ids", "usage", "events"] | None = None
    output_digest: str | None = None
    end: RequestEnd
    status: int | None = None
    cause: str = ""
    usage_prompt_tokens: Count | None = None
    cached_tokens: Count | None = None
    resent: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> RequestEvent:
        if len(self.arrivals_us) != len(self.arrival_tokens):
            raise ValueError("arrivals_us and arrival_tokens differ in length")
        if any(later < earlier for earlier, later in itertools.pairwise(self.arrivals_us)):
            raise ValueError("arrivals are not in order")
        if self.arrivals_us and self.sent_s is None:
            raise ValueError("tokens of a request that was never sent")
        return self

    @property
    def first_token_s(self) -> float | None:
        """When its first token was there."""
        return self.sent_s + self.arrivals_us[0] / 1e6 if self.sent_s is not None and self.arrivals_us else None

    @property
    def last_token_s(self) -> float | None:
        """When its last token was there."""
        return self.sent_s + self.arrivals_us[-1] / 1e6 if self.sent_s is not None and self.arrivals_us else None

    @property
    def ok(self) -> bool:
        """Whether it was answered as asked."""
        return self.end == "ok"


class GeneratorEvent(Record):
    """What one load generator says of itself, once, at its end: whether the client was the bottleneck.

    Attributes:
        cpu_s: CPU time of its process between ``started_s`` and ``ended_s``.
        busy_s: wall time in which its loop did something else than wait.
        longest_turn_s: the longest time between two looks at the sockets.
        tokens: events with tokens that it took in.
    """

    type: Literal["generator"] = "generator"
    process: Count
    started_s: Moment
    ended_s: Moment
    cpu_s: float = Field(ge=0)
    busy_s: float = Field(ge=0)
    longest_turn_s: float = Field(ge=0)
    tokens: Count
    cpus: tuple[int, ...] = ()


class CourseEvent(Record):
    """What a client knew each time it asked what follows (``serving.window.Course``), so that it can be asked again:
    columns, with one value for each look.

    Attributes:
        start_s: when the load began.
        t_s: when it looked.
        ended: how many requests it knew to have ended: so many of the log's first.
        due: how many it knew to be due: so many of the first of ``order``.
        order: requests by their index, in the order in which it learned that they were due.
        drains: a trace was measured until its last request had ended; in logs of before, until that was sent.
        follows: the drain behind the window was looked at too; in logs of before looks end with the window, and more
            load than the server takes was told by another rule (``serving.saturation``).
    """

    type: Literal["course"] = "course"
    drains: bool = False
    follows: bool = False
    start_s: Moment
    t_s: tuple[Moment, ...]
    ended: tuple[Count, ...]
    due: tuple[Count, ...]
    order: tuple[Count, ...]

    @model_validator(mode="after")
    def _columns(self) -> CourseEvent:
        if not len(self.t_s) == len(self.ended) == len(self.due):
            raise ValueError("columns of looks differ in length")
        if any(
            later < earlier for one in (self.t_s, self.ended, self.due) for earlier, later in itertools.pairwise(one)
        ):
            raise ValueError("looks are not in the order of time")
        if max(self.due, default=0) > len(self.order) or len(set(self.order)) != len(self.order):
            raise ValueError("more requests were due than are told, or one is told twice")
        return self


StopReason = Literal["precise", "max_seconds", "max_requests", "saturated", "schedule_used_up", "stopped"]


class WindowEvent(Record):
    """The window in which a cell is measured: from when the load stood still to when measuring stopped.

    Attributes:
        begin_s, end_s: requests scheduled within it count, and tokens that arrived within it.
        warmup_steady: whether the warm-up showed no trend at its end; ``False``: its limit was reached.
        reason: why it ended.
        saturation_told_s: when it was seen, behind the window, that more was offered than the server takes.
    """

    type: Literal["window"] = "window"
    begin_s: Moment
    end_s: Moment
    warmup_steady: bool
    reason: StopReason
    saturation_told_s: Moment | None = None

    @property
    def saturated(self) -> bool:
        """Whether an open loop offered more than the server took, told within the window or behind it."""
        return self.reason == "saturated" or self.saturation_told_s is not None

    @model_validator(mode="after")
    def _forward(self) -> WindowEvent:
        if self.end_s <= self.begin_s:
            raise ValueError("a window ends after its beginning")
        if self.saturation_told_s is not None and (self.reason == "saturated" or self.saturation_told_s < self.end_s):
            raise ValueError("a window that was told saturated behind its end had not been before")
        return self


class Counts(Record):
    """Requests that were to be sent in the window.

    Attributes:
        scheduled: all of them; ``sent``: whose bytes went out; ``ok``: answered as asked.
        failed: by kind (``RequestEvent.end``); a kind that did not occur is left out. Without those unfinished.
        unfinished: in flight when the cell ended.
        resent: sent twice (``RequestEvent``); each is among the others once, however it ended.
        by_events: of those ``ok``, whose server told neither token ids nor their number: each event counts as a token,
            and how many there were is not known.
    """

    scheduled: int = Field(ge=0)
    sent: int = Field(ge=0)
    ok: int = Field(ge=0)
    failed: dict[str, int] = {}
    unfinished: int = Field(ge=0)
    resent: int = Field(0, ge=0)
    by_events: int = Field(0, ge=0)

    @property
    def share_failed(self) -> float:
        """Failed / scheduled, those unfinished left out of both; 0 where there are none."""
        ended = self.scheduled - self.unfinished
        return sum(self.failed.values()) / ended if ended else 0.0

    @classmethod
    def of(cls, planned: Sequence[RequestEvent]) -> Counts:
        """Of requests that were to be sent in one window."""
        ends = Counter(request.end for request in planned)
        return cls(
            scheduled=len(planned),
            sent=sum(request.sent_s is not None for request in planned),
            ok=ends["ok"],
            failed={str(end): count for end, count in sorted(ends.items()) if end not in ("ok", "unfinished")},
            unfinished=ends["unfinished"],
            resent=sum(request.resent for request in planned),
            by_events=sum(request.ok and request.counted_by == "events" for request in planned),
        )
