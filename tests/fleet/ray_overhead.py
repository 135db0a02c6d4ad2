"""What Ray adds to a launch: the same one-cell launches by the host's own pool and through a cluster, in turns; and how
long sixty launches of equal length take on three nodes.

Time is taken from handing a launch over until its worker is free again, the cell's files in the run's folder by then.
Run by `make cluster-overhead`. Targets: the medians differ by less than 0.2 s; less than 1.15 of the ideal makespan.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ray_nodes import Nodes

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.cluster.hosts import Cluster, ClusterHosts
from bench_core.drive.cluster.link import Link
from bench_core.drive.fleet.executor import Executor, Task, follow
from bench_core.drive.launch.launcher_choice import choose_launcher
from bench_core.drive.material.material import Material
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import make_plan
from bench_core.drive.run.collect import read_verdict
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.progress import Display

TARGET_S = 0.2
MAKESPAN = 1.15


def timed(executor: Executor, task: Task, run: Path) -> float:
    """Seconds of one launch that ends well."""
    assert task.launch.folders.run is not None
    run.mkdir(parents=True)
    (run / layout.RUN_FILE).write_text("{}", encoding="utf-8")
    launch = replace(task.launch, folders=replace(task.launch.folders, run=run))
    begun_s = time.monotonic()
    follow(executor, replace(task, launch=launch, holds=None), executor.workers[0], lambda _line: None)
    took_s = time.monotonic() - begun_s
    verdict = read_verdict(run, task.assignment.cells[0].cell_id)
    assert verdict is not None
    assert verdict.outcome is Outcome.OK, verdict.cause
    return took_s


@dataclass
class Bench:
    """Everything that launches of one scripted cell need, here and through a cluster."""

    launcher: str
    home: Path
    address: str
    ttft_s: float
    repeats: int

    def __post_init__(self) -> None:
        options = {"null": {"load_s": 0.0, "ttft_s": self.ttft_s, "tpot_s": 0.001}}
        suite = Suite.model_validate(
            {
                "images": ("null",), "batch_sizes": (1,), "samples": 8, "max_new_tokens": 4, "device": "cpu",
                "launcher": self.launcher, "exhaustive": True, "max_warmup_batches": 1, "options": options,
                "on_busy": "ignore", "repeats": self.repeats,
            }
        )  # fmt: skip
        request = Request(
            suite=suite, results=self.home / "results", data=self.home / "data", models=self.home / "models"
        )
        chosen, display = choose_launcher(suite.launcher).launcher, Display()
        self.plan = make_plan(suite, Catalogue(), "cpu")
        job = self.plan.jobs[0]
        chosen.ensure(job.image, "measure", "cpu", lambda _line: None)
        self.local = Execution(request, self.plan, chosen, [], display)
        self.prepared = Material(request, frozenset(), Catalogue(), None).ready(self.local, self.plan, display)
        self.task = self.local._task(job, self.prepared, self.home / "results" / "any")
        self.link = Link(self.address)
        cluster = Cluster.look(self.link, suite, {}, "")
        hosts = ClusterHosts(cluster, cluster.nodes, suite)
        far = hosts.executor(request, "one", lambda _line: None)
        assert far is not None
        hosts.provide([job], self.prepared, lambda _line: None)
        self.far = Execution(request, self.plan, chosen, [], display, executor=far)

    def here_s(self, name: str) -> float:
        """Of a launch by this host's own pool."""
        return timed(self.local._executor, self.task, self.home / name / "one")

    def there_s(self, name: str) -> float:
        """Of the same through the cluster."""
        return timed(self.far._executor, self.task, self.home / name / "one")


def overhead(bench: Bench, launches: int) -> list[str]:
    """The lines of the first part; the last one tells the difference."""
    here_s, there_s = [], []
    for number in range(launches + 1):  # the first of each starts what later ones find started
        here_s.append(bench.here_s(f"here-{number}"))
        there_s.append(bench.there_s(f"there-{number}"))
    lines = [f"{launches} launches of one cell each, launcher {bench.launcher}; seconds from begin to free"]
    for name, found in (("this host", here_s), ("through Ray", there_s)):
        later = sorted(found[1:])
        middle = statistics.median(later)
        lines.append(f"{name:12} first {found[0]:.3f}  median {middle:.3f}  least {later[0]:.3f}  most {later[-1]:.3f}")
    more_s = statistics.median(there_s[1:]) - statistics.median(here_s[1:])
    missed = "" if more_s < TARGET_S else ", MISSED"
    return [*lines, f"Ray adds {more_s:.3f} s to a launch (target: less than {TARGET_S} s{missed})"]


def makespan(bench: Bench, nodes: int) -> str:
    """All launches of the plan on all nodes, held against as many as one node's share, one after the other."""
    for number in range(3):
        bench.there_s(f"warm-{number}")
    one_s = statistics.median(bench.here_s(f"one-{number}") for number in range(5))
    run = bench.home / "all" / "one"
    run.mkdir(parents=True)
    (run / layout.RUN_FILE).write_text("{}", encoding="utf-8")
    begun_s = time.monotonic()
    finished = bench.far.measure(bench.prepared, run, {})
    took_s = time.monotonic() - begun_s
    assert len(finished.verdicts) == bench.repeats
    assert finished.exit_code == 0
    ideal_s = one_s * math.ceil(bench.repeats / nodes)
    missed = "" if took_s < MAKESPAN * ideal_s else ", MISSED"
    return (
        f"{bench.repeats} cells of {one_s:.2f} s on {nodes} nodes of one machine: {took_s:.1f} s, "
        f"{took_s / ideal_s:.3f} of the ideal {ideal_s:.1f} s (target: less than {MAKESPAN}{missed})"
    )


def main() -> int:
    """Prints what it has measured; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=20)
    parser.add_argument("--cells", type=int, default=60, help="of the second part; 0: without it")
    parser.add_argument("--launcher", choices=("process", "docker"), default="process")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        nodes = Nodes(root, patch)
        try:
            nodes.add("node0")
            bench = Bench(asked.launcher, root / "overhead", nodes.address, 0.01, 1)
            lines = overhead(bench, asked.launches)
            bench.link.close()
            if asked.cells:
                nodes.add("node1")
                nodes.add("node2")
                bench = Bench(asked.launcher, root / "makespan", nodes.address, 1.0, asked.cells)
                lines.append(makespan(bench, 3))
                bench.link.close()
        finally:
            nodes.close()
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
