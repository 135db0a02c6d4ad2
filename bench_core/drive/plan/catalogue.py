"""The images of this repository: every folder under ``images/`` with an ``image.yaml`` is one."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.asked.manifest import DeviceKind, Manifest
from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.records import layout
from bench_core.contract.records.run import EngineVersion

REPOSITORY = Path(__file__).resolve().parents[3]
IMAGES_FOLDER = REPOSITORY / "images"
VERSIONS = "versions"  # in an image's folder: what single versions of its engine need differently
_SHARED = re.compile(r"\bimages/(_\w+)")  # a folder that several images' Dockerfiles copy from


@dataclass(frozen=True)
class Image:
    """A backend's folder and what it says of itself.

    Attributes:
        version: where it was made for one version of an engine; ``source``: the folder that it was made of.
    """

    folder: Path
    manifest: Manifest
    version: EngineVersion | None = None
    source: Path | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.manifest.name

    @property
    def engine(self) -> str:
        """The image of the repository that this one is, or is a version of."""
        return self.name if self.version is None else self.version.image

    @property
    def place(self) -> str:
        """The folder's path in the repository, with slashes."""
        return self._named(self.folder)

    @property
    def file_places(self) -> list[str]:
        """Paths of :attr:`files` in the repository."""
        return [self._named(path) for path in self.files]

    def _named(self, path: Path) -> str:
        if self.version is not None:
            return path.relative_to(REPOSITORY).as_posix()
        return f"{IMAGES_FOLDER.name}/{path.relative_to(self.folder.parent).as_posix()}"

    @property
    def files(self) -> list[Path]:
        """Folders and files that it is made of: its own, without what single versions of its engine need, and folders
        that its Dockerfile takes code from beside it."""
        dockerfile = self.folder / "Dockerfile"
        text = dockerfile.read_text(encoding="utf-8") if dockerfile.is_file() else ""
        own = [self.folder]
        if (self.folder / VERSIONS).is_dir():
            own = sorted(path for path in self.folder.iterdir() if path.name != VERSIONS and not _left_over(path))
        beside = self.source or self.folder
        return [*own, *(beside.with_name(name) for name in sorted(set(_SHARED.findall(text))))]


def _left_over(path: Path) -> bool:
    """What Python and its tools leave."""
    return path.name.startswith(".") or path.name == "__pycache__"


class Catalogue:
    """All images by name."""

    def __init__(self, folder: Path = IMAGES_FOLDER) -> None:
        """Reads every manifest.

        Raises:
            BadInput: a manifest is invalid, its name is not its folder's, or there is no such folder: the installed
                package has none.
        """
        if not folder.is_dir():
            raise BadInput(
                f"the images of the engines are not here: there is no {folder}",
                "they are in the repository, not in the installed package: clone it, then `pip install -e .` there, or "
                "call `python -m bench_core.drive` in the clone",
            )
        self._images: dict[str, Image] = {}
        self._probes: list[Image] = []
        self._versions: dict[str, tuple[Image, ...]] = {}
        for path in sorted(folder.glob(f"*/{layout.MANIFEST_FILE}")):
            image = Image(path.parent, Manifest.load(path.parent))
            if image.name != path.parent.name:
                raise BadInput(f"{path}: the name {image.name!r} is not the folder's", "rename one of them")
            if image.manifest.measures_device is None:
                self._images[image.name] = image
            else:
                self._probes.append(image)

    def add_versions(self, made: Mapping[str, Sequence[Image]]) -> None:
        """Adds images that were made for versions of engines, by the name of the image that they are versions of: that
        name stands for all of them from now on."""
        self._versions |= {name: tuple(images) for name, images in made.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """All names of engines, sorted; versions stand below the one name of their engine."""
        return tuple(self._images)

    @property
    def every(self) -> tuple[Image, ...]:
        """All images of engines, those that were made for versions behind the others."""
        return tuple(self.get(name) for name in self._known())

    def _known(self) -> dict[str, Image]:
        versions = {image.name: image for images in self._versions.values() for image in images}
        return {**self._images, **versions}

    def meant(self, name: str) -> tuple[Image, ...]:
        """What a name stands for: the image, or all versions of it that were asked for.

        Raises:
            BadInput: as :meth:`get`.
        """
        return self._versions.get(name) or (self.get(name),)

    def probe(self, device: DeviceKind) -> Image | None:
        """The image that measures what a device can do, if there is one; it is no engine and has no place in a plan."""
        return next((image for image in self._probes if device in image.manifest.devices), None)

    def get(self, name: str) -> Image:
        """One image.

        Raises:
            BadInput: unknown; the hint names the nearest and all known ones.
        """
        known = self._known()
        if name not in known:
            raise BadInput(f"there is no image {name!r}", nearest(name, known))
        return known[name]

    def owner(self, word: str, known: Callable[[Image], Container[str]]) -> Image | None:
        """The image of ``IMAGE.NAME``, where both may hold dots: the longest name of which ``known`` has the rest, else
        the longest that the word begins with; ``None`` where there is none. The one reading of such words."""
        images = self._known()
        owners = [name for name in images if word.startswith(f"{name}.") and len(word) > len(name) + 1]
        exact = [name for name in owners if word.removeprefix(f"{name}.") in known(images[name])]
        found = max(exact or owners, key=len, default=None)
        return None if found is None else images[found]

    def maker_of(self, artifact: str) -> Image:
        """The image that converts to an artifact: the repository's own where it does, so that all versions of an engine
        read the same file, else a version's.

        Raises:
            BadInput: none does.
        """
        for image in self.every:
            if artifact in image.manifest.converts:
                return image
        known = [name for image in self.every for name in image.manifest.converts]
        raise BadInput(f"no image makes the artifact {artifact!r}", nearest(artifact, known))
