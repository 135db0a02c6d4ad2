"""Rows of batches and of requests: what the numbers of a cell are of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench_core.contract.measures.token_times import row_tpot_s, row_ttft_s
from bench_core.contract.records.events import BatchEvent, Event, StartEvent
from bench_core.contract.serving.latencies import e2e_s, tpot_s, ttft_s
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.requests import RequestEvent
from bench_core.report.column import Column
from bench_core.runs.load import Watched, load_run
from bench_core.runs.view import Ended, RunView


@dataclass(frozen=True)
class BatchLine:
    """One batch of a cell, of any phase. Seconds count from when the cell's log began."""

    run_id: str
    row: Ended
    phase: str
    index: int
    started_s: float
    latency_s: float
    rows: int
    first_prompt: int
    prompts_digest: str
    prompt_tokens: int
    output_tokens: int
    ttft_mean_s: float | None
    tpot_mean_s: float | None

    @property
    def output_throughput_tok_s(self) -> float:
        """Output tokens / latency."""
        return self.output_tokens / self.latency_s


@dataclass(frozen=True)
class RequestLine:
    """One request of a cell under load, of warm-up and window."""

    run_id: str
    row: Ended
    request: RequestEvent
    begun_s: float
    in_window: bool

    def since(self, moment_s: float | None) -> float | None:
        """A moment in seconds from when the cell's log began."""
        return None if moment_s is None else moment_s - self.begun_s


def _due(line: RequestLine) -> float | None:
    return line.since(line.request.scheduled_s)


def _sent(line: RequestLine) -> float | None:
    return line.since(line.request.sent_s)


def _ended(line: RequestLine) -> float | None:
    return line.since(line.request.ended_s)


def _late(line: RequestLine) -> float | None:
    return None if line.request.sent_s is None else line.request.sent_s - line.request.scheduled_s


def _ttft(line: RequestLine) -> float | None:
    return ttft_s(line.request)


def _ttft_from_sent(line: RequestLine) -> float | None:
    return ttft_s(line.request, from_sent=True)


def _tpot(line: RequestLine) -> float | None:
    return tpot_s(line.request)


def _e2e(line: RequestLine) -> float | None:
    return e2e_s(line.request)


def _e2e_from_sent(line: RequestLine) -> float | None:
    return e2e_s(line.request, from_sent=True)


def _cause(line: RequestLine) -> str | None:
    return line.request.cause or None


BATCHES: Sequence[Column[BatchLine]] = (
    Column("", "run_id", csv="run_id", meaning="as in cells"),
    Column("", "row.planned.cell", csv="cell", meaning="as in cells"),
    Column("", "row.planned.batch_size", csv="batch_size", meaning="prompts in one call of the engine"),
    Column("", "phase", csv="phase", meaning="warmup; measure: what throughput is of; latency: with token times alone; "
           "paired and direct: of parity"),
    Column("", "index", csv="batch", meaning="counts from 0 within its phase"),
    Column("", "started_s", csv="started_s", meaning="from when the cell's log began"),
    Column("", "latency_s", csv="latency_s", meaning="from the call to its return, the device finished"),
    Column("", "rows", csv="rows", meaning="prompts in the batch"),
    Column("", "first_prompt", csv="first_prompt", meaning="place of the batch's first prompt in the workload"),
    Column("", "prompts_digest", csv="prompts_digest", meaning="of the ids that the engine was given"),
    Column("", "prompt_tokens", csv="prompt_tokens", meaning="of all rows"),
    Column("", "output_tokens", csv="output_tokens", meaning="of all rows"),
    Column("", "output_throughput_tok_s", csv="output_throughput_tok_s", meaning="output tokens / latency"),
    Column("", "ttft_mean_s", csv="ttft_mean_s", meaning="mean over rows; none where token times were not asked for"),
    Column("", "tpot_mean_s", csv="tpot_mean_s", meaning="mean over rows of two tokens or more"),
)  # fmt: skip
REQUESTS: Sequence[Column[RequestLine]] = (
    Column("", "run_id", csv="run_id", meaning="as in cells"),
    Column("", "row.planned.cell", csv="cell", meaning="as in cells"),
    Column("", "request.index", csv="request", meaning="its place in the schedule, from 0"),
    Column("", "in_window", csv="in_window", meaning="was to be sent in the window: what latencies are of"),
    Column("", "request.process", csv="process", meaning="of the client's load generators"),
    Column("", "request.prompt", csv="prompt", meaning="its place in the workload"),
    Column("", "request.prompt_digest", csv="prompt_digest", meaning="of the ids that were sent"),
    Column("", "request.prompt_tokens", csv="prompt_tokens", meaning="that were sent"),
    Column("", "request.asked_tokens", csv="asked_tokens", meaning="output tokens that were asked for"),
    Column("", "request.output_tokens", csv="output_tokens", meaning="that came"),
    Column("", "request.end", csv="outcome", meaning="ok, or how it failed"),
    Column("", "request.status", csv="http_status", meaning="where one came"),
    Column("", _cause, csv="cause", meaning="what was wrong"),
    Column("", "request.resent", csv="sent_twice", meaning="first on a kept connection that the server ended unread"),
    Column("", _due, csv="scheduled_s", meaning="when it was to be sent, from when the cell's log began"),
    Column("", _sent, csv="sent_s", meaning="when it was sent, from when the cell's log began"),
    Column("", _ended, csv="ended_s", meaning="when it ended, from when the cell's log began"),
    Column("", _late, csv="lateness_s", meaning="sent - scheduled"),
    Column("", _ttft, csv="ttft_s", meaning="time to first token, from when it was to be sent"),
    Column("", _ttft_from_sent, csv="ttft_from_sent_s", meaning="the same from when it was sent"),
    Column("", _tpot, csv="tpot_s", meaning="time per output token after the first"),
    Column("", _e2e, csv="e2e_s", meaning="until the response was complete, from when it was to be sent"),
    Column("", _e2e_from_sent, csv="e2e_from_sent_s", meaning="the same from when it was sent"),
    Column("", "request.cached_tokens", csv="cached_tokens", meaning="prompt tokens from the prefix cache, as told"),
)


@dataclass
class _Seen:
    """What was seen of a cell's log."""

    begun_s: float = 0.0
    batches: list[BatchEvent] = field(default_factory=list)

    def line(self, content: bytes) -> None:
        """Nothing is kept of a line."""

    def take(self, event: Event) -> None:
        """The next event of the log."""
        if isinstance(event, StartEvent):
            self.begun_s = event.t_s
        elif isinstance(event, BatchEvent):
            # Outputs and arrivals are most of a log, and all that is asked of them is known at once.
            self.batches.append(event)


@dataclass(frozen=True)
class Detailed:
    """A run with the events that its rows are of, by the names of cells that have numbers."""

    view: RunView
    seen: dict[str, _Seen]
    served: dict[str, ServeEvents]

    @property
    def batches(self) -> list[BatchLine]:
        """Of all cells of closed batches that have numbers."""
        run_id = self.view.record.run_id
        return [
            _batch(run_id, row, batch, seen.begun_s)
            for row in self.view.rows
            if row.measured and (seen := self.seen.get(row.planned.cell))
            for batch in seen.batches
        ]

    @property
    def requests(self) -> list[RequestLine]:
        """Of all cells under load that have numbers."""
        return [
            line
            for row in self.view.served
            if row.measured and row.planned.cell in self.served
            for line in _requests(self.view.record.run_id, row, self.served[row.planned.cell])
        ]


def read_detailed(folder: Path) -> Detailed:
    """A run and its events, each log read once.

    Raises:
        BadInput: not a run.
    """
    watched = Watched(_Seen)
    served: dict[str, ServeEvents] = {}
    view = load_run(folder, watched, served_events=served.__setitem__)
    return Detailed(view, watched.of, served)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _batch(run_id: str, row: Ended, batch: BatchEvent, begun_s: float) -> BatchLine:
    return BatchLine(
        run_id, row, batch.phase, batch.index, batch.started_s - begun_s, batch.latency_s, len(batch.prompts),
        batch.prompts[0], batch.prompts_digest, sum(batch.prompt_tokens), sum(batch.output_tokens),
        _mean(row_ttft_s(batch)), _mean(row_tpot_s(batch)),
    )  # fmt: skip


def _requests(run_id: str, row: Ended, events: ServeEvents) -> list[RequestLine]:
    window, start = events.window, events.start
    assert window is not None  # noqa: S101  # of a cell with a result
    assert start is not None  # noqa: S101
    return [
        RequestLine(run_id, row, one, start.t_s, window.begin_s <= one.scheduled_s < window.end_s)
        for one in sorted(events.requests, key=lambda one: one.index)
    ]
