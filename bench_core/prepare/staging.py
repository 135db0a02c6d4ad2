"""Writing that is either whole or absent: files and folders appear under their name in one step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from bench_core.contract.errors import BadInput

Progress = Callable[[str], None]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# It can only be read by setting it, which another thread would see: once, while there is none.
_UMASK = _umask()


def quiet(_message: str) -> None:
    """Progress that nobody reads."""


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what the operating system refuses (no permission, no space, a read-only disk) into one line.

    Raises:
        BadInput: any ``OSError`` inside.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise BadInput(
            f"{where}: {error.strerror or error}",
            f"{folder} must be writable and have room: name another folder if not",
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name in its folder, flushes it to the disk and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes it private; containers may run as another user
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(root: Path, name: str, progress: Progress = quiet, *, doing: str = "prepares") -> Iterator[int]:
    """Holds the lock of ``name`` under ``root`` against other processes; waits for whoever holds it and ``doing`` it.

    The kernel frees the lock when its last holder dies, however it dies: a child process that is given the descriptor,
    which this gives, is one. The lock's file stays.
    """
    folder = root / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if not lock_descriptor(descriptor, blocking=False):
            progress(f"waiting for another process that {doing} {name}")
            lock_descriptor(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def staged(root: Path, name: str) -> Iterator[Path]:
    """An empty folder beside the final ones; gone at the end, unless the caller has renamed it into place.

    Call it with the lock of ``name`` held: what an earlier, killed process left under this name is removed first.
    """
    folder = root / f".staging-{name}"
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def replace_folder(source: Path, target: Path) -> None:
    """Renames a folder into place. A folder that stands there is moved out of the way first and removed afterwards.

    Killed in between, there is no ``target``, which readers take for "not made yet".
    """
    old = target.with_name(f".old-{target.name}")
    remove(old)
    if target.exists():
        target.rename(old)
    source.rename(target)
    sync_folder(target.parent)
    remove(old)


def remove(folder: Path) -> None:
    """Removes a folder if it is there; a symlink is removed, never followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
