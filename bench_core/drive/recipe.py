"""Digests of what is measured and of what measures it, the same on every machine that has the same files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bench_core.contract.digest import entries_sha256, file_sha256
from bench_core.drive.catalogue import REPOSITORY


def files_below(path: Path) -> list[Path]:
    """A file itself, or all files of a folder, sorted; none of what Python and its tools leave."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and not any(map(_is_left_over, p.relative_to(path).parts)))


def _is_left_over(name: str) -> bool:
    return name == "__pycache__" or name.startswith(".")


def recipe_of(places: Iterable[Path], words: Mapping[str, str]) -> str:
    """Digest of files and folders of the repository by name and content, and of words that decide beside them."""
    files = {path for place in places for path in files_below(place)}
    entries = [(path.relative_to(REPOSITORY).as_posix(), file_sha256(path)) for path in files]
    return entries_sha256([*entries, *((f"word:{name}", value) for name, value in words.items())])


def harness_digest() -> str:
    """Digest of the suite's own code that runs inside every image."""
    room = REPOSITORY / "bench_core"
    return recipe_of([room / "__init__.py", room / "contract", room / "worker"], {})
