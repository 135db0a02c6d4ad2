"""What failed for reasons of the environment is tried again, bounded and counted; what was measured never is."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests.exceptions
from conftest import Drive
from null_run import null_run
from test_orphans import FakeClient

from bench_core.contract.errors import BadInput, MayPass
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import MARKED, Outcome, Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.drive.launch.containers.build import ImageBuilder
from bench_core.drive.launch.containers.launcher import DockerLauncher
from bench_core.drive.launch.launcher import Ended, Folders, Launch, LineTaker
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.material.provide import Provision
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.run.retry import Retries
from bench_core.prepare.hub import hub_errors

RUN = null_run()
FAST = ("--option", "null.ttft_s=0.001", "--run-id", "mine")


class Step:
    """Fails as it is told, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_a_passing_failure_is_tried_again_twice_and_counted() -> None:
    told: list[str] = []
    slept: list[float] = []
    retries = Retries(told.append, slept.append)
    step = Step(MayPass("no network"), MayPass("no network"))
    assert retries.run("image null", step) == "done"
    assert (slept, retries.counted) == ([5.0, 20.0], {"image null": 2})
    assert told[0] == "image null: no network; trying again in 5 s"
    final = Step(*[MayPass("no network")] * 3)
    with pytest.raises(MayPass):
        retries.run("image null", final)
    assert final.calls == 3


def test_any_other_failure_is_final_at_once() -> None:
    for error in (BadInput("wrong"), OSError("disk"), ValueError("x")):
        step = Step(error)
        with pytest.raises(type(error)):
            Retries(lambda _text: None, lambda _s: None).run("x", step)
        assert step.calls == 1


def test_retries_stand_in_the_run_and_in_its_report(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(MayPass("the registry does not answer"))
    whole = Provision._ensure
    monkeypatch.setattr("bench_core.drive.run.retry.PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(Provision, "_ensure", lambda self, image, target: step() and whole(self, image, target))
    called = drive(*RUN, *FAST, "--batch-sizes", "1")
    assert called.code == 0
    assert "the registry does not answer; trying again" in called.err
    run = tmp_path / "results" / "mine"
    assert RunRecord.read(run / layout.RUN_FILE).visits[0].retries == {"image null": 1}
    assert "image null (1 time)" in (run / layout.REPORT_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError("slow"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (ValueError("not a repository"), False),
    ],
)
def test_only_networks_and_hubs_may_pass(error: Exception, passes: bool) -> None:
    with pytest.raises(BadInput) as raised, hub_errors("model a/b"):
        raise error
    assert isinstance(raised.value, MayPass) is passes


@pytest.mark.parametrize(
    ("message", "passes"),
    [
        ("dial tcp: i/o timeout", True),
        ("Temporary failure resolving 'mirror'", True),
        ("ERROR: No matching distribution found for torch==99", False),
        ("pull access denied for nvidia/nothing", False),
    ],
)
def test_a_build_that_failed_for_the_network_may_pass(message: str, passes: bool) -> None:
    with pytest.raises(BadInput) as raised:
        ImageBuilder(FakeClient())._watch("t", iter([{"error": message}]), lambda _text: None)  # type: ignore[arg-type]
    assert isinstance(raised.value, MayPass) is passes


class RestartedClient(FakeClient):
    """An engine that goes away while the container runs, and comes back, or not."""

    def __init__(self, back_after: int) -> None:
        super().__init__()
        self.pings = 0
        self.back_after = back_after
        self.next.stream = self._broken()

    def _broken(self) -> Any:
        yield (b"", b"loading\n")
        raise requests.exceptions.ConnectionError("Connection aborted")

    def ping(self) -> bool:
        self.pings += 1
        if self.pings < self.back_after:
            raise docker.errors.DockerException("no daemon")
        return True


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    (tmp_path / "toy").mkdir()
    return Launch(Catalogue().get("null"), "measure", (), Folders(tmp_path / "toy", "none"))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.drive.launch.containers.launcher.time.sleep", lambda _s: None)


def test_an_engine_that_comes_back_has_lost_the_box_and_the_box_is_cleared(launch: Launch) -> None:
    client = RestartedClient(back_after=3)
    ended = DockerLauncher(client).run(launch, lambda _line: None)  # type: ignore[arg-type]
    assert ended.engine_lost
    assert ended.stderr_tail == "loading\n"
    assert client.pings == 3
    assert client.next.removed


def test_an_engine_that_stays_away_ends_the_run_with_a_hint(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DOCKER_PATIENCE_S", "1")
    with pytest.raises(MayPass, match="the Docker engine has gone"):
        DockerLauncher(RestartedClient(back_after=10**9)).run(launch, lambda _line: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("losses", "outcome"), [(1, Outcome.OK), (9, Outcome.KILLED)])
def test_the_cell_in_hand_of_a_lost_engine_is_measured_again_once(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: int, outcome: Outcome
) -> None:
    whole = ProcessLauncher.run
    launches: list[tuple[str, ...]] = []

    def run(self: ProcessLauncher, launch: Launch, on_stdout: LineTaker) -> Ended:
        launches.append(launch.arguments)
        if len(launches) > losses:
            return whole(self, launch, on_stdout)
        assert launch.folders.run is not None
        folder = launch.folders.run / "cells" / "null.scripted.b1"
        folder.mkdir()
        (folder / layout.EVENTS_FILE).write_text("half a li")
        return Ended(137, False, "", 0.0, 0.0, engine_lost=True)

    monkeypatch.setattr(ProcessLauncher, "run", run)
    called = drive(*RUN, *FAST, "--batch-sizes", "1")
    run_folder = tmp_path / "results" / "mine"
    verdict = Verdict.read(run_folder / "cells" / "null.scripted.b1" / layout.OUTCOME_FILE)
    assert verdict.outcome is outcome
    assert len(launches) == 2
    assert "measuring again: null.scripted.b1" in called.err
    assert (run_folder / "set-aside" / "null.scripted.b1.1" / layout.EVENTS_FILE).read_text() == "half a li"
    if outcome is Outcome.OK:
        assert verdict.evidence[MARKED] == "measured again: the Docker engine went away during the first attempt"
        report = (run_folder / layout.REPORT_FILE).read_text(encoding="utf-8")
        assert "What disturbed it" in report
