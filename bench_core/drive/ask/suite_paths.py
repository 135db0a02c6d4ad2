"""Paths in a suite file count from the file's own folder, so that a suite means the same wherever it is called from."""

from __future__ import annotations

import os
from pathlib import Path

from bench_core.contract.errors import BadInput

_WORDS = ("embedded",)  # of a dataset; no file
_SYNTHETIC = "synthetic/"


class SuitePaths:
    """The paths of one suite file."""

    def __init__(self, suite_file: Path) -> None:
        self._file = suite_file
        self._home = suite_file.parent

    def always(self, path: Path, key: str) -> Path:
        """What can only be a path.

        Raises:
            BadInput: it is there from the working folder alone.
        """
        return Path(self._from_home(str(path), key) or self._absolute(str(path)))

    def perhaps(self, word: str, key: str) -> str:
        """A path, a hub id or a word of the suite's own: a path where it is written as one or where something of that
        name is there.

        Raises:
            BadInput: it is there from the working folder alone.
        """
        if word in _WORDS or word.startswith(_SYNTHETIC):
            return word
        found = self._from_home(word, key)
        if found is None and word.startswith(("./", "../", "/", "~")):
            return self._absolute(word)
        return found or word

    def _from_home(self, word: str, key: str) -> str | None:
        absolute = self._absolute(word)
        if _exists(absolute):
            return absolute
        if not os.path.isabs(word) and not word.startswith("~") and _exists(word):
            counted = os.path.relpath(word, self._home)
            raise BadInput(
                f"{self._file}: {key}: {word!r} is there from the working folder, but paths in a suite file count from "
                "the file's own folder",
                f"write {counted}",
            )
        return None

    def _absolute(self, word: str) -> str:
        return os.path.abspath(os.path.join(self._home, os.path.expanduser(word)))


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a name that no path can have
        return False
