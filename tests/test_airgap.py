"""What is packed for a GPU host without a network (docker/airgap/pack.py): everything that its builds install."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from module_file import module_at
from packaging.requirements import Requirement
from waiting import wait_until

from bench_core.contract.errors import BadInput
from bench_core.drive.plan.catalogue import Catalogue


@pytest.fixture(scope="module")
def pack() -> ModuleType:
    return module_at(ROOT / "docker/airgap/pack.py")


def test_markers_are_those_of_the_hosts_python(pack: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# a comment\nnumpy==2.4.6 ; python_version == '3.11'\nnumpy==2.5.5 ; python_version >= '3.12'\n"
        "tomli==2.5.0 ; python_version < '3.11'\ntorch==2.11.0\ncolorama==0.4.6 ; sys_platform == 'win32'\n"
    )
    assert pack.requirements_in(file, "3.12", of_host=pack.OF_HOST) == ["numpy==2.5.5"]
    assert pack.requirements_in(file, "3.11") == ["numpy==2.4.6", "torch==2.11.0"]


@pytest.mark.parametrize(
    "image", [name for name in Catalogue().names if "cuda" in Catalogue().get(name).manifest.devices]
)
def test_every_requirement_of_a_cuda_image_is_packed(pack: ModuleType, image: str) -> None:
    python, needs = pack.needs_of(image, "3.12")
    names = {Requirement(need).name for need in needs}
    brings_torch = Catalogue().get(image).manifest.base == "python311"
    assert python == ("3.11" if brings_torch else "3.12")
    assert ("torch" in names) is brings_torch
    for file in (ROOT / "images" / image).glob("requirements*.txt"):
        if ".cpu" in file.name or ".build" in file.name:  # the other flavour's; what compiles on the host
            continue
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        assert {Requirement(line).name for line in lines} <= names


def test_what_an_image_compiles_itself_is_not_tried_as_a_wheel(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def pip(words: list[str]) -> bool:
        asked.append(words)
        return words[0] == "download" and words[1].startswith("--no-binary")

    monkeypatch.setattr(pack, "_pip", pip)
    assert pack.download(["llama-cpp-python==0.3.36"], "3.12", tmp_path) == ["llama-cpp-python==0.3.36"]
    assert [words[0] for words in asked] == ["download"] * 3
    asked.clear()
    assert pack.download(["wordlist==1.0"], "3.12", tmp_path) == ["wordlist==1.0"]
    assert [words[0] for words in asked] == ["download", "download", "wheel", "download"]


def test_two_releases_of_one_distribution_are_asked_for_one_after_the_other(pack: ModuleType) -> None:
    assert pack._batches(["a==1", "a==2", "b==1"]) == [["a==1", "b==1"], ["a==2"]]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Wheels as pip names them: of a driver, of preparing, of two images that share one."""
    names = {
        "driver": ["rich-15.0.0-py3-none-any.whl"],
        "wheels": [
            "a_b-1.0-py3-none-any.whl",
            "shared-2.0-cp311-cp311-linux_x86_64.whl", "shared-2.0-cp312-cp312-linux_x86_64.whl",
            "shared-3.0-py3-none-any.whl", "engine-0.1-py3-none-any.whl", "sources-4.tar.gz",
        ],
    }  # fmt: skip
    for folder, files in names.items():
        (tmp_path / "airgap" / folder).mkdir(parents=True)
        for name in files:
            (tmp_path / "airgap" / folder / name).write_bytes(name.encode() * 500)
    return tmp_path / "airgap"


GROUPS = {"prepare": ["a-b==1.0"], "one": ["shared==2.0", "engine==0.1"], "two": ["shared==2.0", "sources==4"]}


def test_the_archive_is_in_the_order_of_need_and_nothing_comes_twice(pack: ModuleType, packed: Path) -> None:
    assert [name for name, _ in pack.in_order(packed, GROUPS)] == [
        "driver/rich-15.0.0-py3-none-any.whl", "ready/driver",
        "wheels/a_b-1.0-py3-none-any.whl", "ready/prepare",
        "wheels/engine-0.1-py3-none-any.whl", "wheels/shared-2.0-cp311-cp311-linux_x86_64.whl",
        "wheels/shared-2.0-cp312-cp312-linux_x86_64.whl", "ready/one",
        "wheels/sources-4.tar.gz", "ready/two",
    ]  # fmt: skip


def test_what_was_compiled_takes_the_place_of_its_sources(pack: ModuleType, packed: Path, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    for name in ("engine-0.1-cp312-cp312-linux_x86_64.whl", "sources-4-cp312-cp312-linux_x86_64.whl"):
        (built / name).touch()
    pack.take_built(built, packed / "wheels")
    names = {path.name for path in (packed / "wheels").iterdir()}
    assert "engine-0.1-cp312-cp312-linux_x86_64.whl" in names
    assert not names & {"engine-0.1-py3-none-any.whl", "sources-4.tar.gz"}
    assert pack.without(["engine==0.1", "Sources==4", "a-b==1.0"], built) == ["a-b==1.0"]


def test_parts_are_unpacked_as_they_come(pack: ModuleType, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "airgap" / "airgap.tar.077").write_text("of an earlier call")
    parts = pack.in_parts(pack.in_order(packed, GROUPS), tmp_path / "airgap", 20_000)
    assert sorted((tmp_path / "airgap").glob("airgap.tar.*")) == parts
    assert [part.name for part in parts] == [f"airgap.tar.{number:03d}" for number in range(len(parts))]
    assert len(parts) > 4
    assert {part.stat().st_size for part in parts[:-1]} == {20_000}
    arrived, host = tmp_path / "arrived", tmp_path / "host"
    arrived.mkdir()
    receiver = subprocess.Popen([str(ROOT / "docker/airgap/receive.sh"), str(arrived), str(host)])
    try:
        for part in [tmp_path / "airgap" / "airgap.count", *parts[:-1]]:
            part.rename(arrived / part.name)
        wait_until(host / "airgap" / "ready" / "prepare", seconds=30.0)
        assert not (host / "airgap" / "ready" / "two").exists(), "the last part is not there yet"
        parts[-1].rename(arrived / parts[-1].name)
        assert receiver.wait(timeout=30) == 0
    finally:
        receiver.kill()
    assert {path.name for path in (host / "airgap" / "ready").iterdir()} == {"driver", *GROUPS}
    engine = "engine-0.1-py3-none-any.whl"
    assert (host / "airgap" / "wheels" / engine).read_bytes() == engine.encode() * 500
    assert [path.name for path in arrived.iterdir()] == ["airgap.count"]


def test_a_host_builds_each_image_when_all_of_it_is_there(tmp_path: Path) -> None:
    """The first alone, since it makes the bases; one that fails leaves its words and stops no other."""
    ready = tmp_path / "airgap" / "ready"
    for folder in ("ready", "driver", "wheels"):
        (tmp_path / "airgap" / folder).mkdir(parents=True)
    (tmp_path / "airgap" / "driver" / "a-1-py3-none-any.whl").touch()
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$PIP_FIND_LINKS $@" >> {tmp_path}/calls\n'
        'case "$*" in *--images\\ bad*) echo no kernel; exit 2;; esac\n'
    )
    python.chmod(0o755)
    command = [str(ROOT / "docker/airgap/host.sh"), str(tmp_path), str(python), "first", "bad", "late", "forgotten"]
    host = subprocess.Popen(command, env={"PATH": "/usr/bin:/bin", "BENCH_CUDA_BASE_IMAGE": "mine"})
    try:
        for name in ("driver", "prepare", "bad"):
            (ready / name).touch()
        time.sleep(1.0)
        assert not list((tmp_path / "failed").glob("[a-z]*")), "the first image is not there yet"
        (ready / "first").touch()
        wait_until(tmp_path / "failed" / "bad", seconds=30.0)
        assert {path.name for path in (tmp_path / "built").iterdir()} == {"first"}
        (ready / "late").touch()
        wait_until(tmp_path / "built" / "late", seconds=30.0)
        (tmp_path / "airgap" / "received").touch()
        assert host.wait(timeout=30) == 1
    finally:
        host.kill()
    assert {path.name for path in (tmp_path / "built").iterdir()} == {"first", "late"}
    assert (tmp_path / "failed" / "bad").read_text() == "no kernel\n"
    assert (tmp_path / "failed" / "forgotten").read_text().startswith("forgotten is not in what was packed")
    install, *builds = (tmp_path / "calls").read_text().splitlines()
    assert "--no-index" in install
    assert "a-1-py3-none-any.whl" in install
    assert [line.split("--images ")[1].split()[0] for line in builds] == ["first", "bad", "late"]
    assert all(line.startswith(f"{tmp_path}/airgap/wheels ") for line in builds)
    assert "BENCH_CUDA_BASE_IMAGE=mine" in (tmp_path / "env.sh").read_text()


def test_an_unknown_image_is_bad_input(pack: ModuleType) -> None:
    with pytest.raises(BadInput):
        pack.needs_of("vlllm", "3.12")


def test_every_image_that_compiles_is_compiled_where_its_sources_travel(tmp_path: Path) -> None:
    """compile.sh calls each image's build_wheel.py with the repository as PYTHONPATH, and no image by name but the one
    that must be installed first."""
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    engines = sorted(path.parent.name for path in ROOT.glob("images/*/build_wheel.py"))
    for engine in engines:
        (wheels / f"{engine}-1.0-py3-none-any.whl").touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH|$@" >> {tmp_path}/calls\n', encoding="utf-8")
    python.chmod(0o755)
    command = [str(ROOT / "docker/airgap/compile.sh"), str(wheels), str(out), str(python)]
    environment = {"CUDA_HOME": "/none", "TORCH_CUDA_ARCH_LIST": "9.0", "PATH": "/usr/bin:/bin"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    calls = [line.split("|") for line in (tmp_path / "calls").read_text(encoding="utf-8").splitlines()]
    scripts = {Path(words.split()[0]).parent.name: path for path, words in calls if "build_wheel.py" in words}
    assert sorted(scripts) == engines
    assert all(path.split(":")[-1] == str(ROOT) for path in scripts.values())


def test_llama_cpp_is_compiled_with_its_server_where_its_sources_travel(tmp_path: Path) -> None:
    """By the script that its image calls, for the GPU that is asked for; the sources' tools give way to the server."""
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    tools = tmp_path / "llama_cpp_python-1.0" / "vendor" / "llama.cpp" / "tools"
    tools.mkdir(parents=True)
    (tools / "CMakeLists.txt").write_text("add_subdirectory(quantize)\n", encoding="utf-8")
    sources = wheels / "llama_cpp_python-1.0.tar.gz"
    subprocess.run(["tar", "-czf", str(sources), "-C", str(tmp_path), "llama_cpp_python-1.0"], check=True)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$CUDACXX|$CMAKE_ARGS|$SKBUILD_WHEEL_EXCLUDE|$@" >> {tmp_path}/calls\n'
        "for last; do :; done\n"
        f'cp "$last"/vendor/llama.cpp/tools/CMakeLists.txt {tmp_path}/built 2>/dev/null || true\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    command = [str(ROOT / "docker/airgap/compile.sh"), str(wheels), str(out), str(python)]
    environment = {"CUDA_HOME": "/none", "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX", "PATH": "/usr/bin:/bin"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    install, build = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert "requirements.build.txt" in install
    nvcc, options, left_out, words = build.split("|")
    assert nvcc == "/none/bin/nvcc"
    assert "-DGGML_CUDA=ON" in options
    assert "-DCMAKE_CUDA_ARCHITECTURES=80;90 " in options
    assert "-DLLAMA_BUILD_SERVER=ON" in options
    assert left_out == "bin/**;include/**;lib/**"
    assert f"pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir {out} " in words
    assert (tmp_path / "built").read_text(encoding="utf-8") == (ROOT / "images/llama-cpp-python/tools.cmake").read_text(
        encoding="utf-8"
    )
