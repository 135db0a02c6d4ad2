"""What is packed for a GPU host without a network (docker/airgap/pack.py): everything that its builds install."""

from __future__ import annotations

import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from module_file import module_at
from packaging.requirements import Requirement

from bench_core.contract.errors import BadInput
from bench_core.drive.catalogue import Catalogue


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


def test_two_releases_of_one_distribution_are_asked_for_one_after_the_other(pack: ModuleType) -> None:
    assert pack._batches(["a==1", "a==2", "b==1"]) == [["a==1", "b==1"], ["a==2"]]


def test_parts_join_to_the_archive(pack: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "airgap").mkdir()
    (tmp_path / "airgap" / "wheel").write_bytes(bytes(range(256)) * 100)
    parts = list(pack.in_parts(tmp_path / "airgap", tmp_path, 10_000))
    assert len(parts) > 2
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in sorted(parts)))
    with tarfile.open(joined) as archive:
        member = archive.extractfile("airgap/wheel")
        assert member is not None
        assert member.read() == bytes(range(256)) * 100
    assert not (tmp_path / "airgap.tar").exists()


def test_an_unknown_image_is_bad_input(pack: ModuleType) -> None:
    with pytest.raises(BadInput):
        pack.needs_of("vlllm", "3.12")
