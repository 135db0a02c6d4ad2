"""What a server's supervisor and a client say to each other, in JSON over HTTP, beside the requests that are measured.

``GET /greeting`` (once), ``GET /state``, ``POST /start`` (a server process, where none lives), ``POST /begin`` (of a
cell: log and highest memory begin anew), ``GET /take`` (samples since the last call, and the state), ``GET /log`` (of
the cell), ``POST /renew`` (the server process ends). Where no driver has planned, ``POST /plan`` comes first (what a
person asks for, and what becomes of it) and ``POST /end`` last. A refusal has status 400 (what is asked for) or 503
(this machine), and is a ``Refusal``.
"""

from __future__ import annotations

from typing import Literal

from bench_core.contract.asked.by_hand import LoadOptions
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.measures.cpu_use import CpuReading
from bench_core.contract.records.events import StartEvent, TelemetryEvent
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload

SERVER_GONE = "SIGUSR1"  # to a client: its server's container has ended, and the driver judges the cell in hand
# What a client and the hosts that its load generators run on prove to each other that they know, hexadecimal.
CLIENT_SECRET = "BENCH_CLIENT_SECRET"


class ServeAsk(Record):
    """What a client that was started by hand asks a server's supervisor to plan.

    Attributes:
        run_id: the run's name; ``None``: the time and the image.
        schedules: by the word of their load: the digest.
        traced: the prompts of a recorded load, where one is asked for.
        cpus: that the client may use.
    """

    run_id: str | None
    options: LoadOptions
    schedules: dict[str, str]
    traced: Workload | None = None
    cpus: tuple[int, ...]


class Planned(Record):
    """What comes of it: the run's record, and the CPUs that are left to the client."""

    record: RunRecord
    client_cpus: tuple[int, ...]


class Refusal(Record):
    """Why a question is not answered, and what to do."""

    cause: str
    hint: str = ""


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
        facts: how it runs, as its image told beside it; for each cell that it is measured in.
        verdict: on a cell that was measured when it died; only where it is ``dead``.
    """

    state: Literal["none", "loading", "ready", "dead"]
    began_s: float = 0.0
    ready_s: float = 0.0
    facts: dict[str, str] = {}
    verdict: Verdict | None = None


class Taken(Record):
    """Samples since the last call, and the counters of the CPUs and the server's state now."""

    telemetry: TelemetryEvent | None
    cpu: CpuReading | None
    state: ServerState
