"""What the driver itself costs with many cells and many workers: the core as it is, on a virtual clock.

``python tests/fleet/scale.py`` measures 10,000 cells of the scripted engine on 1, 8, 64 and 512 workers, and 1,000 to
100,000 cells on 64 (``make fleet-scale``). The core plans, submits, hears, judges and remembers every cell, each in a
launch of its own; a launch itself takes no time. Not looked at: what a launch costs (``make soak``), and the report.

Each line is measured in a fresh process. Makespan is held against the larger of total work / workers and the longest
cell, below which no order comes. What a cell takes is known to 20 %, as from an earlier visit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from virtual import VirtualExecutor

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.fleet.executor import Task, Worker
from bench_core.drive.fleet.queue import Before
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.progress import Display
from bench_core.prepare.models.model import ModelRequest, prepare_model

WORKERS = (1, 8, 64, 512)
CELLS = 10_000
GROWTH = (1_000, 10_000, 100_000)
MEDIAN_S, SPREAD, KNOWN_TO = 60.0, 0.8, 0.2  # of a cell's time: lognormal; and of what is known of it
MOST_OVER_BOUND, MOST_CPU_S, MOST_MEMORY = 1.05, 0.005, 10**9
_LARGEST = 50_000  # batch size


@dataclass(frozen=True)
class Measured:
    """One line.

    Attributes:
        over_bound: makespan as a multiple of the bound.
        cpu_s: of the process, planning and measuring, in all; the double's own work is in it.
        peak_bytes: resident memory of the process at most.
    """

    cells: int
    workers: int
    over_bound: float
    cpu_s: float
    peak_bytes: int

    @property
    def cpu_s_per_cell(self) -> float:
        """Seconds of CPU for each cell."""
        return self.cpu_s / self.cells

    @property
    def faults(self) -> list[str]:
        """Targets that it misses."""
        found = [f"makespan {self.over_bound:.3f} of the bound"] if self.over_bound > MOST_OVER_BOUND else []
        found += [f"{1000 * self.cpu_s_per_cell:.2f} ms a cell"] if self.cpu_s_per_cell >= MOST_CPU_S else []
        return found + ([f"{self.peak_bytes / 1e6:.0f} MB"] if self.peak_bytes >= MOST_MEMORY else [])


def jobs_of(cells: int) -> tuple[Job, ...]:
    """So many launches of one cell each, no two alike."""
    image = Catalogue().get("null")
    return tuple(
        Job(image, "scripted", (Offline(batch_size=1 + number % _LARGEST),), {}, repeat=1 + number // _LARGEST)
        for number in range(cells)
    )


def measured(cells: int, workers: int, place: Path, seed: int = 1) -> Measured:
    """Measures so many cells on so many workers, in this process."""
    chance = random.Random(f"{seed}:{cells}")  # noqa: S311  # times, not secrets
    prompts = ((5, 6, 7), (8, 9))
    workload = Workload(
        name="two", tokenizer="byte-level", max_prompt_tokens=3, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(prompts), prompts=prompts,
    )  # fmt: skip
    model = prepare_model(ModelRequest(name="synthetic/tiny"), place / "models")
    prepared = Prepared(model, place, workload, place / "w.json")
    run = place / "run"
    run.mkdir()
    (run / layout.RUN_FILE).write_text("{}", encoding="utf-8")
    before_s = time.process_time()
    jobs = jobs_of(cells)
    took = {job.cells[0]: MEDIAN_S * math.exp(chance.gauss(0, SPREAD)) for job in jobs}
    known = {
        (job.title, job.scenarios[0].word): took[job.cells[0]] * math.exp(chance.gauss(0, KNOWN_TO)) for job in jobs
    }

    def seconds(task: Task) -> float:
        return sum(took[cell.cell_id] for cell in task.assignment.cells)

    executor = VirtualExecutor(tuple(Worker(f"worker {number}") for number in range(workers)), seconds)
    suite = Suite(images=("null",), batch_sizes=(1,))
    plan = Plan("cpu", jobs)
    request = Request(suite=suite, data=place)
    execution = Execution(request, plan, ProcessLauncher(), [], Display(), executor=executor)
    finished = execution.measure(prepared, run, {}, before=Before(took_s=known))
    cpu_s = time.process_time() - before_s
    names = [cell for ran in executor.ran for cell in ran.cells]
    if len(names) != cells or {*names} != {*took} or {*finished.verdicts} != {*took}:
        raise RuntimeError(f"{len(names)} cells were measured of {cells}, {len({*names})} different ones")
    bound_s = max(sum(took.values()) / workers, *took.values())
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(cells, workers, executor.now_s / bound_s, cpu_s, peak_bytes)


def in_a_fresh_process(cells: int, workers: int, seed: int) -> Measured:
    """The same, where nothing was measured before."""
    command = [sys.executable, __file__, "--one", str(cells), str(workers), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def growth_faults(lines: list[Measured]) -> list[str]:
    """Steps in which CPU time grows steeper than n log n."""
    found = []
    for fewer, more in itertools.pairwise(lines):
        allowed = more.cells * math.log(more.cells) / (fewer.cells * math.log(fewer.cells))
        grew = more.cpu_s / fewer.cpu_s
        if grew > allowed:
            found.append(f"{fewer.cells} to {more.cells} cells: {grew:.1f} times the CPU, {allowed:.1f} allowed")
    return found


def main() -> int:
    """The command line; exits with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", type=int, nargs=2, metavar=("CELLS", "WORKERS"), help="one line, as JSON")
    given = parser.parse_args()
    if given.one:
        place = Path(tempfile.mkdtemp(prefix="llm-bench-scale-"))
        try:
            sys.stdout.write(json.dumps(asdict(measured(given.one[0], given.one[1], place, given.seed))) + "\n")
        finally:
            shutil.rmtree(place)
        return 0
    lines = [in_a_fresh_process(CELLS, workers, given.seed) for workers in WORKERS]
    grown = [in_a_fresh_process(cells, 64, given.seed) for cells in GROWTH]
    sys.stdout.write("| cells | workers | makespan / bound | driver CPU per cell (ms) | peak memory (MB) |\n")
    sys.stdout.write("|---:|---:|---:|---:|---:|\n")
    for one in (*lines, *grown):
        cpu_ms, peak_mb = 1000 * one.cpu_s_per_cell, one.peak_bytes / 1e6
        sys.stdout.write(f"| {one.cells} | {one.workers} | {one.over_bound:.4f} | {cpu_ms:.2f} | {peak_mb:.0f} |\n")
    faults = [f"{one.cells} cells, {one.workers} workers: {what}" for one in (*lines, *grown) for what in one.faults]
    faults += growth_faults(grown)
    sys.stdout.write("".join(f"missed: {fault}\n" for fault in faults) or "every target is met\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
