"""What the device's counters told while cells were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench_core.contract.measures.telemetry import MARKED_FROM_SHARE, TelemetrySummary
from bench_core.report.cell import KEY, Cell, measured
from bench_core.report.column import Column, Entry, Sheet, raw, sheet
from bench_core.report.format import ABSENT, digits, share3, signed_percent, whole
from bench_core.runs.view import RunView

TELLING_GAP_S = 1.0  # a cell that was not sampled for so long is listed even without a device's numbers


def _has_device(summary: TelemetrySummary) -> bool:
    told = (summary.sm_clock_mhz, summary.power_w, summary.energy_joules, summary.throttled, summary.package_joules)
    return any(value is not None for value in told)


def _percentage(share: float) -> str:
    if share <= 0:
        return "0 %"
    return "below 1 %" if share < MARKED_FROM_SHARE else f"{share * 100:.0f} %"


def _reasons(cell: Cell) -> str | None:
    return "; ".join(cell.telemetry.throttling) if cell.telemetry else None


def _throttling(cell: Cell) -> Entry:
    told = cell.telemetry
    if told is None:
        return Entry(ABSENT)
    words = ", ".join(f"{word} {_percentage(told.reasons[word])}" for word in told.throttling)
    return Entry(words or ("none" if told.throttled is not None else ABSENT), failed=told.is_throttled)


DEVICE: Sequence[Column[Cell]] = [
    *KEY,
    Column("SM clock", "telemetry.sm_clock_mhz", whole, unit="MHz", csv="sm_clock_mhz"),
    Column("Memory clock", "telemetry.memory_clock_mhz", whole, unit="MHz", csv="memory_clock_mhz"),
    Column("Highest temperature", "telemetry.temperature_max_c", whole, unit="°C", csv="temperature_max_c"),
    Column("Power", "telemetry.power_w", digits(3), unit="W", csv="power_w"),
    Column("Utilisation", "telemetry.utilisation", share3, csv="utilisation"),
    Column("Energy, counter", "telemetry.energy_joules", digits(4), unit="J", csv="energy_joules"),
    Column("Energy, integrated", "telemetry.integrated_joules", digits(4), unit="J", csv="integrated_joules"),
    Column("Difference", "telemetry.energy_difference", signed_percent(1), unit="%"),
    Column("Energy", "telemetry.joules_per_output_token", digits(3), unit="J/token", csv="joules_per_output_token"),
    Column("CPU packages", "telemetry.package_joules", digits(4), unit="J", csv="package_joules"),
    Column("At the power limit", "telemetry.power_limited", _percentage),
    Column("Throttling", _reasons, csv="throttling", shown=_throttling, words=True),
    Column("Longest sampling gap", "telemetry.longest_gap_s", digits(2), unit="s", csv="longest_gap_s"),
]
RAW: tuple[Column[Cell], ...] = raw("telemetry", "throttled", "gaps")


def device_told(view: RunView) -> bool:
    """Whether a device's counters were read for any cell."""
    told = [row.result.metrics.telemetry for row in view.rows if row.result]
    return any(telemetry is not None and _has_device(telemetry) for telemetry in told)


def device_sheet(view: RunView) -> Iterator[Sheet]:
    """Cells of which a device's counters tell, or that were not sampled for long."""
    cells = [
        cell
        for cell in measured(view)
        if (told := cell.telemetry) and (_has_device(told) or told.longest_gap_s >= TELLING_GAP_S)
    ]
    if cells:
        yield sheet("Device", DEVICE, cells, _NOTES)


_NOTES = (
    "Means over the measured time, pauses between batches included. Utilisation: share of the driver's sampling "
    "period in which a kernel ran. Energy: NVML's counter, and its power reading integrated over the same samples; "
    "per output token from the counter. At the power limit: share of the time in which the card lowered its clocks "
    "to stay within its own power limit, as heavy work makes it do. Throttling: other reasons for lower clocks "
    "than those set, with the share of the time; an idle GPU and clocks that somebody has set are no throttling.",
)
