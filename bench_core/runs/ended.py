"""What became of a planned cell, as far as every cell's records tell it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench_core.contract.errors import first_line
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import PlannedCell, RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.runs.files import Damage, Unreadable, read_record
from bench_core.runs.specs import check_spec
from bench_core.runs.view import Row, ServedRow

ROW = TypeVar("ROW", Row, ServedRow)


def ended_row(
    kind: type[ROW],
    run_folder: Path,
    record: RunRecord,
    planned: PlannedCell,
    measured: Callable[[CellSpec, Verdict], ROW],
) -> ROW:
    """A planned cell; one that is not ``ok`` has no numbers, and a damaged one is a row that says so.

    Args:
        measured: the row of one that is said to be ok, with its numbers; raises ``Unreadable`` or ``OSError``.
    """
    folder = layout.cell_folder(run_folder, planned.cell)
    spec: CellSpec | None = None
    verdict: Verdict | None = None
    try:
        spec = read_record(run_folder, folder / layout.SPEC_FILE, CellSpec)
        if spec is not None:
            check_spec(spec, record, planned)
        verdict = read_record(run_folder, folder / layout.OUTCOME_FILE, Verdict)
        if verdict is None or verdict.outcome is not Outcome.OK:
            return kind(planned, spec, verdict)
        if spec is None:
            raise Unreadable(layout.SPEC_FILE, "the file is missing, so what was measured is not known")
        return measured(spec, verdict)
    except Unreadable as damaged:
        return kind(planned, spec, verdict, damage=damaged.damage)
    except OSError as error:  # a folder that may not be searched, for example
        return kind(planned, spec, verdict, damage=Damage(planned.cell, error.strerror or first_line(error)))
