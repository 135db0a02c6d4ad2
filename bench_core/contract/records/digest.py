"""Digests of files, folders and token ids: sha256 in lower-case hex."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Digest of one file's content, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """Digest of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def entries_sha256(entries: Iterable[tuple[str, str]]) -> str:
    """Digest of a folder from its files' (relative path, sha256) pairs, independent of their order."""
    digest = hashlib.sha256()
    for name, value in sorted(entries):
        digest.update(f"{name}\0{value}\n".encode())
    return digest.hexdigest()


def files_below(path: Path) -> list[Path]:
    """A file itself, or all files of a folder, sorted; none of what Python and its tools leave."""
    return [path] if path.is_file() else sorted(map(Path, _below(os.fspath(path))))


def _below(folder: str) -> Iterator[str]:
    """Files of a folder, in no order; an unreadable one has none, as for ``os.walk``."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not _is_left_over(entry.name)]
    except OSError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)
        elif entry.is_file():
            yield entry.path


def _is_left_over(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def own_code_sha256() -> str:
    """Digest of the suite's own code that runs inside every image, as it lies where this module does: the same on the
    host and in an image made of it."""
    package = Path(__file__).resolve().parents[2]
    rooms = (os.fspath(package / room) for room in ("contract", "system", "worker"))
    # By names alone: every engine's process does this before it begins, and a path of each file took half of it.
    files = [os.fspath(package / "__init__.py"), *(file for room in rooms for file in _below(room))]
    above = len(os.fspath(package.parent)) + 1
    return entries_sha256((file[above:], _content_sha256(file)) for file in files)


def _content_sha256(file: str) -> str:
    with open(file, "rb", buffering=0) as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def prompts_sha256(prompts: Iterable[Sequence[int]]) -> str:
    """Digest of token ids in order; each prompt counts its length first, so boundaries matter.

    Lengths and ids enter as 64-bit little-endian integers.
    """
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(len(prompt).to_bytes(8, "little"))
        digest.update(_little_endian(prompt))
    return digest.hexdigest()


def ids_digest(ids: Sequence[int]) -> str:
    """Digest of one prompt's, or one output's, token ids: 16 hex digits of :func:`prompts_sha256` of it alone."""
    return prompts_sha256([ids])[:16]


def _little_endian(ids: Sequence[int]) -> bytes:
    values = array("q", ids)
    if values.itemsize != 8:  # pragma: no cover - every supported platform has 64-bit "q"
        raise RuntimeError("array('q') is not 64 bits wide here")
    return values.tobytes()
