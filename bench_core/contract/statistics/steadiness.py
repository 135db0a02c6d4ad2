"""Whether a cell's batches were steady, and how well that makes its throughput known; from its events."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench_core.contract.errors import BadInput
from bench_core.contract.records.events import BatchEvent, StopEvent, WarmupEndEvent
from bench_core.contract.records.record import Record
from bench_core.contract.statistics.fit import known_fit
from bench_core.contract.statistics.interval import FEWEST_BATCHES, Interval
from bench_core.contract.statistics.stopping import (
    TREND_TOLERANCE,
    Sample,
    StopReason,
    WarmupEnd,
    interval_of,
    rate_of,
    stop_reason,
    warmup_end,
)
from bench_core.contract.statistics.trend import Trend, trend
from bench_core.contract.statistics.workload_rate import WorkloadRate, work_of

# Five latencies that all rise have a probability of 1/60: the fewest batches can be told to drift.
DRIFT_SIGNIFICANCE = 0.02
# From here on, what prompts and outputs explain of a latency is taken out by a fit; fewer would be fitted too well.
_FITTED_FROM = 10


class Steadiness(Record):
    """How a cell was measured, and whether its numbers stand still.

    Attributes:
        stop_reason: why measuring ended; absent in logs of before there was a rule.
        precision: half width / throughput that was asked for; absent where everything was to be measured.
        workload_rate: throughput of the whole workload and its interval, which decides when to stop; absent in logs of
            before the workload was looked at.
        throughput_interval: of those logs alone: of the measured batches as they are; absent for fewer than five.
        warmup: how the warm-up ended; absent in logs of before it was tested.
        warmup_asked: whether a test of it was asked for: one that was and was not made had no time, by the rule of
            before; absent with ``warmup``.
        drift: a trend in the latencies of the measured batches, differences of work taken out; absent for fewer than
            five, and where few batches have a trend in their work itself.
        drifts: the trend is clear and matters.
        unsteady: it drifts, or the warm-up reached its limit with a trend. Such a mean is of no lasting state.
    """

    stop_reason: StopReason | None = None
    precision: float | None = None
    workload_rate: WorkloadRate | None = None
    throughput_interval: Interval | None = None
    warmup: WarmupEnd | None = None
    warmup_asked: bool | None = None
    drift: Trend | None = None
    drifts: bool = False
    unsteady: bool = False


def sample(batch: BatchEvent) -> Sample:
    """What the rules need of a batch."""
    return Sample(sum(batch.output_tokens), batch.latency_s, batch.started_s, work_of(batch.prompt_tokens), batch.cpu)


def steadiness(
    warmup: Sequence[BatchEvent],
    measured: Sequence[BatchEvent],
    warmup_ended: WarmupEndEvent | None,
    stopped: StopEvent | None,
) -> Steadiness:
    """Judges the batches of a cell, in order.

    Raises:
        BadInput: the log says that warm-up or measuring ended for a reason that its batches do not bear out.
    """
    _check_warmup(warmup, warmup_ended)
    done = [sample(batch) for batch in measured]
    _check_stop(done, stopped)
    whole = stopped.whole_work if stopped is not None else None
    drift = latency_drift(measured)
    drifts = drift is not None and drift.is_seen(DRIFT_SIGNIFICANCE, TREND_TOLERANCE)
    return Steadiness(
        stop_reason=stopped.reason if stopped else None,
        precision=stopped.rule.precision if stopped else None,
        workload_rate=rate_of(done, whole) if whole is not None else None,
        throughput_interval=interval_of(done) if whole is None else None,
        warmup=warmup_ended.end if warmup_ended else None,
        warmup_asked=warmup_ended.rule.has_room_for_the_test if warmup_ended else None,
        drift=drift,
        drifts=drifts,
        unsteady=drifts or (warmup_ended is not None and warmup_ended.end == "trend"),
    )


def _check_warmup(batches: Sequence[BatchEvent], ended: WarmupEndEvent | None) -> None:
    if ended is None:
        return
    done = [sample(batch) for batch in batches]
    ends = [warmup_end(ended.rule, done[:n]) for n in range(1, len(done) + 1)]
    if not ends or ends[-1] != ended.end or any(ends[:-1]):
        raise BadInput(f"the event log says that the warm-up ended with {ended.end}, and its batches say otherwise")


def _check_stop(done: Sequence[Sample], stopped: StopEvent | None) -> None:
    if stopped is None:
        return
    rule, available, whole = stopped.rule, stopped.available_batches, stopped.whole_work
    reasons = [stop_reason(rule, done[:n], available, whole) for n in range(1, len(done) + 1)]
    if not reasons or reasons[-1] != stopped.reason or any(reasons[:-1]):
        raise BadInput(
            f"the event log says that measuring stopped because of {stopped.reason}, and its batches say otherwise"
        )


def latency_drift(batches: Sequence[BatchEvent]) -> Trend | None:
    """The trend in the latencies of batches in order of time, without what their prompts and outputs explain.

    From ten batches on, latency is fitted to the batch's prompt tokens and output tokens (least squares), and the
    residuals are tested. With fewer, latencies are tested as they are, unless the work itself rises or falls.
    ``None``: cannot be told.
    """
    if len(batches) < FEWEST_BATCHES:
        return None
    latencies = [batch.latency_s for batch in batches]
    work = (
        tuple([float(sum(batch.prompt_tokens)) for batch in batches]),
        tuple([float(sum(batch.output_tokens)) for batch in batches]),
    )
    if len(batches) >= _FITTED_FROM:
        mean = math.fsum(latencies) / len(latencies)
        return trend([mean + value for value in known_fit(work).residuals(latencies)])
    if any(min(column) > 0 and trend(column).is_seen(DRIFT_SIGNIFICANCE, TREND_TOLERANCE) for column in work):
        return None
    return trend(latencies)
