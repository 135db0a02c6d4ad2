"""What a server's supervisor and a client say to each other, in JSON over HTTP, beside the requests that are measured.

``GET /greeting`` (once), ``GET /state``, ``POST /start`` (a server process, where none lives), ``POST /begin`` (of a
cell: log and highest memory begin anew), ``GET /take`` (samples since the last call), ``GET /log`` (of the cell).
"""

from __future__ import annotations

from typing import Literal

from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.measures.cpu_use import CpuReading
from bench_core.contract.records.events import StartEvent, TelemetryEvent
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import CellSpec

SERVER_GONE = "SIGUSR1"  # to a client: its server's container has ended, and the driver judges the cell in hand


class Greeting(Record):
    """What a client must know of a server before it is measured.

    Attributes:
        cells: as they are found where the server runs.
        start: first line of each cell's log.
        entry: how it is asked.
        marked: what disturbs the cells, where the driver has said something.
    """

    cells: tuple[CellSpec, ...]
    start: StartEvent
    entry: ServerEntry
    load_timeout_s: float
    marked: str = ""


class ServerState(Record):
    """How the server process is.

    Attributes:
        began_s, ready_s: CLOCK_MONOTONIC when it was started and when it first answered; 0 where it has not.
        verdict: on a cell that was measured when it died; only where it is ``dead``.
    """

    state: Literal["none", "loading", "ready", "dead"]
    began_s: float = 0.0
    ready_s: float = 0.0
    verdict: Verdict | None = None


class Taken(Record):
    """Samples since the last call, and the counters of the CPUs now."""

    telemetry: TelemetryEvent | None
    cpu: CpuReading | None
