"""Which complete cells of a run are measured again: by a mark that they bear, by how they failed, or by their name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import AgainCell
from bench_core.drive.plan.resume import Earlier
from bench_core.report.decide.option import SATURATED, THROTTLED
from bench_core.report.explain.busy_host import BUSY
from bench_core.report.explain.marks import FEW_BATCHES, MISFIT, UNEVEN, UNSTEADY, is_throttled, remarks
from bench_core.report.fleet.words import BESIDE
from bench_core.runs.view import Ended, Row, ServedRow

_FAILED = "failed"
_MARKS = tuple(
    mark.replace(" ", "-") for mark in (BUSY, BESIDE, UNSTEADY, UNEVEN, FEW_BATCHES, MISFIT, THROTTLED, SATURATED)
)
_OUTCOMES = tuple(outcome.value for outcome in Outcome if outcome.is_of_the_cell and outcome is not Outcome.OK)


def with_again(earlier: Earlier, words: Sequence[str]) -> Earlier:
    """The run, of which the complete cells that the words mean are to be measured again.

    Args:
        words: marks (``busy``), outcomes (``timeout``, or ``failed`` for any), names of cells, patterns of names
            (``vllm.*.b64``). A mark that no cell bears means none; what is not complete is measured anyway.

    Raises:
        BadInput: a word is no mark, no outcome and no cell's name or pattern.
    """
    cells = [row.planned.cell for row in earlier.view.every]
    known = {*_MARKS, *_OUTCOMES, _FAILED}
    for word in words:
        if word not in known and not any(fnmatchcase(cell, word) for cell in cells):
            raise BadInput(
                f"--again {word[:100]!r} is no mark, no outcome and no cell of {earlier.record.run_id}",
                nearest(word, [*known, *cells]),
            )
    found = (_again(row, words) for row in earlier.complete)
    return replace(earlier, again=tuple(one for one in found if one is not None))


def _again(row: Ended, words: Iterable[str]) -> AgainCell | None:
    marks = list(_marks_of(row))
    by_mark = [mark for mark in marks if mark in words]
    by_name = any(fnmatchcase(row.planned.cell, word) for word in words)
    if not by_mark and not by_name:
        return None
    says = [mark.replace("-", " ") for mark in marks if mark != _FAILED]
    why = ", ".join(says or ["nothing was marked"])
    return AgainCell(cell=row.planned.cell, why=why, output_throughput_tok_s=_throughput(row))


def _marks_of(row: Ended) -> Iterator[str]:
    """In the words that are typed."""
    if not row.measured:
        yield row.status
        yield _FAILED
    elif isinstance(row, Row) and row.result is not None:
        yield from (remark.replace(" ", "-") for remark in remarks(row))
        if is_throttled(row.result.metrics):
            yield THROTTLED
    elif isinstance(row, ServedRow) and row.result is not None:
        if row.result.cpu is not None and row.result.cpu.busy:
            yield BUSY
        if row.result.metrics.saturated:
            yield SATURATED


def _throughput(row: Ended) -> float | None:
    if isinstance(row, Row):
        return row.rate.throughput_tok_s if row.rate else None
    if isinstance(row, ServedRow) and row.result is not None:
        return row.result.metrics.output_throughput_tok_s.value
    return None
