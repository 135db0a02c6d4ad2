"""The folder of one cell, from its first event to its verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellResult, summarise
from bench_core.contract.records import layout
from bench_core.contract.records.digest import file_sha256
from bench_core.contract.records.events import parse_events
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec
from bench_core.system.files import sync_folder, write_text


def refuse_if_measured(run_folder: Path, spec: CellSpec) -> None:
    """A complete cell is never measured over.

    Raises:
        BadInput: it has a result.
    """
    if (layout.cell_folder(run_folder, spec.cell_id) / layout.RESULT_FILE).exists():
        raise BadInput(f"{spec.cell_id} is already measured in {run_folder.name}", "choose another --run-id")


def offline_result(spec: CellSpec, lines: Iterable[bytes]) -> CellResult:
    """Of closed batches, from the lines of their log.

    Raises:
        BadInput: no result follows from them.
    """
    events = CellEvents()
    for event in parse_events(lines, layout.EVENTS_FILE):
        events.add(event)
    return summarise(spec.cell_id, events)


class CellWriter:
    """Writes a cell's files; ``result.json`` and ``outcome.json`` come last and whole."""

    def __init__(
        self, run_folder: Path, spec: CellSpec, result: Callable[[CellSpec, Iterable[bytes]], Record] = offline_result
    ) -> None:
        """``result``: from the lines of the log to what follows from them."""
        self.spec = spec
        self._result = result
        self.folder = layout.cell_folder(run_folder, spec.cell_id)
        refuse_if_measured(run_folder, spec)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in layout.CELL_FILES:
            (self.folder / name).unlink(missing_ok=True)
        write_text(self.folder / layout.SPEC_FILE, spec.to_json())
        self._events = (self.folder / layout.EVENTS_FILE).open("w", encoding="utf-8")

    def event(self, event: Record) -> None:
        """Appends one line and hands it to the operating system."""
        self._events.write(event.model_dump_json() + "\n")
        self._events.flush()

    def end(self, verdict: Verdict, log: str) -> Verdict:
        """Closes the folder. A good verdict stands only if the log on disk really gives a result."""
        self._events.flush()
        os.fsync(self._events.fileno())
        self._events.close()
        write_text(self.folder / layout.LOG_FILE, log)
        if verdict.outcome is Outcome.OK:
            try:
                with (self.folder / layout.EVENTS_FILE).open("rb") as stream:
                    result = self._result(self.spec, stream)
            except BadInput as error:
                verdict = Verdict(outcome=Outcome.CRASHED, cause=str(error), judged_by="worker")
            else:
                write_text(self.folder / layout.RESULT_FILE, result.to_json())
        verdict = verdict.model_copy(update={"events_sha256": file_sha256(self.folder / layout.EVENTS_FILE)})
        write_text(self.folder / layout.OUTCOME_FILE, verdict.to_json())
        sync_folder(self.folder.parent)
        return verdict
