"""Words that name cells and methods, read against the catalogue: ``image.variant.b16``, ``image.variant``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench_core.contract.asked.scenario import Scenario, scenario_of_word
from bench_core.contract.errors import BadInput, nearest
from bench_core.drive.plan.catalogue import Catalogue, Image

# The suite says over how many GPUs a model is split: a cell's name may say it as well.
_SPLIT = re.compile(r"\.[1-9][0-9]*gpu$")


def cell_parts(cell: str, option: str, catalogue: Catalogue) -> tuple[Image, str, Scenario]:
    """Image, variant and scenario of ``image.variant.bN``; either name may hold dots.

    Raises:
        BadInput: not such a name; ``option`` is where it was given.
    """
    method, _, word = _SPLIT.sub("", cell).rpartition(".")
    scenario = scenario_of_word(word)
    image = owner(method, catalogue)
    if scenario is None or image is None:
        raise BadInput(
            f"{option} {cell!r} is not a cell: IMAGE.VARIANT.bN",
            f"for example null.scripted.b1; images: {', '.join(catalogue.names)}",
        )
    return single(image, option, method, catalogue), method.removeprefix(f"{image.name}."), scenario


def single(image: Image, option: str, word: str, catalogue: Catalogue) -> Image:
    """Of an image of which versions were asked for the one that is meant.

    Raises:
        BadInput: there are several.
    """
    images = catalogue.meant(image.name)
    if len(images) > 1:
        names = ", ".join(f"{one.name}{word.removeprefix(image.name)}" for one in images)
        raise BadInput(f"{option} {word}: {image.name} is measured at {len(images)} versions", f"name one: {names}")
    return images[0]


def methods_meant(methods: Iterable[str], option: str, catalogue: Catalogue) -> tuple[str, ...]:
    """``image.variant`` of each, where versions of the image were asked for of each version.

    Raises:
        BadInput: not such a name; ``option`` is where it was given.
    """
    found: dict[str, None] = {}
    for method in methods:
        named = image_of(method, option, catalogue)
        variant = method.removeprefix(f"{named.name}.")
        found |= dict.fromkeys(f"{image.name}.{variant}" for image in catalogue.meant(named.name))
    return tuple(found)


def image_of(method: str, option: str, catalogue: Catalogue) -> Image:
    """The image of ``image.variant``.

    Raises:
        BadInput: not such a name.
    """
    image = owner(method, catalogue)
    if image is None:
        raise BadInput(
            f"{option} {method!r} is no method: IMAGE.VARIANT",
            f"for example null.scripted; images: {', '.join(catalogue.names)}",
        )
    return image


def owner(method: str, catalogue: Catalogue) -> Image | None:
    """The image of ``image.variant``; ``None`` where there is none."""
    return catalogue.owner(method, lambda image: image.manifest.variants)


def chosen_variants(words: tuple[str, ...], images: list[Image], catalogue: Catalogue) -> dict[str, tuple[str, ...]]:
    """Image name to its named variants. A word is ``image.variant`` or a variant's bare name.

    Raises:
        BadInput: no image of the run has such a variant.
    """
    chosen: dict[str, list[str]] = {}
    if words == ("all",):
        return {}
    for word in words:
        image_named = owner(word, catalogue)
        if image_named is not None:
            variant = word.removeprefix(f"{image_named.name}.")
            for image in catalogue.meant(image_named.name):
                if variant not in image.manifest.variants:
                    raise BadInput(
                        f"image {image.name} has no variant {variant!r}", nearest(variant, image.manifest.variants)
                    )
                if image not in images:
                    raise BadInput(f"--variants names {word}, but {image.name} is not among the images of this run")
                chosen.setdefault(image.name, []).append(variant)
            continue
        owners = [image for image in images if word in image.manifest.variants]
        if not owners:
            known = {variant for image in images for variant in image.manifest.variants}
            raise BadInput(f"no image of this run has a variant {word!r}", nearest(word, known))
        for image in owners:
            chosen.setdefault(image.name, []).append(word)
    return {name: tuple(dict.fromkeys(variants)) for name, variants in chosen.items()}
