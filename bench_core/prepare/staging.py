"""What is prepared appears whole: a lock, a folder to work in, and what the disk refuses in one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from bench_core.contract.errors import BadInput
from bench_core.system.files import remove

Progress = Callable[[str], None]


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


class Waiting(str):
    """News that a process waits for another one: shown at once, since nothing follows it for a while."""

    __slots__ = ()


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
            progress(Waiting(f"waiting for another process that {doing} {name}"))
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
