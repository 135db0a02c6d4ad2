"""What holds of the records of every cell, whatever it measured: its spec, its log's digest, its result."""

from __future__ import annotations

import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic

from bench_core.contract.errors import first_line
from bench_core.contract.measures.cell import CellResult
from bench_core.contract.records import layout
from bench_core.contract.records.events import StartEvent
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.run import VisitInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.result import ServeResult
from bench_core.runs.ended import ROW
from bench_core.runs.files import Damage, Unreadable, check_inside, log_path, open_log, read_record
from bench_core.runs.view import Ended, RunView
from bench_core.verify.differences import Difference, absent, in_cell, of_run, present, unequal
from bench_core.verify.logs import LogFacts

_PIECE_BYTES = 1 << 20


class RecordChecks(ABC, Generic[ROW]):
    """Checks of cells of one run.

    Attributes:
        found: what does not agree.
        not_checked: what could not be compared, because the run does not keep it; each once.
        facts: of each log that was read: the cell, the device with the visit that it was measured in, and its facts.
    """

    def __init__(self, folder: Path, view: RunView) -> None:
        self._folder = folder
        self._view = view
        self.found: list[Difference] = []
        self.not_checked: dict[str, int] = {}
        self.facts: list[tuple[str, str, LogFacts]] = []

    def run(self) -> None:
        """Checks every cell."""
        for row in self._rows:
            folder = layout.cell_folder(self._folder, row.planned.cell)
            if not folder.is_dir():
                continue  # told with the plan
            self._records(row, folder)
            self.found += [in_cell(row.planned.cell, layout.EVENTS_FILE, breach) for breach in row.breaches]
            self._log(row, folder)
            self._result(row, folder, row.result)

    @property
    @abstractmethod
    def _rows(self) -> Iterable[ROW]:
        """The cells, those of the scripted engine included."""

    @abstractmethod
    def _log(self, row: ROW, folder: Path) -> None:
        """The event log: itself, and against other files."""

    def _records(self, row: Ended, folder: Path) -> None:
        """Spec and outcome, and what loading found."""
        cell = row.planned.cell
        if row.damage is not None:
            self.found.append(damaged(cell, row.damage))
        if row.spec is not None:
            self.found += [in_cell(cell, layout.SPEC_FILE, what) for what in self._spec(row)]
        elif row.damage is None and row.verdict is not None:
            self._note("cells that were never begun: they have no spec.json")
        if row.damage is None and row.verdict is None:
            self.found.append(
                in_cell(cell, layout.OUTCOME_FILE, "the file is missing: the cell was begun and not ended")
            )
        if all((folder / name).exists() for name in (layout.EVENTS_FILE, layout.COMPRESSED_EVENTS_FILE)):
            self.found.append(in_cell(cell, layout.COMPRESSED_EVENTS_FILE, f"stands beside {layout.EVENTS_FILE}"))

    def _note(self, what: str) -> None:
        self.not_checked[what] = self.not_checked.get(what, 0) + 1

    # --- spec.json: what was to be measured, against the run's record -------------------------------------------------

    def _spec(self, row: Ended) -> Iterator[str]:
        spec, record = row.spec, self._view.record
        assert spec is not None  # noqa: S101  # the caller has looked
        if spec.model != record.model:
            facts = json.loads(record.model.model_dump_json())
            for where, has, expected in unequal(json.loads(spec.model.model_dump_json()), facts):
                yield f"model.{where} is {has}, and {expected} in {layout.RUN_FILE}"
        if not spec.workload.agrees(record.workload):
            yield (
                f"workload differs from that of {layout.RUN_FILE}: {spec.workload.digest[:12]}, "
                f"{spec.workload.prompts} prompts"
            )
        for name in ("label", "ranked", "repeat", "gpus"):
            if getattr(spec, name) != getattr(row.planned, name):
                yield f"{name} is {getattr(spec, name)}, and {getattr(row.planned, name)} in {layout.RUN_FILE}"
        visit = self._visit(row)
        if record.device == "cpu" and spec.gpu_uuid is not None:
            yield f"gpu_uuid is {spec.gpu_uuid} in a run without a GPU"
        yield from _cards(spec, visit)
        if visit is not None and self._view.record.visits and row.planned.image not in visit.images:
            yield f"image {row.planned.image} is not recorded among those of its visit"
        yield from self._artifact(row, visit)

    def _artifact(self, row: Ended, visit: VisitInfo | None) -> Iterator[str]:
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
            others = {
                r.spec.artifact_digest for r in self._view.planned if r.spec is not None and r.spec.artifact == name
            }
            if len(others) > 1:
                yield f"artifact_digest of {name} is {_short(digest)}, cells do not agree on it"

    def _visit(self, row: Ended) -> VisitInfo | None:
        number = self._view.visit_of(row)
        return self._view.record.all_visits[number - 1] if number else None

    def _place(self, row: Ended) -> str:
        """The device of a cell, with its visit."""
        spec = row.spec
        place = spec.placement if spec is not None else None
        device = place.worker if place is not None else "+".join(spec.cards) if spec is not None else None
        return f"{self._view.visit_of(row)}:{device}"

    # --- the event log ------------------------------------------------------------------------------------------------

    def _own_code(self, row: Ended, name: str, start: StartEvent | None) -> None:
        """The suite's code that measured, as the log names it, against that of the visit."""
        visit = self._visit(row)
        told, recorded = start.harness if start is not None else None, visit.harness if visit else None
        if told is None or recorded is None:
            self._note("the suite's own code in the images: not recorded")
        elif told != recorded:
            what = f"measured by code of digest {told[:12]}, {layout.RUN_FILE} says {recorded[:12]}"
            self.found.append(in_cell(row.planned.cell, name, what))

    def _whole_log(self, row: Ended, folder: Path, read: str | None = None) -> tuple[Path, Verdict] | None:
        """A cell's log and the verdict on it, once the log's digest has been compared; ``None`` where there are not
        both. ``read``: see ``_content``."""
        cell, verdict = row.planned.cell, row.verdict
        path = log_path(folder)
        if path is None:
            if verdict is not None and verdict.judged_by == "worker" and row.damage is None:
                self.found.append(in_cell(cell, layout.EVENTS_FILE, "the file is missing"))
            return None
        self._content(cell, path, verdict, read)
        return (path, verdict) if verdict is not None else None

    def _unreadable(self, row: Ended, verdict: Verdict, error: Unreadable) -> None:
        """A log that cannot be read. A box that was ended may have left half a line; a worker or a client that judged
        has closed its log before."""
        if row.damage is None and verdict.judged_by == "worker":
            self.found.append(in_cell(row.planned.cell, error.damage.where, error.damage.what))

    def _content(self, cell: str, path: Path, verdict: Verdict | None, read: str | None = None) -> None:
        """``read``: the log's digest, where the whole of it has been read."""
        if verdict is None or verdict.events_sha256 is None:
            self._note("digests of event logs: not recorded")
            return
        try:
            check_inside(self._folder, path)
            now = read or _content_sha256(path)
        except Unreadable as error:
            self.found.append(in_cell(cell, error.damage.where, error.damage.what))
        except (OSError, EOFError, zlib.error) as error:
            self.found.append(in_cell(cell, path.name, first_line(error)))
        else:
            if now != verdict.events_sha256:
                what = f"is not the log that the worker wrote: sha256 {now[:12]}, "
                self.found.append(
                    in_cell(cell, path.name, f"{what}{layout.OUTCOME_FILE} has {verdict.events_sha256[:12]}")
                )

    # --- result.json --------------------------------------------------------------------------------------------------

    def _result(self, row: Ended, folder: Path, result: CellResult | ServeResult | None) -> None:
        """``result.json`` against what follows from the events; only a cell that is ok has one."""
        cell, path = row.planned.cell, folder / layout.RESULT_FILE
        if result is None:
            if present(path) and row.damage is None:
                what = f"stands beside the outcome {row.status}: only a cell that is ok has a result"
                self.found.append(in_cell(cell, layout.RESULT_FILE, what))
            return
        try:
            if read_record(self._folder, path, type(result)) is None:
                self.found.append(in_cell(cell, layout.RESULT_FILE, "the file is missing"))
                return
        except Unreadable as error:
            self.found.append(in_cell(cell, layout.RESULT_FILE, error.damage.what))
            return
        text, follows_from_events = path.read_bytes(), result.to_json()
        if text == follows_from_events.encode():
            return  # as this version writes it; of an older one, or otherwise laid out, key by key
        has, expected = json.loads(text), json.loads(follows_from_events)
        for where, told, follows in unequal(has, expected):
            self.found.append(in_cell(cell, layout.RESULT_FILE, f"{where} is {told}, recomputed {follows}"))
        for where in absent(has, expected):
            self._note(f"{where}: not in {layout.RESULT_FILE}, which an earlier version wrote")


def _content_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_log(path) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def damaged(cell: str, damage: Damage) -> Difference:
    """What is wrong with a file of a cell; its schedule is one of the run's, which other cells have as well."""
    if damage.where.startswith(f"{layout.SCHEDULES_FOLDER}/"):
        return of_run(damage.where, damage.what, cell)
    return in_cell(cell, damage.where, damage.what)


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


def _cards(spec: CellSpec, visit: VisitInfo | None) -> Iterator[str]:
    """What is amiss with the GPUs that a cell names."""
    known = {gpu.uuid for gpu in visit.gpus} if visit is not None else set()
    for card in spec.cards or (spec.gpu_uuid,):
        if known and card not in known:
            yield f"gpu_uuid is {card}, which is no card of its visit"
    if spec.gpus > 1 and len({*spec.cards}) != spec.gpus:
        yield f"gpus is {spec.gpus}, and the cards that it names are {len({*spec.cards})}"
