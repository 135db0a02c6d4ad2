"""Hosts that a load came from, where these were others than the server's: their clocks, compared before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench_core.contract.serving.measures import MOST_LATE_S, MOST_LATE_SHARE
from bench_core.contract.statistics.clocks import ClientEvent
from bench_core.report.column import Column, Sheet, sheet
from bench_core.report.format import seconds
from bench_core.report.served import KEY, Served, measured
from bench_core.runs.view import RunView


@dataclass(frozen=True)
class _Host(Served):
    """One host of one cell."""

    client: ClientEvent


def _microseconds(value_s: float) -> str:
    return f"{round(value_s * 1e6, 1) + 0.0:.1f}"  # no sign before a zero


def _us(title: str, name: str) -> Column[_Host]:
    return Column(title, f"client.{name}", _microseconds, unit="µs")


_COLUMNS: Sequence[Column[_Host]] = [
    *KEY,
    Column("Client node", "client.node", words=True),
    Column("Load generators", lambda line: ", ".join(map(str, line.client.processes)), words=True),
    Column("Clock ahead by", "client.offset_s", lambda value: f"{round(value, 6) + 0.0:.6f}", unit="s"),
    _us("To within", "bound_s"),
    _us("Drift", "drift_s"),
    _us("To within, after", "bound_after_s"),
    Column("Compared again after", "client.lasted_s", seconds, unit="s"),
    _us("Placed to within", "misplaced_s"),
]
_NOTE = (
    "Every latency is between two stamps of one host's own clock. The offset of that clock decides only where its "
    "requests lie among those of other hosts and in the window. It is the middle of the shortest of 100 questions and "
    "answers, to within half of its round trip; drift: what it had changed by after the load. A cell is not ranked "
    f"where a host's requests are placed to no better than {MOST_LATE_S * 1e3:g} ms and {MOST_LATE_SHARE * 100:g} % of "
    "the median TTFT: to the server a request at another place than the schedule's is what a late one is."
)


def nodes_sheet(view: RunView) -> Iterator[Sheet]:
    """Every host of every cell; nothing where loads came from the server's own."""
    lines = [_Host(view, cell.row, client) for cell in measured(view) for client in cell.row.clients]
    if lines:
        yield sheet("Clocks of client nodes", _COLUMNS, lines, (_NOTE,))
