"""A run's table for a terminal; names and causes are plain text in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench_core.report.cell import BATCH_SIZE
from bench_core.report.column import Entry
from bench_core.report.explain.busy_host import warning
from bench_core.report.explain.marks import SEQUENTIAL_MARK, remarks
from bench_core.report.explain.own_error import own_error
from bench_core.report.explain.same_batches import fastest
from bench_core.report.tables.results import LATENCY, THROUGHPUT, TOKENS, Result, memory_column
from bench_core.report.tables.searches import largest_sheets
from bench_core.runs.view import Row, RunView
from bench_core.system.text import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def console_table(view: RunView) -> Table:
    """A run's rows for a terminal; names and causes are plain text in it."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = (LATENCY, TOKENS, THROUGHPUT, memory_column(view))
    sequential = any(row.sequential for row in view.rows)
    captions = [text for text in (warning(view),) if text]
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
                Text(one_line(_outcome(view, row)), style="" if row.result else "red"),
            )
        table.add_section()
    return table


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
    """Searches for the largest batch size, for a terminal: without footnotes."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    for sheet in largest_sheets(view):
        table = Table(title=Text(sheet.heading), title_justify="left")
        for name, of_numbers in sheet.columns:
            table.add_column(name, justify="right" if of_numbers else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(Text(one_line(entry.text), style="red" if entry.failed else "") for entry in row))
        yield table
