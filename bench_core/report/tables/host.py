"""What this machine added: who used the CPUs meanwhile, and the suite's own error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench_core.contract.measures.own_error import Gap
from bench_core.report.cell import BATCH_SIZE, KEY, Cell, measured
from bench_core.report.column import Column, Entry, Sheet, at, raw, sheet
from bench_core.report.explain.busy_host import BUSY
from bench_core.report.explain.own_error import title, written
from bench_core.report.format import ABSENT, digits, percent, seconds
from bench_core.report.served import LOAD, Served
from bench_core.runs.view import Ended, RunView


def _busy(cell: Cell) -> str:
    return BUSY if cell.cpu and cell.cpu.busy else ""


_two_decimals = "{:.2f}".format
CPU: Sequence[Column[Cell]] = [
    *KEY,
    Column("CPUs", "cpu.cpus", csv="cpu_use_cpus", absent="not told"),
    Column("Its own", "cpu.own_cpus", _two_decimals, csv="cpu_use_own_cpus"),
    Column("Others", "cpu.others_cpus", _two_decimals, csv="cpu_use_others_cpus", mark=_busy),
    Column("Stolen", "cpu.steal_cpus", _two_decimals, csv="cpu_use_steal_cpus"),
    Column("Idle", "cpu.idle_cpus", _two_decimals, csv="cpu_use_idle_cpus"),
    Column("Others", "cpu.others_share", digits(2, 100.0), unit="%"),
    Column("Looked at", "cpu.window_s", seconds, unit="s"),
]
CPU_RAW: tuple[Column[Cell], ...] = raw("cpu", "busy", csv="cpu_use_{}")


_CPU_NOTE = (
    "CPUs: that the cell may use. Its own, others, idle: how many of them were used by the cell, used by anything "
    "else on this host or taken by a hypervisor (stolen: that alone), and not used, on average from the first "
    "measured batch to the last, or from the first warm-up batch where that is shorter than half a second; read "
    f"before and after each batch. From a tenth of the CPUs on, or 0.4 of one, a cell is {BUSY}, unless the run "
    "was told another number (--busy-cpus); on a GPU only where less than one CPU was left idle."
)


def cpu_told(view: RunView) -> bool:
    """Whether any log tells who used the CPUs; those of before it was looked at do not."""
    return any(row.result and row.result.metrics.cpu for row in view.rows)


def cpu_sheet(view: RunView) -> Iterator[Sheet]:
    """Who used the CPUs. None where no log tells."""
    cells = measured(view)
    if any(cell.cpu for cell in cells):
        yield sheet("Who used the CPUs", CPU, cells, [_CPU_NOTE])


@dataclass(frozen=True)
class _Number(Cell):
    """One number of a scripted cell beside its script; without a gap, all of them."""

    gap: Gap | None = None


class _Told(Protocol):
    """A number of a scripted cell of any kind beside its script."""

    @property
    def gap(self) -> Gap | None:
        """``None``: the cell has none."""
        ...

    @property
    def row(self) -> Ended:
        """The cell."""
        ...


def _problem(number: _Told) -> str:
    return "" if number.gap else f"{number.row.status}: {number.row.problem}"


def _absent(number: _Told) -> str:
    return "" if number.gap else ABSENT


def _value(path: str) -> Callable[[_Told], Entry]:
    def shown(number: _Told) -> Entry:
        value = at(path)(number)
        return Entry(ABSENT) if number.gap is None or value is None else Entry(written(number.gap, value), value)

    return shown


def _signed(share: float) -> str:
    return f"{'-' if share < 0 else '+'}{percent(abs(share))}"


_OWN_ERROR: Sequence[Column[_Number]] = [
    Column("Visit", "row.planned.repeat"),
    BATCH_SIZE,
    Column("Number", lambda number: title(number.gap.name if number.gap else "all"), words=True),
    Column("Script", "gap.scripted", failed=_problem, shown=_value("gap.scripted")),
    Column("Measured", "gap.measured", failed=_absent, shown=_value("gap.measured")),
    Column("Error", "gap.error", _signed, unit="%", failed=_absent),
    Column("Worst batch", "gap.worst_error", _signed, unit="%", failed=_absent),
]
_HOW = (
    "A scripted engine, without a model, runs before the cells of each visit through the same launcher, worker, clock "
    "and sampler. Its script says when each token comes and how much memory loading takes; what is measured beyond "
    "that is the suite's. Measured: median over batches. Worst: the batch furthest from the script.",
    "Times err by an amount rather than by a share: the error weighs less where tokens take longer. Memory: what "
    "loading added to the resident memory of the engine's process.",
)
_NO_DEVICE_MEMORY = "GPU memory is read from NVML and cannot be scripted, so it has no bound here."


@dataclass(frozen=True)
class _ServedNumber(Served):
    """One number of a scripted cell under load beside its script; without a gap, all of them."""

    gap: Gap | None = None


def _interval(number: _ServedNumber) -> str | None:
    gap = number.gap
    if gap is None or gap.low is None or gap.high is None:
        return None
    return f"{written(gap, gap.low)} to {written(gap, gap.high)}"


def _relative(number: _ServedNumber) -> float | None:
    return number.gap.error if number.gap is not None and number.gap.scripted else None


_UNDER_LOAD: Sequence[Column[_ServedNumber]] = [
    Column("Visit", "row.planned.repeat"),
    LOAD,
    Column("Number", lambda number: title(number.gap.name if number.gap else "all"), words=True),
    Column("Script", "gap.scripted", failed=_problem, shown=_value("gap.scripted")),
    Column("Measured", "gap.measured", failed=_absent, shown=_value("gap.measured")),
    Column("Its 95 % interval", _interval, words=True),
    Column("Error", _relative, _signed, unit="%", failed=_absent),
    Column("Worst request", "gap.worst", failed=_absent, shown=_value("gap.worst")),
]
_HOW_SERVED = (
    "A scripted server, without a model, is measured before the cells of each visit at the run's largest load point, "
    "through the same launcher, network and client. TTFT and TPOT: medians over requests. Throughput: in the script's "
    "column the ideal rate, if nothing took time but the script. Lateness: the median of how much later than planned "
    "requests were sent.",
    "A part of the error is the scripted server's own, which is one thread: requests that begin at the same moment "
    "have their first tokens one after the other.",
)


def own_error_sheets(view: RunView) -> Iterator[Sheet]:
    """The scripted engine's numbers beside its script."""
    if view.own_error_served:
        served = [_ServedNumber(view, row, gap) for row in view.own_error_served for gap in row.gaps or (None,)]
        yield sheet("The suite's own error under load", _UNDER_LOAD, served, _HOW_SERVED)
    if view.own_error:
        lines = [_Number(view, row, gap) for row in view.own_error for gap in row.gaps or (None,)]
        notes = (*_HOW, _NO_DEVICE_MEMORY) if view.on_cuda else _HOW
        yield sheet("The suite's own error", _OWN_ERROR, lines, notes)
