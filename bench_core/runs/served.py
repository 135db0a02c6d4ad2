"""Reads a cell under load: its spec, its schedule, its requests, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.measures.own_error import Gap, Script, served_gaps
from bench_core.contract.records import layout
from bench_core.contract.records.digest import ids_digest
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.run import PlannedCell, RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.result import ServeResult, serving_result
from bench_core.contract.serving.schedule import Schedule
from bench_core.runs.ended import ended_row
from bench_core.runs.files import Unreadable, check_inside, read_serve_events
from bench_core.runs.series import Series, of_requests
from bench_core.runs.view import ServedRow

# Two machines agree on a sum of seconds and microseconds to this.
_SAME_MOMENT_S = 2e-6


def served_row(
    run_folder: Path,
    record: RunRecord,
    planned: PlannedCell,
    workload: Workload | None,
    shown: Callable[[str, ServeEvents], None] | None = None,
    *,
    series: bool = True,
) -> ServedRow:
    """A planned cell under load; a damaged one is a row that says so. ``shown``: is given the events of one with
    numbers. ``series``: whether the row has its own."""

    def measured(spec: CellSpec, verdict: Verdict) -> ServedRow:
        if spec.serve is None:
            raise Unreadable(layout.SPEC_FILE, "does not say how requests were sent")
        events = read_serve_events(run_folder, layout.cell_folder(run_folder, planned.cell))
        row = _measured(run_folder, planned, spec, verdict, events, workload)
        if series:
            row = replace(row, series=_series(spec, events))
        if shown is not None:
            shown(planned.cell, events)
        return row

    return ended_row(ServedRow, run_folder, record, planned, measured)


def _measured(
    run_folder: Path,
    planned: PlannedCell,
    spec: CellSpec,
    verdict: Verdict,
    events: ServeEvents,
    workload: Workload | None,
) -> ServedRow:
    assert spec.serve is not None  # noqa: S101  # the caller has looked
    try:
        result = serving_result(planned.cell, events, spec.serve.protocol.limits, spec.protocol.busy)
    except (BadInput, ArithmeticError, ValueError) as error:
        cause = error.cause if isinstance(error, BadInput) else first_line(error)
        raise Unreadable(layout.EVENTS_FILE, cause) from error
    schedule = read_schedule(run_folder, spec)
    breaches = tuple(dict.fromkeys(_breaches(spec, schedule, events, workload)))
    gaps = _gaps(spec, result, events) if planned.harness else ()
    return ServedRow(planned, spec, verdict, gaps=gaps, result=result, breaches=breaches, clients=tuple(events.clients))


def _series(spec: CellSpec, events: ServeEvents) -> tuple[Series, ...]:
    window = events.window
    assert window is not None  # noqa: S101  # of one with a result
    return of_requests(events.requests, events.telemetry, window.begin_s, window.end_s, on_gpu=spec.device == "cuda")


def _gaps(spec: CellSpec, result: ServeResult, events: ServeEvents) -> tuple[Gap, ...]:
    assert spec.load is not None  # noqa: S101  # of a cell under load
    assert events.window is not None  # noqa: S101  # of one with a result
    try:
        return served_gaps(Script.of(spec.options), spec.load, result.metrics, events.requests, events.window)
    except BadInput as error:
        raise Unreadable(layout.SPEC_FILE, error.cause) from error


def read_schedule(run_folder: Path, spec: CellSpec) -> Schedule:
    """The schedule that the run keeps for a cell.

    Raises:
        Unreadable: it is missing or damaged, or not the one that the cell names.
    """
    assert spec.load is not None  # noqa: S101  # of a cell under load
    assert spec.serve is not None  # noqa: S101
    path = run_folder / layout.SCHEDULES_FOLDER / f"{spec.load.word}.json.gz"
    name = f"{layout.SCHEDULES_FOLDER}/{path.name}"
    try:
        check_inside(run_folder, path)
        schedule = Schedule.read_packed(path)
    except Unreadable as error:
        raise Unreadable(name, error.damage.what) from error
    except BadInput as error:
        raise Unreadable(name, error.cause) from error
    if schedule.digest != spec.serve.schedule:
        raise Unreadable(name, f"has digest {schedule.digest[:12]}, {layout.SPEC_FILE} says {spec.serve.schedule[:12]}")
    return schedule


def _breaches(spec: CellSpec, schedule: Schedule, events: ServeEvents, workload: Workload | None) -> Iterator[str]:
    """How requests differ from the schedule and the workload."""
    digests: dict[int, str] = {}
    seen: set[int] = set()
    begins: list[float] = []
    for request in events.requests:
        place = request.index % len(schedule.prompts)
        if request.index in seen:
            yield f"request {request.index} is told twice"
        seen.add(request.index)
        if request.prompt != schedule.prompts[place]:
            yield "a request was sent with another prompt than the schedule's"
            continue
        if request.asked_tokens != schedule.output_of(place):
            yield "a request was asked for another number of tokens than the schedule's"
        told = request.counted_by != "events"  # what these are is not known, and the row says so
        if request.ok and told and spec.length == "forced" and request.output_tokens != request.asked_tokens:
            yield "a request counts as answered with another number of tokens than was forced"
        if schedule.offsets_us:
            begins.append(request.scheduled_s - schedule.offsets_us[place] / 1e6)
        if workload is not None and request.prompt not in digests:
            digests[request.prompt] = ids_digest(workload.prompts[request.prompt])
        if workload is not None and request.prompt_digest != digests[request.prompt]:
            yield "a request was sent with other ids than the workload's"
    if begins and max(begins) - min(begins) > _SAME_MOMENT_S:
        yield "requests were scheduled at other times than the schedule's"
    missing = _missing(spec, seen)
    if missing:
        yield f"{missing} requests of those that were sent are not told"


def _missing(spec: CellSpec, seen: set[int]) -> int:
    """Requests that are not told. Process i of N sends every N-th from i on, in a closed loop at its own pace."""
    assert spec.serve is not None  # noqa: S101  # of a cell under load
    processes = spec.serve.protocol.load_generators
    most: dict[int, int] = {}
    for index in seen:
        most[index % processes] = max(most.get(index % processes, 0), index // processes + 1)
    return sum(most.values()) - len(seen)
