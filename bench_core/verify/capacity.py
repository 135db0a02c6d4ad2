"""Searches for the highest load: each trial is a cell under load, checked as any other, and the search against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench_core.contract.records import layout
from bench_core.contract.records.events import StartEvent
from bench_core.contract.records.run import PlannedCell, VisitInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.capacity import Capacity, LoadTrial
from bench_core.contract.serving.load import Serve
from bench_core.runs.files import Unreadable, read_record
from bench_core.runs.served import served_row
from bench_core.runs.view import Ended, RunView, ServedRow
from bench_core.verify.differences import Difference, in_cell, of_run, unequal
from bench_core.verify.logs import LogFacts, overlaps
from bench_core.verify.serving import ServedChecks


class TrialChecks:
    """All checks of the trials of one run's searches.

    Attributes:
        found: what does not agree.
        not_checked: what could not be compared, because the run does not keep it; each once.
    """

    def __init__(self, folder: Path, view: RunView) -> None:
        self._folder = folder
        self._view = view
        self.found: list[Difference] = []
        self.not_checked: dict[str, int] = {}

    def run(self) -> None:
        """Checks every trial."""
        for search in self._view.capacities:
            facts: list[tuple[str, str, LogFacts]] = []
            for trial in search.trials:
                home = f"{layout.CAPACITY_FOLDER}/{search.home}/{trial.folder}"
                try:
                    self._trial(search, trial, home, facts)
                except Unreadable as error:
                    self._told(search, trial, f"{error.damage.where}: {error.damage.what}")
            for name, what in overlaps((name, search.home, fact) for name, _, fact in facts):
                self.found.append(of_run(f"{name}/{layout.EVENTS_FILE}", what))

    def _told(self, search: Capacity, trial: LoadTrial, what: str) -> None:
        name = f"{layout.CAPACITY_FOLDER}/{search.method}.json"
        self.found.append(of_run(name, f"trial {trial.number} ({search.varied} {trial.load:g}): {what}"))

    def _trial(self, search: Capacity, trial: LoadTrial, home: str, facts: list[tuple[str, str, LogFacts]]) -> None:
        """
        Raises:
            Unreadable: what it left does not say what was measured.
        """
        folder = self._folder / home
        row = self._row(search, folder)
        checks = _OneTrial(folder, replace(self._view, served=(row,), own_error_served=()))
        checks.run()
        self.found += [replace(one, file=f"{home}/{one.file}", cell=None) for one in checks.found]
        for what, count in checks.not_checked.items():
            self.not_checked[what] = self.not_checked.get(what, 0) + count
        facts += [(f"{home}/{layout.CELLS_FOLDER}/{cell}", place, fact) for cell, place, fact in checks.facts]
        if row.verdict is None or row.damage is not None:
            return  # told with the cell
        for what in _amiss(search, trial, row):
            self._told(search, trial, what)

    def _row(self, search: Capacity, folder: Path) -> ServedRow:
        """The cell that a trial left: one, in a folder that is laid out as a run's."""
        cells = folder / layout.CELLS_FOLDER
        names = sorted(path.name for path in cells.iterdir()) if cells.is_dir() else []
        if len(names) != 1:
            raise Unreadable(folder.name, f"holds {len(names)} cells, and a trial is one")
        spec = read_record(folder, cells / names[0] / layout.SPEC_FILE, CellSpec)
        if spec is None:
            raise Unreadable(f"{names[0]}/{layout.SPEC_FILE}", "the file is missing")
        if (spec.image, spec.variant) != (search.image, search.variant) or not isinstance(spec.scenario, Serve):
            raise Unreadable(names[0], f"is no cell under load of {search.method}")
        like = (row.planned for row in self._view.planned if row.planned.image == search.image)
        named = next((one for one in like if one.variant == search.variant), None)
        planned = PlannedCell(
            cell=names[0], image=spec.image, variant=spec.variant, scenario=spec.scenario,
            label=named.label if named is not None else spec.label,
            ranked=named.ranked if named is not None else spec.ranked,
        )  # fmt: skip
        return served_row(folder, self._view.record, planned, self._view.workload)


class _OneTrial(ServedChecks):
    """Of one trial. The plan does not have its cell, so any of the run's visits may have measured it."""

    def _visit(self, row: Ended) -> VisitInfo | None:  # noqa: ARG002  # whichever it is
        return None

    def _own_code(self, row: Ended, name: str, start: StartEvent | None) -> None:
        recorded = {visit.harness for visit in self._view.record.all_visits}
        told = start.harness if start is not None else None
        if told is None or None in recorded:
            super()._own_code(row, name, start)
        elif told not in recorded:
            what = f"measured by code of digest {told[:12]}, which no visit in {layout.RUN_FILE} had"
            self.found.append(in_cell(row.planned.cell, name, what))


def _amiss(search: Capacity, trial: LoadTrial, row: ServedRow) -> Iterator[str]:
    """How a trial differs from the cell that it left."""
    spec, verdict = row.spec, row.verdict
    assert spec is not None  # noqa: S101  # a row without damage, of which the spec was read
    assert spec.serve is not None  # noqa: S101
    assert verdict is not None  # noqa: S101  # the caller has looked
    load = spec.load
    varied = (load.concurrency if search.varied == "concurrency" else load.request_rate) if load is not None else None
    if varied != trial.load:
        yield f"its cell is of {load.words if load is not None else 'no load'}"
    if spec.serve.protocol.limits != search.limits:
        limits = spec.serve.protocol.limits
        yield f"its cell has the limits {limits.words if limits is not None else 'none'}"
    follows = LoadTrial.of(trial.load, trial.number, verdict, row.result.metrics if row.result is not None else None)
    has, expected = (json.loads(one.model_dump_json()) for one in (trial, follows))
    for where, told, computed in unequal(has, expected):
        yield f"{where} is {told}, its cell says {computed}"
