"""How long reports take, beside an earlier commit, and how that grows with a run.

    PYTHONPATH=.:tests/report python tests/report/benchmark_report.py                # make bench-report
    PYTHONPATH=.:tests/report python tests/report/benchmark_report.py --cells 500,5000  # make bench-report SIZES=...

Beside: whole processes of ``report`` and ``verify``, this tree's and the earlier commit's in turns, on the same
machine, each on a copy of the published run of its own; the first of each is not counted (it compiles modules). Growth:
runs that ``make_large_run`` makes. Memory is the largest sum over the processes of a command, shared pages shared out.

The earlier commit needs its own packages: one from before 2026-11-30 draws with altair, which the extra ``dev`` has.
Prints Markdown, and ends with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from make_large_run import make_large_run

from bench_core.contract.records import layout
from bench_core.system.machine import host_info

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "7affb7d"  # the last commit before the page, of 2026-11-30
PUBLISHED = ROOT / "results" / "published" / "h100-llama2-7b"
SHARES = {"report": 1 / 3, "verify": 1 / 4}  # of the time of before
LARGEST = 5000
LIMITS_S = {"report": 60.0, "verify": 90.0, "compare": 60.0, "first paint": 3.0}  # of so many cells
MOST_PAGE_BYTES, MOST_MEMORY_BYTES = 20e6, 2e9
NO_STEEPER = 1.05  # exponent of the growth; what a shared machine is off by
_EVERY_S = 0.05


@dataclass(frozen=True)
class Ran:
    """One command: seconds on the clock and of CPUs, the most memory, its exit code."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    code: int


def run(tree: Path, words: Sequence[str]) -> Ran:
    """``python -m`` of a tree, as a person calls it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=tree, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        peak = 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, _memory_bytes(process.pid))
            time.sleep(_EVERY_S)
        wall_s = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 3):  # 3: a comparison that cannot tell
            said.seek(0)
            sys.stderr.write(said.read().decode("utf-8", "replace")[-2000:])
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, peak, process.returncode)


def _memory_bytes(session: int) -> int:
    """Proportional set size of all processes of a session."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) == session:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except OSError:
            continue
    return total


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """An earlier commit's files, in a work tree that goes again."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as home:
        tree = Path(home) / "before"
        subprocess.run([*git, "add", "--detach", str(tree), commit], check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


@dataclass
class Told:
    """Prints what is found as soon as it is: a long run may be cut. Knows which targets were missed."""

    missed: list[str] = field(default_factory=list)

    def line(self, text: str = "") -> None:
        """Anything."""
        print(text, flush=True)  # noqa: T201

    def row(self, *cells: object) -> None:
        """A line of a table."""
        self.line(f"| {' | '.join(map(str, cells))} |")

    def head(self, *names: str) -> None:
        """A table's first two lines: words, then numbers."""
        self.line()
        self.row(*names)
        self.row(*("---" if place == 0 else "---:" for place in range(len(names))))

    def held(self, what: str, value: float, limit: float) -> str:
        """``kept`` or ``missed``."""
        if value <= limit:
            return "kept"
        self.missed.append(f"{what}: {value:.3g}, allowed are {limit:.3g}")
        return "missed"


def beside(told: Told, commit: str, rounds: int) -> None:
    """Both sides in turns, so that whatever else the machine does meets both."""
    with tree_of(commit) as before, tempfile.TemporaryDirectory() as home:
        sides = {"before": before, "now": ROOT}
        found: dict[tuple[str, str], list[Ran]] = {}
        for name in sides:
            shutil.copytree(PUBLISHED, Path(home) / name, ignore=shutil.ignore_patterns(layout.PAGE_FILE))
        for number in range(rounds + 1):
            for name, tree in sides.items():
                for command in SHARES:
                    ran = run(tree, [f"bench_core.{command}", str(Path(home) / name)])
                    if ran.code:
                        raise SystemExit(f"{command} of {name} ended with {ran.code}")
                    if number:
                        found.setdefault((command, name), []).append(ran)
    told.head(
        f"`{PUBLISHED.name}`, {rounds} rounds", f"Before ({commit[:7]}), s", "Now, s", "Share", "CPU before, s",
        "CPU now, s", "Share of CPU", "Most memory before, MB", "Now, MB", "Allowed share", "Target",
    )  # fmt: skip
    for command, share in SHARES.items():
        old, new = found[command, "before"], found[command, "now"]
        walls = [statistics.median(ran.wall_s for ran in side) for side in (old, new)]
        cpus = [statistics.median(ran.cpu_s for ran in side) for side in (old, new)]
        peaks = [max(ran.peak_bytes for ran in side) for side in (old, new)]
        told.row(
            command, *(f"{_range(side)}" for side in (old, new)), f"{walls[1] / walls[0]:.2f}",
            *(f"{value:.2f}" for value in cpus), f"{cpus[1] / cpus[0]:.2f}", *(f"{peak / 1e6:.0f}" for peak in peaks),
            f"{share:.2f}", told.held(f"{command}, share of the time of before", walls[1] / walls[0], share),
        )  # fmt: skip


def _range(side: Sequence[Ran]) -> str:
    walls = [ran.wall_s for ran in side]
    return f"{statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f})"


def growth(told: Told, sizes: Sequence[int], batches: int) -> None:
    """Report, verify, compare, page and memory of runs of growing size."""
    seen: dict[str, dict[int, float]] = {}
    told.head(
        f"Cells of {batches} batches", "report, s", "CPU, s", "verify, s", "CPU, s", "compare, s", "CPU, s",
        "Most memory, MB", "Page, MB", "First paint, s",
    )  # fmt: skip
    for cells in sizes:
        with tempfile.TemporaryDirectory() as home:
            one, two = Path(home) / "one", Path(home) / "two"
            for seed, folder in ((1, one), (2, two)):
                make_large_run(folder, cells, batches, seed)
            ran = {name: run(ROOT, [f"bench_core.{name}", str(one)]) for name in ("report", "verify")}
            ran["compare"] = run(ROOT, ["bench_core.compare", str(one), str(two)])
            if any(ran[name].code for name in ("report", "verify")):
                raise SystemExit("a run that was made does not verify")
            page = one / layout.PAGE_FILE
            size, paint_s = page.stat().st_size, first_paint_s(page)
        most = max(each.peak_bytes for each in ran.values())
        times = [f"{value:.1f}" for each in ran.values() for value in (each.wall_s, each.cpu_s)]
        told.row(cells, *times, f"{most / 1e6:.0f}", f"{size / 1e6:.1f}", f"{paint_s:.2f}")
        for name, each in ran.items():
            seen.setdefault(name, {})[cells] = each.cpu_s
        if cells == LARGEST:
            for name, limit in LIMITS_S.items():
                told.held(f"{name} of {cells} cells, s", ran[name].wall_s if name in ran else paint_s, limit)
            told.held(f"page of {cells} cells, bytes", size, MOST_PAGE_BYTES)
            told.held(f"memory of {cells} cells, bytes", most, MOST_MEMORY_BYTES)
    if len(sizes) > 1:
        told.line()
        for name, of_size in seen.items():
            low, high = min(of_size), max(of_size)
            slope = math.log(of_size[high] / of_size[low]) / math.log(high / low)
            held = told.held(f"growth of {name}, exponent", slope, NO_STEEPER)
            told.line(f"- {name}: CPU seconds grow as cells to the power of {slope:.2f} ({held})")


def first_paint_s(page: Path) -> float:
    """From the start of loading to the first thing on the screen, in headless Chromium."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    assert found, ".ci/browser.sh installs the browser"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        try:
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            tab.set_default_timeout(120_000)
            tab.goto(page.as_uri(), wait_until="commit")
            tab.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
            at_ms = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        finally:
            browser.close()
    return float(at_ms) / 1e3


def main() -> int:
    """Runs what is asked for and prints it."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--before", default=BEFORE, help="commit to stand beside; empty: none")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--cells", default="", help="numbers of cells, with commas: how times grow with them")
    asked.add_argument("--batches", type=int, default=100, help="of each cell")
    given = asked.parse_args()
    told, machine = Told(), host_info()
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[1]
    told.line(
        f"{date.today()}, {machine.cpu}, {cpus} CPUs, Python {sys.version.split()[0]}; load of the machine over five "
        f"minutes at the start: {load:.1f}"
    )
    if given.before:
        beside(told, given.before, given.rounds)
    sizes = [int(size) for size in given.cells.split(",") if size]
    if sizes:
        growth(told, sizes, given.batches)
    for line in told.missed:
        print(f"missed: {line}", file=sys.stderr)  # noqa: T201
    return 1 if told.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
