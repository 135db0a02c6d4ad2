"""Containers that others end, clocks that jump, results folders that go away, fill up or belong to somebody else."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_engine import SLOW, WORK, Driver, PrivateEngine, until

from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.events import PhaseEvent, parse_events
from bench_core.contract.records.outcome import EXIT_MACHINE, Outcome

pytestmark = pytest.mark.docker

NULL = ("--images", "null", *WORK, "--run-id", "mine")
B1, B2, B4 = (f"null.scripted.b{size}" for size in (1, 2, 4))
SOMEBODY = 54321  # a uid that nobody has


def test_containers_killed_removed_and_stopped_by_others_are_rows_and_resume_measures_them(
    driver: Driver, engine: PrivateEngine
) -> None:
    """`docker kill`, `docker rm -f` and `docker stop`, each in the middle of a cell."""
    running = driver.begin(*NULL, *SLOW, "--samples", "12", "--batch-sizes", "1,2,4")
    causes = {}
    for cell, how in ((B1, ("kill",)), (B2, ("rm", "--force")), (B4, ("stop",))):
        driver.await_batch(cell)
        (box,) = engine.containers()
        docker = ["docker", "--host", engine.url, *how, box.id]
        subprocess.run(docker, check=True, capture_output=True)
        until((driver.cell(cell) / layout.OUTCOME_FILE).exists, f"a verdict on {cell}")
        verdict = driver.verdict(cell)
        assert verdict.outcome is Outcome.KILLED
        causes[cell] = verdict.cause
    done = running.done()
    assert done.code == 1
    assert "Traceback" not in done.err
    assert causes == {
        B1: "the container was ended from outside (code 137)",
        B2: "the container was ended from outside (code 137)",
        B4: "stopped on request after the batch in hand",
    }
    resumed = driver("--resume", "mine")
    assert resumed.code == 0, resumed.err
    assert all(row.result is not None for row in driver.view().rows)


@pytest.mark.alone
def test_a_wall_clock_that_jumps_changes_no_duration(driver: Driver, fault_repository: Path) -> None:
    """Of driver, supervisor and engine at once. A stand-in: Python's wall clock is replaced in these processes, since
    the machine's own is not this test's to set. What is measured is CLOCK_MONOTONIC, which no one can set."""
    clock = fault_repository / "images" / "hostile"
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(clock)!r}); import wall_clock; "
        "sys.argv[0] = 'drive'; runpy.run_module('bench_core.drive', run_name='__main__', alter_sys=True)"
    )
    running = driver.begin("--images", "hostile", *WORK, "--run-id", "mine", "--batch-sizes", "1", code=code)
    done = running.done()
    assert done.code == 0, done.err
    batches = driver.batches("hostile.none.b1")
    assert all(later.started_s > earlier.started_s for earlier, later in itertools.pairwise(batches))
    # Eight tokens of 10 ms, on a machine that others use too; a jump would be a day.
    assert statistics.median(batch.latency_s for batch in batches) == pytest.approx(0.08, abs=0.02)
    with (driver.cell("hostile.none.b1") / layout.EVENTS_FILE).open("rb") as stream:
        phases = [event for event in parse_events(stream, "log") if isinstance(event, PhaseEvent)]
    assert max(phase.duration_s for phase in phases) < 60.0
    assert "hostile" in (driver.results / "mine" / layout.REPORT_FILE).read_text(encoding="utf-8")


def test_a_results_folder_removed_in_mid_run_ends_the_run_in_one_line(driver: Driver, engine: PrivateEngine) -> None:
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2")
    driver.await_batch(B1)
    shutil.rmtree(driver.results / "mine")
    done = running.done()
    assert done.code == EXIT_MACHINE, done.err
    assert "Traceback" not in done.err
    assert "error: " in done.err
    assert driver(*NULL, "--batch-sizes", "1").code == 0, "its name is free again"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, mounted as the results folder: a report's page with its runtime takes one of them."""
    place = tmp_path / "results"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_full_ends_the_run_and_a_resumed_one_is_whole(driver: Driver, small_disk: Path) -> None:
    """A real one (ENOSPC): filled to the last page while the second cell is measured, then with room again."""
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2,4", "--option", "null.ttft_s=0.5")
    driver.await_batch(B2)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    done = running.done()
    assert done.code == EXIT_MACHINE, done.err
    assert "Traceback" not in done.err
    assert "No space left on device" in done.err
    kept = (driver.cell(B1) / layout.RESULT_FILE).read_bytes()
    rows = {row.planned.cell: row for row in driver.view().rows}
    assert rows[B1].complete
    assert not rows[B2].complete
    ballast.unlink()
    resumed = driver("--resume", "mine")
    assert resumed.code == 0, resumed.err
    assert (driver.cell(B1) / layout.RESULT_FILE).read_bytes() == kept
    assert all(row.result is not None for row in driver.view().rows)


def test_a_results_folder_that_is_read_only_is_refused_or_ends_the_run_in_one_line(
    driver: Driver, small_disk: Path
) -> None:
    def mount(*how: str) -> None:
        subprocess.run([*how, str(small_disk)], check=True)

    mount("mount", "-o", "remount,ro")
    refused = driver(*NULL, "--batch-sizes", "1")
    assert refused.code == 2
    assert "cannot be written" in refused.err
    mount("mount", "-o", "remount,rw")
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2")
    driver.await_batch(B1)
    # Over it, read-only, for whoever opens a file from now on: the kernel turns no file that is open for writing.
    mount("mount", "--bind", str(small_disk))
    mount("mount", "-o", "remount,bind,ro")
    done = running.done()
    assert done.code == EXIT_MACHINE
    assert "Traceback" not in done.err
    assert "Read-only file system" in done.err
    mount("umount")
    assert driver("--resume", "mine").code == 0


def test_a_results_folder_of_somebody_else_serves_root(driver: Driver) -> None:
    driver.results.mkdir()
    os.chown(driver.results, SOMEBODY, SOMEBODY)
    done = driver(*NULL, "--batch-sizes", "1")
    assert done.code == 0, done.err
    assert (driver.results / "mine").stat().st_uid == os.getuid()
    assert driver.results.stat().st_uid == SOMEBODY


def test_an_artifact_is_made_by_nobody_replaced_by_nobody_and_owned_by_the_caller(
    driver: Driver, fault_repository: Path, shared_material: Path, tmp_path: Path
) -> None:
    """A second conversion, after the converter has changed, takes the place of the first and leaves nothing of it."""
    models = tmp_path / "models"
    run = (
        "--images",
        "hostile",
        "--variants",
        "hostile.converted",
        *WORK,
        "--batch-sizes",
        "1",
        "--models",
        str(models),
    )
    converter = fault_repository / "images" / "hostile" / "convert_hostile.py"
    text = converter.read_text(encoding="utf-8")
    made = []
    try:
        for name in ("one", "two"):
            done = driver(*run, "--run-id", name)
            assert done.code == 0, done.err
            (record,) = models.glob("*/hostile-toy/artifact.json")
            made.append(ArtifactRecord.read(record))
            converter.write_text(f"{text}\n# changed\n", encoding="utf-8")
    finally:
        converter.write_text(text, encoding="utf-8")
    assert made[0].converter_digest != made[1].converter_digest
    assert {record.facts["uid"] for record in made} == {"65532"}
    everything = [models, *models.rglob("*")]
    assert {path.lstat().st_uid for path in everything} == {os.getuid()}
    assert [path for path in everything if ".old" in path.name or ".part" in path.name] == []


@pytest.fixture
def homes() -> Iterator[Path]:
    """A folder that all users can reach, which pytest's own are not."""
    place = Path(tempfile.mkdtemp(prefix="bench-homes-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def test_an_ordinary_users_boxes_are_that_users_and_a_folder_of_roots_is_refused(
    driver: Driver, engine: PrivateEngine, homes: Path
) -> None:
    for name in ("results", "data", "models", "locks"):
        (homes / name).mkdir()
        os.chown(homes / name, SOMEBODY, SOMEBODY)
    locks = {"BENCH_LOCK_FOLDER": str(homes / "locks")}  # the tests' own is root's
    (engine.home / "docker.sock").chmod(0o666)
    engine.home.chmod(0o755)
    places = ("--results", str(homes / "results"), "--data", str(homes / "data"), "--models", str(homes / "models"))
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1", *places, user=SOMEBODY, environment=locks)
    (box,) = until(engine.containers, "a box")
    assert box.attrs["Config"]["User"] == f"{SOMEBODY}:{SOMEBODY}"
    done = running.done()
    assert done.code == 0, done.err
    run = homes / "results" / "mine"
    assert {path.lstat().st_uid for path in (run, *run.rglob("*"))} == {SOMEBODY}
    assert (layout.cell_folder(run, B1) / layout.RESULT_FILE).exists()
    os.chown(homes / "results", 0, 0)
    refused = driver.begin(
        *NULL, "--batch-sizes", "1", *places, "--run-id", "other", user=SOMEBODY, environment=locks
    ).done()
    assert refused.code == 2
    assert "cannot be written" in refused.err
