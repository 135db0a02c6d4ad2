"""The process launcher installs what Dockerfiles install; complete lists of requirements without dependencies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench_core.contract.asked.manifest import Manifest
from bench_core.drive.launch.launcher import Target
from bench_core.drive.launch.processes import environments
from bench_core.drive.launch.processes.environments import Environments, complete_files, requirement_files
from bench_core.drive.plan.catalogue import Catalogue, Image

MANIFEST = """\
name: listed
title: Listed
adapter: adapter:Listed
batching: native
token_times: none
devices: [cuda, cpu]
packages: []
variants: {only: {artifact: none, default: true}}
"""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    folder = tmp_path / "listed"
    folder.mkdir()
    (folder / "image.yaml").write_text(MANIFEST, encoding="utf-8")
    for name in ("requirements.txt", "requirements.no-deps.txt", "requirements.no-deps.cpu.txt"):
        (folder / name).write_text("# nothing\n", encoding="utf-8")
    return Image(folder, Manifest.load(folder))


def test_complete_lists_are_apart_from_the_requirements_that_pip_resolves(image: Image) -> None:
    assert [path.name for path in complete_files(image, "measure", "cpu")] == [
        "requirements.no-deps.txt",
        "requirements.no-deps.cpu.txt",
    ]
    assert [path.name for path in complete_files(image, "measure", "cuda")] == ["requirements.no-deps.txt"]
    assert not any("no-deps" in path.name for path in requirement_files(image, "measure", "cpu"))


def test_a_converter_has_a_complete_list_of_its_own(image: Image) -> None:
    text = MANIFEST + "converts: {other: convert:to_other}\nconvert_target: true\n"
    (image.folder / "image.yaml").write_text(text, encoding="utf-8")
    (image.folder / "requirements.convert.no-deps.txt").write_text("# nothing\n", encoding="utf-8")
    converting = Image(image.folder, Manifest.load(image.folder))
    assert [path.name for path in complete_files(converting, "convert", "cpu")] == ["requirements.convert.no-deps.txt"]
    assert len(complete_files(converting, "measure", "cpu")) == 2


def test_complete_lists_are_installed_last_and_without_dependencies(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def record(command: list[str], _what: str, _lock: int) -> None:
        commands.append(command)
        Path(command[-1] if command[:3] == [sys.executable, "-m", "venv"] else tmp_path).mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    monkeypatch.setattr(environments, "_run", record)
    for name in ("constraints.txt", "requirements.base.txt"):
        (tmp_path / "docker").mkdir(exist_ok=True)
        (tmp_path / "docker" / name).write_text("", encoding="utf-8")
    Environments(tmp_path / "envs").ensure(image, "measure", "cpu", lambda _line: None)
    resolved, complete = commands[1:]
    assert "--no-deps" not in resolved
    assert "--no-deps" in complete
    assert [Path(word).name for word in complete[complete.index("--no-deps") :] if word.endswith(".txt")] == [
        "requirements.no-deps.txt",
        "requirements.no-deps.cpu.txt",
    ]


def test_a_changed_complete_list_makes_another_environment(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    (tmp_path / "docker").mkdir()
    for name in ("constraints.txt", "requirements.base.txt"):
        (tmp_path / "docker" / name).write_text("", encoding="utf-8")
    before = Environments(tmp_path).identity(image, "measure", "cpu")
    (image.folder / "requirements.no-deps.cpu.txt").write_text("x==1\n", encoding="utf-8")
    assert Environments(tmp_path).identity(image, "measure", "cpu") != before


def test_dockerfiles_install_every_complete_list_without_dependencies() -> None:
    images = Catalogue()
    targets: tuple[Target, ...] = ("measure", "convert")
    for target in targets:
        found = {name: complete_files(images.get(name), target, "cuda") for name in images.names}
        assert any(found.values()), f"no image has a complete list for {target}: this test guards nothing"
        for name, paths in found.items():
            dockerfile = (images.get(name).folder / "Dockerfile").read_text(encoding="utf-8")
            assert not paths or "--no-deps" in dockerfile
            for path in paths:
                assert path.name.replace(".cuda.", ".${FLAVOUR}.") in dockerfile
