"""Slices of the CPUs side by side through the whole suite, and several GPUs of a stand-in for a launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import ROOT, Drive, Made
from stand_ins import Together, two_prompts
from waiting import wait_until

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import GpuInfo, RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.launch.containers.options import _placed
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import Job, Plan
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.drive.run.progress import Display
from bench_core.runs.load import load_run
from bench_core.system.locks import Locks
from bench_core.verify.run import verify_run

POOL = (
    *("--images", "null", "--device", "cpu", "--launcher", "process", "--cpu-slices", "2", "--yes"),
    *("--samples", "24", "--max-new-tokens", "4", "--no-harness-check", "--exhaustive", "--max-warmup-batches", "1"),
)
QUICK = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.01", "--option", "null.tpot_s=0.001")


@pytest.fixture(scope="module")
def pool(make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two batch sizes, three times, on two slices."""
    root = tmp_path_factory.mktemp("pool")
    make_run(root, *POOL, *QUICK, "--batch-sizes", "1,2", "--repeats", "3", "--run-id", "mine")
    return root / "results" / "mine"


def _specs(run: Path) -> dict[str, CellSpec]:
    return {path.parent.name: CellSpec.read(path) for path in run.glob(f"cells/*/{layout.SPEC_FILE}")}


def test_slices_share_no_cpu_and_each_cell_tells_its_own(pool: Path) -> None:
    places = [spec.placement for spec in _specs(pool).values()]
    by_worker = {place.worker: place for place in places if place is not None}
    assert set(by_worker) == {"slice 0", "slice 1"}
    assert None not in places
    one, other = (frozenset(place.cpus) for place in by_worker.values())
    assert one
    assert one.isdisjoint(other)
    assert one | other <= os.sched_getaffinity(0)
    for spec in _specs(pool).values():
        assert spec.placement is not None
        assert spec.threads == len(spec.placement.cpus), "an engine takes the threads of its slice"
    visit = RunRecord.read(pool / layout.RUN_FILE).visits[0]
    assert visit.workers == tuple(by_worker[name] for name in sorted(by_worker))


def test_every_cell_is_measured_once_and_what_is_published_follows_from_the_events(pool: Path) -> None:
    view = load_run(pool)
    names = [row.planned.cell for row in view.rows]
    assert names == [
        *("null.scripted.b1", "null.scripted.b2", "null.scripted.b1.r2", "null.scripted.b2.r2"),
        *("null.scripted.b1.r3", "null.scripted.b2.r3", "null.scripted.b2.r4"),
    ]
    assert all(row.measured for row in view.rows)
    assert [row.planned.cell for row in view.alone] == ["null.scripted.b2.r1000"]
    assert sorted(_specs(pool)) == sorted([*names, "null.scripted.b2.r1000"])
    verification = verify_run(pool)
    assert (verification.differences, verification.cells) == ((), 8)


def test_cells_ran_at_the_same_time_on_different_slices_and_the_sample_alone(pool: Path) -> None:
    view = load_run(pool)
    controls = [row for row in view.rows if row.planned.cell in ("null.scripted.b2", "null.scripted.b2.r4")]
    control = {row.spec.placement.worker for row in controls if row.spec and row.spec.placement}
    assert control == {"slice 0", "slice 1"}, "every device measures the control"
    (alone,) = view.alone
    assert alone.alive_s is not None
    assert all(row.alive_s is not None and row.alive_s[1] <= alone.alive_s[0] for row in view.rows)


def test_the_report_says_what_neighbours_cost_and_how_far_the_devices_differ(pool: Path) -> None:
    report = (pool / layout.REPORT_FILE).read_text(encoding="utf-8")
    (fact,) = [line for line in report.splitlines() if line.startswith("- **Side by side**")]
    assert "2 devices, one cell each; " in fact
    assert "beside " in fact or "no cell of the sample had neighbours" in fact, "a busy machine may start them apart"
    assert "the control cell differs by " in fact
    assert "### Devices side by side" in report
    assert "| slice 1 |" in report
    assert "### Side by side" in report


def test_a_resumed_run_keeps_its_slices_and_refuses_others(pool: Path, make_run: Made, tmp_path: Path) -> None:
    root = pool.parents[1]
    refused = make_run(root, "--resume", "mine", "--cpu-slices", "1", "--dry-run", code=2)
    assert "cpu_slices is 1, was 2" in refused.stderr
    kept = make_run(root, "--resume", "mine", "--dry-run")
    assert "6 of 6 cells asked for are complete and kept" in kept.stdout
    more = make_run(root, "--resume", "mine", "--dry-run", "--repeats", "4")
    assert "side by side: 2 launches at a time" in more.stdout
    assert "control: null.scripted.b2.r5" in more.stdout


def test_more_slices_than_cores_are_refused(drive: Drive) -> None:
    called = drive(*POOL[:6], "--cpu-slices", "4000", "--dry-run")
    assert called.code == 2
    assert "a slice is one whole core or more" in called.err


def test_one_signal_ends_both_launches_after_the_batch_in_hand(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")]
    none = ("--control", "none", "--beside-sample", "0")
    slow = ("--option", "null.load_s=0", "--option", "null.ttft_s=0.4")
    command = [sys.executable, "-m", "bench_core.drive", *POOL, *slow, *none, *folders]
    command += ["--batch-sizes", "1", "--repeats", "3", "--run-id", "mine"]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    cells = tmp_path / "results" / "mine" / "cells"
    for cell in ("null.scripted.b1", "null.scripted.b1.r2"):
        wait_until(cells / cell / layout.EVENTS_FILE, b'"measure"')
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, out
    for cell in ("null.scripted.b1", "null.scripted.b1.r2"):
        assert b'"type":"end"' in (cells / cell / layout.EVENTS_FILE).read_bytes().splitlines()[-1]
        assert Verdict.read(cells / cell / layout.OUTCOME_FILE).outcome is Outcome.KILLED
    assert not (cells / "null.scripted.b1.r3").exists(), "nothing more was begun"
    assert (cells.parent / layout.REPORT_FILE).is_file()


class Gate:
    def begin(self, uuid: str) -> None: ...
    def leave(self, uuid: str, what: str) -> None: ...
    def enter(self, uuid: str, stopping: Any) -> str:
        return ""


def test_four_gpus_run_at_once_each_with_its_own_share(tmp_path: Path) -> None:
    cards = [GpuInfo(uuid=f"GPU-{n}", name="N", memory_bytes=1 << 30, driver_version="1") for n in range(4)]
    image = Catalogue().get("null")
    plan = Plan("cuda", tuple(Job(image, "scripted", (Offline(batch_size=size),), {}) for size in range(1, 9)))
    launcher = Together(4)
    request = Request(suite=Suite(images=("null",)), data=tmp_path)
    gate = cast(GpuGate, Gate())
    execution = Execution(request, plan, cast(Launcher, launcher), cards, Display(), gate=gate)
    prepared, run = two_prompts(tmp_path)
    finished = execution.measure(prepared, run, {})
    assert len(finished.verdicts) == 8
    assert sorted(launch.gpu.uuid for launch in launcher.launched if launch.gpu) == [f"GPU-{n // 2}" for n in range(8)]
    limits = set()
    for launch in launcher.launched:
        assert launch.placement is not None
        assert launch.gpu is not None
        assert launch.placement.worker == launch.gpu.uuid
        options = _placed(launch, 1 << 60)
        assert options["cpuset_mems"] == ",".join(map(str, launch.placement.mems))
        assert options["mem_limit"] == options["memswap_limit"] == launch.placement.memory_bytes
        limits.add(options["mem_limit"])
    assert len(limits) == 1
    assert not list(tmp_path.glob(f"{layout.ASSIGNMENT}.*"))


def test_two_drivers_on_overlapping_gpus_are_refused_by_the_card_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_LOCK_FOLDER", str(tmp_path / "locks"))
    hold = "import sys, time\nfrom bench_core.system.locks import Locks\nlocks = Locks()\n"
    hold += "locks.hold_gpu('GPU-0', 'theirs')\nlocks.hold_gpu('GPU-1', 'theirs')\n"
    hold += "print('held', flush=True)\ntime.sleep(60)\n"
    other = subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    mine = Locks()
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        mine.hold_gpu("GPU-2", "mine")
        with pytest.raises(BadInput, match=r"GPU GPU-1 is in use by process \d+ .*run theirs"):
            mine.hold_gpu("GPU-1", "mine")
        Locks().hold_gpu("GPU-3", "mine")
    finally:
        mine.close()
        other.kill()
        other.wait()
