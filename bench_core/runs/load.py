"""Reads a run's folder: the plan, and for each planned cell what became of it, recomputed from its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellResult, summarise
from bench_core.contract.measures.equal_work import Known, breaches_between, cell_work
from bench_core.contract.measures.max_batch import MaxBatch
from bench_core.contract.measures.min_memory import MinMemory
from bench_core.contract.measures.own_error import Gap, Script, gaps
from bench_core.contract.models.stored_bits import StoredBits, stored_bits
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import DeviceRates
from bench_core.contract.records.events import Event
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.run import PlannedCell, RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.capacity import Capacity
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.statistics.steadiness import sample
from bench_core.contract.statistics.stopping import rate_of
from bench_core.contract.statistics.workload_rate import WholeWork
from bench_core.runs.beside import marked, sampled
from bench_core.runs.ended import ended_row
from bench_core.runs.files import INSANE, Damage, Unreadable, log_name, read_events, read_record, read_workload, sane
from bench_core.runs.forks import spread
from bench_core.runs.plan import beside_the_plan, check_plan
from bench_core.runs.published import read_published
from bench_core.runs.quality import Outputs
from bench_core.runs.series import of_batches
from bench_core.runs.served import served_row
from bench_core.runs.view import Paced, Row, RunView, ServedRow

R = TypeVar("R", bound=Record)


Served = Callable[[str, ServeEvents], None]


class Watcher(Protocol):
    """Is shown a log while it is read."""

    def line(self, content: bytes) -> None:
        """The next line, whole, as it lies in the (unpacked) log."""

    def take(self, event: Event) -> None:
        """What that line says."""


W = TypeVar("W", bound=Watcher)


@dataclass(frozen=True)
class Watched(Generic[W]):
    """Who is shown the logs of a run: a watcher each, which ``make`` makes.

    Attributes:
        of: by cell, once the run is loaded: those that have seen all of their logs, which are of rows with a
            ``result``. They may have been made in another process, and are then copies.
    """

    make: Callable[[], W]
    of: dict[str, W] = field(default_factory=dict)


def load_run(
    folder: Path,
    watched: Watched[W] | None = None,
    processes: int = 1,
    served_events: Served | None = None,
    *,
    series: bool = True,
    meanwhile: Callable[[], object] | None = None,
) -> RunView:
    """Reads a run; a damaged cell is a row that says so.

    Args:
        watched: what is shown each line of a log of closed batches and its event, in order, while that is read for its
            numbers: a log of many megabytes is unpacked and parsed once.
        processes: that read cells; of more than one, the caller must have no threads.
        served_events: what is shown the name and the events of each cell under load that has a ``result``. It is called
            in the caller's process, so one process reads then.
        series: whether rows have theirs, which a page shows and nothing else.
        meanwhile: see :func:`~bench_core.runs.forks.spread`.

    Raises:
        BadInput: the folder is not a run: it, or a readable ``run.json`` with a consistent plan, is missing; or its
            ``beside.yaml`` cannot be used.
    """
    _require_run(folder)
    record = RunRecord.read(folder / layout.RUN_FILE)
    check_plan(record, str(folder / layout.RUN_FILE))
    workload, damage = _workload(folder, record)
    known: Known = {}

    def read(planned: PlannedCell) -> tuple[Row | ServedRow, W | None]:
        if planned.load is not None:
            return served_row(folder, record, planned, workload, served_events, series=series), None
        watcher = watched.make() if watched is not None else None
        return _row(folder, record, planned, workload, known, watcher, series=series), watcher

    cells = [*record.cells, *beside_the_plan(record)]
    found = spread(read, cells, processes if served_events is None else 1, meanwhile)
    if watched is not None:
        watched.of.update((row.planned.cell, watcher) for row, watcher in found if watcher is not None and row.measured)
    served = [row for row, _ in found if isinstance(row, ServedRow)]
    rows = _beside_each_other([row for row, _ in found if isinstance(row, Row)])
    count = sum(planned.load is None for planned in record.cells)
    alone = tuple(row for row in rows[count:] if not row.planned.harness)
    return RunView(
        record,
        tuple(marked(rows[:count], sampled(record, rows[:count], alone))),
        tuple(row for row in rows[count:] if row.planned.harness),
        tuple(row for row in served if not row.planned.harness),
        workload,
        damage,
        read_published(folder / layout.BESIDE_FILE) if (folder / layout.BESIDE_FILE).is_file() else None,
        tuple(_device_rates(folder)),
        tuple(_records(folder, layout.MIN_MEMORY_FOLDER, MinMemory)),
        tuple(_records(folder, layout.MAX_BATCH_FOLDER, MaxBatch)),
        tuple(_records(folder, layout.CAPACITY_FOLDER, Capacity)),
        tuple(row for row in served if row.planned.harness),
        alone,
    )


def _workload(folder: Path, record: RunRecord) -> tuple[Workload | None, Damage | None]:
    """The prompts that a run keeps, or what is wrong with them."""
    try:
        return read_workload(folder, record), None
    except Unreadable as damaged:
        return None, damaged.damage


def _beside_each_other(rows: list[Row]) -> list[Row]:
    """The same with what only all of them together tell."""
    between = breaches_between(row.work for row in rows if row.work is not None)
    return _with_bits(_with_breach(row, between.get(row.planned.cell)) for row in rows)


def _require_run(folder: Path) -> None:
    hint = "a run is a folder under results/ with a run.json, made by python -m bench_core.drive"
    try:
        if not folder.is_dir():
            raise BadInput(f"{folder}: not a folder", hint)
        if not (folder / layout.RUN_FILE).is_file():
            raise BadInput(f"{folder}: not a run: it has no {layout.RUN_FILE}", hint)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror or error}", hint) from error


def _records(run_folder: Path, name: str, kind: type[R]) -> Iterator[R]:
    """Records of one kind in a folder of the run, by name; one that is damaged is as if it were not there: no cell
    depends on it."""
    home = run_folder / name
    if not home.is_dir():
        return
    for path in sorted(home.glob("*.json")):
        try:
            record = read_record(run_folder, path, kind)
        except (Unreadable, OSError):
            continue
        if record is not None:
            yield record


def _device_rates(run_folder: Path) -> Iterator[DeviceRates]:
    for name in (layout.FORMER_DEVICE_RATES_FOLDER, layout.DEVICE_RATES_FOLDER):
        yield from _records(run_folder, name, DeviceRates)


def _with_breach(row: Row, breach: str | None) -> Row:
    if breach is None or row.work is None:
        return row
    return replace(row, work=replace(row.work, breaches=(*row.work.breaches, breach)))


def _with_bits(rows: Iterable[Row]) -> list[Row]:
    """Each row with what is known of its method's weights: what an engine told once holds for rows that failed, too."""
    rows = list(rows)
    known: dict[tuple[str, str], StoredBits] = {}
    for row in sorted(rows, key=lambda row: row.result is None):
        found = stored_bits(row.spec, row.result.engine_facts if row.result else {}) if row.spec else None
        if found is not None:
            known.setdefault((row.planned.image, row.planned.variant), found)
    return [replace(row, bits=known.get((row.planned.image, row.planned.variant))) for row in rows]


def _row(
    run_folder: Path,
    record: RunRecord,
    planned: PlannedCell,
    workload: Workload | None,
    known: Known,
    watcher: Watcher | None,
    *,
    series: bool,
) -> Row:
    def measured(spec: CellSpec, verdict: Verdict) -> Row:
        return _measured_row(run_folder, planned, spec, verdict, workload, known, watcher, series=series)

    return ended_row(Row, run_folder, record, planned, measured)


def _check_protocol(spec: CellSpec, result: CellResult) -> None:
    """A log names the rule that it was stopped by: it must be the cell's own."""
    steadiness = result.metrics.steadiness
    if steadiness.stop_reason is not None and steadiness.precision != spec.protocol.precision:
        raise Unreadable(
            layout.EVENTS_FILE,
            f"measured to a precision of {steadiness.precision}, and {spec.protocol.precision} in {layout.SPEC_FILE}",
        )


def _measured_row(
    run_folder: Path,
    planned: PlannedCell,
    spec: CellSpec,
    verdict: Verdict,
    workload: Workload | None,
    known: Known,
    watcher: Watcher | None,
    *,
    series: bool,
) -> Row:
    """A cell that is said to be ok, with its numbers."""
    folder = layout.cell_folder(run_folder, planned.cell)
    events = CellEvents()
    for event in read_events(run_folder, folder, watcher.line if watcher is not None else None):
        if watcher is not None:
            watcher.take(event)
        try:
            events.add(event)
        except BadInput as error:
            raise Unreadable(log_name(folder), error.cause) from error
    result = _result(log_name(folder), planned.cell, events)
    _check_protocol(spec, result)
    batches = [batch for of_phase in events.batches.values() for batch in of_phase]
    work = cell_work(spec, batches, workload.prompts if workload is not None else None, known)
    found: tuple[Gap, ...] = ()
    if planned.harness:
        try:
            found = gaps(Script.of(spec.options), result.metrics, events.batches["measure"])
        except BadInput as error:
            raise Unreadable(layout.SPEC_FILE, error.cause) from error
    measured = events.batches["measure"]
    told = events.stop.whole_work if events.stop is not None else None
    whole = _whole_work(spec, workload) or told
    row = Row(
        planned, spec, verdict, result=result,
        work=work, gaps=found, outputs=Outputs.of(measured),
        pace=tuple(
            Paced((b.index, given.digest), sum(b.output_tokens), b.latency_s)
            for b, given in zip(measured, work.measured, strict=True)
        ),
        rate=rate_of([sample(batch) for batch in measured], whole),
        series=of_batches(events.stamped, events.telemetry, spec.device == "cuda") if series else (),
        alive_s=_alive(events),
    )  # fmt: skip
    return _with_breach(row, _other_work(told, whole)) if told is not None and whole is not None else row


def _alive(events: CellEvents) -> tuple[float, float] | None:
    """From the first line of a log to its last."""
    return (events.start.t_s, events.end.t_s) if events.start is not None and events.end is not None else None


def _other_work(told: WholeWork, workloads: WholeWork) -> str | None:
    """How the work that a log was stopped for differs from that of the prompts kept; as far as the log tells it."""
    if told.mean != workloads.mean:
        return f"measured for a mean work of {told.mean}, and the workload's is {workloads.mean}"
    if told.batches != workloads.batches:
        return f"measured for {told.batches} full batches, and the workload has {workloads.batches}"
    if told.spread not in (None, workloads.spread):
        return "measured for another spread of work than the workload's"
    return None


def _whole_work(spec: CellSpec, workload: Workload | None) -> WholeWork | None:
    """Of the prompts kept with the run, as far as there are any."""
    if workload is None or len(workload.prompts) < spec.batch_size:
        return None
    return workload.whole_work(spec.batch_size)


def _result(name: str, cell: str, events: CellEvents) -> CellResult:
    try:
        result = summarise(cell, events)
    except BadInput as error:
        raise Unreadable(name, error.cause.removeprefix(f"{cell}: ")) from error
    if not sane(result.metrics.model_dump()):
        raise Unreadable(name, INSANE)
    return result
