"""The suite beside the engine called directly, where that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench_core.report.cell import KEY, Cell, measured
from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.format import ABSENT, rate, share3
from bench_core.runs.view import RunView


def _median(cell: Cell) -> Entry:
    parity = cell.parity
    if parity is None or parity.median_ratio is None:
        return Entry(ABSENT)
    known = parity.median_low is not None and parity.median_high is not None
    interval = f" ({parity.median_low:.3f} to {parity.median_high:.3f})" if known else ""
    return Entry(f"{parity.median_ratio:.3f}{interval}", parity.median_ratio)


def _equal(cell: Cell) -> Entry:
    parity = cell.parity
    if parity is None:
        return Entry(ABSENT)
    return Entry(f"{parity.rows_with_equal_tokens} of {parity.rows}", parity.rows_with_equal_tokens)


_SUITE: Sequence[Column[Cell]] = [
    *KEY,
    Column("Suite", "parity.output_throughput_tok_s", rate, unit="token/s"),
    Column("Direct", "parity.direct_output_throughput_tok_s", rate, unit="token/s"),
    Column("Suite / direct", "parity.ratio", share3),
]
_MEDIAN = Column[Cell]("Median of batches", "parity.median_ratio", shown=_median)
_BATCHES = Column[Cell]("Batches", "parity.batches")
_ROUNDS = Column[Cell]("Rounds", "parity.rounds")
_EQUAL = Column[Cell]("Rows with equal tokens", "parity.rows_with_equal_tokens", shown=_equal)


def parity_columns(view: RunView) -> Sequence[Column[Cell]]:
    """Those that the run has numbers for; none where nothing was given to an engine directly."""
    told = [cell.parity for cell in measured(view) if cell.parity]
    medians = [_MEDIAN] if any(parity.median_ratio is not None for parity in told) else []
    rounds = [_ROUNDS] if any(parity.rounds > 1 for parity in told) else []
    return (*_SUITE, *medians, _BATCHES, *rounds, _EQUAL) if told else ()


def parity_sheet(view: RunView) -> Iterator[Sheet]:
    """One line for each cell whose batches were given to the engine directly, too."""
    columns = parity_columns(view)
    if columns:
        cells = [cell for cell in measured(view) if cell.parity]
        yield sheet("Parity", columns, cells, _notes(_MEDIAN in columns, _ROUNDS in columns))


def _notes(medians: bool, rounds: bool) -> Iterator[str]:
    yield (
        "Direct: the last measured batches given once more to the same loaded engine in the way of its own "
        "documentation, without the suite's code in between, right after the measurement. 1: the suite costs nothing."
    )
    if medians:
        yield (
            "Suite: each of these batches by the suite once more, right beside the direct one and in turns before and "
            "after it, so that a host that is quicker now than then is so for both; without a median, the batch as it "
            "was measured. In brackets the median's 95 % interval, from six batches on, whatever their distribution."
        )
    if rounds:
        yield (
            "Rounds: how often each batch was given to both. Suite / direct is of all of them; the median takes of "
            "each batch the fastest of either side, since a host that is busy makes a call slower and never faster."
        )
