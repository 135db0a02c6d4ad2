"""What Ray adds to a launch: the same one-cell launches by the host's own pool and through a cluster, in turns.

Time is taken from handing a launch over until its worker is free again, the cell's files in the run's folder by then.
Run by `make cluster-overhead`; target: the medians differ by less than 0.2 s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
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
_OPTIONS = {"null": {"load_s": 0.0, "ttft_s": 0.01, "tpot_s": 0.001}}


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


def measured(launcher: str, launches: int, home: Path, address: str) -> tuple[list[float], list[float]]:
    """Seconds of each launch on this host, and through the cluster."""
    suite = Suite.model_validate(
        {
            "images": ("null",), "batch_sizes": (1,), "samples": 8, "max_new_tokens": 4, "device": "cpu",
            "launcher": launcher, "exhaustive": True, "max_warmup_batches": 1, "options": _OPTIONS, "on_busy": "ignore",
        }
    )  # fmt: skip
    request = Request(suite=suite, results=home / "results", data=home / "data", models=home / "models")
    chosen, plan, display = choose_launcher(suite.launcher).launcher, make_plan(suite, Catalogue(), "cpu"), Display()
    job = plan.jobs[0]
    chosen.ensure(job.image, "measure", "cpu", lambda _line: None)
    local = Execution(request, plan, chosen, [], display)
    prepared = Material(request, frozenset(), Catalogue(), None).ready(local, plan, display)
    task = local._task(job, prepared, home / "results" / "any")
    link = Link(address)
    try:
        cluster = Cluster.look(link, suite, {}, "")
        hosts = ClusterHosts(cluster, cluster.nodes, suite)
        far = hosts.executor(request, "one", lambda _line: None)
        assert far is not None
        hosts.provide([job], prepared, lambda _line: None)
        here_s, there_s = [], []
        for number in range(launches + 1):  # the first of each starts what later ones find started
            here_s.append(timed(local._executor, task, home / f"here-{number}" / "one"))
            there_s.append(timed(far, task, home / f"there-{number}" / "one"))
        return here_s, there_s
    finally:
        link.close()


def main() -> int:
    """Prints both sides; 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=20)
    parser.add_argument("--launcher", choices=("process", "docker"), default="process")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        root.chmod(0o755)
        nodes = Nodes(root, patch)
        try:
            nodes.add("node0")
            here_s, there_s = measured(asked.launcher, asked.launches, root, nodes.address)
        finally:
            nodes.close()
    lines = [
        f"{asked.launches} launches of one cell each, launcher {asked.launcher}; seconds from handing over to free"
    ]
    for name, found in (("this host", here_s), ("through Ray", there_s)):
        later = sorted(found[1:])
        middle = statistics.median(later)
        lines.append(f"{name:12} first {found[0]:.3f}  median {middle:.3f}  least {later[0]:.3f}  most {later[-1]:.3f}")
    more_s = statistics.median(there_s[1:]) - statistics.median(here_s[1:])
    lines.append(f"Ray adds {more_s:.3f} s to a launch (target: less than {TARGET_S} s)")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(more_s >= TARGET_S)


if __name__ == "__main__":
    sys.exit(main())
