"""`--artifact NAME=SOURCE`: shown before, brought in the model's folder, recorded, and not converted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import Drive

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.run import RunRecord
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.launcher import Launch
from bench_core.drive.launch.processes import launcher as process_launcher
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.prepare.models.model import ModelRequest, prepare_model

CT2 = ("--images", "ctranslate2", "--device", "cpu", "--launcher", "process", "--samples", "8", "--batch-sizes", "1")
NULL = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "8", "--batch-sizes", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights and configuration of the model that the driver makes by default."""
    root = tmp_path_factory.mktemp("source")
    info = prepare_model(ModelRequest(name="synthetic/tiny"), root)
    return root / info.folder / layout.HF_ARTIFACT


@pytest.fixture
def reads_made(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The scripted engine's image, as driver and worker see it, reads an artifact that no image makes."""
    whole, places = Catalogue.get, process_launcher.places
    folder = tmp_path_factory.mktemp("images") / "null"
    shutil.copytree(Catalogue().get("null").folder, folder)
    path = folder / layout.MANIFEST_FILE
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    scripted = {**manifest["variants"]["scripted"], "artifact": "made-elsewhere"}
    changed = {**manifest, "variants": {"scripted": scripted}, "harness_variant": None}
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")

    def get(self: Catalogue, name: str) -> Image:
        image = whole(self, name)
        return Image(image.folder, Manifest.load(folder)) if name == "null" else image

    def of_worker(launch: Launch, home: Path) -> list[str]:
        return [str(folder) if word == str(launch.image.folder) else word for word in places(launch, home)]

    monkeypatch.setattr(process_launcher, "places", of_worker)

    monkeypatch.setattr(Catalogue, "get", get)


def test_a_dry_run_shows_where_artifacts_come_from_instead_of_a_conversion(
    drive: Drive, tmp_path: Path, source: Path
) -> None:
    called = drive(*CT2, "--artifact", f"ct2-int8={source}", "--dry-run")
    assert called.code == 0, called.err
    assert "to convert: nothing" in called.out
    assert "artifact ct2-int8 from hf: to be linked" in called.out
    called = drive(*CT2, "--artifact", "ct2-int8=owner/name@abc", "--dry-run")
    assert "artifact ct2-int8 from owner/name@abc: to be downloaded" in called.out
    assert list(tmp_path.iterdir()) == []


def test_a_person_at_a_terminal_is_asked_before_an_artifact_is_downloaded(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda question, **_: asked.append(question))
    called = drive(*CT2, "--artifact", "ct2-int8=owner/name")
    assert called.code == 130
    (question,) = asked  # an environment that is not there yet is named before
    assert question.endswith("download ct2-int8 (owner/name) and measure 1 cell?")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hf=x", "no image reads 'hf' as an artifact of its own"),
        ("ct2-int9=x", "did you mean ct2-int8"),
        ("ct2-int8=./nowhere", "no such folder"),
        ("ct2-int8=a b", "neither a folder nor a hub id"),
        ("ct2-int8=", "NAME=SOURCE"),
        ("../x=y", "--artifact: "),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_written(
    drive: Drive, tmp_path: Path, word: str, said: str
) -> None:
    called = drive(*CT2, "--artifact", word)
    assert called.code == 2
    assert said in called.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("reads_made")
def test_an_artifact_is_brought_recorded_and_asked_for_again_by_a_resumed_run(
    drive: Drive, tmp_path: Path, source: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(source, given)
    called = drive(*NULL, "--artifact", f"made-elsewhere={given}", "--run-id", "mine")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    record = RunRecord.read(run / layout.RUN_FILE)
    brought = ArtifactRecord.read(tmp_path / "models" / record.model.folder / "made-elsewhere" / layout.ARTIFACT_FILE)
    assert brought.source_digest == record.model.digest
    noted = record.visits[0].artifacts["made-elsewhere"]
    assert (noted.digest, noted.given) == (brought.digest, "given")
    assert Suite.read(run / layout.SUITE_FILE).artifacts == {"made-elsewhere": str(given)}
    again = drive("--resume", "mine", "--batch-sizes", "2")
    assert again.code == 0, again.err
    assert "artifact made-elsewhere from given: present" in again.out


@pytest.mark.usefixtures("reads_made")
def test_an_artifact_that_no_image_makes_must_be_given(drive: Drive, tmp_path: Path) -> None:
    called = drive(*NULL)
    assert called.code == 2
    assert "no image makes the artifact 'made-elsewhere'" in called.err
    assert list(tmp_path.iterdir()) == []


def test_a_suite_file_names_artifacts_and_the_control(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("control: null.scripted.b1\nartifacts: {gptq-int4-g128: owner/name@main}\n", encoding="utf-8")
    suite = Suite.load(path)
    assert (suite.control, suite.artifacts) == ("null.scripted.b1", {"gptq-int4-g128": "owner/name@main"})
