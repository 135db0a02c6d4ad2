"""Memory over a cell's life, read off the samples beside it."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Mapping, Sequence

from bench_core.contract.measures.telemetry import area, within
from bench_core.contract.records.events import BatchEvent, PhaseEvent
from bench_core.contract.records.record import Record

# A sample is taken when a phase or batch ends; one that comes later than this says nothing of that moment.
SAMPLE_BELONGS_WITHIN_S = 2.0
_TIME, _BYTES = operator.itemgetter(0), operator.itemgetter(1)


class MemoryUse(Record):
    """Memory over a cell's life, bytes; ``None`` where nothing could be read.

    Attributes:
        baseline_bytes: before the engine was loaded.
        after_load_bytes, after_prepare_bytes: when that phase had ended.
        load_peak_bytes: highest sample while loading.
        peak_bytes, mean_bytes: over the warm-up and measured batches, and over the measured ones.
    """

    baseline_bytes: int | None
    load_peak_bytes: int | None
    after_load_bytes: int | None
    after_prepare_bytes: int | None
    peak_bytes: int | None
    mean_bytes: float | None


def memory_use(
    samples: list[tuple[float, int]],
    phases: Mapping[str, PhaseEvent],
    warmup: Sequence[BatchEvent],
    measured: Sequence[BatchEvent],
) -> MemoryUse | None:
    """Memory at the moments that count, of samples in time order. One is taken whenever a phase or batch ends, so each
    moment has one."""
    if not samples:
        return None
    load, prepare = phases.get("load"), phases.get("prepare")
    loading = within(samples, load.started_s, load.started_s + load.duration_s) if load else []
    before = samples[: bisect.bisect_right(samples, load.started_s, key=_TIME)] if load else []
    first = (warmup or measured)[0]
    end = measured[-1].started_s + measured[-1].latency_s
    last = _first_sample_after(samples, end)
    window_end = last[0] if last else end
    return MemoryUse(
        baseline_bytes=before[-1][1] if before else None,
        load_peak_bytes=max(map(_BYTES, loading), default=None),
        after_load_bytes=_value_after(samples, load),
        after_prepare_bytes=_value_after(samples, prepare),
        peak_bytes=max(map(_BYTES, within(samples, first.started_s, window_end)), default=None),
        mean_bytes=_mean_over_time(within(samples, measured[0].started_s, window_end)),
    )


def _first_sample_after(samples: list[tuple[float, int]], moment_s: float) -> tuple[float, int] | None:
    """The reading that belongs to a moment: the first at or after it, unless the sampler was silent by then."""
    place = bisect.bisect_left(samples, moment_s, key=_TIME)
    found = samples[place] if place < len(samples) else None
    return found if found is not None and found[0] - moment_s <= SAMPLE_BELONGS_WITHIN_S else None


def _value_after(samples: list[tuple[float, int]], phase: PhaseEvent | None) -> int | None:
    found = _first_sample_after(samples, phase.started_s + phase.duration_s) if phase else None
    return found[1] if found else None


def _mean_over_time(samples: list[tuple[float, int]]) -> float | None:
    """Mean weighted by time (trapezoids), since samples at batch ends make some stretches denser than others."""
    if not samples:
        return None
    span_s = samples[-1][0] - samples[0][0]
    if span_s <= 0.0:
        return float(samples[-1][1])
    return area([*map(_TIME, samples)], [*map(_BYTES, samples)]) / span_s
