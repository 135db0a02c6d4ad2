"""An engine that cannot be installed or cannot convert is a row that says so; everything else is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Drive

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import MachineFailure, MayPass
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_MACHINE, Outcome, Verdict
from bench_core.contract.records.run import ImageInfo, RunRecord
from bench_core.drive.launch.launcher import NotInstalled
from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.plan.catalogue import IMAGES_FOLDER, Catalogue, Image
from bench_core.drive.plan.resume import Earlier
from bench_core.verify.run import verify_run

CALL = ("--device", "cpu", "--launcher", "process", "--batch-sizes", "1,2", "--samples", "8", "--max-new-tokens", "4")
MINE = (*CALL, "--run-id", "mine", "--no-harness-check")
NULL = IMAGES_FOLDER / "null"
CONVERTER = """\
import errno
from pathlib import Path

from bench_core.contract.errors import BadInput

FAILS = Path(__file__).with_name("fails")


def make(conversion):
    how = FAILS.read_text() if conversion.artifact == "x-bad" and FAILS.exists() else ""
    if how == "raises":
        raise ValueError("No conversion is registered for the model configuration ToyConfig")
    if how == "refuses":
        raise BadInput("ToyForCausalLM is not supported")
    if how == "no room":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how == "dies":
        import os
        os.kill(os.getpid(), 9)
    (conversion.target / "weights").write_text(conversion.artifact)
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of five scripted engines: ``maker`` converts x-bad and x-good and reads x-bad, as ``also`` does;
    ``reader`` reads x-good; ``plain`` and ``pinned`` read nothing. All run in the scripted engine's environment."""
    home = tmp_path / "images"
    text = (NULL / "image.yaml").read_text(encoding="utf-8").replace("harness_variant: harness\n", "")
    made = "converts: {x-bad: 'convert:make', x-good: 'convert:make'}\n"
    reads = {"maker": "x-bad", "also": "x-bad", "reader": "x-good", "plain": "none", "pinned": "none"}
    for name, artifact in reads.items():
        folder = home / name
        folder.mkdir(parents=True)
        (folder / "adapter.py").write_bytes((NULL / "adapter.py").read_bytes())
        own = text.replace('"null"', name).replace("artifact: none", f"artifact: {artifact}")
        (folder / "image.yaml").write_text(own + (made if name == "maker" else ""), encoding="utf-8")
    (home / "maker" / "convert.py").write_text(CONVERTER, encoding="utf-8")
    monkeypatch.setattr(Catalogue.__init__, "__defaults__", (home,))
    monkeypatch.setattr(ProcessLauncher, "recipe", lambda _self, image, _device: image.name)
    null = Image(NULL, Manifest.load(NULL))
    for name in ("path", "ensure", "is_ready", "identity", "pins"):
        whole = getattr(Environments, name)
        monkeypatch.setattr(Environments, name, lambda self, _image, *more, whole=whole: whole(self, null, *more))
    return home


def _fails(images: Path, how: str) -> None:
    (images / "maker" / "fails").write_text(how, encoding="utf-8")


def _not_installed(monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str = "pinned") -> list[str]:
    """``name`` cannot be installed; whom the driver asked for."""
    whole = ProcessLauncher.ensure
    asked: list[str] = []

    def ensure(self: ProcessLauncher, image: Image, *more: Any) -> ImageInfo:
        asked.append(image.name)
        if image.name == name:
            raise error
        return whole(self, image, *more)

    monkeypatch.setattr(ProcessLauncher, "ensure", ensure)
    monkeypatch.setattr("bench_core.drive.run.retry.PAUSES_S", (0.0, 0.0))
    return asked


def _outcomes(run: Path) -> dict[str, str]:
    return {row.planned.cell: row.status for row in Earlier.load(run).view.rows if row.planned.batch_size == 1}


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_cannot_be_made_is_a_row_and_everything_else_is_measured(
    drive: Drive, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails(images, "raises")
    pip = "ERROR: No matching distribution found for engine==9.9\n"
    missing = NotInstalled("pinned-cpu could not be installed: engine==9.9 does not exist", "mend the pin", pip)
    with monkeypatch.context() as patch:
        _not_installed(patch, missing)
        called = drive(*MINE, "--images", "all")
    assert called.code == 1, called.err
    run = tmp_path / "results" / "mine"
    assert _outcomes(run) == {
        "also.scripted.b1": "load_failed",
        "maker.scripted.b1": "load_failed",
        "pinned.scripted.b1": "load_failed",
        "plain.scripted.b1": "ok",
        "reader.scripted.b1": "ok",
    }
    folder = layout.cell_folder(run, "also.scripted.b2")
    verdict = Verdict.read(folder / layout.OUTCOME_FILE)
    assert (verdict.phase, verdict.judged_by) == ("convert", "driver")
    assert verdict.cause == (
        "x-bad could not be made: ValueError: No conversion is registered for the model configuration ToyConfig"
    )
    assert verdict.evidence["image"] == "maker"
    assert "Traceback" in (folder / layout.LOG_FILE).read_text(encoding="utf-8")
    pinned = layout.cell_folder(run, "pinned.scripted.b1")
    verdict = Verdict.read(pinned / layout.OUTCOME_FILE)
    assert (verdict.phase, verdict.cause) == ("install", missing.cause)
    assert (pinned / layout.LOG_FILE).read_text(encoding="utf-8") == pip
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "No conversion is registered for the model configuration ToyConfig" in report
    assert verify_run(run).differences == ()
    record = RunRecord.read(run / layout.RUN_FILE)
    assert set(record.visits[-1].images) == {"also", "maker", "plain", "reader"}
    assert set(record.visits[-1].artifacts) == {"x-good"}

    kept = _tree(run / "cells" / "reader.scripted.b1")
    (images / "maker" / "fails").unlink()
    resumed = drive("--resume", "mine")
    assert resumed.code == 0, resumed.err
    assert set(_outcomes(run).values()) == {"ok"}
    assert _tree(run / "cells" / "reader.scripted.b1") == kept
    assert verify_run(run).differences == ()


@pytest.mark.parametrize(
    ("how", "outcome", "said"),
    [
        ("refuses", Outcome.UNSUPPORTED, "x-bad could not be made: ToyForCausalLM is not supported"),
        ("dies", Outcome.KILLED, "x-bad could not be made"),
    ],
)
def test_how_a_converter_ended_is_the_outcome(
    drive: Drive, tmp_path: Path, images: Path, how: str, outcome: Outcome, said: str
) -> None:
    _fails(images, how)
    assert drive(*MINE, "--images", "also,plain").code == 1
    folder = layout.cell_folder(tmp_path / "results" / "mine", "also.scripted.b1")
    verdict = Verdict.read(folder / layout.OUTCOME_FILE)
    assert verdict.outcome is outcome
    assert said in verdict.cause


def test_a_full_disk_while_converting_is_no_row(drive: Drive, tmp_path: Path, images: Path) -> None:
    _fails(images, "no room")
    called = drive(*MINE, "--images", "also,plain")
    assert called.code == EXIT_MACHINE
    assert "No space left on device" in called.err
    run = tmp_path / "results" / "mine"
    assert _outcomes(run) == {"also.scripted.b1": "not run", "plain.scripted.b1": "ok"}
    (images / "maker" / "fails").unlink()
    assert drive("--resume", "mine").code == 0


@pytest.mark.parametrize("error", [MayPass("the index does not answer"), MachineFailure("no space left")])
def test_a_network_that_fails_while_installing_is_no_row(
    drive: Drive, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, error: MachineFailure
) -> None:
    assert images.is_dir()
    with monkeypatch.context() as patch:
        asked = _not_installed(patch, error)
        called = drive(*MINE, "--images", "pinned,plain")
    assert called.code == EXIT_MACHINE
    assert asked.count("pinned") == (3 if isinstance(error, MayPass) else 1)
    assert f"error: {error.cause}" in called.err
    run = tmp_path / "results" / "mine"
    assert _outcomes(run) == {"pinned.scripted.b1": "not run", "plain.scripted.b1": "ok"}
    assert drive("--resume", "mine").code == 0


def test_a_converter_that_cannot_be_installed_fails_what_others_read_of_it(
    drive: Drive, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its image is asked for once: installing takes minutes."""
    assert images.is_dir()
    asked = _not_installed(monkeypatch, NotInstalled("maker-cpu could not be installed: engine==9.9"), "maker")
    assert drive(*MINE, "--images", "maker,reader,also,plain").code == 1
    run = tmp_path / "results" / "mine"
    assert list(_outcomes(run).values()).count("load_failed") == 3
    assert _outcomes(run)["plain.scripted.b1"] == "ok"
    verdict = Verdict.read(layout.cell_folder(run, "reader.scripted.b1") / layout.OUTCOME_FILE)
    assert verdict.cause == "x-good could not be made: maker-cpu could not be installed: engine==9.9"
    assert verdict.phase == "install"
    assert asked.count("maker") == 1


def test_nothing_that_can_be_made_leaves_a_run_of_rows(drive: Drive, tmp_path: Path, images: Path) -> None:
    _fails(images, "raises")
    called = drive(*CALL, "--run-id", "mine", "--images", "maker,also")
    assert called.code == 1, called.err
    run = tmp_path / "results" / "mine"
    assert set(_outcomes(run).values()) == {"load_failed"}
    assert verify_run(run).differences == ()
    assert drive("--resume", "mine").code == 1, "tried again, and the same"
    assert len(RunRecord.read(run / layout.RUN_FILE).visits) == 2


def test_building_alone_stays_strict(drive: Drive, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert images.is_dir()
    _not_installed(monkeypatch, NotInstalled("pinned-cpu could not be installed: engine==9.9", "mend the pin"))
    called = drive(*CALL, "--images", "all", "--build-only")
    assert called.code == 2
    assert "error: pinned-cpu could not be installed" in called.err


def test_a_run_that_is_ended_while_it_builds_goes_on(
    drive: Drive, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert images.is_dir()
    with monkeypatch.context() as patch:
        _not_installed(patch, KeyboardInterrupt(), "plain")
        assert drive(*MINE, "--images", "plain").code == 130
    run = tmp_path / "results" / "mine"
    assert _outcomes(run) == {"plain.scripted.b1": "not run"}
    resumed = drive("--resume", "mine")
    assert resumed.code == 0, resumed.err
    assert _outcomes(run) == {"plain.scripted.b1": "ok"}
    assert verify_run(run).differences == ()
