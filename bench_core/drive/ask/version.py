"""Versions of engines as people write them."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version


def normal_version(word: object) -> str:
    """A version in the normal form that packages are published under (PEP 440): ``0.33.0`` of ``v0.33.0``.

    Raises:
        ValueError: it is none, or YAML has read it as a number and ``4.10`` has become ``4.1``.
    """
    if not isinstance(word, str):
        raise ValueError(f"{word!r} is read as a number: a version stands in quotes")
    try:
        version = Version(word)
    except InvalidVersion:
        raise ValueError(f"{word!r} is not a version: 0.33.0, for example") from None
    if version.epoch:
        raise ValueError(f"{word!r}: a version with an epoch cannot stand in an image's name")
    return str(version)
