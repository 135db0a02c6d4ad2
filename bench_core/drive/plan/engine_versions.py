"""An engine at other versions: each is an image folder of its own, made of the repository's.

The made folder holds the image's files with the engine's pin set to the version, laid over with those below
``versions/<version>/`` in the image's folder: other pins, another module of the adapter, another Dockerfile, keys of
``image.yaml`` that differ. Everything that knows images (launchers, recipes, resumed runs, reports) then sees an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout, strict_yaml
from bench_core.contract.records.digest import files_below
from bench_core.contract.records.run import EngineVersion
from bench_core.drive.plan.catalogue import REPOSITORY, VERSIONS, Catalogue, Image
from bench_core.prepare.staging import locked
from bench_core.system.files import write_file

MADE_FOLDER = REPOSITORY / "build" / "engine-versions"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]\n]*\])?[ \t]*==[ \t]*[^\s;#\\,]+", re.MULTILINE)
_HEAD = "# Made of {source} for version {version} of its engine; changes here are lost.\n"


def joined(*asked: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Versions by image, those of all: each once, in the order in which they were asked for."""
    names = dict.fromkeys(name for one in asked for name in one)
    return {name: tuple(dict.fromkeys(v for one in asked for v in one.get(name, ()))) for name in names}


def with_versions(catalogue: Catalogue, asked: Mapping[str, Sequence[str]], below: Path = MADE_FOLDER) -> Catalogue:
    """Makes the images of these versions below a folder and adds them to the catalogue, which is given back.

    Raises:
        BadInput: no such image, or it cannot be made for that version.
    """
    images = {name: catalogue.get(name) for name in asked}
    catalogue.add_versions(
        {name: [make_version(images[name], version, below) for version in asked[name]] for name in asked}
    )
    return catalogue


def made_images(below: Path = MADE_FOLDER) -> list[Image]:
    """Images that earlier calls have made, as they lie there; without those that cannot be read any more."""
    found = []
    for path in sorted(below.glob(f"*/{layout.MANIFEST_FILE}")):
        try:
            found.append(Image(path.parent, Manifest.load(path.parent)))
        except BadInput:
            continue
    return found


def name_of(image: str, version: str) -> str:
    """The name of an image's version: ``vllm-v0_33_0``. A dot separates the parts of a cell's name.

    Args:
        version: in its normal form, which has neither ``_`` nor ``-``: no two versions have one name.

    Raises:
        BadInput: too long.
    """
    name = f"{image}-v{version.replace('.', '_').replace('+', '-')}"
    if not layout.is_name(name):
        raise BadInput(f"--engine-version {image}={version}: {name!r} is too long for an image's name")
    return name


def make_version(image: Image, version: str, below: Path = MADE_FOLDER) -> Image:
    """Makes an image's folder for one version of its engine, or finds it as it should be.

    Args:
        version: in its normal form.

    Raises:
        BadInput: the image pins no package of an engine, or what stands below its ``versions/`` is wrong.
        MachineFailure: the folder cannot be written.
    """
    name = name_of(image.name, version)
    folder = below / name
    sources = _sources(image, version)
    files = _files(sources)
    _set_pins(files, image, version)
    if "Dockerfile" in files:
        files["Dockerfile"] = _with_places(files["Dockerfile"], image.name, folder)
    files[layout.MANIFEST_FILE], manifest = _manifest(image, sources, version)
    modes = {path: (source / path).stat().st_mode & 0o777 for source in sources for path in _below(source)}
    try:
        with locked(below, name):
            _write(folder, files, modes)
    except OSError as error:
        raise MachineFailure(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
    return Image(folder, manifest, EngineVersion(image=image.name, version=version), image.folder)


def _sources(image: Image, version: str) -> list[Path]:
    """Folders that a version is made of; of files of one name, the last one's counts."""
    overlay = next((path for path in _overlays(image) if Version(path.name) == Version(version)), None)
    return [image.folder, *([overlay] if overlay is not None else [])]


def _overlays(image: Image) -> Iterable[Path]:
    """Folders of single versions.

    Raises:
        BadInput: one's name is no version: nobody would ever get what stands in it.
    """
    for path in sorted((image.folder / VERSIONS).glob("*")):
        if not path.is_dir() or path.name.startswith("."):
            continue
        try:
            Version(path.name)
        except InvalidVersion:
            raise BadInput(
                f"{path}: {path.name!r} is not a version", "a folder of versions/ is named as 0.33.0"
            ) from None
        yield path


def _below(source: Path) -> list[str]:
    """Files of an image's folder or of an overlay, without those of single versions."""
    names = [path.relative_to(source) for path in files_below(source)]
    return [name.as_posix() for name in names if name.parts[0] != VERSIONS]


def _files(sources: Sequence[Path]) -> dict[str, bytes]:
    """Contents by path, before anything is set."""
    return {name: (source / name).read_bytes() for source in sources for name in _below(source)}


def _set_pins(files: dict[str, bytes], image: Image, version: str) -> None:
    """Sets the version in every requirement file that pins the engine.

    Raises:
        BadInput: none does.
    """
    wanted = {canonicalize_name(package) for package in image.manifest.engine_distributions}
    pinned = 0

    def pin(match: re.Match[str]) -> str:
        nonlocal pinned
        if canonicalize_name(match[1]) not in wanted:
            return match[0]
        pinned += 1
        return f"{match[1]}{match[2] or ''}=={version}"

    for name in [name for name in files if re.fullmatch(r"requirements[\w.-]*\.txt", name)]:
        files[name] = _PIN.sub(pin, files[name].decode("utf-8")).encode()
    if pinned:
        return
    if not wanted:
        raise BadInput(
            f"--engine-version {image.name}={version}: {image.name} installs no package of an engine",
            "its engine is in the suite itself and has no other version",
        )
    raise BadInput(
        f"--engine-version {image.name}={version}: no requirement of {image.name} pins {', '.join(sorted(wanted))}",
        "image.yaml's engine_packages names the distributions that are the engine",
    )


def _with_places(dockerfile: bytes, image: str, folder: Path) -> bytes:
    """A Dockerfile that copies from the made folder what it copied from the image's."""
    place = folder.relative_to(REPOSITORY).as_posix() if folder.is_relative_to(REPOSITORY) else folder.as_posix()
    text = dockerfile.decode("utf-8")
    return re.sub(rf"(?<![\w/.-])images/{re.escape(image)}(?![\w.-])", lambda _: place, text).encode()


def _manifest(image: Image, sources: Sequence[Path], version: str) -> tuple[bytes, Manifest]:
    """``image.yaml`` of the image, with the overlay's keys in place of its own, under the version's name, and with the
    version in the engine's title unless the overlay gives another."""
    paths = [path for source in sources if (path := source / layout.MANIFEST_FILE).is_file()]
    content = {**_yaml(paths[0]), "name": name_of(image.name, version), "title": f"{image.manifest.title} {version}"}
    for path in paths[1:]:
        content |= {key: value for key, value in _yaml(path).items() if key != "name"}
    head = _HEAD.format(source=f"images/{image.name}", version=version)
    made = head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return made.encode(), Manifest.parse_yaml(made, " with ".join(map(str, paths)))


def _yaml(path: Path) -> dict[str, object]:
    return strict_yaml.parse(path.read_text(encoding="utf-8", errors="replace"), str(path)).content


def _write(folder: Path, files: Mapping[str, bytes], modes: Mapping[str, int]) -> None:
    """Writes what differs and removes what is not of the image, so that a folder in use is left alone."""
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_file(path, content)
        if path.stat().st_mode & 0o777 != modes[name]:
            path.chmod(modes[name])
    for path in files_below(folder) if folder.is_dir() else []:
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
