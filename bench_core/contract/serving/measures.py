"""What a serving cell measured: raw events in, numbers out.

**Which requests count.** Latencies, attainment and failures are of the requests that were to be sent within the window,
wherever they ended. Throughputs are of what happened within the window: tokens that arrived, requests that were
completed, whenever they were sent.

**What becomes of a failed request.** Percentiles are over answered requests alone (``end`` is ``ok``), since a failed
one has no latency. So that it never leaves silently, it is counted by kind, ``share_failed`` stands beside the
percentiles, and attainment and goodput count it as a miss. So they do with a request that was in flight when the cell
ended; a client that goes on until the window's requests have ended leaves none.

**Time counts from when a request was to be sent.** Counted from when it was sent, a client that falls behind hides the
server's delay ("coordinated omission"); these latencies stand beside, and ``lateness_s`` says what is between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.telemetry import TelemetrySummary, summarise_telemetry
from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.records.record import Record
from bench_core.contract.serving.latencies import e2e_s, gaps, scheduled_in, tpot_s, ttft_s, within
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.serving.requests import (
    NONE_LEFT,
    Counts,
    GeneratorEvent,
    RequestEvent,
    StopReason,
    WindowEvent,
)
from bench_core.contract.statistics.clocks import ClientEvent
from bench_core.contract.statistics.correlated import (
    Estimate,
    batch_means,
    percentile_interval,
    rate_interval,
    share_interval,
)
from bench_core.contract.statistics.distribution import percentile

# A client that is busy for more of its time than this may be what is measured.
MOST_BUSY = 0.8
# Requests that are later than both make the client's delay a part of the server's.
MOST_LATE_S = 0.002
MOST_LATE_SHARE = 0.02
# Intervals of a longer series are of so many of its values, in equal steps: they say nothing more than blocks do.
_LONGEST_SERIES = 100_000


class Latency(Record):
    """A latency of requests, seconds, each number with its interval.

    A percentile is absent where fewer than five values lie beyond it.

    Attributes:
        n: values.
    """

    n: int = Field(ge=1)
    mean: Estimate
    p50: Estimate | None
    p90: Estimate | None
    p95: Estimate | None
    p99: Estimate | None
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency | None:
        """Of values in order of time; ``None`` for none."""
        mean = batch_means(values)
        if mean is None:
            return None
        p50, p90, p95, p99 = (percentile_interval(values, q) for q in (0.5, 0.9, 0.95, 0.99))
        return cls(n=len(values), mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, max=max(values))


class Lateness(Record):
    """How much later than planned requests were sent, seconds. Percentiles as in ``Latency``."""

    n: int = Field(ge=1)
    p50: float | None
    p99: float | None
    max: float


class InFlight(Record):
    """Requests that were sent and had not ended, over the window: mean over time, and most at once."""

    mean: float = Field(ge=0)
    max: int = Field(ge=0)


class Kept(Record):
    """How well latency limits were kept.

    Attributes:
        limits: that were asked for.
        attainment: share of the window's requests that were answered within all limits, 0 to 1.
        goodput_per_s: such requests / the window's length.
    """

    limits: Limits
    attainment: Estimate
    goodput_per_s: float = Field(ge=0)

    @property
    def goodput(self) -> Estimate:
        """The same with its interval, requests/s: that of the attainment, of so many requests in the window."""
        share, n = self.attainment, self.attainment.n
        if share.value <= 0 or share.low is None or share.high is None:
            absent = share.absent or "none was within them"
            return Estimate(value=self.goodput_per_s, n=n, absent=absent)
        each = self.goodput_per_s / share.value
        return share.model_copy(
            update={"value": self.goodput_per_s, "low": share.low * each, "high": share.high * each}
        )


class ServeMetrics(Record):
    """What one serving cell measured in its window; see the module's text for what counts.

    Attributes:
        window_s: its length.
        output_throughput_tok_s: output tokens that arrived within it, of all requests, failed ones too.
        prompt_throughput_tok_s: prompt tokens of requests whose first token arrived within it.
        request_throughput_per_s: requests that were answered as asked and completed within it.
        per_user_tok_s: 1 / the median of ``tpot_s``; absent with it.
        ttft_s, e2e_s: from when a request was to be sent; ``tpot_s``: per request; ``itl_s``: of every token after a
            request's first arrival (``latencies.gaps``), in order of arrival, within the window.
        ttft_from_sent_s, e2e_from_sent_s: from when it was sent.
        lateness_s: sent - planned.
        share_failed: see ``Counts``.
        kept: absent where no limit was asked for.
        saturated: an open loop offered more than the server took; its latencies are of no lasting state.
        client_limited: why the client was the bottleneck, in words; empty where it was not.
        telemetry: of the device over the window; ``device_peak_bytes``: its memory in use by all processes at most.
    """

    window_s: float = Field(gt=0)
    output_throughput_tok_s: Estimate
    prompt_throughput_tok_s: Estimate
    request_throughput_per_s: Estimate
    per_user_tok_s: Estimate | None
    ttft_s: Latency | None
    tpot_s: Latency | None
    itl_s: Latency | None
    e2e_s: Latency | None
    ttft_from_sent_s: Latency | None
    e2e_from_sent_s: Latency | None
    lateness_s: Lateness | None
    in_flight: InFlight
    requests: Counts
    share_failed: float = Field(ge=0, le=1)
    kept: Kept | None = None
    saturated: bool
    stop_reason: StopReason
    warmup_steady: bool
    client_limited: str = ""
    telemetry: TelemetrySummary | None = None
    device_peak_bytes: int | None = None


def summarise_serving(
    requests: Sequence[RequestEvent],
    window: WindowEvent,
    generators: Sequence[GeneratorEvent] = (),
    telemetry: Sequence[TelemetryEvent] = (),
    limits: Limits | None = None,
    clients: Sequence[ClientEvent] = (),
) -> ServeMetrics:
    """Computes a cell's numbers from its events, of warm-up and window, in any order.

    Raises:
        BadInput: no request was to be sent in the window, or one is told twice.
    """
    begin_s, end_s = window.begin_s, window.end_s
    if len({request.index for request in requests}) != len(requests):
        raise BadInput("the event log tells a request twice")
    planned = scheduled_in(requests, begin_s, end_s)
    if not planned:
        raise BadInput("no request was to be sent in the window")
    answered = [request for request in planned if request.ok]
    tpot = _latency([tpot_s(request) for request in answered])
    ttft = _latency([ttft_s(request) for request in answered])
    lateness = _lateness(planned)
    counts = Counts.of(planned)
    output = _output_throughput(requests, begin_s, end_s)
    return ServeMetrics(
        window_s=end_s - begin_s,
        output_throughput_tok_s=output,
        prompt_throughput_tok_s=_prompt_throughput(requests, begin_s, end_s),
        request_throughput_per_s=_request_throughput(requests, begin_s, end_s),
        per_user_tok_s=_inverse(tpot.p50) if tpot is not None else None,
        ttft_s=ttft,
        tpot_s=tpot,
        itl_s=_itl(requests, begin_s, end_s),
        e2e_s=_latency([e2e_s(request) for request in answered]),
        ttft_from_sent_s=_latency([ttft_s(request, from_sent=True) for request in answered]),
        e2e_from_sent_s=_latency([e2e_s(request, from_sent=True) for request in answered]),
        lateness_s=lateness,
        in_flight=_in_flight(requests, begin_s, end_s),
        requests=counts,
        share_failed=counts.share_failed,
        kept=kept(requests, window, limits) if limits is not None else None,
        saturated=window.saturated,
        stop_reason=window.reason,
        warmup_steady=window.warmup_steady,
        client_limited=client_limited(generators, lateness, ttft, clients, planned),
        telemetry=summarise_telemetry(telemetry, begin_s, end_s, round(output.value * (end_s - begin_s))),
        device_peak_bytes=_peak_bytes(telemetry, begin_s, end_s),
    )


def kept(requests: Sequence[RequestEvent], window: WindowEvent, limits: Limits) -> Kept:
    """How well these limits were kept; of any limits, also of others than were asked for.

    Raises:
        BadInput: no request was to be sent in the window.
    """
    planned = scheduled_in(requests, window.begin_s, window.end_s)
    good = [within(request, limits) for request in planned]
    latencies = [ttft_s(request) for request in planned if request.ok]
    share = share_interval(good, [value for value in latencies if value is not None])
    if share is None:
        raise BadInput("no request was to be sent in the window")
    return Kept(limits=limits, attainment=share, goodput_per_s=sum(good) / (window.end_s - window.begin_s))


def client_limited(
    generators: Sequence[GeneratorEvent],
    lateness: Lateness | None,
    ttft: Latency | None,
    clients: Sequence[ClientEvent] = (),
    requests: Sequence[RequestEvent] = (),
) -> str:
    """Why the client was the bottleneck, in words; empty where nothing says so. A request of another host that is not
    where the schedule has it among the others is to the server what a late one is, so both have the same limit."""
    median_s = ttft.p50.value if ttft is not None and ttft.p50 is not None else (ttft.mean.value if ttft else 0.0)
    limit_s = max(MOST_LATE_S, MOST_LATE_SHARE * median_s)
    found = []
    busy = max((_busy(one) for one in generators), default=0.0)
    if busy > MOST_BUSY:
        found.append(f"a load generator was busy for {busy:.0%} of its time")
    turn_s = max((one.longest_turn_s for one in generators), default=0.0)
    if turn_s > limit_s:
        found.append(f"a load generator did not look at its connections for {turn_s * 1e3:.1f} ms")
    late_s = None if lateness is None else (lateness.max if lateness.p99 is None else lateness.p99)
    if late_s is not None and late_s > limit_s:
        found.append(f"one request of a hundred was sent {late_s * 1e3:.1f} ms late or more")
    worst = max(clients, key=lambda one: one.misplaced_s, default=None)
    if worst is not None and worst.misplaced_s > limit_s:
        found.append(f"the clock of {worst.node} is known to {worst.misplaced_s * 1e3:.1f} ms only, drift included")
    if unopened := sum(request.cause.startswith(NONE_LEFT) for request in requests):
        found.append(f"{unopened} of {len(requests)} requests found no connection left at the client")
    return "; ".join(found)


def _busy(one: GeneratorEvent) -> float:
    lasted_s = one.ended_s - one.started_s
    return one.busy_s / lasted_s if lasted_s > 0 else 0.0


def _latency(values: Sequence[float | None]) -> Latency | None:
    return Latency.of([value for value in values if value is not None])


def _inverse(found: Estimate | None) -> Estimate | None:
    """1 / a positive estimate."""
    if found is None or found.value <= 0:
        return None
    if found.low is None or found.high is None or found.low <= 0:
        return found.model_copy(
            update={"value": 1 / found.value, "low": None, "high": None, "absent": found.absent or "it reaches to 0"}
        )
    return found.model_copy(update={"value": 1 / found.value, "low": 1 / found.high, "high": 1 / found.low})


def _output_throughput(requests: Sequence[RequestEvent], begin_s: float, end_s: float) -> Estimate:
    times: list[float] = []
    counts: list[int] = []
    for request in requests:
        if request.sent_s is not None and request.sent_s < end_s and request.ended_s >= begin_s:
            times += [request.sent_s + at / 1e6 for at in request.arrivals_us]
            counts += request.arrival_tokens
    return rate_interval(times, counts, begin_s, end_s)


def _prompt_throughput(requests: Sequence[RequestEvent], begin_s: float, end_s: float) -> Estimate:
    firsts = [(first_s, r.prompt_tokens) for r in requests if (first_s := r.first_token_s) is not None]
    return rate_interval([at_s for at_s, _ in firsts], [tokens for _, tokens in firsts], begin_s, end_s)


def _request_throughput(requests: Sequence[RequestEvent], begin_s: float, end_s: float) -> Estimate:
    ended = [request.ended_s for request in requests if request.ok]
    return rate_interval(ended, [1.0] * len(ended), begin_s, end_s)


def _itl(requests: Sequence[RequestEvent], begin_s: float, end_s: float) -> Latency | None:
    """Of answered requests' tokens that arrived in the window."""
    found = sorted(gap for request in requests if request.ok for gap in gaps(request) if begin_s <= gap.at_s < end_s)
    values = [gap.each_s for gap in found for _ in range(gap.tokens)]
    if len(values) <= _LONGEST_SERIES:
        return Latency.of(values)
    return _long(values)


def _long(values: Sequence[float]) -> Latency | None:
    """Values from all, intervals from a part in equal steps, each moved to the value that it belongs to."""
    part = Latency.of(values[:: math.ceil(len(values) / _LONGEST_SERIES)])
    if part is None:  # pragma: no cover - there are many
        return None
    ordered = sorted(values)
    n = len(values)

    def of_all(found: Estimate | None, value: float | None) -> Estimate | None:
        if found is None or value is None:
            return None
        low = None if found.low is None else min(found.low, value)
        high = None if found.high is None else max(found.high, value)
        return found.model_copy(update={"value": value, "low": low, "high": high, "n": n})

    mean = of_all(part.mean, math.fsum(values) / n)
    return Latency(
        n=n,
        mean=mean or part.mean,
        p50=of_all(part.p50, percentile(ordered, 0.5)),
        p90=of_all(part.p90, percentile(ordered, 0.9)),
        p95=of_all(part.p95, percentile(ordered, 0.95)),
        p99=of_all(part.p99, percentile(ordered, 0.99)),
        max=ordered[-1],
    )


def _lateness(planned: Sequence[RequestEvent]) -> Lateness | None:
    late = sorted(request.sent_s - request.scheduled_s for request in planned if request.sent_s is not None)
    if not late:
        return None
    return Lateness(n=len(late), p50=percentile(late, 0.5), p99=percentile(late, 0.99), max=late[-1])


def _in_flight(requests: Sequence[RequestEvent], begin_s: float, end_s: float) -> InFlight:
    spans = [
        (max(request.sent_s, begin_s), min(request.ended_s, end_s))
        for request in requests
        if request.sent_s is not None and request.sent_s < end_s and request.ended_s > begin_s
    ]
    # An end before a beginning at the same moment: a stream of a closed loop is one request, not two.
    steps = sorted(itertools.chain(((low, 1) for low, _ in spans), ((high, -1) for _, high in spans)))
    most = max(itertools.accumulate(step for _, step in steps), default=0)
    total_s = math.fsum(max(high - low, 0.0) for low, high in spans)
    return InFlight(mean=total_s / (end_s - begin_s), max=max(most, 0))


def _peak_bytes(telemetry: Sequence[TelemetryEvent], begin_s: float, end_s: float) -> int | None:
    """Highest sample of the device's memory within the window."""
    found = (
        used
        for event in telemetry
        for at_s, used in zip(event.t_s, event.device_used_bytes or (), strict=False)
        if used is not None and begin_s <= at_s <= end_s
    )
    return max(found, default=None)
