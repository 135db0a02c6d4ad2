"""A run of several visits: which method was measured when, and what the control cell gave there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench_core.report.format import rate
from bench_core.runs.view import Row, RunView

_IN_NO_INTERVAL = "what hosts differ by is in no interval"


def visits_note(view: RunView, rows: Sequence[Row]) -> Iterator[str]:
    """What a table says whose rows are of different visits; an image's name stands for all of its methods."""
    visit_of = {row.planned.cell: view.visit_of(row) for row in rows if row.result is not None}
    of_image: dict[str, list[int | None]] = {}
    for row in rows:
        if row.result is not None:
            of_image.setdefault(row.planned.image, []).append(visit_of[row.planned.cell])
    alone = {image for image, visits in of_image.items() if len(visits) > 1 and len(set(visits)) == 1}
    methods: dict[int, dict[str, None]] = {}
    for row in rows:
        visit = visit_of.get(row.planned.cell)
        if visit is None:
            continue
        methods.setdefault(visit, {})[row.planned.image if row.planned.image in alone else row.label] = None
    if len(methods) < 2:
        return
    controls = _control_rates(view)
    shown = " (the control cell gave so much there)" if controls else ""
    told = "; ".join(
        f"visit {visit}{f', {controls[visit]} token/s' if visit in controls else ''}: {', '.join(methods[visit])}"
        for visit in sorted(methods)
    )
    yield f"Measured at different visits, and {_IN_NO_INTERVAL}{shown}: {told}."


def glance_note(view: RunView) -> Iterator[str]:
    """The same for the whole run, without names."""
    visits = {visit for row in view.grid if row.result is not None and (visit := view.visit_of(row)) is not None}
    if len(visits) < 2:
        return
    controls = _control_rates(view)
    gave = f"; the control cell gave {', '.join(controls.values())} token/s there, see Control cell" if controls else ""
    yield f"Measured at {len(visits)} visits, and {_IN_NO_INTERVAL}{gave}."


def _control_rates(view: RunView) -> dict[int, str]:
    """Visit to throughput of the first control cell there."""
    for rows in control_cells(view):
        found = {view.visit_of(row): rate(row.rate.throughput_tok_s) for row in rows if row.rate is not None}
        return {visit: text for visit, text in found.items() if visit is not None}
    return {}


def control_cells(view: RunView) -> list[tuple[Row, ...]]:
    """The rows of each cell that was measured at more visits than the grid has repeats."""
    return [rows for rows in view.repeated if rows[-1].planned.repeat > view.record.repeats]
