"""Bases: which operating system each stands on, and what is built for an image that names one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
from filelock import FileLock

from bench_core.contract.asked.manifest import Manifest
from bench_core.drive.launch.containers.build import LOCAL_OPERATING_SYSTEM, SYSTEMS, ImageBuilder, tag_of
from bench_core.drive.plan.builds import BuildCosts, BuildLog
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.drive.plan.engine_versions import make_version

MANIFEST = """\
name: based
title: Based
adapter: adapter:Based
base: {base}
batching: native
token_times: none
devices: [cuda, cpu]
packages: []
variants: {{only: {{artifact: none, default: true}}}}
"""


class Engine:
    """Docker's client, as far as a builder uses it: knows tags, and makes those that are built."""

    def __init__(self, *tags: str) -> None:
        self.known = {tag: SimpleNamespace(id=tag, labels={}, attrs={"Size": 1000}) for tag in tags}
        self.built: list[dict[str, Any]] = []
        self.images = SimpleNamespace(get=self._get)
        self.api = SimpleNamespace(build=self._build)
        self.ping = lambda: True
        self.says: list[str] = []

    def _get(self, tag: str) -> SimpleNamespace:
        if tag not in self.known:
            raise docker.errors.ImageNotFound(tag)
        return self.known[tag]

    def _build(self, *, tag: str, labels: dict[str, str], **options: Any) -> list[dict[str, str]]:
        self.built.append({"tag": tag, **options})
        self.known[tag] = SimpleNamespace(id=f"{tag} {len(self.built)}", labels=labels, attrs={"Size": 1500})
        return [{"stream": line} for line in self.says]


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("lock")))  # builds that go on hold another
    for systems in SYSTEMS.values():
        for system in systems.values():
            monkeypatch.delenv(system.variable, raising=False)


def based(base: str, folder: Path) -> Image:
    path = folder / "based"
    path.mkdir(exist_ok=True)
    (path / "image.yaml").write_text(MANIFEST.format(base=base), encoding="utf-8")
    return Image(path, Manifest.load(path))


def builder(engine: Engine) -> ImageBuilder:
    return ImageBuilder(engine, BuildLog(Path("/dev/null/none"), Path("none")))  # type: ignore[arg-type]  # a stand-in


def build_bases(engine: Engine, base: str, folder: Path) -> list[dict[str, Any]]:
    """What is built below an image; the image itself has no Dockerfile and ends the attempt."""
    with pytest.raises(FileNotFoundError):
        builder(engine).ensure(based(base, folder), "measure", "cuda", lambda _line: None)
    return engine.built


def test_a_base_of_another_python_stands_on_its_own_system_not_on_the_base(tmp_path: Path) -> None:
    (built,) = build_bases(Engine(), "python311", tmp_path)
    assert (built["tag"], built["dockerfile"]) == ("llm-bench/python311:cuda", "docker/base.Dockerfile")
    assert built["buildargs"]["BASE_IMAGE"] == "debian:bookworm-slim"
    assert built["buildargs"]["FLAVOUR"] == "cuda"


def test_every_other_base_stands_on_the_base(tmp_path: Path) -> None:
    base, torch = build_bases(Engine(), "torch", tmp_path)
    assert base["buildargs"]["BASE_IMAGE"] == SYSTEMS["base"]["cuda"].public
    assert torch["dockerfile"] == "docker/torch.Dockerfile"
    assert torch["buildargs"]["BASE_IMAGE"] == tag_of("base", "cuda")


def test_a_base_is_built_once_and_anew_when_its_system_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    build_bases(engine, "python311", tmp_path)
    assert len(build_bases(engine, "python311", tmp_path)) == 1
    monkeypatch.setenv("BENCH_PYTHON311_BASE_IMAGE", "elsewhere/debian:12")
    engine.known["elsewhere/debian:12"] = SimpleNamespace(id="another", labels={}, attrs={"Size": 1000})
    assert build_bases(engine, "python311", tmp_path)[1]["buildargs"]["BASE_IMAGE"] == "elsewhere/debian:12"


def test_the_local_debian_stands_in_for_debian_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images = builder(Engine(LOCAL_OPERATING_SYSTEM))
    assert images.operating_system("cpu") == LOCAL_OPERATING_SYSTEM
    assert images.operating_system("cuda", "python311") == LOCAL_OPERATING_SYSTEM
    assert images.operating_system("cuda") == SYSTEMS["base"]["cuda"].public
    monkeypatch.setenv("BENCH_CPU_BASE_IMAGE", "elsewhere/os:1")
    assert images.operating_system("cpu") == "elsewhere/os:1"
    assert images.operating_system("cpu", "python311") == LOCAL_OPERATING_SYSTEM


def test_an_image_that_measures_and_converts_is_one_and_built_once() -> None:
    """Two labels for one tag would have each use of the image rebuild it for the other one, under a new id."""
    engine = Engine(LOCAL_OPERATING_SYSTEM)
    image = Catalogue().get("gptqmodel")
    assert image.manifest.converts
    assert not image.manifest.convert_target
    first = builder(engine).ensure(image, "measure", "cpu", lambda _line: None)
    built = len(engine.built)
    assert builder(engine).is_current(image, "convert", "cpu")
    assert builder(engine).ensure(image, "convert", "cpu", lambda _line: None).id == first.id
    assert builder(engine).is_current(image, "measure", "cpu")
    assert len(engine.built) == built


def test_a_converter_of_its_own_has_a_tag_and_a_label_of_its_own() -> None:
    engine = Engine(LOCAL_OPERATING_SYSTEM)
    image = Catalogue().get("ctranslate2")
    assert image.manifest.convert_target
    builder(engine).ensure(image, "measure", "cpu", lambda _line: None)
    assert not builder(engine).is_current(image, "convert", "cpu")
    builder(engine).ensure(image, "convert", "cpu", lambda _line: None)
    assert builder(engine).is_current(image, "convert", "cpu")
    assert builder(engine).is_current(image, "measure", "cpu")


def test_a_version_of_an_engine_is_built_from_its_own_folder_under_its_own_tag(tmp_path: Path) -> None:
    engine, image = Engine(LOCAL_OPERATING_SYSTEM), make_version(Catalogue().get("ctranslate2"), "4.8.4")
    building = ImageBuilder(engine, BuildLog(tmp_path / "builds.json"))  # type: ignore[arg-type]  # a stand-in
    needed = building.builds(image, "measure", "cpu")
    assert [build.name for build in needed] == ["base:cpu", "ctranslate2-v4_8_4:cpu"]
    assert needed[1].instead == ("ctranslate2:cpu",), "expected to take what the image itself takes"
    expected, unknown = BuildLog(tmp_path / "none").expected(needed)
    assert [one.build.name for one in expected] == ["base:cpu", "ctranslate2-v4_8_4:cpu"]
    assert unknown == []
    own, other = building.recipe(image, "cpu"), building.recipe(Catalogue().get("ctranslate2"), "cpu")
    assert own != other
    found = building.ensure(image, "measure", "cpu", lambda _line: None)
    assert (found.reference, found.recipe) == ("llm-bench/ctranslate2-v4_8_4:cpu", own)
    assert building.is_current(image, "measure", "cpu")
    assert not building.is_current(Catalogue().get("ctranslate2"), "measure", "cpu")
    assert engine.built[-1]["dockerfile"] == "build/engine-versions/ctranslate2-v4_8_4/Dockerfile"


def test_what_a_build_takes_is_kept_and_expected_of_the_next(tmp_path: Path) -> None:
    engine, image = Engine(LOCAL_OPERATING_SYSTEM), Catalogue().get("null")
    log = BuildLog(tmp_path / "builds.json", tmp_path / "none")
    building = ImageBuilder(engine, log)  # type: ignore[arg-type]  # a stand-in
    needed = building.builds(image, "measure", "cpu")
    assert [build.name for build in needed] == ["base:cpu", "null:cpu"]
    building.ensure(image, "measure", "cpu", lambda _line: None)
    assert building.builds(image, "measure", "cpu") == []
    costs = BuildCosts.read(tmp_path / "builds.json").builds
    assert {name: (cost.size_bytes, cost.again_s) for name, cost in costs.items()} == {
        "base:cpu": (500, None),  # 1500 on a system of 1000
        "null:cpu": (0, None),
    }
    engine.known["llm-bench/null:cpu"].labels.clear()
    engine.says = [" ---> Using cache\n"]
    (again,) = building.builds(image, "measure", "cpu")
    building.ensure(image, "measure", "cpu", lambda _line: None)
    cost = BuildCosts.read(tmp_path / "builds.json").builds["null:cpu"]
    assert cost.again_s is not None
    assert cost.pins == again.pins == needed[1].pins


def test_a_new_base_is_built_before_the_image_that_is_current_but_for_it(tmp_path: Path) -> None:
    engine, image = Engine(LOCAL_OPERATING_SYSTEM), Catalogue().get("null")
    building = ImageBuilder(engine, BuildLog(tmp_path / "builds.json", tmp_path / "none"))  # type: ignore[arg-type]
    building.ensure(image, "measure", "cpu", lambda _line: None)
    engine.known["llm-bench/base:cpu"].labels.clear()
    assert [build.name for build in building.builds(image, "measure", "cpu")] == ["base:cpu", "null:cpu"]
    assert [build.name for build in building.service_builds("client", "cpu")] == ["base:cpu", "client:cpu"]


def test_a_run_keeps_to_the_images_it_began_with_when_another_checkout_builds_under_their_tags() -> None:
    engine, image = Engine(LOCAL_OPERATING_SYSTEM), Catalogue().get("null")
    building = builder(engine)
    assert building.named("llm-bench/null:cpu") == "llm-bench/null:cpu"
    ours = building.ensure(image, "measure", "cpu", lambda _line: None)
    client = engine.known[building.ensure_service("client", "cpu", lambda _line: None)].id
    for tag in ("llm-bench/null:cpu", "llm-bench/client:cpu"):
        engine.known[tag] = SimpleNamespace(id=f"another's {tag}", labels={}, attrs={"Size": 1000})
    assert building.named("llm-bench/null:cpu") == ours.id
    assert building.named("llm-bench/client:cpu") == client


def test_an_image_that_another_process_built_meanwhile_is_taken_and_the_waiting_told() -> None:
    engine, image = Engine(LOCAL_OPERATING_SYSTEM), Catalogue().get("null")
    with FileLock(Path(tempfile.gettempdir()) / f"llm-bench-build-{os.getuid()}.lock") as lock:
        other = Engine(LOCAL_OPERATING_SYSTEM)
        lock.release()
        builder(other).ensure(image, "measure", "cpu", lambda _line: None)
        lock.acquire()

        def tell(line: str) -> None:
            assert "waiting" in line
            engine.known |= other.known
            lock.release()

        assert builder(engine).ensure(image, "measure", "cpu", tell).id == other.known["llm-bench/null:cpu"].id
    assert engine.built == []
