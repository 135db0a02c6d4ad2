"""Who else uses the CPUs is looked at before a box and around each batch: busy loops beside the scripted engine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, Drive

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import BusyRule, CpuUse, taken_by_others
from bench_core.contract.records import layout
from bench_core.contract.records.events import BatchEvent, StopEvent, parse_events
from bench_core.drive.run import cpu_gate
from bench_core.drive.run.cpu_gate import CpuGate, Look
from bench_core.drive.run.gpu_gate import OnBusy
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

RUN = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "60", "--batch-sizes", "1")
QUICK = ("--max-new-tokens", "16", "--option", "null.tpot_s=0.003", "--yes")
# Of both, though the tests' own surroundings ask for neither.
LOOKED_AT = ("--busy-cpus", "0.2")
CPUS = len(os.sched_getaffinity(0))


pytestmark = pytest.mark.alone


@contextmanager
def busy_loops(count: int = 3 * CPUS) -> Iterator[list[int]]:
    """Processes that do nothing, as fast as they can; their numbers."""
    code = "print(flush=True)\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for loop in loops:  # on a machine that is busy already, a start may take a while
            assert loop.stdout is not None
            loop.stdout.readline()
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_a_cell_beside_busy_loops_is_marked_and_ranked_by_nobody(drive: Drive, tmp_path: Path) -> None:
    with busy_loops():
        called = drive(*RUN, *QUICK, *LOOKED_AT, "--run-id", "mine")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    view = load_run(run)
    (row,) = view.rows
    assert row.result is not None
    use = row.result.metrics.cpu
    assert use is not None
    assert use.busy
    assert use.cpus == CPUS
    assert use.others_share > 0.5
    assert row.disturbed == f"others took {taken_by_others(use)}"
    assert view.unranked(row) == row.disturbed
    assert not view.ranked(view.rows)
    with (layout.cell_folder(run, row.planned.cell) / layout.EVENTS_FILE).open("rb") as stream:
        events = list(parse_events(stream, "log"))
    assert all(event.cpu is not None for event in events if isinstance(event, BatchEvent))
    (stop,) = [event for event in events if isinstance(event, StopEvent)]
    assert stop.reason != "precision"
    assert stop.rule.busy == BusyRule(cpus=0.2)
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    (warning,) = [line for line in report.splitlines() if line.startswith("- **Warning**: ")]
    assert warning.startswith("- **Warning**: this host was busy: others took up to ")
    assert " busy |" in report
    assert "busy: the host was busy while this was measured" in report
    assert "meanwhile" in next(line for line in report.splitlines() if "suite's own error" in line)
    assert "this host was busy" in " ".join(called.out.split())
    assert verify_run(run).differences == ()


def test_what_the_tests_ask_for_marks_nothing(drive: Drive, tmp_path: Path) -> None:
    """The surroundings of all other tests, which may run on a busy machine."""
    with busy_loops():
        called = drive(*RUN, *QUICK, "--no-harness-check", "--run-id", "mine")
    assert called.code == 0
    (row,) = load_run(tmp_path / "results" / "mine").rows
    assert row.disturbed == ""
    report = (tmp_path / "results" / "mine" / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "this host was busy" not in report
    assert "| busy" not in report
    assert " busy |" not in report


def test_a_busy_cpu_is_refused_before_anything_is_measured_and_names_who_uses_it(drive: Drive, tmp_path: Path) -> None:
    with busy_loops():
        arguments = (*RUN, *QUICK, *LOOKED_AT, "--busy-wait-s", "3")
        refused = [drive(*arguments, "--on-busy", how, "--run-id", how) for how in ("refuse", "wait")]
    for called in refused:
        assert called.code == 2
        assert "error: the CPUs are busy: others took " in called.err
        assert "hint: again when they are free" in called.err
        assert re.search(r"CPUs? \(\d+ %\).*: process \d+ \(", called.err)
    assert "waiting for at most 3 s" in refused[1].out + refused[1].err
    assert not list((tmp_path / "results").glob("*/cells/*"))
    assert drive("--resume", "refuse").code == 0, "these tests ignore who else is there"


def test_a_look_sees_busy_loops_and_not_this_process() -> None:
    named: set[int] = set()
    with busy_loops() as pids:
        for _ in range(60):  # with much beside them, loops may not run at all for a second
            seen = cpu_gate.look(1.0)
            assert seen is not None
            assert seen.use.others_share > 0.5
            named |= {pid for pid, _, _ in seen.busiest}
            if named & set(pids):
                break
    assert named & set(pids)
    assert os.getpid() not in named
    assert cpu_gate.look(0.1) is None, "too short to tell"


def use(others_cpus: float) -> CpuUse:
    return CpuUse(
        window_s=1.0, cpus=2, own_cpus=0.0, idle_cpus=2 - others_cpus, steal_cpus=0.0, others_cpus=others_cpus
    )


FREE, BUSY = Look(use(0.05)), Look(use(1.5), ((4711, "python", 0.98), (4712, "make", 0.5)))


class Machine:
    """CPUs that show one state after the other, the last for ever; a look takes a second."""

    def __init__(self, *states: Look | None) -> None:
        self.states = list(states)
        self.now_s = 0.0
        self.told: list[str] = []

    def look(self) -> Look | None:
        self.now_s += 1.0
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def gate(self, on_busy: OnBusy, wait_s: float = 60.0) -> CpuGate:
        return CpuGate(on_busy, wait_s, BusyRule(), self.told.append, look_at=self.look, clock=lambda: self.now_s)


@pytest.mark.parametrize("state", [FREE, None])
def test_free_cpus_are_entered_at_once_and_silent_ones_too(state: Look | None) -> None:
    machine = Machine(state)
    machine.gate("wait").enter()
    assert (machine.now_s, machine.told) == (1.0, [])


def test_busy_cpus_are_waited_for_and_said_once() -> None:
    machine = Machine(BUSY, BUSY, BUSY, FREE)
    machine.gate("wait").enter()
    assert machine.now_s == 4.0
    words = "others took 1.50 of 2 CPUs (75 %): process 4711 (python) 0.98, process 4712 (make) 0.50"
    assert machine.told == [f"the CPUs are busy: {words}; waiting for at most 60 s"]


@pytest.mark.parametrize(("how", "seconds"), [("wait", 60.0), ("refuse", 5.0)])
def test_busy_cpus_are_refused_in_the_end(how: OnBusy, seconds: float) -> None:
    machine = Machine(BUSY)
    with pytest.raises(BadInput, match="process 4711") as refused:
        machine.gate(how).enter()
    assert machine.now_s == pytest.approx(seconds, abs=1.0)
    assert "--on-busy ignore" in refused.value.hint


def test_busy_cpus_are_ignored_without_a_look_and_a_stop_ends_the_waiting() -> None:
    machine = Machine(BUSY)
    machine.gate("ignore").enter()
    assert machine.now_s == 0.0
    machine.gate("wait").enter(lambda: machine.now_s >= 3.0)
    assert machine.now_s == 3.0


HOLD = """
import time
from bench_core.system.locks import Locks
locks = Locks()
locks.hold_cpus("theirs")
print("held", flush=True)
time.sleep(60)
"""


def test_two_drivers_on_one_cpu_are_refused(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_LOCK_FOLDER", str(tmp_path / "locks"))
    arguments = (*RUN, *QUICK, "--no-harness-check")
    other = subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        called = drive(*arguments, "--run-id", "mine")
        words = f"the CPU of this host is in use by process {other.pid} on {platform.node()}"
        assert called.code == 2
        assert words in called.err
        assert "run theirs" in called.err
        assert not (tmp_path / "results" / "mine").exists()
        assert drive(*arguments, "--dry-run").code == 0
    finally:
        other.kill()
        other.wait()
    assert drive(*arguments, "--run-id", "mine").code == 0


def test_the_harness_check_ends_well_beside_busy_loops_and_says_so() -> None:
    """As its own command, which gives its launches one after the other the CPUs' lock."""
    command = [sys.executable, "-m", "bench_core.drive.own_error", "--launches", "2", "--launcher", "process"]
    with busy_loops():
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 1), ended.stderr  # 1: its error is above the limit
    assert "throughput  median error" in ended.stdout
    assert "others took up to" in ended.stdout
