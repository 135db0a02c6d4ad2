"""Kills the driver of a scripted run at seeded random moments, goes on with the run, and checks what came of it.

``python tests/faults/kill_points.py --points 200`` is the soak (``make soak-kill``); a test takes a few points of it.
A kill is SIGKILL to the driver alone, as a crash would end it: its worker may live on for a moment, and the next driver
starts at once. With ``--launcher docker`` its container goes on measuring until the next driver has cleared it away.
With ``--pool`` the run is of 24 cells in four launches, on two slices of the CPUs side by side.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench_core.contract.records import layout
from bench_core.contract.records.events import BatchEvent, parse_events
from bench_core.drive.launch.containers.endpoint import connect
from bench_core.drive.plan.resume import Earlier
from bench_core.runs.load import load_run

ROOT = Path(__file__).resolve().parents[2]
RUN = "night"
# Columns of table.csv that follow from the plan, the prompts and the script alone; all others are times and memory, or
# say which visit it was.
DETERMINISTIC = (
    "cell", "image", "variant", "method", "batch_size", "repeat", "outcome", "cause", "batching", "batches",
    "warmup_batches", "rows", "prompt_tokens", "output_tokens", "output_tokens_per_batch", "token_times_source",
)  # fmt: skip
MAX_KILLS = 3
MAX_DRAWS = 20
_MISSED = "ended before"
_DRIVER_LIMIT_S = 180.0
_SURVIVORS_LIMIT_S = 10.0

Table = list[tuple[str, ...]]
Launcher = Literal["process", "docker"]


@dataclass(frozen=True)
class Shape:
    """The cells of a run: batch sizes, each in so many repeats of one launch, on so many slices of the CPUs."""

    sizes: int
    repeats: int = 1
    slices: int | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of the plan."""
        ends = ["", *(f".r{repeat}" for repeat in range(2, self.repeats + 1))]
        return tuple(f"null.scripted.b{size}{end}" for end in ends for size in range(1, self.sizes + 1))

    @property
    def arguments(self) -> list[str]:
        """That ask for it."""
        asked = [f"--batch-sizes={','.join(map(str, range(1, self.sizes + 1)))}", f"--repeats={self.repeats}"]
        # A control and a sample would be cells of each visit.
        pool = [f"--cpu-slices={self.slices}", "--control=none", "--beside-sample=0"] if self.slices else []
        return [*asked, *pool]


ONE, POOL = Shape(12), Shape(6, 4, 2)
CELLS = ONE.cells


@dataclass
class Point:
    """What became of one run: ``faults`` is empty if it ended as if nothing had happened.

    Attributes:
        struck: for each kill what the run's folder held: ``no run yet``, ``k of 12 complete``, ``ended before``.
        busy: for each kill how many launches were under way.
    """

    number: int
    struck: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)

    @property
    def was_killed(self) -> bool:
        """Whether at least one moment came before the driver had ended."""
        return any(where != _MISSED for where in self.struck)


def command(root: Path, *arguments: str) -> list[str]:
    """The driver, with all its folders under ``root``."""
    folders = [f"--{name}={root / name}" for name in ("results", "data", "models")]
    return [sys.executable, "-m", "bench_core.drive", *arguments, *folders]


def first_call(root: Path, launcher: Launcher = "process", shape: Shape = ONE) -> list[str]:
    """Cells of a few milliseconds each."""
    script = [f"--option=null.{key}" for key in ("load_s=0", "ttft_s=0.01", "tpot_s=0.001")]
    asked = ["--images=null", "--device=cpu", f"--launcher={launcher}", "--samples=24", "--max-new-tokens=4", *script]
    # The same batches each time: nothing that depends on how fast the machine was.
    asked += ["--no-harness-check", "--exhaustive", "--max-warmup-batches=1"]
    return command(root, *asked, *shape.arguments, f"--run-id={RUN}")


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a driver in a session of its own."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )


def complete_cells(run: Path) -> dict[str, str]:
    """Complete cells and the digest of their files; nothing where there is no run yet."""
    if not (run / layout.RUN_FILE).exists():
        return {}
    return {row.planned.cell: _digest(run / "cells" / row.planned.cell) for row in Earlier.load(run).complete}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def table(run: Path) -> Table:
    """The deterministic columns of ``table.csv``, with a digest of what each cell was given and answered."""
    with (run / layout.TABLE_FILE).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [(*(row[name] for name in DETERMINISTIC), _work(run / "cells" / row["cell"])) for row in rows]


def _work(folder: Path) -> str:
    with (folder / layout.EVENTS_FILE).open("rb") as stream:
        batches = [event for event in parse_events(stream, folder.name) if isinstance(event, BatchEvent)]
    did = [(batch.phase, batch.index, batch.prompts, batch.prompts_digest, batch.outputs) for batch in batches]
    return hashlib.sha256(json.dumps(did).encode()).hexdigest()


def reference(root: Path, launcher: Launcher = "process", shape: Shape = ONE) -> tuple[Table, float]:
    """The table of a run that nobody interrupts, and how long it took, seconds.

    What is built once is built before: with that time in it, most kills of the runs that follow would come too late.
    """
    call = first_call(root, launcher, shape)
    for arguments in ([*call, "--build-only"], call):
        started = time.monotonic()
        code = start(arguments, root / "log").wait(_DRIVER_LIMIT_S)
        if code != 0:
            raise RuntimeError(f"the uninterrupted run ended with {code}: {(root / 'log').read_text()[-2000:]}")
    return table(root / "results" / RUN), time.monotonic() - started


def strike(
    number: int,
    draw: str,
    root: Path,
    expected: Table,
    whole_s: float,
    launcher: Launcher = "process",
    shape: Shape = ONE,
) -> Point:
    """One run, killed once to three times at moments that follow from ``draw``, and finished."""
    point = Point(number)
    chance = random.Random(draw)  # noqa: S311  # moments, not secrets
    run = root / "results" / RUN
    kept: dict[str, str] = {}
    for attempt in range(MAX_KILLS + 1):
        resumed = (run / layout.RUN_FILE).exists()
        call = command(root, f"--resume={RUN}") if resumed else first_call(root, launcher, shape)
        driver = start(call, root / "log")
        to_be_killed = attempt == 0 or (attempt < MAX_KILLS and chance.random() < 0.4)
        moment_s = chance.uniform(0.0, 1.05 * whole_s) * (0.7 if resumed else 1.0)
        try:
            code = driver.wait(moment_s if to_be_killed else _DRIVER_LIMIT_S)
        except subprocess.TimeoutExpired:
            point.busy.append(len(list((root / "data").glob(f"{layout.ASSIGNMENT}.*"))))
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            if not to_be_killed:
                point.faults.append(f"attempt {attempt} did not end")
                break
            now = complete_cells(run)
            held = (run / layout.RUN_FILE).exists()
            point.struck.append(f"{len(now)} of {len(shape.cells)} complete" if held else "no run yet")
            kept = _still(point, kept, now)
            continue
        if to_be_killed:
            point.struck.append(_MISSED)
        if code != 0:
            point.faults.append(f"attempt {attempt} ended with code {code}: {_tail(root / 'log')}")
        break
    _judge(point, run, kept, expected, shape.cells)
    _survivors(point, root)
    if launcher == "docker":
        _containers(point)
    return point


def _still(point: Point, before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """A complete cell stays as it is, whatever comes."""
    for cell, digest in before.items():
        if now.get(cell) != digest:
            point.faults.append(f"{cell} was complete and is {'changed' if cell in now else 'lost'}")
    return {**before, **now}


def _judge(point: Point, run: Path, kept: dict[str, str], expected: Table, cells: tuple[str, ...] = CELLS) -> None:
    try:
        view = load_run(run)
        found = tuple(row.planned.cell for row in view.rows)
        if found != cells:
            point.faults.append(f"the plan's cells are {found}")
        point.faults += [f"{row.planned.cell}: {row.status}: {row.problem}" for row in view.rows if row.result is None]
        _still(point, kept, complete_cells(run))
        measured = [cell for visit in view.record.visits for cell in visit.cells]
        point.faults += [f"{cell} belongs to no visit" for cell in cells if cell not in measured]
        folders = sorted(path.name for path in (run / "cells").iterdir())
        if folders != sorted(cells):
            point.faults.append(f"cells/ holds {folders}")
        point.faults += [f"left over: {path.name}" for path in run.glob(".*")]
        point.faults += [f"left over: {path}" for cell in cells for path in (run / "cells" / cell).glob(".*")]
        if table(run) != expected:  # last: a damaged log has no table
            point.faults.append("the table differs from that of the uninterrupted run")
    except Exception as error:  # noqa: BLE001  # whatever a reader raises is what this is looking for
        point.faults.append(f"{type(error).__name__}: {error}")


def _survivors(point: Point, root: Path) -> None:
    """No process of this run lives on."""
    deadline = time.monotonic() + _SURVIVORS_LIMIT_S
    while alive := _processes_of(root):
        if time.monotonic() > deadline:
            point.faults.append(f"processes {alive} are still there")
            return
        time.sleep(0.05)


def _containers(point: Point) -> None:
    """No container of this run is left: those of killed drivers were cleared by the driver that came after them."""
    client = connect()
    left = client.containers.list(all=True, filters={"label": f"llm-bench.run={RUN}"}, ignore_removed=True)
    point.faults += [f"left over: container {container.name}" for container in left]


def _processes_of(root: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"bench_core" in words and str(root).encode() in words:
            found.append(int(path.parent.name))
    return found


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])


def soak(points: int, seed: int, place: Path, launcher: Launcher = "process", shape: Shape = ONE) -> list[Point]:
    """``points`` runs, one after the other; the folder of one without faults is removed."""
    first = place / "reference"
    first.mkdir(parents=True)
    expected, whole_s = reference(first, launcher, shape)
    done = []
    for number in range(points):
        root = place / f"point-{number}"
        for draw in range(MAX_DRAWS):
            root.mkdir()
            point = strike(number, f"{seed}:{number}:{draw}", root, expected, whole_s, launcher, shape)
            if point.faults or point.was_killed:
                break
            shutil.rmtree(root)  # it had ended before the moment came: no kill, so it is not counted
        done.append(point)
        if not point.was_killed:
            point.faults.append(f"it was never killed, in {MAX_DRAWS} draws")
        if not point.faults:
            shutil.rmtree(root)
        words = "; ".join(point.faults) or "good"
        sys.stderr.write(f"[{number + 1}/{points}] killed at: {', '.join(point.struck)}: {words}\n")
    return done


def main() -> int:
    """The command line; exits with 1 if any run did not end as the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", type=Path, help="folder for the runs  [default: a temporary one]")
    parser.add_argument("--launcher", choices=("process", "docker"), default="process")
    parser.add_argument("--pool", action="store_true", help="24 cells on two slices of the CPUs side by side")
    given = parser.parse_args()
    shape = POOL if given.pool else ONE
    place = given.place or Path(tempfile.mkdtemp(prefix="llm-bench-kill-"))
    done = soak(given.points, given.seed, place, given.launcher, shape)
    bad = [point for point in done if point.faults]
    struck = Counter(where for point in done for where in point.struck)
    killed = sum(point.was_killed for point in done)
    kills = sum(count for where, count in struck.items() if where != _MISSED)
    lines = [f"{killed} of {len(done)} runs were killed, {kills} times in all ({given.launcher} launcher)"]
    lines += [
        f"{len(done) - len(bad)} of {len(done)} runs ended with all {len(shape.cells)} cells once and the same table"
    ]
    busy = Counter(count for point in done for count in point.busy)
    lines += [f"  {times} times with {count} launches under way" for count, times in sorted(busy.items())]
    lines += [f"  {count} times with: {where}" for where, count in sorted(struck.items())]
    lines += [f"  run {point.number}: {fault}" for point in bad for fault in point.faults]
    sys.stdout.write("\n".join(lines) + "\n")
    if not bad and given.place is None:
        shutil.rmtree(place)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
