"""How far the suite's own numbers can be off on this machine, and what a launch costs beside the engine's work.

The scripted engine (image ``null``) says in advance what must be measured; the difference is the suite's own error.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellMetrics, summarise
from bench_core.contract.measures.cpu_use import CpuUse, taken_by_others
from bench_core.contract.measures.own_error import Script, gaps
from bench_core.contract.records import layout
from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.outcome import EXIT_FAILED
from bench_core.contract.records.record import Scalar
from bench_core.drive.ask.command import refuse
from bench_core.drive.ask.request import Modes, Request, Suite
from bench_core.drive.run.session import Session
from bench_core.runs.files import read_events
from bench_core.system.locks import Locks

LIMIT = 0.01  # of what the script says


@dataclass(frozen=True)
class Reading:
    """One launch of the scripted engine: relative errors, seconds that were not the engine's, who used the CPUs."""

    ttft_error: float
    tpot_error: float
    throughput_error: float
    overhead_s: float
    cpu: CpuUse | None = None


def overhead_s(launch_s: float, metrics: CellMetrics) -> float:
    """Box created to box removed, without the engine's import, load, prepare and batches (one cell, one launch)."""
    shared_s = (metrics.start_s or 0.0) + (metrics.load_s or 0.0)
    return launch_s - shared_s - (metrics.prepare_s or 0.0) - metrics.batches_s


def read(launch_s: float, metrics: CellMetrics, measured: Sequence[BatchEvent], script: Script) -> Reading:
    """Compares a cell with its script, as every run does with its own (``contract.measures.own_error``).

    Args:
        measured: the cell's measured batches.

    Raises:
        BadInput: the cell has no token times.
    """
    errors = {gap.name: gap.error for gap in gaps(script, metrics, measured)}
    return Reading(
        ttft_error=errors["ttft_s"],
        tpot_error=errors["tpot_s"],
        throughput_error=errors["output_throughput_tok_s"],
        overhead_s=overhead_s(launch_s, metrics),
        cpu=metrics.cpu,
    )


def take_readings(
    launches: int, launcher: str, ttft_s: float = 0.020, tpot_s: float = 0.005, new_tokens: int = 64
) -> list[Reading]:
    """Launches the scripted engine several times, each in a box of its own.

    Raises:
        BadInput: it cannot be launched, or a cell does not end well.
    """
    script: dict[str, Scalar] = {"ttft_s": ttft_s, "tpot_s": tpot_s}
    suite = Suite.model_validate(
        {
            "images": ("null",),
            "batch_sizes": (4,),
            "samples": 32,
            "max_new_tokens": new_tokens,
            "options": {"null": script},
            "device": "cpu",
            "launcher": launcher,
            "harness_check": False,
            "on_busy": "ignore",  # it is this machine's error as it is that is asked for; what others took is told
        }
    )
    readings = []
    with tempfile.TemporaryDirectory(prefix="llm-bench-own-error-") as scratch:
        places = {name: Path(scratch) / name for name in ("results", "data", "models")}
        for number in range(launches):
            run_id = f"launch-{number}"
            request = Request.model_validate({"suite": suite, "run_id": run_id, **places})
            with closing(Locks()) as locks:
                finished = Session(request, Modes(yes=True), locks=locks).measure_quietly()
            (cell,) = finished.verdicts
            events = _events(finished.run_folder, cell)
            (launch_s,) = finished.launch_s.values()
            metrics = summarise(cell, events).metrics
            readings.append(read(launch_s, metrics, events.batches["measure"], Script(ttft_s, tpot_s)))
    return readings


def _events(run_folder: Path, cell: str) -> CellEvents:
    events = CellEvents()
    for event in read_events(run_folder, layout.cell_folder(run_folder, cell)):
        events.add(event)
    return events


def own_error(
    launches: Annotated[int, typer.Option(min=1, help="Launches of the scripted engine.")] = 10,
    launcher: Annotated[str, typer.Option(help="auto, docker or process.")] = "auto",
) -> None:
    """Measure the scripted engine and print the suite's own error and overhead on this machine."""
    try:
        readings = take_readings(launches, launcher)
    except BadInput as error:
        refuse(error)
    worst = 0.0
    for name in ("ttft", "tpot", "throughput"):
        errors = [getattr(reading, f"{name}_error") for reading in readings]
        worst = max(worst, abs(statistics.median(errors)))
        low, high = min(errors), max(errors)
        sys.stdout.write(f"{name:<11} median error {statistics.median(errors):+.4%}  ({low:+.4%} to {high:+.4%})\n")
    seconds = [reading.overhead_s for reading in readings]
    sys.stdout.write(
        f"overhead    median {statistics.median(seconds):.3f} s a launch of one cell, engine time taken out  "
        f"({min(seconds):.3f} to {max(seconds):.3f} s, {len(seconds)} launches)\n"
    )
    busy = [reading.cpu for reading in readings if reading.cpu is not None and reading.cpu.busy]
    if busy:
        most = max(busy, key=lambda use: use.others_share)
        sys.stdout.write(f"others took up to {taken_by_others(most)} meanwhile, in {len(busy)} launches\n")
    if worst > LIMIT:
        sys.stdout.write(f"an error is above {LIMIT:.0%}: this machine is busy, or its timer is coarse\n")
        raise typer.Exit(EXIT_FAILED)


if __name__ == "__main__":
    typer.run(own_error)
