"""Methods compared on the same prompts, where time or precision ended their cells after different numbers of batches.

All cells of a batch size measure the same batches in the same order, and a slow engine gets through fewer of them. One
batch with a long prompt makes a difference of a tenth and more, most of all to engines that pad. A throughput with an
interval speaks for the whole workload and is compared as it is. One without, or with a very wide one, is of whatever
was measured, and is compared with the fastest of those on the batches that both measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench_core.report.explain.marks import WIDEST_COMPARED, told_interval
from bench_core.runs.view import Row, RunView

K = TypeVar("K")


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
    cells = view.ranked(rows)
    if len(cells) < 2:
        return None
    common = _in_all(cells)
    counts = [len(row.pace) for row in cells]
    rates = {row.planned.cell: _throughput(row, common) for row in cells} if common else {}
    return Shared(len(common), min(counts), max(counts), rates)


def _throughput(row: Row, prompts: frozenset[tuple[int, str]]) -> float:
    batches = [batch for batch in row.pace if batch.prompts in prompts]
    return sum(batch.output_tokens for batch in batches) / math.fsum(batch.latency_s for batch in batches)


def fastest(view: RunView, rows: Sequence[Row]) -> frozenset[str]:
    """The cells with the highest throughput among the ranked ones of a batch size; more than one only if they are
    equal."""
    values = compared_rates(view, rows)
    best = max(values.values(), default=None)
    return frozenset(cell for cell, value in values.items() if value == best)


def compared_rates(view: RunView, rows: Sequence[Row]) -> dict[str, float]:
    """The throughput by which each ranked cell of a batch size is compared, tokens/s."""
    return rates_of({row.planned.cell: row for row in view.ranked(rows)})


def rates_of(ranked: Mapping[K, Row]) -> dict[K, float]:
    """The throughput by which ranked cells of a batch size are compared, tokens/s; of one workload, in whatever runs.

    Its own where it has an interval to compare by. Without one: as much slower or faster than the fastest of those
    with one as it was on the batches that both measured. Where none has one, they are compared on the batches that all
    of them measured.
    """
    known = {key: row.rate.throughput_tok_s for key, row in ranked.items() if row.rate and told_interval(row)}
    if known:
        lead = max(known, key=lambda key: known[key])
        others = {key: _beside(row, ranked[lead]) * known[lead] for key, row in ranked.items() if key not in known}
        return {**known, **others}
    common = _in_all(ranked.values())
    if common and len(common) < max(len(row.pace) for row in ranked.values()):
        return {key: _throughput(row, common) for key, row in ranked.items()}
    return {key: _throughput(row, _prompts(row)) for key, row in ranked.items()}


def _in_all(rows: Iterable[Row]) -> frozenset[tuple[int, str]]:
    """The batches that all measured."""
    prompts = [_prompts(row) for row in rows]
    return frozenset.intersection(*prompts) if prompts else frozenset()


def shared_note(view: RunView, rows: Sequence[Row]) -> Iterator[str]:
    """What a table of one batch size says of it, where its cells measured different batches."""
    shared = shared_batches(view, rows)
    if shared is None or not shared.differs:
        return
    counted = f"Batches measured: {shared.fewest} to {shared.most}, from the first on."
    if any(map(told_interval, view.ranked(rows))):
        yield (
            f"{counted} Bold goes by throughput with an interval within ± {WIDEST_COMPARED:.0%}; a method without one "
            "is compared with the fastest of these on the batches that both measured; see On the same batches."
        )
    elif shared.throughput_tok_s:
        yield f"{counted} Bold goes by the {shared.batches} that all measured; see On the same batches."
    else:
        yield f"{counted} No batch was measured by all."


def _prompts(row: Row) -> frozenset[tuple[int, str]]:
    return frozenset(batch.prompts for batch in row.pace)


def in_common(row: Row, lead: Row) -> tuple[int, float | None, float | None]:
    """Batches that both measured, and the throughput of each on them, if there are any."""
    common = _prompts(row) & _prompts(lead)
    if not common:
        return 0, None, None
    return len(common), _throughput(row, common), _throughput(lead, common)


def _beside(row: Row, lead: Row) -> float:
    """Throughput of a row as a share of another's, on the batches that both measured; on all of each where there are
    none, or nothing was generated in them."""
    _, own, its = in_common(row, lead)
    if own is not None and its:
        return own / its
    return _throughput(row, _prompts(row)) / _throughput(lead, _prompts(lead))
