"""Cells against the plan, their records against each other and against the event log."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.measures.cell import CellEvents, CellResult, summarise
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import RunRecord, VisitInfo
from bench_core.runs.files import Unreadable, check_inside, log_path, open_log, read_events, read_record
from bench_core.runs.view import DAMAGED, NOT_RUN, Row, RunView
from bench_core.verify.differences import Difference, absent, in_cell, of_run, present, unequal
from bench_core.verify.logs import LogChecks, LogFacts, overlaps

_PIECE_BYTES = 1 << 20


class CellChecks:
    """All checks of the cells of one run.

    Attributes:
        found: what does not agree.
        not_checked: what could not be compared, because the run does not keep it; each once.
    """

    def __init__(self, folder: Path, view: RunView, logs: Mapping[str, LogChecks]) -> None:
        """``logs``: by cell, those whose events were seen while the run was loaded."""
        self._folder = folder
        self._view = view
        self._logs = logs
        self._facts: list[tuple[str, str, LogFacts]] = []
        self.found: list[Difference] = []
        self.not_checked: dict[str, int] = {}

    def run(self) -> None:
        """Checks every cell, and cells against each other."""
        for row in self._rows:
            self._cell(row)
        for cell, what in overlaps(self._facts):
            self.found.append(in_cell(cell, layout.EVENTS_FILE, what))

    @property
    def _rows(self) -> tuple[Row, ...]:
        return (*self._view.rows, *self._view.harness)

    def _cell(self, row: Row) -> None:
        cell = row.planned.cell
        folder = layout.cell_folder(self._folder, cell)
        if not folder.is_dir():
            return  # told with the plan
        if row.damage is not None:
            self.found.append(in_cell(cell, row.damage.where, row.damage.what))
        if row.spec is not None:
            self.found += [in_cell(cell, layout.SPEC_FILE, what) for what in self._spec(row)]
        elif row.status not in (DAMAGED, NOT_RUN) and row.verdict is not None:
            self._note("cells that were never begun: they have no spec.json")
        if row.status == NOT_RUN:
            self.found.append(
                in_cell(cell, layout.OUTCOME_FILE, "the file is missing: the cell was begun and not ended")
            )
        self.found += [in_cell(cell, layout.EVENTS_FILE, breach) for breach in row.breaches]
        if all((folder / name).exists() for name in (layout.EVENTS_FILE, layout.COMPRESSED_EVENTS_FILE)):
            self.found.append(in_cell(cell, layout.COMPRESSED_EVENTS_FILE, f"stands beside {layout.EVENTS_FILE}"))
        self._log(row, folder)
        self._result(row, folder)

    def _note(self, what: str) -> None:
        self.not_checked[what] = self.not_checked.get(what, 0) + 1

    # --- spec.json: what was to be measured, against the run's record -------------------------------------------------

    def _spec(self, row: Row) -> Iterator[str]:
        spec, record = row.spec, self._view.record
        assert spec is not None  # noqa: S101  # the caller has looked
        facts = json.loads(record.model.model_dump_json())
        for where, has, expected in unequal(json.loads(spec.model.model_dump_json()), facts):
            yield f"model.{where} is {has}, and {expected} in {layout.RUN_FILE}"
        if not spec.workload.agrees(record.workload):
            yield (
                f"workload differs from that of {layout.RUN_FILE}: {spec.workload.digest[:12]}, "
                f"{spec.workload.prompts} prompts"
            )
        for name in ("label", "ranked", "repeat"):
            if getattr(spec, name) != getattr(row.planned, name):
                yield f"{name} is {getattr(spec, name)}, and {getattr(row.planned, name)} in {layout.RUN_FILE}"
        visit = self._visit(row)
        if record.device == "cpu" and spec.gpu_uuid is not None:
            yield f"gpu_uuid is {spec.gpu_uuid} in a run without a GPU"
        if visit is not None and visit.gpus and spec.gpu_uuid not in {gpu.uuid for gpu in visit.gpus}:
            yield f"gpu_uuid is {spec.gpu_uuid}, which is no card of its visit"
        if visit is not None and self._view.record.visits and row.planned.image not in visit.images:
            yield f"image {row.planned.image} is not recorded among those of its visit"
        yield from self._artifact(row, visit)

    def _artifact(self, row: Row, visit: VisitInfo | None) -> Iterator[str]:
        spec = row.spec
        assert spec is not None  # noqa: S101
        digest, name = spec.artifact_digest, spec.artifact
        if name == layout.NO_ARTIFACT:
            if digest is not None:
                yield f"artifact_digest is {digest[:12]}, but no artifact is read"
        elif name == layout.HF_ARTIFACT:
            if digest != self._view.record.model.digest:
                yield f"artifact_digest is {_short(digest)}, the model's is {self._view.record.model.digest[:12]}"
        elif visit is not None and name in visit.artifacts:
            recorded = visit.artifacts[name].digest
            if digest != recorded:
                yield f"artifact_digest of {name} is {_short(digest)}, its visit read {recorded[:12]}"
        else:
            self._note(f"digests of artifacts against {layout.RUN_FILE}, which does not record them")
            others = {r.spec.artifact_digest for r in self._rows if r.spec is not None and r.spec.artifact == name}
            if len(others) > 1:
                yield f"artifact_digest of {name} is {_short(digest)}, cells do not agree on it"

    def _visit(self, row: Row) -> VisitInfo | None:
        number = self._view.visit_of(row)
        return self._view.record.all_visits[number - 1] if number else None

    # --- the event log: itself, and against outcome.json --------------------------------------------------------------

    def _log(self, row: Row, folder: Path) -> None:
        cell, verdict = row.planned.cell, row.verdict
        path = log_path(folder)
        if path is None:
            if verdict is not None and verdict.judged_by == "worker" and row.damage is None:
                self.found.append(in_cell(cell, layout.EVENTS_FILE, "the file is missing"))
            return
        self._content(cell, path, verdict)
        if verdict is None:
            return
        try:
            log = self._checked(row, folder)
        except Unreadable as error:
            # A box that was ended may have left half a line; a worker that judged has closed its log before.
            if row.damage is None and verdict.judged_by == "worker":
                self.found.append(in_cell(cell, error.damage.where, error.damage.what))
            return
        if log.beyond_reason:
            self.found.append(in_cell(cell, path.name, f"a number in it is beyond reason: {log.beyond_reason}"))
            return
        facts = log.facts
        if facts.start is not None:
            self.found += [in_cell(cell, path.name, what) for what in log.found]
        self.found += [in_cell(cell, layout.OUTCOME_FILE, what) for what in self._outcome(cell, verdict, facts, folder)]
        visit = self._view.visit_of(row)
        told = facts.start.harness if facts.start is not None else None
        recorded = self._view.record.all_visits[visit - 1].harness if visit else None
        if told is None or recorded is None:
            self._note("the suite's own code in the images: not recorded")
        elif told != recorded:
            what = f"measured by code of digest {told[:12]}, {layout.RUN_FILE} says {recorded[:12]}"
            self.found.append(in_cell(cell, path.name, what))
        uuid = row.spec.gpu_uuid if row.spec is not None else None
        self._facts.append((cell, f"{visit}:{uuid}", facts))

    def _checked(self, row: Row, folder: Path) -> LogChecks:
        """The checks of a whole log; loading has read that of a row with a result, and no other."""
        log = self._logs.get(row.planned.cell) if row.result is not None else None
        if log is None:
            log = LogChecks()
            for event in read_events(self._folder, folder):
                log.take(event)
        log.close()
        return log

    def _content(self, cell: str, path: Path, verdict: Verdict | None) -> None:
        if verdict is None or verdict.events_sha256 is None:
            self._note("digests of event logs: not recorded")
            return
        try:
            check_inside(self._folder, path)
            digest = hashlib.sha256()
            with open_log(path) as stream:
                while piece := stream.read(_PIECE_BYTES):
                    digest.update(piece)
        except Unreadable as error:
            self.found.append(in_cell(cell, error.damage.where, error.damage.what))
        except (OSError, EOFError, zlib.error) as error:
            self.found.append(in_cell(cell, path.name, first_line(error)))
        else:
            if digest.hexdigest() != verdict.events_sha256:
                what = f"is not the log that the worker wrote: sha256 {digest.hexdigest()[:12]}, "
                self.found.append(
                    in_cell(cell, path.name, f"{what}{layout.OUTCOME_FILE} has {verdict.events_sha256[:12]}")
                )

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

    # --- result.json ------------------------------------------------------------------------------------------------

    def _result(self, row: Row, folder: Path) -> None:
        cell, path = row.planned.cell, folder / layout.RESULT_FILE
        if row.result is None:
            if present(path) and row.damage is None:
                what = f"stands beside the outcome {row.status}: only a cell that is ok has a result"
                self.found.append(in_cell(cell, layout.RESULT_FILE, what))
            return
        try:
            if read_record(self._folder, path, CellResult) is None:
                self.found.append(in_cell(cell, layout.RESULT_FILE, "the file is missing"))
                return
        except Unreadable as error:
            self.found.append(in_cell(cell, layout.RESULT_FILE, error.damage.what))
            return
        has, expected = json.loads(path.read_bytes()), json.loads(row.result.model_dump_json())
        for where, told, follows in unequal(has, expected):
            self.found.append(in_cell(cell, layout.RESULT_FILE, f"{where} is {told}, recomputed {follows}"))
        for where in absent(has, expected):
            self._note(f"{where}: not in {layout.RESULT_FILE}, which an earlier version wrote")


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


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
    planned = {row.planned.cell for row in (*view.rows, *view.harness)}
    cells = folder / layout.CELLS_FOLDER
    there = {path.name for path in cells.iterdir()} if cells.is_dir() else set()
    for name in sorted(there - planned):
        yield Difference(f"{layout.CELLS_FOLDER}/{name}", name, "is not in the plan")
    if not present(folder / layout.DIGESTS_FILE):  # else a file of one that was taken away is missed there
        for name in unreached(folder, view):
            yield Difference(f"{layout.CELLS_FOLDER}/{name}", name, NEVER_REACHED)
    yield from _visits(record, {row.planned.image for row in view.rows if row.spec is not None})


def unreached(folder: Path, view: RunView) -> list[str]:
    """Planned cells without a folder, by name."""
    planned = {row.planned.cell for row in (*view.rows, *view.harness)}
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


# Beside the cells: what the devices could do, and searches with their trials.
RAW_FOLDERS = (layout.CALIBRATIONS_FOLDER, layout.MIN_MEMORY_FOLDER, layout.MAX_BATCH_FOLDER)


def raw_files(folder: Path) -> list[Path]:
    """What a run was measured as: its record, its prompts, its cells and what stands beside them, figures of others;
    sorted. Reports are made from these."""
    roots = [folder / name for name in (layout.RUN_FILE, layout.BESIDE_FILE, layout.WORKLOAD_FILE)]
    homes = [folder / name for name in (layout.CELLS_FOLDER, *RAW_FOLDERS)]
    below = [path for home in homes for path in sorted(home.rglob("*")) if path.is_file()]
    return [path for path in roots if path.is_file()] + below
