"""``result.json`` of a serving cell: what follows from its event log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import BusyRule, CpuReading, CpuUse, cpu_use
from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.record import Record
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.measures import ServeMetrics, summarise_serving
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.serving.requests import WindowEvent


class ServeResult(Record):
    """Present only if the cell is complete.

    Attributes:
        engine_facts: how the server ran, where its image tells.
        load_s: from the server's start to its first answer.
        host_peak_bytes: resident memory of the server's processes at most, over the window.
        cpu: who used the CPUs that the server may use, over the window; absent where the machine does not tell.
    """

    schema_version: Literal[1] = 1
    cell: str
    outcome: Literal[Outcome.OK] = Outcome.OK
    versions: dict[str, str]
    engine_facts: dict[str, str] = {}
    load_s: float | None
    host_peak_bytes: int | None
    cpu: CpuUse | None
    metrics: ServeMetrics


def serving_result(
    cell: str, events: ServeEvents, limits: Limits | None = None, busy: BusyRule | None = None
) -> ServeResult:
    """Computes a serving cell's result.

    Args:
        limits: latency limits to judge requests by.
        busy: from when on others disturb the server.

    Raises:
        BadInput: not the events of a complete cell, or numbers from which none follows.
    """
    if events.start is None:
        raise BadInput(f"{cell}: the event log has no start")
    if events.end is None or events.end.outcome is not Outcome.OK:
        raise BadInput(f"{cell}: the event log does not end well")
    if events.window is None:
        raise BadInput(f"{cell}: the event log has no window")
    try:
        metrics = summarise_serving(
            events.requests, events.window, events.generators, events.telemetry, limits, events.clients
        )
    except (ArithmeticError, ValueError) as error:
        raise BadInput(f"{cell}: no number follows from the event log: {error}") from error
    load = events.phases.get("load")
    return ServeResult(
        cell=cell,
        versions=events.start.versions,
        engine_facts=events.facts,
        load_s=load.duration_s if load is not None else None,
        host_peak_bytes=_host_peak(events.telemetry, events.window),
        cpu=_cpu(events.cpu, events.window, busy),
        metrics=metrics,
    )


def _host_peak(telemetry: Sequence[TelemetryEvent], window: WindowEvent) -> int | None:
    samples = (pair for event in telemetry for pair in zip(event.t_s, event.rss_bytes, strict=True))
    found = [rss for t_s, rss in samples if rss is not None and window.begin_s <= t_s <= window.end_s]
    return max(found, default=None)


def _cpu(readings: Sequence[CpuReading], window: WindowEvent, busy: BusyRule | None) -> CpuUse | None:
    inside = [reading for reading in readings if window.begin_s <= reading.t_s <= window.end_s]
    use = cpu_use(inside[0], inside[-1]) if len(inside) > 1 else None
    return use and use.model_copy(update={"busy": busy is not None and busy.is_broken(use)})
