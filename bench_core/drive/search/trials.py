"""Trials of a search: short cells, each in a box of its own, which are evidence of the search and no cells of the run.

A box of its own: an engine that has run out of memory may be left broken, and what an allocator keeps of one trial
would decide the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.measures.cell import CellMetrics, CellResult
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import STOPPED_ON_REQUEST, Outcome, Verdict
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.ask.request import Request
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.drive.run.progress import Display
from bench_core.system.locks import Locks
from bench_core.system.processor import this_host


@dataclass(frozen=True)
class Tried:
    """How a trial's cell ended; ``result`` exactly if that was well."""

    verdict: Verdict
    result: CellResult | None = None

    @property
    def metrics(self) -> CellMetrics | None:
        """Of the result."""
        return self.result.metrics if self.result is not None else None


@dataclass(frozen=True)
class Site:
    """Where searches make their trials.

    Attributes:
        gpus: those of one cell are used, the first; empty on a CPU.
        watch: told of each trial's execution, so that a signal reaches it.
        locks: has that of the run.
    """

    request: Request
    launcher: Launcher
    gpus: Sequence[GpuInfo]
    display: Display
    device: DeviceKind
    watch: Callable[[Execution], None]
    locks: Locks

    @property
    def gpu(self) -> GpuInfo | None:
        """The card that trials run on, the first where a model is split over several; ``None`` on a CPU."""
        return self.gpus[0] if self.gpus else None

    @property
    def cards(self) -> list[GpuInfo]:
        """All cards of a trial; none on a CPU."""
        return list(self.gpus[: self.request.suite.gpus_per_cell])


class Trials:
    """Makes the trials of one search, on one device.

    Attributes:
        stopped: somebody asked for a stop; the trial in hand then tells nothing.
    """

    def __init__(self, site: Site, short: Mapping[str, object]) -> None:
        """``short`` is what makes a trial's cell short: keys of the suite."""
        suite = site.request.suite
        self._site = site
        self._request = site.request.model_copy(update={"suite": suite.model_copy(update=dict(short))})
        # One for all: memory that a trial has not given back is the mark of the next one.
        self._gate = GpuGate(suite.on_busy, suite.busy_wait_s, site.display.note)
        self.stopped = False

    def run(self, job: Job, prepared: Prepared, folder: Path, run_folder: Path) -> Tried:
        """Measures the one cell of a job into a new folder below the run's.

        Raises:
            BadInput: the folder cannot be written, the trial cannot be launched, or the GPU is busy.
        """
        cell = job.cells[0]
        (folder / layout.CELLS_FOLDER).mkdir(parents=True)
        site, plan = self._site, Plan(self._site.device, (job,))
        execution = Execution(
            self._request, plan, site.launcher, site.cards, site.display, site.locks, self._gate, run_folder
        )
        site.watch(execution)
        finished = execution.measure(prepared, folder, {})
        if finished.refusal is not None:  # it stops the execution as well, but nobody asked for that
            raise finished.refusal
        self.stopped = self.stopped or execution.stopped
        verdict = finished.verdicts.get(cell)
        if verdict is None or self.stopped:
            verdict = Verdict(outcome=Outcome.KILLED, cause=STOPPED_ON_REQUEST, judged_by="driver")
        if verdict.outcome is not Outcome.OK:
            return Tried(verdict)
        return Tried(verdict, CellResult.read(layout.cell_folder(folder, cell) / layout.RESULT_FILE))


def unused_number(home: Path, name: str) -> int:
    """The number of the first folder that no search of this name has used: ``name``, ``name.2``, ``name.3`` …"""
    number = 1
    while (home / layout.numbered(name, number)).exists():
        number += 1
    return number


def conditions_of(site: Site, job: Job, prepared: Prepared) -> dict[str, str]:
    """What decides the answer of a search; another card of the same model is the same here."""
    suite, manifest, gpu = site.request.suite, job.image.manifest, site.gpu
    host = this_host()
    several = f"{suite.gpus_per_cell} x " if suite.gpus_per_cell > 1 else ""
    memory = f"{host.memory_bytes / 2**30:.0f} GiB"
    options = dict(manifest.variant(job.variant, job.options, site.device).options)
    return {
        "launcher": site.launcher.name,
        "device": site.device,
        "gpu": f"{several}{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB" if gpu else "none",
        "host": memory if gpu else f"{memory}, {host.cpu}, {host.cores} cores",
        "threads": str(suite.threads or "all"),
        "model": prepared.model.digest,
        "workload": prepared.workload.digest,
        "max_new_tokens": str(suite.max_new_tokens),
        "length": suite.length,
        "image": site.launcher.recipe(job.image, site.device),
        "artifact": suite.artifacts.get(job.artifact, ""),
        "options": json.dumps(options, sort_keys=True),
    }
