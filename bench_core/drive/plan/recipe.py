"""Digests of what is measured and of what measures it, the same on every machine that has the same files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bench_core.contract.records.digest import entries_sha256, file_sha256, files_below
from bench_core.drive.plan.catalogue import REPOSITORY


def recipe_of(places: Iterable[Path], words: Mapping[str, str]) -> str:
    """Digest of files and folders of the repository by name and content, and of words that decide beside them."""
    files = {path for place in places for path in files_below(place)}
    entries = [(path.relative_to(REPOSITORY).as_posix(), file_sha256(path)) for path in files]
    return entries_sha256([*entries, *((f"word:{name}", value) for name, value in words.items())])
