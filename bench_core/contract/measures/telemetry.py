"""What the samples beside a cell say: clocks, power, energy two ways, throttling in words, and sampling gaps."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from bench_core.contract.records.events import BatchEvent, TelemetryEvent
from bench_core.contract.records.record import Record

# Bits of NVML's clock-event reasons, named as in nvml.h (`nvmlClocksEventReason*`; two of them as
# `nvmlClocksThrottleReason*` in headers of older drivers).
CLOCK_EVENT_REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
# Bits that say that clocks were held below what was set: by power, by heat, by the board, by another card of a
# sync-boost group. Not among them: idle (nothing ran), application and display clocks (a person's or a display's
# setting, the same for all cells). NVML's reference calls 0x4 and 0x20 reductions of clocks below those requested.
THROTTLING_BITS = 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x200 | 0x400
# A card at its own power limit, which is its build (or a person's setting for all cells) and comes with heavy work: on
# an H100 six methods of seven were there at batch size 64, at clocks up to 4 % below the highest. It marks no cell.
POWER_CAP_BIT = 0x4
# A cell is marked where throttling is seen in at least this share of its time: one sample in a long cell is no news.
MARKED_FROM_SHARE = 0.01
# The counter and the power reading are averages of the driver over tens of milliseconds up to a second.
_SHORTEST_WINDOW_S = 1.0
_COVERED = 0.9
# Sampling is due every 50 ms; three missed in a row are a gap.
GAP_S = 0.2


class TelemetrySummary(Record):
    """Samples from the first measured batch's start to the last one's end, pauses included; ``None``: not told.

    Attributes:
        samples: in the window.
        longest_gap_s: the longest time between two samples, or between the window's edge and the nearest one.
        gaps: times of 0.2 s and more without a sample.
        sm_clock_mhz, memory_clock_mhz, power_w, utilisation: means over time; utilisation from 0 to 1 (share of the
            driver's sampling period in which a kernel ran).
        temperature_max_c: highest.
        energy_joules: NVML's counter over the window. ``integrated_joules``: power integrated over the same samples
            (trapezoids), scaled alike. ``energy_difference``: integrated / counter - 1.
        joules_per_output_token: counter (the integral where there is none) / output tokens of the measured batches.
        reasons: share of the time under each clock-event reason, by word; reasons overlap.
        throttled: share of the time under at least one that is throttling.
        package_joules: energy of the CPU packages (RAPL) over the window.
    """

    samples: int = Field(ge=0)
    longest_gap_s: float = Field(ge=0)
    gaps: int = Field(ge=0)
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_max_c: float | None = None
    power_w: float | None = None
    utilisation: float | None = None
    energy_joules: float | None = None
    integrated_joules: float | None = None
    energy_difference: float | None = None
    joules_per_output_token: float | None = None
    reasons: dict[str, float] = {}
    throttled: float | None = None
    package_joules: float | None = None

    @property
    def power_limited(self) -> float | None:
        """Share of the time at the card's power limit; ``None``: not told."""
        return None if self.throttled is None else self.reasons.get(CLOCK_EVENT_REASONS[POWER_CAP_BIT], 0.0)

    @property
    def is_throttled(self) -> bool:
        """Whether the cell is marked: for more than the card's own power limit."""
        return any(self.reasons[word] >= MARKED_FROM_SHARE for word in self.throttling)

    @property
    def throttling(self) -> tuple[str, ...]:
        """The reasons that are throttling, beside the card's own power limit, and were seen; the longest first."""
        bits = THROTTLING_BITS & ~POWER_CAP_BIT
        words = {word for bit, word in CLOCK_EVENT_REASONS.items() if bit & bits} | {UNKNOWN_REASON}
        return tuple(sorted((w for w, share in self.reasons.items() if w in words and share > 0), key=self._rank))

    def _rank(self, word: str) -> tuple[float, str]:
        return -self.reasons[word], word


UNKNOWN_REASON = "a reason of a later driver"


def reason_words(mask: int) -> tuple[str, ...]:
    """The reasons of a bit mask, lowest bit first. A bit that is not known here counts as throttling and says so."""
    words = [word for bit, word in CLOCK_EVENT_REASONS.items() if mask & bit]
    return (*words, UNKNOWN_REASON) if mask & ~_KNOWN_BITS else tuple(words)


_KNOWN_BITS = sum(CLOCK_EVENT_REASONS)


def is_throttling(mask: int) -> bool:
    """Whether a bit mask says that clocks were held back."""
    return bool(mask & (THROTTLING_BITS | ~_KNOWN_BITS))


_TIME, _VALUE = operator.itemgetter(0), operator.itemgetter(1)


class _Column(NamedTuple):
    """CLOCK_MONOTONIC seconds, in order, and the value at each."""

    times: Sequence[float]
    values: Sequence[float]


def summarise_telemetry(
    telemetry: Sequence[TelemetryEvent], begin_s: float, end_s: float, output_tokens: int
) -> TelemetrySummary | None:
    """Of the window ``begin_s`` to ``end_s`` (CLOCK_MONOTONIC); ``None`` where nothing was ever sampled."""
    if not any(event.t_s for event in telemetry):
        return None
    told = [*itertools.chain.from_iterable(event.t_s for event in telemetry)]
    every = sorted(told)
    window = slice(bisect.bisect_left(every, begin_s), bisect.bisect_right(every, end_s))
    times = every[window]
    gaps = [*map(operator.sub, (*times, end_s), (begin_s, *times))]
    # As nearly always: then the samples of a column without a gap stand where their times do.
    in_order = told == every and all(map(operator.lt, every, every[1:]))

    def column(name: str) -> _Column:
        columns = [getattr(event, name) for event in telemetry]
        if in_order and None not in columns:
            values = [*itertools.chain.from_iterable(columns)][window]
            if None not in values:
                return _Column(times, [*map(float, values)])
        found = within(samples_of(telemetry, name), begin_s, end_s)
        return _Column([*map(_TIME, found)], [*map(float, map(_VALUE, found))])

    reasons = column("throttle_reasons")
    masks: dict[int, float] = {}
    for mask, seconds in zip(map(int, reasons.values), _weights(reasons, begin_s, end_s), strict=True):
        masks[mask] = masks.get(mask, 0.0) + seconds
    total = math.fsum(masks.values())
    words = {word for mask in masks for word in reason_words(mask)}
    power_w = column("power_w")
    counter = _counted(column("energy_mj"), begin_s, end_s, 1e-3)
    integrated = _integrated(power_w, begin_s, end_s)
    spent = counter if counter is not None else integrated
    both = counter is not None and counter > 0 and integrated is not None
    return TelemetrySummary(
        samples=len(times),
        longest_gap_s=max(gaps),
        gaps=sum(gap >= GAP_S for gap in gaps),
        sm_clock_mhz=_mean(column("sm_clock_mhz")),
        memory_clock_mhz=_mean(column("memory_clock_mhz")),
        temperature_max_c=max(column("temperature_c").values, default=None),
        power_w=_mean(power_w),
        utilisation=_scaled(_mean(column("utilisation_percent")), 0.01),
        energy_joules=counter,
        integrated_joules=integrated,
        energy_difference=integrated / counter - 1.0 if both and integrated is not None and counter else None,
        joules_per_output_token=spent / output_tokens if spent is not None and output_tokens else None,
        reasons={
            word: math.fsum(s for mask, s in masks.items() if word in reason_words(mask)) / total
            for word in sorted(words)
        }
        if total > 0
        else {},
        throttled=math.fsum(s for mask, s in masks.items() if is_throttling(mask)) / total if total > 0 else None,
        package_joules=_counted(column("package_energy_uj"), begin_s, end_s, 1e-6),
    )


def samples_of(telemetry: Sequence[TelemetryEvent], column: str) -> list[tuple[float, int]]:
    """(time, value) of one telemetry column where it has a value, in time order."""
    found: list[tuple[float, int]] = []
    for event in telemetry:
        values = getattr(event, column)
        if values is None:
            continue
        samples = zip(event.t_s, values, strict=True)
        found.extend((sample for sample in samples if sample[1] is not None) if None in values else samples)
    found.sort()
    return found


def within(samples: list[tuple[float, int]], begin_s: float, end_s: float) -> list[tuple[float, int]]:
    """Of samples in time order, those of a window, both ends included."""
    first = bisect.bisect_left(samples, begin_s, key=_TIME)
    return samples[first : bisect.bisect_right(samples, end_s, lo=first, key=_TIME)]


def device_energy_joules(telemetry: Sequence[TelemetryEvent], measured: Sequence[BatchEvent]) -> float | None:
    """NVML's counter: its difference over the window from the first measured batch's start to the last one's end,
    scaled from the samples within it; pauses between batches are part of the window.

    Absent where the window is shorter than a second (the counter is read about every 50 ms), where the samples span
    less than nine tenths of it, or where the counter fell.
    """
    start = measured[0].started_s
    end = measured[-1].started_s + measured[-1].latency_s
    inside = within(samples_of(telemetry, "energy_mj"), start, end)
    if end - start < 1.0 or len(inside) < 2:
        return None
    (first_t, first), (last_t, last) = inside[0], inside[-1]
    if last < first or last_t - first_t < 0.9 * (end - start):
        return None
    return (last - first) / 1000.0 * (end - start) / (last_t - first_t)


def _weights(samples: _Column, begin_s: float, end_s: float) -> list[float]:
    """Seconds that each sample stands for: half of the way to its neighbours, and to the window's edge at the ends.
    Samples at the ends of batches make some stretches denser than others."""
    times = samples.times
    if not times:
        return []
    middles = [(earlier + later) / 2 for earlier, later in itertools.pairwise(times)]
    edges = [begin_s, *middles, end_s]
    return [right - left for left, right in itertools.pairwise(edges)]


def _mean(samples: _Column) -> float | None:
    """Weighted by time (trapezoids)."""
    if not samples.times:
        return None
    span_s = samples.times[-1] - samples.times[0]
    if span_s <= 0:
        return statistics.fmean(samples.values)
    return area(samples.times, samples.values) / span_s


def area(times: Sequence[float], values: Sequence[float]) -> float:
    """Below a column, in trapezoids; in the value's unit times seconds."""
    spans = map(operator.sub, times[1:], times)
    return math.fsum(map(operator.mul, spans, map(operator.add, values, values[1:]))) / 2


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _covers(times: Sequence[float], begin_s: float, end_s: float) -> bool:
    if len(times) < 2 or end_s - begin_s < _SHORTEST_WINDOW_S:
        return False
    return times[-1] - times[0] >= _COVERED * (end_s - begin_s)


def _counted(samples: _Column, begin_s: float, end_s: float, unit: float) -> float | None:
    """A counter's rise over the window, scaled from the samples inside it; ``None`` for a window shorter than a second
    or covered less than nine tenths, or a counter that fell."""
    times, values = samples
    if not _covers(times, begin_s, end_s) or values[-1] < values[0]:
        return None
    return (values[-1] - values[0]) * unit * (end_s - begin_s) / (times[-1] - times[0])


def _integrated(samples: _Column, begin_s: float, end_s: float) -> float | None:
    """Power integrated over the window, joules, under the same conditions as :func:`_counted`."""
    times = samples.times
    if not _covers(times, begin_s, end_s):
        return None
    return area(times, samples.values) * (end_s - begin_s) / (times[-1] - times[0])
