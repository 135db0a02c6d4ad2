"""Tables of cells that several devices measured side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench_core.contract.records.placement import Placement
from bench_core.report.column import Column, Sheet, sheet
from bench_core.report.fleet.words import BESIDE, change_words, control_rates, cpu_words, workers_of
from bench_core.report.format import gib, rate, rate_within, signed_percent
from bench_core.runs.beside import MATTERS_FROM, Sampled, sampled_of
from bench_core.runs.view import Row, RunView
from bench_core.system.text import foreign


@dataclass(frozen=True)
class _Device:
    place: Placement
    cells: int
    control_tok_s: float | None
    difference: float | None

    @property
    def name(self) -> str:
        """The card by the beginning of its UUID, or the slice or node."""
        return short(self.place.worker)

    @property
    def host(self) -> str:
        """Of a cluster."""
        return foreign(self.place.host)


def short(worker: str) -> str:
    """A card by the beginning of its UUID; the name of anything else."""
    return worker[:12] if worker.startswith(("GPU-", "MIG-")) else foreign(worker)


def _memory(device: _Device) -> str:
    nodes, place = cpu_words(device.place.mems), device.place
    if not place.mems:
        return "shared"
    limit = f", at most {gib(place.memory_bytes)}" if place.memory_bytes is not None else ""
    return f"node {nodes}, {'bound' if place.memory == 'bound' else 'preferred'}{limit}"


_DEVICES: Sequence[Column[_Device]] = [
    Column("Device", "name", words=True),
    Column("CPUs", lambda device: cpu_words(device.place.cpus) or "shared", words=True),
    Column("Memory", _memory, words=True),
    Column("Cells", "cells"),
    Column("Control cell", "control_tok_s", rate, unit="token/s"),
    Column("From their mean", "difference", signed_percent(1), unit="%"),
]
_HOST: Column[_Device] = Column("Host", "host", words=True)
_DEVICES_NOTES = (
    "Each device measures one cell at a time, on CPUs that no other device of the run has. Control cell: the same cell "
    "on every device, measured first and while all of them work; the mean of all repeats of it on that device.",
)


def _device(row: Row) -> str | None:
    return short(row.spec.placement.worker) if row.spec is not None and row.spec.placement is not None else None


def _rate(row: Row) -> str | None:
    if row.rate is None:
        return None
    interval = row.rate.interval
    return rate_within(row.rate.throughput_tok_s, interval.half_width_tok_s if interval else None)


def _failed(row: Row) -> str:
    return "" if row.rate is not None else row.status


def _mark(one: Sampled) -> str:
    return BESIDE if one.told is not None and one.told.matters else ""


_SAMPLE: Sequence[Column[Sampled]] = [
    Column("Method", "beside.label", words=True),
    Column("Batch size", "beside.planned.batch_size"),
    Column("Device", lambda one: _device(one.beside), words=True),
    Column("Others", "neighbours", "{:.1f}".format),
    Column("Beside them", lambda one: _rate(one.beside), words=True, failed=lambda one: _failed(one.beside)),
    Column("Alone", lambda one: _rate(one.alone), words=True, failed=lambda one: _failed(one.alone)),
    Column("Difference", lambda one: change_words(one.change), words=True, mark=_mark),
]
_SAMPLE_NOTES = (
    "The same cell measured beside others and, after all of them, again on the same device with nothing else at work. "
    "Others: cells of other devices that were at work meanwhile, on average. Difference: of the throughput beside "
    "them from that alone, over the batches that both measured, each held against itself, ± half of its 95 % "
    "confidence interval; what an engine differs by from start to start is not in it. From "
    f"{100 * MATTERS_FROM:.0f} % on, where the interval leaves no doubt and there were others for half of the time or "
    f"more, the method's cells are marked {BESIDE}.",
)


def fleet_sheets(view: RunView) -> Iterator[Sheet]:
    """The devices, and what neighbours cost; none for a run on one device."""
    places = workers_of(view)
    if len(places) < 2:
        return
    rates = {worker: sum(found) / len(found) for worker, found in control_rates(view).items()}
    mean = sum(rates.values()) / len(rates) if rates else None
    ran = [row.spec.placement.worker for row in view.every if row.spec is not None and row.spec.placement is not None]
    lines = []
    for worker, place in places.items():
        control = rates.get(worker)
        difference = control / mean - 1 if control is not None and mean else None
        lines.append(_Device(place, ran.count(worker), control, difference))
    columns = _DEVICES if not any(place.host for place in places.values()) else [*_DEVICES[:1], _HOST, *_DEVICES[1:]]
    yield sheet("Devices side by side", columns, lines, _DEVICES_NOTES)
    if view.alone:
        yield sheet("Side by side", _SAMPLE, sampled_of(view), _SAMPLE_NOTES)
