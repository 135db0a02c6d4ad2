"""Words of the command line that stand for several values, read against the catalogue where they name an image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput
from bench_core.contract.records.record import Scalar
from bench_core.drive.ask.version import normal_version
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.named import cell_parts

Given = dict[str, dict[str, Scalar]]


_WHOLE = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def listed(text: str) -> tuple[str, ...]:
    """``a,b`` as its words."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str, option: str, kind: Literal["int", "float"]) -> tuple[float, ...]:
    """``1,4,16`` as whole numbers of 1 or more, or ``0.5,2`` as numbers above 0.

    Raises:
        BadInput: not such a list; ``option`` is where it was given.
    """
    words, form = listed(text), _WHOLE if kind == "int" else _DECIMAL
    found = tuple((int if kind == "int" else float)(word) for word in words) if all(map(form.fullmatch, words)) else ()
    if not found or min(found) <= 0:
        what, example = "a number above 0", "0.5,2,8"
        if kind == "int":
            what, example = "a whole number of 1 or more", "1,4,16,64"
        raise BadInput(f"{option} {text!r}: each must be {what}", f"for example {example}")
    return found


def sources(words: Iterable[str]) -> dict[str, str]:
    """``--artifact NAME=SOURCE`` as names and sources.

    Raises:
        BadInput: not such a word.
    """
    found: dict[str, str] = {}
    for word in words:
        name, separator, source = word.partition("=")
        if not (separator and name and source):
            raise BadInput(
                f"--artifact {word!r} is not NAME=SOURCE", "for example gptq-int4-g128=TheBloke/Llama-2-7B-GPTQ"
            )
        found[name] = source
    return found


def engine_versions(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """``--engine-version IMAGE=VERSION,VERSION`` as images and versions; those of an image that is named twice add up.

    Raises:
        BadInput: not such a word.
    """
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, _, versions = word.partition("=")
        if not (name and listed(versions)):
            raise BadInput(
                f"--engine-version {word!r} is not IMAGE=VERSION[,VERSION...]", "for example vllm=0.26.0,0.33.0"
            )
        try:
            found[name] = (*found.get(name, ()), *map(normal_version, listed(versions)))
        except ValueError as error:
            raise BadInput(f"--engine-version {word!r}: {error}") from error
    return found


def options(words: Iterable[str], catalogue: Catalogue) -> Given:
    """``--option IMAGE.KEY=VALUE`` as image, key and the value in the type that the image declares.

    Raises:
        BadInput: not such a word, no such image or option, or a value of another type.
    """
    given: Given = {}
    for word in words:
        name, separator, text = word.partition("=")
        image = catalogue.owner(name, lambda image: image.manifest.options)
        if not separator or image is None:
            raise BadInput(
                f"--option {word!r} is not IMAGE.KEY=VALUE",
                f"for example null.tpot_s=0.01; images: {', '.join(catalogue.names)}",
            )
        key = name.removeprefix(f"{image.name}.")
        try:
            value = image.manifest.options_on(None).read(key, text)
        except BadInput as error:
            hint = f"{error.hint}; --list-options --images {image.name} shows them"
            raise BadInput(f"--option {word!r}: {error.cause}", hint) from error
        given.setdefault(image.name, {})[key] = value
    return given


def merged(base: Mapping[str, Mapping[str, Scalar]], given: Given) -> Given:
    """A suite's options with those of the command line over them."""
    return {image: {**base.get(image, {}), **given.get(image, {})} for image in {**base, **given}}


def parts_of_cell(cell: str, option: str, catalogue: Catalogue) -> tuple[str, str, int]:
    """``image.variant.bN`` as --images, --variants and --batch-sizes.

    Raises:
        BadInput: not a cell; ``option`` is where it was given.
    """
    image, variant, scenario = cell_parts(cell, option, catalogue)
    if not isinstance(scenario, Offline):
        raise BadInput(f"{option} {cell!r} is a cell under load", "name a cell of closed batches: IMAGE.VARIANT.bN")
    return image.name, f"{image.name}.{variant}", scenario.batch_size


def option_lines(names: tuple[str, ...], catalogue: Catalogue) -> list[str]:
    """Every option of these images in words, one line each: name, what it must be, default, what it does.

    Raises:
        BadInput: there is no such image.
    """
    lines = []
    for name in catalogue.names if names in ((), ("all",)) else names:
        manifest = catalogue.get(name).manifest
        for key, option in manifest.options.items():
            where = f"; on {', '.join(option.devices)} alone" if option.devices else ""
            lines.append(f"{name}.{key} = {option.default!r}: {option.words} ({option.kind}{where})")
        if not manifest.options:
            lines.append(f"{name} has no options")
    return lines
