"""A run of several visits: which method was measured when and on what, and how far the visits differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench_core.report.cell_key import cell_key
from bench_core.report.format import ABSENT, NO_GPU, quantity, rate
from bench_core.report.sheet import Entry, Sheet
from bench_core.runs.view import Row, RunView

_IN_NO_INTERVAL = "what hosts differ by is in no interval"


def visits_note(view: RunView, rows: Sequence[Row]) -> Iterator[str]:
    """What a table says whose rows are of different visits; an image's name stands for all of its methods."""
    visit_of = {row.planned.cell: view.visit_of(row) for row in rows if row.result is not None}
    methods: dict[int, list[str]] = {}
    for row in rows:
        visit = visit_of.get(row.planned.cell)
        if visit is None:
            continue
        of_image = [other for other in rows if other.planned.image == row.planned.image and other.result is not None]
        together = len(of_image) > 1 and {visit_of[other.planned.cell] for other in of_image} == {visit}
        name = row.planned.image if together else row.label
        if name not in methods.setdefault(visit, []):
            methods[visit].append(name)
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
    for rows in _controls(view):
        found = {view.visit_of(row): rate(row.rate.throughput_tok_s) for row in rows if row.rate is not None}
        return {visit: text for visit, text in found.items() if visit is not None}
    return {}


def _controls(view: RunView) -> list[tuple[Row, ...]]:
    return [rows for rows in view.repeated if rows[-1].planned.repeat > view.record.repeats]


def control_sheet(view: RunView) -> Iterable[Sheet]:
    """Cells measured more than once: how far apart the same work came out."""
    controls = _controls(view)
    if not controls:
        return
    rows = []
    for repeats in controls:
        base: float | None = None
        for row in repeats:
            value = row.rate.throughput_tok_s if row.rate else None
            base = value if base is None else base
            change = (value / base - 1.0) * 100.0 if value is not None and base else None
            rows.append(
                (
                    *cell_key(row),
                    Entry(str(row.planned.repeat), row.planned.repeat),
                    Entry(str(view.visit_of(row) or ABSENT), view.visit_of(row)),
                    Entry(_place(view, row)),
                    Entry(rate(value), value) if value is not None else Entry(row.status, failed=True),
                    Entry(ABSENT if change is None else f"{change:+.2f}", change),
                )
            )
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Repeat", True),
        ("Visit", True),
        ("Measured on", False),
        ("Throughput (token/s)", True),
        ("Difference (%)", True),
    )
    notes = (
        "The same cell measured again, at the beginning of each visit: how far machines and days differ. Difference: "
        "from the first of these rows that has a number. The other tables show the first repeat.",
    )
    yield Sheet("Control cell", columns, tuple(rows), notes)


def _place(view: RunView, row: Row) -> str:
    """The card by the beginning of its UUID, or the host's processor."""
    if row.spec is None:
        return ABSENT
    if row.spec.gpu_uuid is not None:
        return _short_uuid(row.spec.gpu_uuid)
    visit = view.visit_of(row)
    return view.record.all_visits[visit - 1].host.cpu if visit else view.record.host.cpu


def _short_uuid(uuid: str) -> str:
    """The beginning of a GPU's UUID, enough to tell the cards of a run apart: ``GPU-1a2b3c4d``."""
    return uuid[:12]


def visits_sheet(view: RunView) -> Iterable[Sheet]:
    """Where a run was measured, if that was on more than one occasion."""
    visits = view.record.all_visits
    if len(visits) == 1:
        return
    measured = [view.visit_of(row) for row in view.rows]
    rows = tuple(
        (
            Entry(str(number), number),
            Entry(visit.started_utc),
            Entry(", ".join(_short_uuid(gpu.uuid) for gpu in visit.gpus) or NO_GPU),
            Entry(", ".join(dict.fromkeys(gpu.driver_version for gpu in visit.gpus)) or ABSENT),
            Entry(f"{visit.host.cpu}, {quantity(visit.host.cores, 'core')}"),
            Entry((visit.git_commit or "")[:12] or ABSENT),
            Entry(str(measured.count(number)), measured.count(number)),
        )
        for number, visit in enumerate(visits, start=1)
    )
    columns = (
        ("Visit", True),
        ("Begun", False),
        ("GPU", False),
        ("Driver", False),
        ("Host", False),
        ("Commit", False),
        ("Cells", True),
    )
    notes = ["Cells: those whose files are of that visit; a cell that was measured again counts for the later one."]
    if len({visit.harness for visit in visits}) > 1:
        notes.append(
            "The suite's own code inside the images is not known to be the same in all visits; see the commits."
        )
    yield Sheet("Visits", columns, rows, tuple(notes))
