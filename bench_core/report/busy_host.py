"""What others took of the CPUs while cells were measured: a warning at the head, and a table for all cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench_core.contract.cpu_use import CpuUse, taken_by_others
from bench_core.report.cell_key import cell_key
from bench_core.report.format import ABSENT, quantity, seconds, significant
from bench_core.report.sheet import Entry, Sheet
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


def cpu_sheet(rows: Sequence[Row]) -> Iterator[Sheet]:
    """Who used the CPUs; ``rows`` in the order wanted. None where no log tells."""
    if not any(row.result and row.result.metrics.cpu for row in rows):
        return
    lines = [(*cell_key(row), *_entries(row.result.metrics.cpu)) for row in rows if row.result is not None]
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("CPUs", True),
        ("Its own", True),
        ("Others", True),
        ("Stolen", True),
        ("Idle", True),
        ("Others (%)", True),
        ("Looked at (s)", True),
    )
    notes = (
        "CPUs: that the cell may use. Its own, others, idle: how many of them were used by the cell, used by anything "
        "else on this host or taken by a hypervisor (stolen: that alone), and not used, on average from the first "
        "measured batch to the last, or from the first warm-up batch where that is shorter than half a second; read "
        f"before and after each batch. From a tenth of the CPUs on, or 0.4 of one, a cell is {BUSY}, unless the run "
        "was told another number (--busy-cpus); on a GPU only where less than one CPU was left idle.",
    )
    yield Sheet("Who used the CPUs", columns, tuple(lines), notes)


def _entries(use: CpuUse | None) -> tuple[Entry, ...]:
    if use is None:
        return (Entry("not told"), *(Entry(ABSENT),) * 6)
    cpus = (use.own_cpus, use.others_cpus, use.steal_cpus, use.idle_cpus)
    return (
        Entry(str(use.cpus), use.cpus),
        *(Entry(f"{value:.2f}", value, mark=BUSY if use.busy and value is use.others_cpus else "") for value in cpus),
        Entry(significant(use.others_share * 100, 2), use.others_share),
        Entry(seconds(use.window_s), use.window_s),
    )
