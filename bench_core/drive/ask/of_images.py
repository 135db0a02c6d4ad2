"""What of a suite file is of the images that the command line names."""

from __future__ import annotations

from collections.abc import Sequence

from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.engine_versions import name_of
from bench_core.drive.plan.named import owner


def of_images(suite: Suite, images: Sequence[str], catalogue: Catalogue) -> Suite:
    """A suite without what it asks for of other images: variants, searches, versions of an engine.

    What names no image or variant that there is stays, and is refused as it would be without ``images``. The control
    stays, of whatever image: it compares visits, which may have other images each.

    Args:
        images: as ``--images`` has them; each stands for its versions too, and a version by its own name for itself.
        catalogue: without the suite's versions.
    """
    if "all" in images:
        return suite
    there = _Images(suite, images, catalogue)
    return suite.model_copy(
        update={
            "variants": tuple(word for word in suite.variants if not there.leave_out_variant(word)),
            "find_max_batch": tuple(method for method in suite.find_max_batch if not there.leave_out(method)),
            "find_capacity": tuple(method for method in suite.find_capacity if not there.leave_out(method)),
            "engine_version": {
                name: kept for name, asked in suite.engine_version.items() if (kept := there.of(name, asked))
            },
        }
    )


class _Images:
    """Which images of a suite are measured.

    Attributes:
        measured: names of images and versions that are.
    """

    def __init__(self, suite: Suite, images: Sequence[str], catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._control = suite.control or ""
        self._versions = {
            name_of(image, version): image for image, asked in suite.engine_version.items() for version in asked
        }
        named = set(images)
        self.measured = named | {made for made, image in self._versions.items() if image in named}
        self.measured |= {image for made, image in self._versions.items() if made in named}

    def of(self, image: str, versions: tuple[str, ...]) -> tuple[str, ...]:
        """Those versions of an image that are measured, be it as the control."""
        made = {version: name_of(image, version) for version in versions}
        return tuple(
            version
            for version in versions
            if made[version] in self.measured or self._control.startswith((f"{image}.", f"{made[version]}."))
        )

    def leave_out(self, method: str) -> bool:
        """Whether ``image.variant`` is of an image that is not measured, and is there."""
        made = next((name for name in self._versions if method.startswith(f"{name}.")), None)
        if made is not None:
            return made not in self.measured
        image = owner(method, self._catalogue)
        return (
            image is not None
            and image.name not in self.measured
            and method.removeprefix(f"{image.name}.") in image.manifest.variants
        )

    def leave_out_variant(self, word: str) -> bool:
        """The same of a word that may be a variant's bare name: whether only images that are not measured have it."""
        if owner(word, self._catalogue) is not None or any(word.startswith(f"{name}.") for name in self._versions):
            return self.leave_out(word)
        having = [image.name for image in self._catalogue.every if word in image.manifest.variants]
        versions = [made for made, image in self._versions.items() if image in having]
        return bool(having) and not self.measured & {*having, *versions}
