"""What a cell's event log has grown by, read while a box may still write into the folder.

What runs in the box may be anybody's code: it could put a link, a pipe or a line without end where the log should be.
So no part of the path is followed if it is a link, nothing is waited for, and nothing but a regular file is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bench_core.contract.records import layout

LONGEST_LINE = 64 << 20
_LARGEST_RECORD = 16 << 20
_PIECE = 1 << 18


class Tail:
    """The lines of one cell's log, as they come."""

    def __init__(self, run_folder: Path, cell: str) -> None:
        self._run_folder, self._cell = run_folder, cell
        self._descriptor: int | None = None
        self._rest = b""
        self._broken = False

    def lines(self, most_bytes: int) -> list[bytes]:
        """Whole lines that were not read yet, of ``most_bytes`` at a time or a little more; none where there is no such
        file, or none that may be read."""
        if self._broken:
            return []
        read = [self._rest]
        try:
            if self._descriptor is None:
                self._descriptor = open_beneath(self._run_folder, layout.CELLS_FOLDER, self._cell, layout.EVENTS_FILE)
            while most_bytes > 0 and (piece := os.read(self._descriptor, min(_PIECE, most_bytes))):
                read.append(piece)
                most_bytes -= len(piece)
        except OSError:  # not there yet, or no file
            return []
        lines = b"".join(read).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_LINE:
            self._broken, self._rest = True, b""
        return lines

    def close(self) -> None:
        """Reads no more."""
        self._broken = True
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_beneath(folder: Path, *parts: str) -> bytes:
    """A record of at most 16 MiB in a folder that a box writes into.

    Raises:
        OSError: there is none, or what is there is no such file.
    """
    descriptor = open_beneath(folder, *parts)
    try:
        if os.fstat(descriptor).st_size > _LARGEST_RECORD:
            raise OSError("too large for a record")
        return os.read(descriptor, _LARGEST_RECORD)
    finally:
        os.close(descriptor)


def open_beneath(folder: Path, *parts: str) -> int:
    """A regular file below a folder, open for reading; no link is followed.

    Raises:
        OSError: there is none, or what is there is a link or no file.
    """
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts[:-1]:
        try:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        here = below
    try:
        found = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError("no regular file")
    return found
