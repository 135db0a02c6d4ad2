"""The images of this repository: every folder under ``images/`` with an ``image.yaml`` is one."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from bench_core.contract.asked.manifest import DeviceKind, Manifest
from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.records import layout

REPOSITORY = Path(__file__).resolve().parents[3]
IMAGES_FOLDER = REPOSITORY / "images"
_SHARED = re.compile(r"\bimages/(_\w+)")  # a folder that several images' Dockerfiles copy from


@dataclass(frozen=True)
class Image:
    """A backend's folder and what it says of itself."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.manifest.name

    @property
    def files(self) -> list[Path]:
        """Folders that hold what it is made of: its own, and those that its Dockerfile takes code from beside it."""
        dockerfile = self.folder / "Dockerfile"
        text = dockerfile.read_text(encoding="utf-8") if dockerfile.is_file() else ""
        return [self.folder, *(self.folder.with_name(name) for name in sorted(set(_SHARED.findall(text))))]


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
        for path in sorted(folder.glob(f"*/{layout.MANIFEST_FILE}")):
            image = Image(path.parent, Manifest.load(path.parent))
            if image.name != path.parent.name:
                raise BadInput(f"{path}: the name {image.name!r} is not the folder's", "rename one of them")
            if image.manifest.measures_device is None:
                self._images[image.name] = image
            else:
                self._probes.append(image)

    @property
    def names(self) -> tuple[str, ...]:
        """All names of engines, sorted."""
        return tuple(self._images)

    def probe(self, device: DeviceKind) -> Image | None:
        """The image that measures what a device can do, if there is one; it is no engine and has no place in a plan."""
        return next((image for image in self._probes if device in image.manifest.devices), None)

    def get(self, name: str) -> Image:
        """One image.

        Raises:
            BadInput: unknown; the hint names the nearest and all known ones.
        """
        image = self._images.get(name)
        if image is None:
            raise BadInput(f"there is no image {name!r}", nearest(name, self._images))
        return image

    def owner(self, word: str, known: Callable[[Image], Container[str]]) -> Image | None:
        """The image of ``IMAGE.NAME``, where both may hold dots: the longest name of which ``known`` has the rest, else
        the longest that the word begins with; ``None`` where there is none. The one reading of such words."""
        owners = [name for name in self._images if word.startswith(f"{name}.") and len(word) > len(name) + 1]
        exact = [name for name in owners if word.removeprefix(f"{name}.") in known(self._images[name])]
        found = max(exact or owners, key=len, default=None)
        return None if found is None else self._images[found]

    def maker_of(self, artifact: str) -> Image:
        """The image that converts to an artifact.

        Raises:
            BadInput: none does.
        """
        for image in self._images.values():
            if artifact in image.manifest.converts:
                return image
        known = [name for image in self._images.values() for name in image.manifest.converts]
        raise BadInput(f"no image makes the artifact {artifact!r}", nearest(artifact, known))
