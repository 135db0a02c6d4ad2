"""A run's table for a terminal; names and causes are plain text in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_core.report.cell import BATCH_SIZE
from bench_core.report.column import Entry
from bench_core.report.explain import waves
from bench_core.report.explain.busy_host import warning
from bench_core.report.explain.marks import NOT_RANKED_MARK, SEQUENTIAL_MARK, remarks
from bench_core.report.explain.own_error import own_error, own_error_under_load
from bench_core.report.explain.same_batches import fastest
from bench_core.report.explain.under_load import (
    NONE_FAILED,
    asked_limits,
    busy_words,
    failed_words,
    not_compared,
    not_ranked,
    state,
)
from bench_core.report.format import significant
from bench_core.report.served import load_points
from bench_core.report.tables.results import LATENCY, THROUGHPUT, TOKENS, Result, memory_column
from bench_core.report.tables.searches import largest_sheets
from bench_core.report.tables.serving.capacity import capacity_sheets
from bench_core.report.tables.serving.load import REQUESTS, TPOT_P50, TTFT_P50, TTFT_P99, WITHIN, loaded
from bench_core.report.tables.serving.load import THROUGHPUT as OUTPUT
from bench_core.runs.view import Ended, Row, RunView, ServedRow
from bench_core.system.text import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def console_tables(view: RunView) -> Iterator[Table]:
    """All tables of a run for a terminal: closed batches, cells under load, searches; each where there is any."""
    if view.rows:
        yield console_table(view)
    yield from console_serving(view)
    yield from console_searches(view)


def console_table(view: RunView) -> Table:
    """A run's rows of closed batches for a terminal; names and causes are plain text in it."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = (LATENCY, TOKENS, THROUGHPUT, memory_column(view))
    sequential = any(row.sequential for row in view.rows)
    captions = [text for text in (waves.warning(view), warning(view)) if text]
    captions += [f"{SEQUENTIAL_MARK} one prompt of a batch after the other"] if sequential else []
    error = own_error(view)
    captions += [f"the suite's own error: {error}"] if error is not None else []
    caption = Text("; ".join(captions)) if captions else None
    table = Table(title=Text(one_line(view.record.run_id)), title_justify="left", caption=caption)
    table.add_column("Method", overflow="fold")
    for column in (BATCH_SIZE, *shown):
        table.add_column(column.heading, justify="right")
    table.add_column("Outcome", overflow="fold")
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        best = fastest(view, rows)
        for row in rows:
            line = Result(view, row, best=row.planned.cell in best)
            table.add_row(
                Text(one_line(row.label) + (f" {SEQUENTIAL_MARK}" if row.sequential else "")),
                Text(str(size)),
                *(_text(row, column.entry(line)) for column in shown),
                Text(one_line(_outcome(view, row)), style=_style(row)),
            )
        table.add_section()
    return table


def console_serving(view: RunView) -> Iterator[Table]:
    """A run's cells under load for a terminal, load point by load point; nothing where there are none."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not view.served:
        return
    limits = (replace(WITHIN, shown=None, written=lambda share: significant(share * 100, 3)),)
    requests = replace(REQUESTS, shown=None, written=significant)
    shown = (OUTPUT, requests, TTFT_P50, TTFT_P99, TPOT_P50, *(limits if asked_limits(view) else ()))
    lines = [line for load in load_points(view) for line in loaded(view, load)]
    captions = [*filter(None, [busy_words(view)]), *(f"{NOT_RANKED_MARK} {text}" for text in not_ranked(view.served))]
    error = "" if view.rows else own_error_under_load(view)  # with closed batches it stands below their table
    captions += [f"the suite's own error: {error}"] if error else []
    table = Table(
        title=Text(f"{one_line(view.record.run_id)}, under load"),
        title_justify="left",
        caption=Text("; ".join(map(one_line, captions))) if captions else None,
        caption_justify="left",
    )
    for name in ("Method", "Load"):
        table.add_column(name, overflow="fold")
    for column in shown:
        table.add_column(column.heading, justify="right")
    table.add_column("Outcome", overflow="fold")
    for line, following in zip(lines, (*lines[1:], None), strict=True):
        mark = f" {NOT_RANKED_MARK}" if line.row.result and not_compared(line.row) else ""
        table.add_row(
            Text(one_line(line.label) + mark),
            Text(line.row.load.mark),
            *(_entry(column.entry(line)) for column in shown),
            Text(one_line(_served_outcome(line.row)), style=_style(line.row)),
            end_section=following is None or following.row.load != line.row.load,
        )
    yield table


def _style(row: Ended) -> str:
    return "" if row.measured else "yellow" if row.pending else "red"


def _entry(entry: Entry) -> Text:
    from rich.text import Text  # noqa: PLC0415

    return Text(entry.text, style="bold" if entry.strong else "red" if entry.failed else "")


def _served_outcome(row: ServedRow) -> str:
    """The outcome, and failed requests, which are never silent."""
    if row.result is None:
        return f"{row.status}: {row.problem}"
    failed = failed_words(row.result.metrics.requests)
    if failed == NONE_FAILED:
        return state(row)
    behind = failed.removeprefix(f"{NONE_FAILED}; ")
    return f"{state(row)}, {behind if behind != failed else f'failed: {failed}'}"


def _text(row: Row, entry: Entry) -> Text:
    from rich.text import Text  # noqa: PLC0415

    style = "bold" if entry.strong else "red" if entry.failed else ""
    return Text(f"{entry.text} {entry.mark}".rstrip() if row.result else row.status, style=style)


def _outcome(view: RunView, row: Row) -> str:
    if not row.result:
        return f"{row.status}: {row.problem}"
    unranked = view.unranked(row)
    return ", ".join([row.status, *remarks(row)]) + (f", not ranked: {unranked}" if unranked else "")


def console_searches(view: RunView) -> Iterator[Table]:
    """Searches for the largest batch size and for the highest load, for a terminal: without footnotes."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    for sheet in (*largest_sheets(view), *capacity_sheets(view)):
        table = Table(title=Text(sheet.heading), title_justify="left")
        for name, of_numbers in sheet.columns:
            table.add_column(name, justify="right" if of_numbers else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(Text(one_line(entry.text), style="red" if entry.failed else "") for entry in row))
        yield table
