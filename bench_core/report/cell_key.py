"""What the tables of details begin with: which cell a row is of."""

from __future__ import annotations

from bench_core.report.load import Row
from bench_core.report.sheet import Entry


def cell_key(row: Row, *, strong: bool = False) -> tuple[Entry, Entry]:
    """Method and batch size."""
    return Entry(row.planned.label, strong=strong), Entry(str(row.planned.batch_size), row.planned.batch_size)
