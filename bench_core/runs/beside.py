"""What neighbours on the same host cost: the same cell beside others and again alone, batch by batch.

Both measured the same prompts in the same order, so that each batch is held against itself; what prompts differ by is
then in no interval. Each was started once: what an engine differs by from start to start is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench_core.contract.records.run import RunRecord
from bench_core.contract.statistics.interval import FEWEST_BATCHES, student_quantile
from bench_core.runs.view import Row, RunView

# A difference matters if it is surely there, and as large as what cells are measured to (--precision).
MATTERS_FROM = 0.01
FEWEST_NEIGHBOURS = 0.5


@dataclass(frozen=True)
class Change:
    """Of a throughput, as a share of it: how much higher it is beside others; below 0: lower.

    Attributes:
        half_width: of the 95 % confidence interval; ``None`` for fewer than five batches.
    """

    share: float
    half_width: float | None

    @property
    def matters(self) -> bool:
        """Whether it is told from nothing, and is not small."""
        return self.half_width is not None and abs(self.share) > self.half_width and abs(self.share) >= MATTERS_FROM

    @property
    def words(self) -> str:
        """``-0.4 ± 0.6 %``."""
        within = "" if self.half_width is None else f" ± {100 * self.half_width:.1f}"
        return f"{100 * self.share:+.1f}{within} %"


@dataclass(frozen=True)
class Sampled:
    """A cell that was measured beside others and again alone.

    Attributes:
        neighbours: cells at work on other devices meanwhile, on average; ``None`` where the logs do not tell.
        change: ``None`` where one of the two has no numbers, or they share no batch.
    """

    beside: Row
    alone: Row
    neighbours: float | None
    change: Change | None

    @property
    def told(self) -> Change | None:
        """The change, where there were neighbours for half of the time or more to bring it about."""
        return self.change if self.neighbours is not None and self.neighbours >= FEWEST_NEIGHBOURS else None


def sampled(record: RunRecord, rows: Sequence[Row], alone: Iterable[Row]) -> tuple[Sampled, ...]:
    """Each cell that was measured again alone, with the one that it is held against."""
    by_name = {row.planned.cell: row for row in rows}
    beside_of = {cell.cell: cell.beside for cell in record.alone}
    found = []
    for row in alone:
        beside = by_name.get(beside_of[row.planned.cell])
        if beside is not None:
            found.append(Sampled(beside, row, neighbours_of(beside, rows), change_of(beside, row)))
    return tuple(found)


def sampled_of(view: RunView) -> tuple[Sampled, ...]:
    """Those of a run."""
    return sampled(view.record, view.rows, view.alone)


def change_of(beside: Row, alone: Row) -> Change | None:
    """The mean over the batches that both measured, of the logarithm of the ratio of their times."""
    before = {batch.prompts: batch.latency_s for batch in alone.pace}
    ratios = [math.log(before[b.prompts] / b.latency_s) for b in beside.pace if b.prompts in before]
    if not ratios:
        return None
    count, mean = len(ratios), math.fsum(ratios) / len(ratios)
    half: float | None = None
    if count >= FEWEST_BATCHES:
        spread = math.sqrt(math.fsum((ratio - mean) ** 2 for ratio in ratios) / (count - 1))
        half = student_quantile(count - 1) * spread / math.sqrt(count) * math.exp(mean)
    return Change(math.expm1(mean), half)


def together(changes: Sequence[Change]) -> Change:
    """The mean of the changes of several cells; each is another method, so that the interval is of this sample."""
    halves = [change.half_width for change in changes]
    known = [half for half in halves if half is not None]
    half = math.sqrt(math.fsum(half**2 for half in known)) / len(changes) if len(known) == len(halves) else None
    return Change(math.fsum(change.share for change in changes) / len(changes), half)


def neighbours_of(row: Row, rows: Iterable[Row]) -> float | None:
    """Cells of the same visit at work on other devices of its host while a cell was, on average over its log."""
    if row.alive_s is None or row.spec is None or row.spec.placement is None:
        return None
    begin_s, end_s = row.alive_s
    shared_s = 0.0
    for other in rows:
        place = other.spec.placement if other.spec is not None else None
        if other.alive_s is None or place is None or place.worker == row.spec.placement.worker:
            continue  # a device does one cell at a time
        if place.host != row.spec.placement.host:  # no neighbour, and another clock
            continue
        shared_s += max(0.0, min(end_s, other.alive_s[1]) - max(begin_s, other.alive_s[0]))
    return shared_s / (end_s - begin_s) if end_s > begin_s else None


def marked(rows: Iterable[Row], found: Iterable[Sampled]) -> list[Row]:
    """The rows, with what neighbours cost the methods of the sample where that matters: it holds for all cells of such
    a method that ran beside others."""
    costs = {
        (one.beside.planned.image, one.beside.planned.variant): one.told.words
        for one in found
        if one.told is not None and one.told.matters
    }
    return [
        replace(row, beside_others=costs.get((row.planned.image, row.planned.variant), ""))
        if row.result is not None and row.spec is not None and row.spec.placement is not None
        else row
        for row in rows
    ]
