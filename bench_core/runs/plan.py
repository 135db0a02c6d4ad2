"""The plan of a run's record: cells whose names may become paths."""

from __future__ import annotations

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.run import PlannedCell, RunRecord
from bench_core.runs.files import INSANE, sane


def own_error_cells(record: RunRecord) -> tuple[PlannedCell, ...]:
    """The scripted engine's cells of all visits."""
    return tuple(planned for visit in record.visits for planned in visit.harness_check or ())


def beside_the_plan(record: RunRecord) -> tuple[PlannedCell, ...]:
    """Cells that are in no table of the plan's: the scripted engine's, and those of a pool that were measured again
    alone."""
    return (*own_error_cells(record), *record.alone)


def check_plan(record: RunRecord, origin: str) -> None:
    """A cell's name becomes a path: it must be the one that its parts make, and its parts plain names.

    Raises:
        BadInput: it is not, or a cell is planned twice.
    """
    if not sane(record.model_dump()):
        raise BadInput(f"{origin}: {INSANE}")
    if not record.cells:
        raise BadInput(f"{origin}: the plan has no cell")
    seen: set[str] = set()
    for planned in (*record.cells, *beside_the_plan(record)):
        parts_are_names = layout.is_name(planned.image) and layout.is_name(planned.variant)
        if not parts_are_names or planned.cell != planned.cell_id:
            raise BadInput(f"{origin}: {planned.cell[:100]!r} is not the name of its own cell")
        if planned.cell in seen:
            raise BadInput(f"{origin}: the cell {planned.cell} is planned twice")
        seen.add(planned.cell)
