"""Throughputs beside each other: on the batches that cells have in common, over repeats, over visits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench_core.contract.measures.repeats import BetweenRuns
from bench_core.contract.records.run import VisitInfo
from bench_core.report.cell import BATCH_SIZE, KEY, METHOD, Cell
from bench_core.report.column import Column, Entry, Sheet, at, sheet
from bench_core.report.explain.marks import MISFIT_MARK, mark_notes
from bench_core.report.explain.repeats import over_repeats
from bench_core.report.explain.same_batches import fastest, in_common, shared_batches
from bench_core.report.explain.visits import control_cells
from bench_core.report.format import ABSENT, NO_GPU, digits, percent, quantity, rate, rate_within
from bench_core.runs.view import Row, RunView

# --- on the same batches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shared(Cell):
    """A cell beside the fastest one. Rates are those on the batches that both measured, tokens/s."""

    leads: bool
    batches: int
    own_tok_s: float | None
    fastest_tok_s: float | None
    by_the_tables: float | None

    @property
    def share(self) -> float | None:
        """Per cent of the fastest."""
        return self.own_tok_s / self.fastest_tok_s * 100 if self.own_tok_s is not None and self.fastest_tok_s else None


def _shared(view: RunView, row: Row, lead: Row, *, leads: bool) -> _Shared:
    told = row.rate.throughput_tok_s / lead.rate.throughput_tok_s * 100 if row.rate and lead.rate else None
    return _Shared(view, row, leads, *in_common(row, lead), told)


_SHARED: Sequence[Column[_Shared]] = [
    replace(METHOD, strong=at("leads")),
    BATCH_SIZE,
    Column("Batches", lambda cell: len(cell.row.pace)),
    Column("In common with the fastest", "batches"),
    Column("Throughput on them", "own_tok_s", rate, unit="token/s"),
    Column("The fastest on them", "fastest_tok_s", rate, unit="token/s"),
    Column("Of the fastest", "share", digits(3), unit="%"),
    Column("Of the fastest by the tables", "by_the_tables", digits(3), unit="%"),
]


def shared_sheet(view: RunView) -> Iterator[Sheet]:
    """Every method beside the fastest on the batches that both measured, for each batch size where batches differ."""
    lines: list[_Shared] = []
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        shared = shared_batches(view, rows)
        if shared is None or not shared.differs:
            continue
        best = fastest(view, rows)
        lead = next(row for row in rows if row.planned.cell in best)
        lines += [_shared(view, row, lead, leads=row.planned.cell in best) for row in view.ranked(rows)]
    if lines:
        yield sheet("On the same batches", _SHARED, lines, _SHARED_NOTES)


_SHARED_NOTES = (
    "Cells of one batch size get the same batches in the same order, and end when they are precise enough or out "
    "of time. On batches in common the prompts are the same. By the tables: by the throughput that the other "
    "tables print.",
)

# --- over repeats -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Repeated(Cell):
    """A cell that was measured repeatedly. ``over``: its repeats that have numbers; ``None`` where none has."""

    planned: int
    over: BetweenRuns | None


def _runs(cell: _Repeated) -> Entry:
    runs = cell.over.runs if cell.over else 0
    return Entry(f"{runs} of {cell.planned}", runs, failed=not cell.over)


def _mean(cell: _Repeated) -> Entry:
    over = cell.over
    if over is None:
        return Entry(ABSENT)
    text = rate_within(over.mean_tok_s, over.half_width_tok_s)
    return Entry(text, over.mean_tok_s, mark="" if over.represents else MISFIT_MARK)


def _range(cell: _Repeated) -> Entry:
    over = cell.over
    if over is None:
        return Entry(ABSENT)
    return Entry(f"{rate(over.low_tok_s)} to {rate(over.high_tok_s)}", over.high_tok_s - over.low_tok_s)


def _agreeing(cell: _Repeated) -> Entry:
    over = cell.over
    if over is None or over.agreeing is None:
        return Entry(ABSENT)
    return Entry(f"{over.agreeing} of {over.runs}", over.agreeing)


def _none_measured(cell: _Repeated) -> str:
    return "" if cell.over else ABSENT


_OVER: Sequence[Column[_Repeated]] = [
    Column("Mean", "over.mean_tok_s", unit="token/s", shown=_mean),
    Column("Stdev", "over.stdev_tok_s", rate, unit="token/s"),
    Column("Stdev", "over.relative_stdev", percent, unit="%"),
    Column("Range", "over.high_tok_s", unit="token/s", shown=_range),
    Column("Interval within", "over.within_relative_half_width", percent, unit="± %"),
    Column("Agreeing", "over.agreeing", shown=_agreeing),
]
_REPEATS: Sequence[Column[_Repeated]] = [
    *KEY,
    Column("Repeats", "over.runs", shown=_runs),
    *(replace(column, failed=_none_measured) for column in _OVER),
]


def repeats_sheet(view: RunView) -> Iterator[Sheet]:
    """One line for each cell that was measured repeatedly."""
    most = view.record.repeats
    if most == 1:
        return
    summed = over_repeats(view)
    lines = [
        _Repeated(view, rows[0], sum(row.planned.repeat <= most for row in rows), summed.get(rows[0].planned.cell))
        for rows in view.repeated
    ]
    marks = mark_notes([row for rows in view.repeated for row in rows])
    notes = (_REPEATS_NOTE, *(note for note in marks if note.startswith(MISFIT_MARK)))
    yield sheet("Repeats", _REPEATS, lines, notes)


_REPEATS_NOTE = (
    "The whole grid was measured repeatedly, in a random order each time, every repeat in a process of its own. "
    "Mean: of the repeats' throughputs, ± half of its 95 % confidence interval by their spread "
    "(Student's). Stdev: between runs. Interval within: mean of the repeats' own 95 % intervals. Where the first "
    "is much larger than the second, an engine differs from start to start. Agreeing: repeats that lie within the "
    "mean of the others ± the mean of their half intervals (none: 0) and the stdev. The other tables show the "
    "first repeat, whose memory and token times belong together; At a glance and the figure show means."
)

# --- over visits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Control(Cell):
    """A control cell. ``base_tok_s``: throughput of the first of its rows that has one."""

    base_tok_s: float | None

    @property
    def throughput_tok_s(self) -> float | None:
        """Of this row."""
        return self.row.rate.throughput_tok_s if self.row.rate else None

    @property
    def change(self) -> float | None:
        """Per cent from the base."""
        value, base = self.throughput_tok_s, self.base_tok_s
        return (value / base - 1.0) * 100.0 if value is not None and base else None


def _place(cell: Cell) -> str:
    """The card by the beginning of its UUID, or the host's processor."""
    view, row = cell.view, cell.row
    if row.spec is None:
        return ABSENT
    if row.spec.gpu_uuid is not None:
        return _short_uuid(row.spec.gpu_uuid)
    if row.spec.placement is not None:
        return row.spec.placement.worker
    visit = view.visit_of(row)
    return view.record.all_visits[visit - 1].host.cpu if visit else view.record.host.cpu


def _short_uuid(uuid: str) -> str:
    """The beginning of a GPU's UUID, enough to tell the cards of a run apart: ``GPU-1a2b3c4d``."""
    return uuid[:12]


def _outcome(cell: Cell) -> str:
    return "" if cell.rate else cell.row.status


_CONTROL: Sequence[Column[_Control]] = [
    *KEY,
    Column("Repeat", "row.planned.repeat"),
    Column("Visit", lambda cell: cell.view.visit_of(cell.row)),
    Column("Measured on", _place, words=True),
    Column(
        "Throughput", "throughput_tok_s", rate, unit="token/s", failed=lambda cell: "" if cell.rate else cell.row.status
    ),
    Column("Difference", "change", "{:+.2f}".format, unit="%"),
]


def control_sheet(view: RunView) -> Iterator[Sheet]:
    """Cells measured more than once: how far apart the same work came out."""
    lines: list[_Control] = []
    for rows in control_cells(view):
        base = next((row.rate.throughput_tok_s for row in rows if row.rate), None)
        lines += [_Control(view, row, base) for row in rows]
    if lines:
        yield sheet("Control cell", _CONTROL, lines, _CONTROL_NOTES)


_CONTROL_NOTES = (
    "The same cell measured again, at the beginning of each visit: how far machines and days differ. Difference: "
    "from the first of these rows that has a number. The other tables show the first repeat.",
)


@dataclass(frozen=True)
class _Visit:
    number: int
    info: VisitInfo
    cells: int


_VISITS: Sequence[Column[_Visit]] = [
    Column("Visit", "number"),
    Column("Begun", "info.started_utc", words=True),
    Column("GPU", lambda visit: ", ".join(_short_uuid(gpu.uuid) for gpu in visit.info.gpus) or NO_GPU, words=True),
    Column(
        "Driver",
        lambda visit: ", ".join(dict.fromkeys(gpu.driver_version for gpu in visit.info.gpus)) or ABSENT,
        words=True,
    ),
    Column("Host", lambda visit: f"{visit.info.host.cpu}, {quantity(visit.info.host.cores, 'core')}", words=True),
    Column("Commit", lambda visit: (visit.info.git_commit or "")[:12] or ABSENT, words=True),
    Column("Cells", "cells"),
]


def visits_sheet(view: RunView) -> Iterator[Sheet]:
    """Where a run was measured, if that was on more than one occasion."""
    visits = view.record.all_visits
    if len(visits) == 1:
        return
    numbers = [view.visit_of(row) for row in view.every]
    lines = [_Visit(number, visit, numbers.count(number)) for number, visit in enumerate(visits, start=1)]
    notes = ["Cells: those whose files are of that visit; a cell that was measured again counts for the later one."]
    if len({visit.harness for visit in visits}) > 1:
        notes.append(
            "The suite's own code inside the images is not known to be the same in all visits; see the commits."
        )
    yield sheet("Visits", _VISITS, lines, notes)
