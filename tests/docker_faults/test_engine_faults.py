"""The Docker engine goes away, hangs or loses what it had, while a night's run is on it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from private_engine import SLOW, WORK, Driver, PrivateEngine, until

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_MACHINE, MARKED, Outcome
from bench_core.drive.launch.containers.endpoint import connect

pytestmark = pytest.mark.docker

NULL = ("--images", "null", *WORK, "--run-id", "mine")
B1, B2 = "null.scripted.b1", "null.scripted.b2"
PATIENCE = {"BENCH_DOCKER_PATIENCE_S": "5"}


@pytest.mark.usefixtures("engine")
def test_the_machines_engine_keeps_its_bridge() -> None:
    """A dockerd that is told to have no bridge deletes the one that others use."""
    options = connect().networks.get("bridge").attrs["Options"]
    assert Path("/sys/class/net", options["com.docker.network.bridge.name"]).exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_restarted_in_the_middle_of_a_cell_costs_that_cell_a_second_measurement(
    driver: Driver, engine: PrivateEngine, how: signal.Signals
) -> None:
    """As its service restarts it, and as a crash does: the cell in hand is measured again once, and marked."""
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2")
    driver.await_batch(B1)
    engine.stop(how)
    engine.start()
    done = running.done()
    assert done.code == 0, done.err
    assert "measuring again" in done.err
    assert driver.verdict(B1).evidence[MARKED].startswith("measured again: the Docker engine went away")
    assert len(driver.batches(B1)) == 5
    assert driver.verdict(B2).outcome is Outcome.OK
    assert (driver.results / "mine" / layout.SET_ASIDE_FOLDER / f"{B1}.1" / layout.EVENTS_FILE).exists()


def test_an_engine_that_hangs_for_a_while_costs_nothing(driver: Driver, engine: PrivateEngine) -> None:
    """It cannot carry the containers' words meanwhile; they measure on."""
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2", environment={"BENCH_DOCKER_PATIENCE_S": "20"})
    driver.await_batch(B1)
    engine.freeze()
    until((driver.cell(B1) / layout.OUTCOME_FILE).exists, "the end of a cell beside a frozen engine")
    time.sleep(2)
    engine.thaw()
    done = running.done()
    assert done.code == 0, done.err
    assert [driver.verdict(cell).evidence for cell in (B1, B2)] == [{}, {}]


def test_an_engine_that_hangs_for_ever_ends_the_run_and_not_the_night(driver: Driver, engine: PrivateEngine) -> None:
    """The driver ends by itself with a report; a new one says that no engine answers; afterwards the run goes on."""
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2,4", environment=PATIENCE)
    driver.await_batch(B1)
    engine.freeze()
    started = time.monotonic()
    done = running.done()
    assert time.monotonic() - started < 25.0
    assert done.code == EXIT_MACHINE, done.err
    assert "error: the Docker engine has gone" in done.err
    assert "--resume" in done.err
    assert "Traceback" not in done.err
    assert (driver.results / "mine" / layout.REPORT_FILE).exists()
    refused = driver("--resume", "mine", environment=PATIENCE)
    assert refused.code == 2
    assert "no Docker daemon answers" in refused.err
    engine.thaw()
    resumed = driver("--resume", "mine")
    assert resumed.code == 0, resumed.err
    assert "removed container" in resumed.out + resumed.err, "the box of the driver that had to leave it"
    assert all(row.result is not None for row in driver.view().rows)


def test_somebody_who_asks_twice_does_not_wait_for_an_engine_that_hangs(driver: Driver, engine: PrivateEngine) -> None:
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1", environment={"BENCH_DOCKER_PATIENCE_S": "600"})
    driver.await_batch(B1)
    engine.freeze()
    time.sleep(1.0)
    running.process.send_signal(signal.SIGINT)
    time.sleep(3.0)
    running.process.send_signal(signal.SIGINT)
    assert running.done(40).code in (3, 130)
    engine.thaw()
    assert driver("--resume", "mine").code == 0


def test_an_engine_that_stays_away_ends_the_run_with_a_hint(driver: Driver, engine: PrivateEngine) -> None:
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2", environment=PATIENCE)
    driver.await_batch(B1)
    engine.stop()
    done = running.done()
    assert done.code == EXIT_MACHINE, done.err
    assert "error: the Docker engine has gone" in done.err
    assert "hint: start it, then go on with --resume" in done.err
    engine.start()
    resumed = driver("--resume", "mine")
    assert resumed.code == 0, resumed.err
    assert len(driver.batches(B1)) == 5


def test_images_that_are_gone_or_cannot_start_are_rows_and_the_others_are_measured(
    driver: Driver, engine: PrivateEngine
) -> None:
    """Removed between plan and launch; a container that cannot start; an entry point that is not there."""
    images = ("--images", "null,hostile,unstartable,entryless", *WORK, "--run-id", "mine", "--batch-sizes", "1,2")
    running = driver.begin(*images, *SLOW)
    driver.await_batch(B1)
    engine.client.images.remove("llm-bench/hostile:cpu", force=True)
    done = running.done()
    assert done.code == 1
    assert "Traceback" not in done.err
    outcomes = {row.planned.cell: row.verdict for row in driver.view().rows}
    for cell, cause in (("hostile.none", "No such image"), ("unstartable.only", "not a directory")):
        for size in (1, 2):
            verdict = outcomes[f"{cell}.b{size}"]
            assert verdict is not None
            assert (verdict.outcome, verdict.judged_by, verdict.exit_code) == (Outcome.KILLED, "driver", 125)
            assert "the container could not be started" in verdict.cause
            assert cause in verdict.cause
    entryless = outcomes["entryless.only.b1"]
    assert entryless is not None
    assert (entryless.outcome, entryless.exit_code) == (Outcome.CRASHED, 127)
    assert "/nowhere/worker" in entryless.evidence["last_line"]
    assert {driver.verdict(cell).outcome for cell in (B1, B2)} == {Outcome.OK}


def test_two_drivers_at_once_on_one_engine_leave_each_other_alone(
    driver: Driver, engine: PrivateEngine, tmp_path: Path
) -> None:
    """As on two GPUs: a lock of the CPU, of which there is one, would refuse the second."""

    def begin(name: str) -> tuple[str, ...]:
        return ("--images", "null", *WORK, *SLOW, "--batch-sizes", "1,2", "--run-id", name)

    first = driver.begin(*begin("one"), environment={"BENCH_LOCK_FOLDER": str(tmp_path / "locks")})
    driver.await_batch(B1, "one")
    second = driver.begin(*begin("two"))
    until(lambda: len(engine.containers()) == 2, "a container of each")
    for name, running in (("one", first), ("two", second)):
        done = running.done()
        assert done.code == 0, done.err
        assert "removed container" not in done.err + done.out
        assert all(row.result is not None for row in driver.view(name).rows)


def test_the_box_of_a_killed_driver_is_cleared_and_its_cell_measured_again(
    driver: Driver, engine: PrivateEngine
) -> None:
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2,4", "--option", "null.ttft_s=0.5")
    driver.await_batch(B2)
    running.process.kill()
    running.process.wait()
    kept = (driver.cell(B1) / layout.RESULT_FILE).read_bytes()
    assert len(engine.containers()) == 1, "a container does not end with its driver"
    done = driver("--resume", "mine")
    assert done.code == 0, done.err
    assert "removed container" in done.out + done.err
    assert (driver.cell(B1) / layout.RESULT_FILE).read_bytes() == kept
    assert all(row.result is not None for row in driver.view().rows)


def test_one_ctrl_c_finishes_the_batch_in_hand_and_leaves_no_container(driver: Driver, engine: PrivateEngine) -> None:
    running = driver.begin(*NULL, *SLOW, "--batch-sizes", "1,2")
    driver.await_batch(B1)
    running.process.send_signal(signal.SIGINT)
    done = running.done(30)
    assert done.code == 130, done.err
    assert driver.verdict(B1).cause == "stopped on request after the batch in hand"
    assert engine.containers() == []
