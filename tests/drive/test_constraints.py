"""Which transitive pins an image is installed with, in an environment as in its Dockerfile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench_core.contract.asked.manifest import Manifest
from bench_core.drive.launch.processes import environments
from bench_core.drive.launch.processes.environments import Environments, constraints_file
from bench_core.drive.plan.catalogue import Catalogue, Image

SHARED, OWN = "/opt/bench/docker/constraints.txt", "/opt/bench/docker/image/constraints.txt"
MANIFEST = """\
name: pinned
title: Pinned
adapter: adapter:Pinned
batching: native
token_times: none
devices: [cpu]
packages: []
variants: {only: {artifact: none, default: true}}
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    (tmp_path / "docker").mkdir()
    for name in ("constraints.txt", "requirements.base.txt"):
        (tmp_path / "docker" / name).write_text("", encoding="utf-8")
    folder = tmp_path / "images" / "pinned"
    folder.mkdir(parents=True)
    (folder / "image.yaml").write_text(MANIFEST, encoding="utf-8")
    return Image(folder, Manifest.load(folder))


def test_an_images_own_constraints_take_the_place_of_the_shared_ones(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def record(command: list[str], _what: str, *_: object) -> None:
        commands.append(command)
        if command[:3] == [sys.executable, "-m", "venv"]:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(environments, "_run", record)
    made = Environments(tmp_path / "envs")
    shared = made.ensure(image, "measure", "cpu", lambda _line: None)
    (image.folder / "constraints.txt").write_text("# older\n", encoding="utf-8")
    own = made.ensure(image, "measure", "cpu", lambda _line: None)
    assert shared != own, "an environment with other pins is another environment"
    used = [command[command.index("-c") + 1] for command in commands if "-c" in command]
    assert used == [str(tmp_path / "docker" / "constraints.txt"), str(image.folder / "constraints.txt")]


@pytest.mark.parametrize("name", Catalogue().names)
def test_dockerfiles_install_with_the_constraints_of_the_process_launcher(name: str) -> None:
    image = Catalogue().get(name)
    dockerfile = (image.folder / "Dockerfile").read_text(encoding="utf-8")
    given, other = (OWN, SHARED) if constraints_file(image).parent == image.folder else (SHARED, OWN)
    assert other not in dockerfile
    assert (given in dockerfile) is ("pip install" in dockerfile)
