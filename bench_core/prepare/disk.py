"""Room on the disk, asked for before something large is written."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from bench_core.contract.errors import MachineFailure

# Left free beyond what is asked for: file systems slow down, and other programs fail, when the last bytes go.
MARGIN_BYTES = 256 * 1024 * 1024
MARGIN_FRACTION = 0.01


def nearest_there(path: Path) -> Path:
    """The path itself where it is there, else the nearest of its ancestors that is."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write where ``path`` is or will be (its nearest existing ancestor decides)."""
    return shutil.disk_usage(nearest_there(path)).free


def require_free(path: Path, bytes_needed: int, what: str) -> None:
    """Refuses to begin what cannot be finished: ``bytes_needed`` plus a margin must be free at ``path``.

    Raises:
        MachineFailure: they are not; names what was to be written, the bytes needed and the bytes free.
    """
    needed = bytes_needed + max(MARGIN_BYTES, int(bytes_needed * MARGIN_FRACTION))
    free = free_bytes(path)
    if free < needed:
        raise MachineFailure(
            f"not enough disk for {what}: {readable(needed)} needed, {readable(free)} free at {path}",
            "free some space, or name a folder on another disk",
        )


def taken_bytes(folder: Path) -> int:
    """Bytes on the disk below a folder; a file that has a second name elsewhere is not counted, since removing it
    gives nothing back."""
    found = (path.lstat() for path in folder.rglob("*"))
    return sum(entry.st_blocks * 512 for entry in found if entry.st_nlink == 1 or stat.S_ISDIR(entry.st_mode))


def readable(size_bytes: int) -> str:
    """A size as people read it, in decimal units: ``13.5 GB``."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
