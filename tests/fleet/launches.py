"""What a launch costs the suite itself, beside an earlier build: scripted engines in boxes, alone and four at once.

``PYTHONPATH=.:tests python tests/fleet/launches.py --baseline COMMIT`` (``make launches``) checks the earlier build
out into a temporary folder, makes the scripted engine's image of each build, and gives both the same work in turns, so
that what else the machine does falls on both alike:

- one launch at a time: from the making of the container to its removal, engine time taken out;
- several at a time: cells a minute, each in a launch of its own, of an engine that takes next to no time.

Beside them stands what Docker alone costs: the same container, with the same options and calls, whose program is
``true``. Nothing of the suite runs in it, so no build can be faster than that.

``--cpu`` (as root) does it in a Docker engine of its own and counts CPU time for each cell: of the driver, of the
engine with all that it starts, and of what runs in containers. Where a machine is never quiet, that tells more than a
clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import docker

if TYPE_CHECKING:
    from counted_engine import CountedEngine

ROOT = Path(__file__).resolve().parents[2]
OVERHEAD_S = 0.35
TIMES_AS_MANY = 3.0
DOCKER = "Docker alone"


class Side:
    """One build, in a process of its own that does what it is asked to."""

    def __init__(self, name: str, tree: Path, scratch: Path, at_once: int, engine: CountedEngine | None) -> None:
        self.name = name
        self._engine = engine
        self.cpu_ms: dict[str, list[tuple[float, ...]]] = {}
        environment = {**os.environ, "PYTHONPATH": str(tree), "BENCH_LOCK_FOLDER": str(scratch / "locks")}
        environment |= {"DOCKER_HOST": engine.url} if engine is not None else {}
        scratch.mkdir(parents=True)
        command = [sys.executable, str(Path(__file__).resolve()), "--side", name, "--at-once", str(at_once)]
        self._process = subprocess.Popen(
            command, cwd=scratch, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str, count: int) -> dict[str, float]:
        """``one``: overheads of launches; ``many``: how long so many cells took; ``empty``: how long so many launches
        of ``true`` took, side by side where there are several."""
        assert self._process.stdin is not None  # both are pipes
        assert self._process.stdout is not None
        before = self._counted()
        self._process.stdin.write(json.dumps([what, count]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended without an answer")
        found: dict[str, float] = json.loads(line)
        engine, containers = (now - then for now, then in zip(self._counted(), before, strict=True))
        ms = tuple(1000.0 * seconds / count for seconds in (found["driver_cpu_s"], engine, containers))
        self.cpu_ms.setdefault(what, []).append(ms)
        return found

    def _counted(self) -> tuple[float, float]:
        """CPU time so far of the Docker engine and of what runs in its containers, seconds."""
        if self._engine is None:
            return 0.0, 0.0
        return self._engine.engine.seconds(), self._engine.boxes.seconds()

    def close(self) -> None:
        """Ends it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def serve(name: str, at_once: int) -> None:  # noqa: PLR0915  # one story, told in the other build's words
    """What a side's process does; everything of the suite is imported from the tree that it was started for."""
    from bench_core.contract.measures.cell import CellResult
    from bench_core.contract.records import layout
    from bench_core.contract.records.outcome import Outcome
    from bench_core.drive.ask.request import Request, Suite
    from bench_core.drive.fleet.executor import Worker
    from bench_core.drive.fleet.pool import HostPool
    from bench_core.drive.launch.containers import build as builds
    from bench_core.drive.launch.containers.launcher import DockerLauncher
    from bench_core.drive.launch.launcher_choice import choose_launcher
    from bench_core.drive.material.material import Material
    from bench_core.drive.own_error import overhead_s
    from bench_core.drive.plan.catalogue import Catalogue
    from bench_core.drive.plan.plan import make_plan
    from bench_core.drive.run.execute import Execution
    from bench_core.drive.run.gpu_gate import GpuGate
    from bench_core.drive.run.progress import Display
    from bench_core.drive.run.visit import begin, new_record, visit_info
    from bench_core.drive.search.trials import Site
    from bench_core.system.locks import Locks

    # Both builds give their image the same name, which is also that of a driver at work here: each has its own.
    own, usual = f"llm-bench/launches-{name}:cpu", builds.tag_of
    vars(builds)["tag_of"] = lambda image, flavour: own if image == "null" else usual(image, flavour)
    launcher = choose_launcher("docker").launcher
    assert isinstance(launcher, DockerLauncher)  # asked for
    suite = Suite.model_validate(
        {
            "images": ("null",), "batch_sizes": (1,), "samples": 8, "max_new_tokens": 4, "max_batches": 1,
            "max_warmup_batches": 1, "score_texts": 0, "device": "cpu", "launcher": "docker", "harness_check": False,
            "options": {"null": {"load_s": 0.0, "ttft_s": 0.001, "tpot_s": 0.0}}, "on_busy": "ignore",
        }
    )  # fmt: skip
    places = {place: Path(place).resolve() for place in ("results", "data", "models")}
    request = Request.model_validate({"suite": suite, **places})
    plan = make_plan(suite, Catalogue(), "cpu")
    with closing(Locks()) as locks, Display() as display:

        def execution_on(workers: int) -> Execution:
            gate = GpuGate("ignore", 0.0, lambda _line: None)
            named = [Worker(f"worker {number}") for number in range(workers)]
            pool = HostPool(launcher, named, locks, gate, None)
            return Execution(request, plan, launcher, [], display, locks, gate, executor=pool)

        first = execution_on(1)
        site = Site(request, launcher, [], display, "cpu", lambda _execution: None, locks)
        provision, prepared = Material(request, frozenset(), Catalogue(), None).all_ready(first, plan, site)
        (job,) = plan.jobs
        run_folder = request.results / "launches"
        visit = visit_info(plan, launcher, []).model_copy(update={"images": provision.images})
        begin(run_folder, new_record("launches", suite, plan, visit, prepared), suite, prepared.workload)
        empty = first._task(job, prepared, run_folder).launch

        def launch_empty(_: int) -> None:
            launcher._run(empty, lambda _line: None, {"entrypoint": ["/bin/true"], "command": []})

        repeat = 1
        for line in sys.stdin:
            what, count = json.loads(line)
            cpu_s, began = time.process_time(), time.monotonic()
            if what == "empty":
                with ThreadPoolExecutor(min(count, at_once)) as launches:
                    list(launches.map(launch_empty, range(count)))
                answer = {"seconds": time.monotonic() - began, "driver_cpu_s": time.process_time() - cpu_s}
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()
                continue
            jobs = [replace(job, repeat=repeat + number) for number in range(count)]
            repeat += count
            finished = execution_on(1 if what == "one" else at_once).measure(prepared, run_folder, {}, jobs)
            took_s = time.monotonic() - began
            bad = [
                f"{cell}: {verdict.outcome.value}: {verdict.cause}"
                for cell, verdict in finished.verdicts.items()
                if verdict.outcome is not Outcome.OK
            ]
            if bad or len(finished.verdicts) != count:
                raise SystemExit(f"{name}: {bad or 'cells are missing'}")
            answer = {"seconds": took_s, "driver_cpu_s": time.process_time() - cpu_s}
            if what == "one":
                metrics = CellResult.read(layout.cell_folder(run_folder, jobs[0].cells[0]) / layout.RESULT_FILE).metrics
                (launch_s,) = finished.launch_s.values()
                answer["overhead_s"] = overhead_s(launch_s, metrics)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        launcher._client.images.remove(own)


def main() -> int:
    """Prints both builds' numbers; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--baseline", default="e1ef335", help="commit of the earlier build")
    parser.add_argument("--launches", type=int, default=15, help="of each build, one at a time")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each build, several at a time")
    parser.add_argument("--cells", type=int, default=24, help="in each turn")
    parser.add_argument("--at-once", type=int, default=4, help="launches side by side")
    parser.add_argument("--cpu", action="store_true", help="count CPU time, in a Docker engine of its own (root)")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        serve(given.side, given.at_once)
        return 0
    with tempfile.TemporaryDirectory(prefix="llm-bench-launches-") as scratch:
        place = Path(scratch)
        place.chmod(0o755)
        old = place / "tree"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(old), given.baseline], check=True)
        try:
            with counted() if given.cpu else nullcontext() as engine:
                return compare(given, old, place, engine)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(old)], check=True)


@contextmanager
def counted() -> Iterator[CountedEngine]:
    """A Docker engine whose CPU time is counted, with what the scripted engine's image stands on."""
    from counted_engine import CountedEngine

    engine = CountedEngine()
    try:
        engine.start()
        there = {tag for image in docker.from_env().images.list() for tag in image.tags}
        engine.load(*sorted(there & {"llm-bench/os:cpu", "llm-bench/base:cpu"}))
        yield engine
    finally:
        engine.remove()


def compare(given: argparse.Namespace, old: Path, place: Path, engine: CountedEngine | None) -> int:
    """Both builds in turns."""
    sides: list[Side] = []
    one: dict[str, list[float]] = {}
    many: dict[str, list[float]] = {}
    try:
        for name, tree in (("before", old), ("now", ROOT)):
            side = Side(name, tree, place / name, given.at_once, engine)
            sides.append(side)
            side.ask("one", 1)  # the image is made, and everything was read once
        for number in range(given.launches):
            for side in sides if number % 2 else reversed(sides):
                one.setdefault(side.name, []).append(side.ask("one", 1)["overhead_s"])
            one.setdefault(DOCKER, []).append(sides[-1].ask("empty", 1)["seconds"])
        for number in range(given.rounds):
            for side in sides if number % 2 else reversed(sides):
                many.setdefault(side.name, []).append(60.0 * given.cells / side.ask("many", given.cells)["seconds"])
            many.setdefault(DOCKER, []).append(60.0 * given.cells / sides[-1].ask("empty", given.cells)["seconds"])
    finally:
        for side in sides:
            side.close()
    for name in ("before", "now", DOCKER):
        seconds, rates = one[name], many[name]
        sys.stdout.write(
            f"{name:<12} overhead of a launch median {statistics.median(seconds):.3f} s "
            f"({min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)} launches); {given.at_once} at a time median "
            f"{statistics.median(rates):.1f} cells a minute ({min(rates):.1f} to {max(rates):.1f}, "
            f"{len(rates)} turns of {given.cells})\n"
        )
    if engine is not None:
        _write_cpu(
            [(side.name, side.cpu_ms["many"]) for side in sides]
            + [(DOCKER, sides[-1].cpu_ms["empty"][-given.rounds :])]
        )
    sys.stdout.write(f"load of this machine over the last 15 minutes: {os.getloadavg()[2]:.1f}\n")
    overhead = statistics.median(one["now"])
    times, at_most = (statistics.median(many[name]) / statistics.median(many["before"]) for name in ("now", DOCKER))
    sys.stdout.write(f"targets: overhead {overhead:.3f} s of {OVERHEAD_S} s; {times:.2f} times as many cells a minute ")
    sys.stdout.write(f"of {TIMES_AS_MANY}, and {at_most:.2f} with no program of the suite in the container\n")
    return int(overhead > OVERHEAD_S or times < TIMES_AS_MANY)


def _write_cpu(counted: list[tuple[str, list[tuple[float, ...]]]]) -> None:
    for name, turns in counted:
        medians = [statistics.median(column) for column in zip(*turns, strict=True)]
        parts = ", ".join(
            f"{what} {ms:.0f}" for what, ms in zip(("driver", "Docker engine", "containers"), medians, strict=True)
        )
        sys.stdout.write(f"{name:<12} CPU time of a cell, several at a time: {sum(medians):.0f} ms ({parts})\n")


if __name__ == "__main__":
    sys.exit(main())
