"""What a report says, as plain text in its place: Markdown, HTML and the terminal only dress it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench_core.contract.statistics.distribution import VALUES_BEYOND_A_PERCENTILE
from bench_core.report.cell import KEY, RAW, Cell
from bench_core.report.column import Column, Sheet
from bench_core.report.decide.cost import NO_PRICE, Prices
from bench_core.report.decide.verdict import verdict
from bench_core.report.explain.facts import facts
from bench_core.report.figures.draw import BEST_SOMEWHERE, MOST_METHODS
from bench_core.report.figures.scaling import compared
from bench_core.report.fleet.sheets import fleet_sheets
from bench_core.report.served import RAW as SERVED_RAW
from bench_core.report.served import Served
from bench_core.report.tables import (
    compare,
    device,
    host,
    memory,
    quality,
    results,
    roofline,
    times,
)
from bench_core.report.tables.cost import cell_cost_columns, cost_sheet, served_cost_columns
from bench_core.report.tables.device_time import device_time_sheet
from bench_core.report.tables.engines import engines_sheet, images_sheet, marked_sheet, servers_sheet
from bench_core.report.tables.glance import glance_sheet
from bench_core.report.tables.parity import parity_columns, parity_sheet
from bench_core.report.tables.searches import largest_sheets, smallest_sheet
from bench_core.report.tables.serving import detail, load
from bench_core.report.tables.serving.capacity import capacity_sheets
from bench_core.report.tables.serving.glance import serving_glance_sheet
from bench_core.report.tables.serving.nodes import nodes_sheet
from bench_core.runs.view import Ended, RunView
from bench_core.system.text import foreign


@dataclass(frozen=True)
class Failure:
    """A cell without numbers. ``scenario``: in words, as ``batch size 4``."""

    method: str
    scenario: str
    status: str
    cause: str
    evidence: str


@dataclass(frozen=True)
class FigureGroup:
    """Figures that stand together: a heading, and (name of the file, description) of each."""

    heading: str
    figures: tuple[tuple[str, str], ...]


SCALING = FigureGroup(
    "Scaling",
    (
        ("throughput", "Throughput by batch size, one line for each method"),
        ("memory", "Peak memory by batch size, one line for each method"),
    ),
)


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        verdict: the first sentences.
        verdicts: of each ranking, of which a report of one run has one, the first sentences of each batch size and load
            point by its word: what a page says when one is chosen.
        facts: what was measured, on what, when: (name, text).
        images: what each engine ran in, and versions.
        meanings: one line for each column: (column, text).
        glance: the winners of each batch size, where methods are compared.
        results: one table for each batch size, then one for each load point.
        figures: groups of them, where there are any.
        details: further tables over all batch sizes.
        failures: every cell without numbers, with its cause.
        beside: where the report is of several runs, what is equal in them and what differs; stands at the top.
        closing: what the numbers follow from; ``again``: how they are made again, in Markdown.
    """

    title: str
    verdict: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    images: Sheet
    meanings: tuple[tuple[str, str], ...]
    glance: tuple[Sheet, ...]
    results: tuple[Sheet, ...]
    figures: tuple[FigureGroup, ...]
    details: tuple[Sheet, ...]
    failures: tuple[Failure, ...]
    verdicts: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    beside: tuple[Sheet, ...] = ()
    closing: str = "Every number here follows from the raw events of this run."
    again: str = "`python -m bench_core.report RUN` computes them again."


def document(view: RunView, prices: Prices = NO_PRICE) -> Document:
    """Words a run, with the cost of output tokens where a price is given."""
    said = verdict(view)
    return Document(
        title=f"Run {view.record.run_id}",
        verdict=said.sentences,
        verdicts=(said.at,),
        facts=tuple(facts(view)),
        images=images_sheet(view),
        meanings=tuple(_meanings(view, prices)),
        glance=(*glance_sheet(view), *serving_glance_sheet(view)),
        results=(
            *(results.result_sheet(view, size) for size in view.batch_sizes),
            *load.load_sheets(view),
        ),
        figures=tuple(_figures(view)),
        details=tuple(_details(view, prices)),
        failures=failures_of(view),
    )


def failures_of(view: RunView) -> tuple[Failure, ...]:
    """Every cell without numbers."""
    return tuple(_failure(row) for row in view.every if not row.measured)


def _figures(view: RunView) -> Iterator[FigureGroup]:
    if view.rows:
        yield _of_the_best(SCALING, compared(view), BEST_SOMEWHERE)
    drawn = tuple(serving_figures(view))
    if drawn:
        yield _of_the_best(FigureGroup("Throughput and latency under load", drawn), view.served, "the best")


def _of_the_best(group: FigureGroup, rows: Iterable[Ended], which: str) -> FigureGroup:
    """The same, where there are too many methods for a figure with words on which of them it shows."""
    methods = len({(row.planned.image, row.planned.variant) for row in rows})
    if methods <= MOST_METHODS:
        return group
    words = f"{MOST_METHODS} of {methods:,}, {which}; the tables have all"
    return FigureGroup(group.heading, tuple((name, f"{alt} ({words})") for name, alt in group.figures))


def serving_figures(view: RunView) -> Iterator[tuple[str, str]]:
    """Name and description of the figures of cells under load that a run has."""
    if view.served:
        yield (
            "frontier",
            "Throughput against tokens per second per user, one line for each method through its load points",
        )
    if any(row.load.request_rate is not None for row in view.served):
        yield "ttft", "Time to first token by request rate, median and 99th percentile, one colour for each method"


def _details(view: RunView, prices: Prices) -> Iterator[Sheet]:
    yield from cost_sheet(view, prices)
    yield from detail.latency_sheet(view)
    yield from detail.measured_sheet(view)
    yield from servers_sheet(view)
    yield from nodes_sheet(view)
    yield from capacity_sheets(view)
    if view.rows:
        yield from _batch_details(view)
    yield from fleet_sheets(view)
    yield from compare.visits_sheet(view)
    yield from marked_sheet(view)
    yield from host.own_error_sheets(view)


def _batch_details(view: RunView) -> Iterator[Sheet]:
    yield from results.beside_sheet(view)
    yield times.times_sheet(view)
    yield times.measured_sheet(view)
    yield from host.cpu_sheet(view)
    yield from compare.shared_sheet(view)
    yield from compare.repeats_sheet(view)
    yield from device_time_sheet(view)
    yield memory.memory_sheet(view)
    yield from parity_sheet(view)
    yield from quality.quality_sheet(view)
    yield from device.device_sheet(view)
    yield from roofline.roofline_sheet(view)
    yield from roofline.peaks_sheet(view)
    yield from memory.explained_sheet(view)
    yield from smallest_sheet(view)
    yield from largest_sheets(view)
    yield engines_sheet(view)
    yield from compare.control_sheet(view)


_Told = Callable[[RunView], bool]


def _always(_view: RunView) -> bool:
    return True


def _of_cells() -> Iterator[tuple[_Told, Sequence[Column[Cell]]]]:
    """Columns of a cell of closed batches besides those of the results, and whether a run has them."""
    yield _always, (*KEY, *RAW)
    yield _always, (*times.TIMES, *times.MEASURED, *times.RAW)
    yield (
        _always,
        (*memory.stages("device_memory"), *memory.stages("host_memory"), *memory.POOL, *memory.RAW),
    )
    yield lambda view: view.quality is not None, (*quality.QUALITY, *quality.RAW)
    yield device.device_told, (*device.DEVICE, *device.RAW)
    yield lambda view: bool(view.device_rates), roofline.ROOFLINE
    yield host.cpu_told, (*host.CPU, *host.CPU_RAW)


def cell_columns(view: RunView, prices: Prices = NO_PRICE) -> Iterator[Column[Cell]]:
    """Every column of a cell that this run's tables have, each table's in their order, and those of the CSV alone."""
    yield from results.result_columns(view)
    if view.gpus_per_cell > 1:
        yield results.GPUS
    yield from parity_columns(view)
    for told, columns in _of_cells():
        if told(view):
            yield from columns
    yield from cell_cost_columns(prices)


def every_cell_column() -> tuple[Column[Cell], ...]:
    """The same of any run, without costs."""
    of_cells = (column for _, columns in _of_cells() for column in columns)
    return (*results.columns_on(on_cuda=True, split=True), results.GPUS, *of_cells)


def served_columns(view: RunView, prices: Prices = NO_PRICE) -> Iterator[Column[Served]]:
    """Every column of a cell under load that this run's tables have, and those of the CSV alone."""
    yield from (*SERVED_RAW, *load.load_columns(view), *detail.MEASURED, *detail.RAW)
    if view.gpus_per_cell > 1:
        yield load.GPUS
    yield from served_cost_columns(prices)


def every_served_column() -> tuple[Column[Served], ...]:
    """The same of any run, without costs."""
    return (*SERVED_RAW, *load.EVERY, *detail.MEASURED, *detail.RAW)


def _meanings(view: RunView, prices: Prices) -> Iterator[tuple[str, str]]:
    """Each column that says what it means, once."""
    if view.served:
        yield from {c.heading: c.meaning for c in served_columns(view, prices) if c.meaning}.items()
    if not view.rows:
        return
    told = {column.heading: column.meaning for column in cell_columns(view, prices) if column.meaning}
    yield from told.items()
    yield (
        "Percentiles",
        (
            f"given in result.json only where {VALUES_BEYOND_A_PERCENTILE} values or more lie beyond: "
            "p90 from 50 values, p95 from 100, p99 from 500"
        ),
    )


def _failure(row: Ended) -> Failure:
    evidence: list[str] = []
    if row.planned.repeat > 1:
        evidence.append(f"repeat {row.planned.repeat}")
    if row.verdict is not None and row.damage is None and not row.verdict.never_begun:
        if row.verdict.phase:
            evidence.append(f"phase {row.verdict.phase}")
        if row.verdict.exit_code is not None:
            evidence.append(f"exit code {row.verdict.exit_code}")
        evidence += [f"{name} {foreign(value)}" for name, value in sorted(row.verdict.evidence.items())]
        evidence.append(f"judged by the {row.verdict.judged_by}")
    return Failure(row.label, row.planned.scenario.words, row.status, row.problem, ", ".join(evidence))
