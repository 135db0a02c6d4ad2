"""One run of hundreds of short cells in containers, and what it costs the driver: nothing that grows.

``python tests/faults/soak.py --cells 500`` is the soak (``make soak``); a test in tests/containers takes a few cells of
it. All is read from outside: the driver's descriptors, threads and memory from /proc whenever it says that a cell has
ended, and the containers from the Docker engine's own events.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from bench_core.contract.records.outcome import Outcome
from bench_core.drive.launch.containers.endpoint import chosen_endpoint
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

ROOT = Path(__file__).resolve().parents[2]
RUN = "soak"
CELLS_OF_A_CONTAINER = 2
# What a driver of hundreds of cells may grow by: verdicts of all cells, and what Python's allocator does not give back.
RSS_SLACK_BYTES = 4 * 1024 * 1024
RSS_BYTES_OF_A_CELL = 8 * 1024
PACE_CELLS = 100  # of fewer, a quarter takes seconds, and says more of the machine than of the driver
SLOWER = 1.25  # seconds from container to container, last quarter to first; a shared machine is not steady


@dataclass(frozen=True)
class Sample:
    """The driver when a cell had ended.

    Attributes:
        cells: ended until then.
        at_s: seconds since the driver's start.
    """

    cells: int
    at_s: float
    descriptors: int
    threads: int
    rss_bytes: int


@dataclass
class Watched:
    """One run, as seen from outside.

    Attributes:
        code: the driver's exit code.
        made, removed: ids of the run's containers, by the engine's events.
        most_at_once: of these.
        left: containers of the run that were there after it.
        problems: what the run itself shows: cells that are not ``ok``, differences that verification finds.
    """

    cells: int
    code: int = -1
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    most_at_once: int = 0
    left: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def command(root: Path, cells: int) -> list[str]:
    """The driver, with all its folders under ``root``."""
    folders = [f"--{name}={root / name}" for name in ("results", "data", "models")]
    script = [f"--option=null.{key}" for key in ("load_s=0", "ttft_s=0.005", "tpot_s=0.001")]
    asked = ["--images=null", "--device=cpu", "--launcher=docker", "--samples=4", "--max-new-tokens=4", *script]
    asked += ["--no-harness-check", "--no-device-rates", "--exhaustive", "--max-warmup-batches=1", "--json"]
    sizes = ",".join(str(size) for size in range(1, CELLS_OF_A_CONTAINER + 1))
    asked += [f"--batch-sizes={sizes}", f"--repeats={cells // CELLS_OF_A_CONTAINER}", f"--run-id={RUN}"]
    return [sys.executable, "-m", "bench_core.drive", *asked, *folders]


def watch(root: Path, cells: int, client: docker.DockerClient) -> Watched:
    """Runs it to its end."""
    seen = Watched(cells)
    stop = threading.Event()
    follower = threading.Thread(target=_follow_engine, args=(client, seen, stop), daemon=True)
    follower.start()
    started = time.monotonic()
    with (root / "log").open("wb") as log:
        driver = subprocess.Popen(
            command(root, cells), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        assert driver.stdout is not None
        for line in driver.stdout:
            if _is_end_of_cell(line):
                now = _look(driver.pid, len(seen.samples) + 1, time.monotonic() - started)
                if now is not None:
                    seen.samples.append(now)
        seen.code = driver.wait()
    seen.seconds = time.monotonic() - started
    stop.set()
    follower.join(timeout=10.0)
    left = client.containers.list(all=True, filters={"label": f"llm-bench.run={RUN}"}, ignore_removed=True)
    seen.left = [str(container.name) for container in left]
    if seen.code == 0:
        run = root / "results" / RUN
        seen.problems += [f"{row.planned.cell}: {row.status}" for row in load_run(run).rows if not _is_ok(row)]
        seen.problems += [found.line for found in verify_run(run).differences]
    else:
        seen.problems.append(f"the driver ended with {seen.code}: {(root / 'log').read_text('utf-8')[-1000:]}")
    return seen


def _is_ok(row: Any) -> bool:
    return row.result is not None and row.verdict.outcome is Outcome.OK


def _is_end_of_cell(line: bytes) -> bool:
    news = json.loads(line)
    return bool(news.get("type") == "cell_ended")


def _look(pid: int, cells: int, at_s: float) -> Sample | None:
    """``None`` if it has ended in the meantime."""
    home = Path(f"/proc/{pid}")
    try:
        pages = int((home / "statm").read_text().split()[1])
        descriptors, threads = len(os.listdir(home / "fd")), len(os.listdir(home / "task"))
    except OSError:
        return None
    return Sample(cells, at_s, descriptors, threads, pages * os.sysconf("SC_PAGE_SIZE"))


def _follow_engine(client: docker.DockerClient, seen: Watched, stop: threading.Event) -> None:
    """Takes the engine's events of the run's containers, a second of them at a time."""
    wanted = {"type": "container", "event": ["create", "destroy"], "label": f"llm-bench.run={RUN}"}
    since = int(time.time())
    while True:
        over = stop.is_set()
        until = since + 1
        time.sleep(max(0.0, until - time.time()))
        for event in client.events(since=since, until=until, filters=wanted, decode=True):
            (seen.made if event["Action"] == "create" else seen.removed).add(event["id"])
            seen.most_at_once = max(seen.most_at_once, len(seen.made - seen.removed))
        since = until
        if over:
            return


def faults(seen: Watched) -> list[str]:
    """What is wrong, one line each; empty for a run that leaks nothing and does not slow down."""
    found = list(seen.problems)
    found += [f"left over: container {name}" for name in seen.left]
    if seen.made != seen.removed:
        found.append(f"{len(seen.made)} containers were made, {len(seen.removed)} removed")
    if len(seen.made) != seen.cells // CELLS_OF_A_CONTAINER:
        found.append(f"{len(seen.made)} containers for {seen.cells} cells")
    if seen.most_at_once > 1:
        found.append(f"{seen.most_at_once} containers at once on one device")
    if len(seen.samples) < 0.9 * seen.cells:  # the driver may be gone before the last ones are looked at
        found.append(f"{len(seen.samples)} samples of {seen.cells} cells")
        return found
    early, late = quarters(seen.samples)
    for name in ("descriptors", "threads"):
        before, after = (max(getattr(sample, name) for sample in part) for part in (early, late))
        if after > before:
            found.append(f"{name}: {before} at most in the second quarter of the run, {after} in the last")
    before, after = rss_bytes(early), rss_bytes(late)
    allowed = RSS_SLACK_BYTES + RSS_BYTES_OF_A_CELL * (late[-1].cells - early[0].cells)
    if after - before > allowed:
        found.append(f"resident memory: {before} bytes in the second quarter of the run, {after} in the last")
    if len(seen.samples) >= PACE_CELLS and pace_s(late) > SLOWER * pace_s(early):
        found.append(
            f"a cell took {pace_s(early):.2f} s in the second quarter of the run, {pace_s(late):.2f} in the last"
        )
    return found


def quarters(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The second and the last quarter: in the first one, what is made once is made."""
    count = len(samples)
    return samples[count // 4 : count // 2], samples[-(count // 4) :]


def rss_bytes(samples: Sequence[Sample]) -> int:
    """Median."""
    return int(statistics.median(sample.rss_bytes for sample in samples))


def pace_s(samples: Sequence[Sample]) -> float:
    """Seconds a cell, mean."""
    return (samples[-1].at_s - samples[0].at_s) / (len(samples) - 1)


def words(seen: Watched) -> list[str]:
    """The figures."""
    early, late = quarters(seen.samples)
    lines = [
        f"{seen.cells} cells in {len(seen.made)} containers, {seen.seconds:.0f} s, exit code {seen.code}",
        f"containers left: {len(seen.left)}; at once: {seen.most_at_once}",
    ]
    for name in ("descriptors", "threads"):
        before, after = (sorted({getattr(sample, name) for sample in part}) for part in (early, late))
        lines.append(
            f"{name}: {before[0]} to {before[-1]} in the second quarter, {after[0]} to {after[-1]} in the last"
        )
    marks = [seen.samples[min(len(seen.samples) - 1, k * len(seen.samples) // 5)] for k in range(6)]
    lines.append("RSS (MiB): " + ", ".join(f"{s.rss_bytes / 2**20:.1f} after {s.cells} cells" for s in marks))
    lines.append(f"seconds a cell: {pace_s(early):.3f} in the second quarter, {pace_s(late):.3f} in the last")
    return lines


def main() -> int:
    """The command line; exits with 1 if anything leaked or grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--place", type=Path, help="folder for the run  [default: a temporary one]")
    given = parser.parse_args()
    place = given.place or Path(tempfile.mkdtemp(prefix="llm-bench-soak-"))
    place.mkdir(exist_ok=True)
    seen = watch(place, given.cells, chosen_endpoint().client(600))
    found = faults(seen)
    sys.stdout.write("\n".join([*words(seen), *(f"  {fault}" for fault in found), "leaks: " + str(len(found))]) + "\n")
    if not found and given.place is None:
        shutil.rmtree(place)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
