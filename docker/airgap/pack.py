"""Collects what an air-gapped GPU host needs to build the images: wheels for its Python, in parts that can be carried.

    make airgap FOLDER=x IMAGES=transformers,vllm

Parts follow one another in the order in which they are needed: driver, preparing, then the images as they were asked
for. receive.sh unpacks them as they come, so that the first image is built before the last part is there.

Nothing is resolved: an image's requirements and its constraints together name every distribution, so each is downloaded
without its dependencies. torch of the modern images, with CUDA's libraries, is taken from the host (import-os.sh).
See docs/airgap.md.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, get_args

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from bench_core.contract.errors import BadInput
from bench_core.drive.ask.command import refuse
from bench_core.drive.launch.launcher import Target
from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.plan.catalogue import IMAGES_FOLDER, REPOSITORY, Catalogue

PYTHON311 = "3.11"  # of images that stand on the base of that name: they bring torch of their own
OF_HOST = ("torch",)  # with CUDA's libraries: gigabytes that all other images take from the host
_GLIBC = (39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 27, 26, 24, 17)  # 2.N: pip matches the tags of wheels exactly
_LEGACY = ("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64")
PART_BYTES = 1_000_000_000
COUNT_FILE = "airgap.count"  # how many parts there are, for receive.sh


def requirements_in(path: Path, python: str, *, of_host: tuple[str, ...] = ()) -> list[str]:
    """The pins of a file that hold for CPython ``python`` on Linux, without markers and without what is ``of_host``."""
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
        "platform_python_implementation": "CPython", "sys_platform": "linux", "platform_system": "Linux",
        "platform_machine": "x86_64", "os_name": "posix",
    }  # fmt: skip
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        holds = requirement.marker is None or requirement.marker.evaluate(environment)
        if holds and requirement.name not in of_host:
            found.append(f"{requirement.name}{requirement.specifier}")
    return found


def needs_of(image: str, python: str) -> tuple[str, list[str]]:
    """The Python that an image runs on and every distribution that its CUDA flavour installs, also to compile it.

    Args:
        image: a folder of ``images/``.
        python: the host's, ``3.12`` for example; taken by images that stand on the host's system, as its torch is.

    Raises:
        BadInput: there is no such image.
    """
    found = Catalogue().get(image)
    of_its_time = found.manifest.base == "python311"
    python, of_host = (PYTHON311, ()) if of_its_time else (python, OF_HOST)
    files = {path for target in get_args(Target) for path in Environments().pins(found, target, "cuda")}
    files.update(found.folder.glob("requirements.build.txt"))
    return python, sorted({need for path in files for need in requirements_in(path, python, of_host=of_host)})


def download(needs: list[str], python: str, folder: Path) -> list[str]:
    """Puts a wheel of each into ``folder``; returns those that have none and must be built on the host.

    Source distributions that turn out to be pure Python are built here; sources of the others are put beside. What an
    image has a compile.sh for is not tried: that would take as long as compiling it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    platforms += [f"--platform={name}" for name in _LEGACY]
    binary = ["download", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    alone: list[str] = []
    for batch in _batches(needs):
        if not _pip([*binary, "-d", str(folder), *batch]):
            alone += batch
    sources = []
    for need in alone:
        if _pip([*binary, "-d", str(folder), need]):
            continue
        built = folder / ".built"
        name = Requirement(need).name
        compiled = (IMAGES_FOLDER / canonicalize_name(name) / "compile.sh").is_file()
        if not compiled and _pip(["wheel", "-w", str(built), need]) and any(built.glob("*-none-any.whl")):
            for wheel in built.glob("*-none-any.whl"):
                wheel.rename(folder / wheel.name)
        elif _pip(["download", f"--no-binary={name}", "-d", str(folder), need]):
            sources.append(need)
        else:
            raise BadInput(f"{need}: neither a wheel for Python {python} nor sources", "see pip's words above")
        for left in built.glob("*"):
            left.unlink()
    return sources


def _batches(needs: list[str]) -> list[list[str]]:
    """Images may ask for two releases of a distribution, which one call of pip may not."""
    batches: list[dict[str, str]] = []
    for need in needs:
        name = Requirement(need).name
        batch = next((batch for batch in batches if name not in batch), None)
        if batch is None:
            batch = {}
            batches.append(batch)
        batch[name] = need
    return [list(batch.values()) for batch in batches]


def take_built(built: Path, folder: Path) -> None:
    """Puts wheels that were compiled elsewhere into ``folder``, in the place of all else of the same release."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in built.glob("*.whl"):
        for other in list(folder.iterdir()):
            if other.is_file() and _release(other) == _release(wheel):
                other.unlink()
        shutil.copy(wheel, folder)


def without(needs: Iterable[str], built: Path) -> list[str]:
    """Those of ``needs`` that were not compiled elsewhere."""
    there = {_release(wheel) for wheel in built.glob("*.whl")}
    return [need for need in needs if _pinned(need) not in there]


def in_order(packed: Path, groups: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, Path | None]]:
    """What ``packed`` holds as (name in the archive, file): the driver's wheels, then each group's as far as no earlier
    one has them; after each ``ready/<group>``, an empty file."""
    for path in sorted((packed / "driver").iterdir()):
        yield f"driver/{path.name}", path
    yield "ready/driver", None
    left = {path: _release(path) for path in sorted((packed / "wheels").iterdir()) if path.is_file()}
    for group, needs in groups.items():
        wanted = {_pinned(need) for need in needs}
        for path in [path for path, release in left.items() if release in wanted]:
            del left[path]
            yield f"wheels/{path.name}", path
        yield f"ready/{group}", None


def _release(path: Path) -> tuple[str, str]:
    """Name and version, as comparable texts, of a file that pip wrote."""
    parse = parse_wheel_filename if path.suffix == ".whl" else parse_sdist_filename
    name, version, *_ = parse(path.name)
    return name, str(version)


def _pinned(need: str) -> tuple[str, str]:
    requirement = Requirement(need)
    (version,) = requirement.specifier
    return canonicalize_name(requirement.name), version.version


class _Parts(io.RawIOBase):
    """A file that goes on in a next one whenever one is full."""

    def __init__(self, target: Path, part_bytes: int) -> None:
        self._target, self._room, self._part_bytes = target, 0, part_bytes
        self.paths: list[Path] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # what tarfile gives: bytes
        written = len(view)
        while view:
            if not self._room:
                self.paths.append(self._target / f"airgap.tar.{len(self.paths):03d}")
                self._room = self._part_bytes
            with self.paths[-1].open("ab") as part:
                part.write(view[: self._room])
            taken = min(self._room, len(view))
            view, self._room = view[taken:], self._room - taken
        return written


def in_parts(members: Iterable[tuple[str, Path | None]], target: Path, part_bytes: int) -> list[Path]:
    """Writes one tar archive in parts of ``part_bytes``, which ``cat`` joins, and how many they are.

    Those of an earlier call are removed.
    """
    for earlier in target.glob("airgap.tar.*"):
        earlier.unlink()
    parts = _Parts(target, part_bytes)
    with io.BufferedWriter(parts, 1 << 24) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for name, path in members:
            if path is None:
                archive.addfile(tarfile.TarInfo(f"airgap/{name}"))
            else:
                archive.add(path, arcname=f"airgap/{name}")
    (target / COUNT_FILE).write_text(f"{len(parts.paths)}\n", encoding="utf-8")
    return parts.paths


def _pip(words: list[str]) -> bool:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", "--no-deps", *words[1:]]
    return subprocess.run(command, check=False).returncode == 0


def main(
    folder: Annotated[Path, typer.Argument(help="Where to put wheels/, driver/ and the parts.")],
    python: Annotated[str, typer.Option(help="Python of the host's environment.")] = "3.12",
    images: Annotated[str, typer.Option(help="Comma-separated, or all.")] = "all",
    part_bytes: Annotated[int, typer.Option(min=1, help="Size of a part.")] = PART_BYTES,
    built: Annotated[Path | None, typer.Option(help="Wheels that compile.sh has made.")] = None,
) -> None:
    """Collects wheels for a GPU host without a network."""
    names = Catalogue().names if images == "all" else tuple(images.split(","))
    packed = folder / "airgap"
    groups = {"prepare": requirements_in(REPOSITORY / "docker/requirements.prepare.txt", python)}
    needs = {python: set(groups["prepare"])}
    # The scripted engine comes along: host.sh builds it first, with the bases, and a run measures its own error by it.
    for name in dict.fromkeys(("null", *names)):
        version, groups[name] = needs_of(name, python)
        needs.setdefault(version, set()).update(groups[name])
    if built is not None:
        take_built(built, packed / "wheels")
    loads = [(sorted(wanted), version, packed / "wheels") for version, wanted in needs.items()]
    loads.append((requirements_in(REPOSITORY / "requirements.lock", python), python, packed / "driver"))
    for wanted, version, place in loads:
        for need in download(without(wanted, built) if built else wanted, version, place):
            typer.echo(f"{need} has no wheel: build it (docs/airgap.md), into {place.name}/")
    for part in in_parts(in_order(packed, groups), folder, part_bytes):
        typer.echo(part.name)


if __name__ == "__main__":
    try:
        typer.run(main)
    except BadInput as error:
        refuse(error)
