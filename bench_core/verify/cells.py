"""Cells of closed batches against their event logs, and the plan against the folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellResult, summarise
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.runs.files import Unreadable, read_events
from bench_core.runs.view import Row, RunView
from bench_core.verify.differences import Difference, in_cell, of_run, present
from bench_core.verify.logs import LogChecks, LogFacts
from bench_core.verify.records import RecordChecks


class CellChecks(RecordChecks[Row]):
    """All checks of the cells of closed batches of one run."""

    def __init__(self, folder: Path, view: RunView, logs: Mapping[str, LogChecks]) -> None:
        """``logs``: by cell, those whose events were seen while the run was loaded."""
        super().__init__(folder, view)
        self._logs = logs

    @property
    def _rows(self) -> Iterable[Row]:
        return (*self._view.rows, *self._view.own_error, *self._view.alone)

    def _log(self, row: Row, folder: Path) -> None:
        known = self._read(row)
        there = self._whole_log(row, folder, known.sha256 if known is not None else None)
        if there is None:
            return
        cell, (path, verdict) = row.planned.cell, there
        try:
            log = self._checked(row, folder)
        except Unreadable as error:
            self._unreadable(row, verdict, error)
            return
        if log.beyond_reason:
            self.found.append(in_cell(cell, path.name, f"a number in it is beyond reason: {log.beyond_reason}"))
            return
        facts = log.facts
        if facts.start is not None:
            self.found += [in_cell(cell, path.name, what) for what in log.found]
        self.found += [in_cell(cell, layout.OUTCOME_FILE, what) for what in self._outcome(cell, verdict, facts, folder)]
        self._own_code(row, path.name, facts.start)
        self.facts.append((cell, self._place(row), facts))

    def _read(self, row: Row) -> LogChecks | None:
        """What loading has seen of a log; it has read that of a row with a result, and no other."""
        return self._logs.get(row.planned.cell) if row.result is not None else None

    def _checked(self, row: Row, folder: Path) -> LogChecks:
        """The checks of a whole log."""
        log = self._read(row)
        if log is None:
            log = LogChecks()
            for event in read_events(self._folder, folder):
                log.take(event)
        log.close()
        return log

    def _outcome(self, cell: str, verdict: Verdict, facts: LogFacts, folder: Path) -> Iterator[str]:
        """An ``ok`` of a bad log is damage to the report already; here the reverse, and one failure for another."""
        if facts.end is None or verdict.judged_by != "worker":
            return
        ends, says = facts.end.outcome, verdict.outcome
        if ends is Outcome.OK and says not in (Outcome.OK, Outcome.QUALITY_FAILED):
            # A worker withdraws a good end if no number follows from its log.
            if says is not Outcome.CRASHED or recomputed(self._folder, folder, cell) is not None:
                yield f"outcome is {says.value}, but the event log ends well"
        elif ends is not Outcome.OK and ends is not says:
            yield f"outcome is {says.value}, but the event log ends with {ends.value}"


def recomputed(run_folder: Path, folder: Path, cell: str) -> CellResult | None:
    """What follows from a cell's event log; ``None`` if nothing does."""
    events = CellEvents()
    try:
        for event in read_events(run_folder, folder):
            events.add(event)
        return summarise(cell, events)
    except (BadInput, Unreadable):
        return None


NEVER_REACHED = "is planned and has no folder: never reached, or taken away"


def plan_differences(folder: Path, view: RunView) -> Iterator[Difference]:
    """The plan against the folders, and the run's record against its visits.

    A run may be published before all of it is measured: then its list of digests tells what was there, and
    :func:`unreached` the cells that were not.
    """
    record = view.record
    planned = {row.planned.cell for row in view.planned}
    cells = folder / layout.CELLS_FOLDER
    there = {path.name for path in cells.iterdir()} if cells.is_dir() else set()
    for name in sorted(there - planned):
        yield Difference(f"{layout.CELLS_FOLDER}/{name}", name, "is not in the plan")
    if not present(folder / layout.DIGESTS_FILE):  # else a file of one that was taken away is missed there
        for name in unreached(folder, view):
            yield Difference(f"{layout.CELLS_FOLDER}/{name}", name, NEVER_REACHED)
    yield from _visits(record, {row.planned.image for row in view.every if row.spec is not None})


def unreached(folder: Path, view: RunView) -> list[str]:
    """Planned cells without a folder, by name."""
    planned = {row.planned.cell for row in view.planned}
    return sorted(cell for cell in planned if not present(layout.cell_folder(folder, cell)))


def _visits(record: RunRecord, begun: set[str]) -> Iterator[Difference]:
    """``begun``: images of which a cell was begun; one that could not be installed is recorded nowhere."""
    if not record.visits:
        return
    planned = {cell.cell for cell in record.cells}
    visited = {cell for visit in record.visits for cell in visit.cells}
    for cell in sorted(planned - visited):
        yield of_run(layout.RUN_FILE, "is planned, but no visit was to measure it", cell)
    for cell in sorted(visited - planned):
        yield of_run(layout.RUN_FILE, "a visit was to measure it, but it is not in the plan", cell)
    for image in sorted({cell.image for cell in record.cells} | set(record.images)):
        infos = [visit.images[image] for visit in record.visits if image in visit.images]
        if image not in record.images and image not in begun:
            continue
        if image not in record.images:
            yield of_run(layout.RUN_FILE, f"image {image} is not recorded")
        elif record.images[image] not in infos:
            ids = ", ".join(dict.fromkeys(info.id for info in infos)) or "in none"
            yield of_run(layout.RUN_FILE, f"image {image} is {record.images[image].id}, in its visits {ids}")
    cards = {gpu.uuid for visit in record.visits for gpu in visit.gpus}
    if cards != {gpu.uuid for gpu in record.gpus}:
        yield of_run(layout.RUN_FILE, "its GPUs are not those of its visits")


def unplanned_digests(folder: Path, listed: Iterable[str]) -> Iterator[str]:
    """Files of a published run that its digests do not name: cells and records, not what a report makes again."""
    names = set(listed)
    for path in raw_files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in names:
            yield name


# Beside the cells: what was sent to servers and when, what the devices could do, and searches with their trials.
RAW_FOLDERS = (
    layout.SCHEDULES_FOLDER,
    layout.DEVICE_RATES_FOLDER,
    layout.FORMER_DEVICE_RATES_FOLDER,
    layout.MIN_MEMORY_FOLDER,
    layout.MAX_BATCH_FOLDER,
    layout.CAPACITY_FOLDER,
)


def raw_files(folder: Path) -> list[Path]:
    """What a run was measured as: its record, its prompts, its cells and what stands beside them, figures of others;
    sorted. Reports are made from these."""
    roots = [folder / name for name in (layout.RUN_FILE, layout.BESIDE_FILE, layout.WORKLOAD_FILE)]
    homes = [folder / name for name in (layout.CELLS_FOLDER, *RAW_FOLDERS)]
    below = [path for home in homes for path in sorted(home.rglob("*")) if path.is_file()]
    return [path for path in roots if path.is_file()] + below
