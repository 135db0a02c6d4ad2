"""The process launcher installs what Dockerfiles install; complete lists of requirements without dependencies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench_core.contract.asked.manifest import Manifest
from bench_core.drive.launch.launcher import NotInstalled, Target
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


SCRIPT = """\
echo "$1 $3" >> "{calls}"
touch "$2/engine-1-py3-none-any.whl"
exit {code}
"""


@pytest.fixture
def made(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands of pip and venv, which are not carried out; scripts of an image's wheels are."""
    commands: list[list[str]] = []

    def run(command: list[str], what: str, lock: int) -> None:
        commands.append(command)
        if command[0] == "bash":
            carried_out(command, what, lock)
        Path(command[-1] if command[:3] == [sys.executable, "-m", "venv"] else tmp_path).mkdir(exist_ok=True)

    carried_out = environments._run
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    monkeypatch.setattr(environments, "_run", run)
    (tmp_path / "docker").mkdir()
    for name in ("constraints.txt", "requirements.base.txt"):
        (tmp_path / "docker" / name).write_text("", encoding="utf-8")
    (image.folder / "wheels.cpu.sh").write_text(SCRIPT.format(calls=tmp_path / "calls", code=0), encoding="utf-8")
    return commands


def test_wheels_of_an_images_script_are_compiled_once_and_are_where_pip_looks(
    image: Image, tmp_path: Path, made: list[list[str]]
) -> None:
    text = MANIFEST + "converts: {other: convert:to_other}\nconvert_target: true\n"
    (image.folder / "image.yaml").write_text(text, encoding="utf-8")
    converting = Image(image.folder, Manifest.load(image.folder))
    envs = Environments(tmp_path / "envs")
    paths = [envs.ensure(converting, target, "cpu", lambda _line: None) for target in ("measure", "convert")]
    assert paths[0] != paths[1]
    assert (tmp_path / "calls").read_text(encoding="utf-8") == f"cpu {paths[0]}/bin/python\n"
    looked = [command[command.index("--find-links") + 1] for command in made if "--find-links" in command]
    assert looked
    assert {Path(folder) for folder in looked} == {envs.wheels(converting, "cpu")}
    assert (Path(looked[0]) / "engine-1-py3-none-any.whl").is_file()
    assert envs.wheels(converting, "cuda") is None
    envs.ensure(converting, "measure", "cuda", lambda _line: None)
    assert sum("--find-links" in command for command in made) == len(looked)


@pytest.mark.parametrize("name", ["wheels.cpu.sh", "compile.sh", "options.cmake", "requirements.build.txt"])
def test_what_wheels_are_compiled_with_makes_another_environment(
    image: Image, tmp_path: Path, made: list[list[str]], name: str
) -> None:
    assert not made
    envs = Environments(tmp_path / "envs")
    before = envs.path(image, "measure", "cpu"), envs.wheels(image, "cpu")
    gpu = envs.path(image, "measure", "cuda")
    (image.folder / name).write_text("# another\n", encoding="utf-8")
    after = envs.path(image, "measure", "cpu"), envs.wheels(image, "cpu")
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert envs.path(image, "measure", "cuda") == gpu


def test_wheels_of_a_script_that_fails_are_not_taken(image: Image, tmp_path: Path, made: list[list[str]]) -> None:
    script = image.folder / "wheels.cpu.sh"
    script.write_text(SCRIPT.format(calls=tmp_path / "calls", code=1), encoding="utf-8")
    envs = Environments(tmp_path / "envs")
    for _ in range(2):
        with pytest.raises(NotInstalled, match="could not be installed"):
            envs.ensure(image, "measure", "cpu", lambda _line: None)
    assert len((tmp_path / "calls").read_text(encoding="utf-8").splitlines()) == 2
    assert not any("install" in command for command in made)
    assert not envs.is_ready(image, "measure", "cpu")


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
