"""What others took of the CPUs while cells were measured: a warning for the head, a legend for the mark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench_core.contract.measures.cpu_use import CpuUse, taken_by_others
from bench_core.report.format import quantity
from bench_core.runs.view import Row, RunView

BUSY = "busy"


def most_taken(rows: Iterable[Row]) -> CpuUse | None:
    """Of the disturbed rows the one whose CPUs others took most of; ``None`` where no row is disturbed."""
    uses = [use for row in rows if row.disturbed and row.result and (use := row.result.metrics.cpu)]
    return max(uses, key=lambda use: use.others_share, default=None)


def warning(view: RunView) -> str:
    """One line for the head of a report; empty where no cell was disturbed."""
    disturbed = [row for row in view.rows if row.disturbed]
    most = most_taken(disturbed)
    if most is None:
        return ""
    measured = sum(row.result is not None for row in view.rows)
    return (
        f"this host was busy: others took up to {taken_by_others(most)} while {len(disturbed)} of "
        f"{quantity(measured, 'cell')} {'were' if measured > 1 else 'was'} measured; "
        f"{'they are' if len(disturbed) > 1 else 'it is'} marked {BUSY} and not ranked"
    )


def busy_note(rows: Sequence[Row]) -> Iterator[str]:
    """The legend of the word beside a throughput, with what others took of each row."""
    found = [f"{row.planned.label}: {taken}" for row in rows if (taken := row.disturbed)]
    if found:
        yield (
            f"{BUSY}: the host was busy while this was measured, so that it is not ranked ({'; '.join(found)}). "
            "Measure it again on a quiet host."
        )
