"""What a cell's numbers are of, in few points: how its times are distributed, and how its device fared meanwhile."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

from bench_core.contract.measures.token_times import row_tpot_s, row_ttft_s
from bench_core.contract.records.events import BatchEvent, TelemetryEvent
from bench_core.contract.serving.latencies import tpot_s, ttft_s
from bench_core.contract.serving.requests import RequestEvent

QUANTILES = 21  # 0, 5, ... 100 %
MOMENTS = 40  # of a timeline, at most


@dataclass(frozen=True)
class Series:
    """Values at equal steps.

    Attributes:
        name: ``ttft_s``, ``tpot_s``: values in order, the least first, over the share of prompts or requests, 0 to 1;
            ``power_w``, ``memory_bytes``, ``utilisation_percent``: means over equal stretches of time, seconds since
            the cell began.
        first_x, step_x: where the first value stands, and how far apart they are.
        values: ``None`` for a stretch without a sample.
    """

    name: str
    first_x: float
    step_x: float
    values: tuple[float | None, ...]


def of_batches(stamped: Sequence[BatchEvent], telemetry: Sequence[TelemetryEvent], on_gpu: bool) -> tuple[Series, ...]:
    """Of closed batches: those whose arrivals are told."""
    first = [value for batch in stamped for value in row_ttft_s(batch)]
    later = [value for batch in stamped for value in row_tpot_s(batch)]
    return (*_ordered("ttft_s", first), *_ordered("tpot_s", later), *_timelines(telemetry, on_gpu))


def of_requests(
    requests: Iterable[RequestEvent], telemetry: Sequence[TelemetryEvent], begin_s: float, end_s: float, on_gpu: bool
) -> tuple[Series, ...]:
    """Of requests that were to be sent within the window and were answered."""
    counted = [request for request in requests if begin_s <= request.scheduled_s < end_s and request.ok]
    first = [value for request in counted if (value := ttft_s(request)) is not None]
    later = [value for request in counted if (value := tpot_s(request)) is not None]
    return (*_ordered("ttft_s", first), *_ordered("tpot_s", later), *_timelines(telemetry, on_gpu))


def _ordered(name: str, values: Sequence[float]) -> Iterable[Series]:
    if len(values) < 2:
        return
    ordered = sorted(values)
    steps = min(QUANTILES, len(ordered)) - 1
    places = [k * (len(ordered) - 1) / steps for k in range(steps + 1)]
    yield Series(name, 0.0, 1 / steps, tuple(ordered[round(place)] for place in places))


def _timelines(telemetry: Sequence[TelemetryEvent], on_gpu: bool) -> Iterable[Series]:
    columns = {
        "power_w": "power_w",
        "memory_bytes": "device_used_bytes" if on_gpu else "rss_bytes",
        "utilisation_percent": "utilisation_percent",
    }
    times = [*itertools.chain.from_iterable(event.t_s for event in telemetry)]
    if len(times) < 2 or times[-1] <= times[0]:
        return
    count = min(MOMENTS, len(times))
    begin = times[0]
    step = (times[-1] - begin) / count
    every = [math.floor((moment - begin) / step) for moment in times]
    places = [min(place, count - 1) if 0 <= place <= count else None for place in every]
    ascending = None not in places and all(map(operator.le, every, every[1:]))
    edges = [bisect.bisect_left(every, k) for k in range(count)] + [len(every)] if ascending else []
    for name, column in columns.items():
        told = itertools.chain.from_iterable(getattr(event, column) or [None] * len(event.t_s) for event in telemetry)
        values = [*told]
        if edges and None not in values:
            sums, numbers = _stretches(values, edges)
        else:
            sums, numbers = [0.0] * count, [0] * count
            for place, value in zip(places, values, strict=True):
                if value is not None and place is not None:
                    sums[place] += value
                    numbers[place] += 1
        if any(numbers):
            means = tuple(total / n if n else None for total, n in zip(sums, numbers, strict=True))
            yield Series(name, times[0] + step / 2, step, means)


def _stretches(values: Sequence[float], edges: Sequence[int]) -> tuple[list[float], list[int]]:
    """Sum and number of the values between each edge and the next, added up one after the other."""
    pairs = [*itertools.pairwise(edges)]
    return [reduce(operator.add, values[low:high], 0.0) for low, high in pairs], [high - low for low, high in pairs]
