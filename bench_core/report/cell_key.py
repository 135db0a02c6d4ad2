"""What the tables of details begin with: which cell a row is of."""

from __future__ import annotations

from bench_core.report.format import ABSENT
from bench_core.report.sheet import Entry
from bench_core.runs.view import Row


def cell_key(row: Row, *, strong: bool = False) -> tuple[Entry, Entry]:
    """Method and batch size."""
    return Entry(row.label, strong=strong), Entry(str(row.planned.batch_size), row.planned.batch_size)


def bits_entry(row: Row) -> Entry:
    """Bits that a weight takes, two decimals."""
    return Entry(ABSENT) if row.bits is None else Entry(f"{row.bits.per_weight:.2f}", row.bits.per_weight)
