"""Methods compared on the same prompts, where time or precision ended their cells after different numbers of batches.

All cells of a batch size measure the same batches in the same order, and a slow engine gets through fewer of them. One
batch with a long prompt makes a difference of a tenth and more, most of all to engines that pad. So the fastest method
of a batch size is found on the batches that all of its ranked cells measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench_core.report.format import rate, significant
from bench_core.report.load import Row, RunView
from bench_core.report.sheet import Entry, Sheet


@dataclass(frozen=True)
class Shared:
    """What some cells have in common.

    Attributes:
        batches: measured by all of them; 0 where they have none in common.
        fewest, most: batches that they measured.
        throughput_tok_s: cell to throughput over the batches in common; empty where there is none.
    """

    batches: int
    fewest: int
    most: int
    throughput_tok_s: dict[str, float]

    @property
    def differs(self) -> bool:
        """Whether there is anything to say: somebody measured a batch that somebody else did not."""
        return self.batches < self.most


def shared_batches(view: RunView, rows: Iterable[Row]) -> Shared | None:
    """What the ranked cells among these rows, all of one batch size, have in common; ``None`` for fewer than two."""
    cells = [row for row in rows if row.result is not None and view.compares(row)]
    if len(cells) < 2:
        return None
    common = frozenset.intersection(*(frozenset(batch.prompts for batch in row.pace) for row in cells))
    counts = [len(row.pace) for row in cells]
    rates = {row.planned.cell: _throughput(row, common) for row in cells} if common else {}
    return Shared(len(common), min(counts), max(counts), rates)


def _throughput(row: Row, prompts: frozenset[tuple[int, str]]) -> float:
    batches = [batch for batch in row.pace if batch.prompts in prompts]
    return sum(batch.output_tokens for batch in batches) / math.fsum(batch.latency_s for batch in batches)


def fastest(view: RunView, rows: Sequence[Row]) -> frozenset[str]:
    """The cells with the highest throughput among the ranked ones of a batch size, on the batches that all of them
    measured; more than one only if they are equal."""
    ranked = {
        row.planned.cell: row.result.metrics.output_throughput_tok_s
        for row in rows
        if row.result is not None and view.compares(row)
    }
    shared = shared_batches(view, rows)
    if shared is not None and shared.differs and shared.throughput_tok_s:
        ranked = shared.throughput_tok_s
    best = max(ranked.values(), default=None)
    return frozenset(cell for cell, value in ranked.items() if value == best)


def shared_note(view: RunView, rows: Sequence[Row]) -> Iterator[str]:
    """What a table of one batch size says of it, where its cells measured different batches."""
    shared = shared_batches(view, rows)
    if shared is None or not shared.differs:
        return
    counted = f"Batches measured: {shared.fewest} to {shared.most}, from the first on."
    if shared.throughput_tok_s:
        yield f"{counted} Bold goes by the {shared.batches} that all measured; see On the same batches."
    else:
        yield f"{counted} No batch was measured by all."


def shared_sheet(view: RunView) -> Iterator[Sheet]:
    """Throughput on the batches in common beside that of all measured ones, for each batch size where they differ."""
    lines = []
    for size in view.batch_sizes:
        rows = view.of_batch_size(size)
        shared = shared_batches(view, rows)
        if shared is None or not shared.differs or not shared.throughput_tok_s:
            continue
        best = fastest(view, rows)
        for row in rows:
            if row.result is None or row.planned.cell not in shared.throughput_tok_s:
                continue
            common = shared.throughput_tok_s[row.planned.cell]
            own = row.result.metrics.output_throughput_tok_s
            change = (common / own - 1.0) * 100.0
            lines.append(
                (
                    Entry(row.planned.label),
                    Entry(str(size), size),
                    Entry(str(shared.batches), shared.batches),
                    Entry(rate(common), common, strong=row.planned.cell in best),
                    Entry(str(len(row.pace)), len(row.pace)),
                    Entry(rate(own), own),
                    Entry(f"{'+' if change >= 0 else '-'}{significant(abs(change), 2)}", change),
                )
            )
    if not lines:
        return
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Batches in common", True),
        ("Throughput on them (token/s)", True),
        ("Batches in all", True),
        ("Throughput (token/s)", True),
        ("Difference (%)", True),
    )
    notes = (
        "Cells of one batch size get the same batches in the same order, and end when they are precise enough or out "
        "of time. On the batches that all ranked cells measured, their prompts are the same; the bold numbers of all "
        "tables go by these.",
    )
    yield Sheet("On the same batches", columns, tuple(lines), notes)
