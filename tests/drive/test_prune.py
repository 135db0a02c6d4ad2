"""What ``bench_core.drive.prune`` removes, and what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.drive import prune
from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.engine_versions import make_version
from bench_core.prepare.disk import taken_bytes
from bench_core.system.locks import Locks


def model(models: Path, name: str) -> Path:
    folder = models / name
    (folder / "hf").mkdir(parents=True)
    (folder / layout.MODEL_FILE).write_text("{}", encoding="utf-8")
    (folder / "hf" / "weights").write_bytes(bytes(1_000_000))
    return folder


def command(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench_core.drive.prune", "--models", str(tmp_path / "models"), *words],
        capture_output=True, text=True, check=False, input="",
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"},
    )  # fmt: skip


def test_models_go_by_name_alone(tmp_path: Path) -> None:
    kept, gone = model(tmp_path / "models", "kept"), model(tmp_path / "models", "gone")
    shown = command(tmp_path, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "model kept: 1.0 MB, stays; --model kept removes it" in shown.stdout
    assert "images: not looked for: no Docker daemon answers" in shown.stdout
    assert gone.exists()
    done = command(tmp_path, "--model", "gone", "--dry-run")
    assert gone.exists()
    assert "model gone: 1.0 MB\n" in done.stdout
    assert prune.remove_model(gone) >= 1_000_000
    assert not gone.exists()
    assert kept.exists()


def test_nothing_is_removed_without_a_yes(tmp_path: Path) -> None:
    folder = model(tmp_path / "models", "mine")
    done = command(tmp_path, "--model", "mine")
    assert done.returncode == 130
    assert folder.exists()


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    model(tmp_path / "models", "llama")
    done = command(tmp_path, "--model", "lama")
    assert done.returncode == 2
    assert "there is no prepared model 'lama'" in done.stderr
    assert "did you mean llama?" in done.stderr


def test_a_model_that_is_being_converted_stays(tmp_path: Path) -> None:
    folder = model(tmp_path / "models", "mine")
    with Locks().converting(folder), pytest.raises(BadInput, match="model mine is in use"):
        prune.remove_model(folder)
    assert folder.exists()


def test_environments_of_old_requirements_are_stale(tmp_path: Path) -> None:
    catalogue = Catalogue()
    current = Environments(tmp_path).path(catalogue.get("null"), "measure", "cpu")
    old = tmp_path / "null-cpu-0123456789ab"
    for folder in (current, old, tmp_path / ".locks"):
        folder.mkdir()
    (old / "file").write_bytes(bytes(4096))
    assert prune.stale_environments(catalogue, tmp_path) == [old]
    assert prune.remove_environments([old]) >= 4096
    assert current.exists()
    assert not old.exists()


def test_wheels_that_were_compiled_for_other_environments_are_stale(tmp_path: Path) -> None:
    catalogue = Catalogue()
    compiled = [Environments(tmp_path).wheels(catalogue.get(name), "cpu") for name in catalogue.names]
    current = [path for path in compiled if path is not None]
    assert current, "no image compiles wheels: this test guards nothing"
    old = current[0].with_name("engine-cpu-0123456789ab")
    for folder in (*current, old, old.with_name(".locks")):
        folder.mkdir(parents=True)
    assert prune.stale_environments(catalogue, tmp_path) == [old]


def test_a_version_of_an_engine_stays_until_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_version(Catalogue().get("ctranslate2"), "4.0.1", tmp_path / "made")
    monkeypatch.setattr(prune, "made_images", lambda: [image])
    monkeypatch.setattr(prune, "environments_of", lambda _image, _folder=None: {tmp_path / "env", tmp_path / "none"})
    monkeypatch.setattr(prune, "connect", _no_engine)
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "file").write_bytes(bytes(4096))
    assert prune.look(tmp_path).versions == {"ctranslate2-v4_0_1": image}
    assert prune.remove_version(image) >= 4096
    assert not image.folder.exists()
    assert not (tmp_path / "env").exists()


def _no_engine() -> None:
    raise BadInput("there is no Docker engine")


def test_a_file_with_a_second_name_gives_nothing_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "original").write_bytes(bytes(1_000_000))
    os.link(tmp_path / "original", tmp_path / "in" / "weights")
    assert taken_bytes(tmp_path / "in") < 100_000
