"""What a container may take, as whom it runs, and what of its results folder the driver will touch afterwards.

A box may hold code that nobody has read. It writes into one folder of the host, so that is where it could reach out:
by a link that the driver would follow, a pipe that the driver would wait at, a file with another user's rights.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.system.machine import memory_bytes

ROOTS_BOX_ID = 65532  # uid and gid of root's boxes: a number that no system gives to anybody
MEMORY_VARIABLE = "BENCH_BOX_MEMORY_BYTES"
PIDS_VARIABLE = "BENCH_BOX_PIDS"
_MEMORY_SHARE = 0.95  # of the host's: what is left keeps the host answering when an engine asks for everything
_PIDS = 8192
_SMALLEST_MEMORY = 64 << 20
_LARGEST_SHM = 16 << 30
_DEEPEST = 16  # folders below a run's; its own files lie three deep
_SET_ID = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True)
class Limits:
    """What one box may take: bytes of memory (no swap beyond it), of shared memory, and processes with threads."""

    memory_bytes: int
    shm_bytes: int
    pids: int


def limits() -> Limits:
    """Of every box: 95 % of the machine's memory and 8192 processes, or what ``BENCH_BOX_MEMORY_BYTES`` and
    ``BENCH_BOX_PIDS`` say.

    Raises:
        BadInput: one of them holds no such number.
    """
    memory = _number(MEMORY_VARIABLE, int(memory_bytes() * _MEMORY_SHARE), _SMALLEST_MEMORY)
    return Limits(memory, min(memory // 4, _LARGEST_SHM), _number(PIDS_VARIABLE, _PIDS, 16))


def _number(variable: str, default: int, smallest: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) >= smallest):
        raise BadInput(f"{variable}={text[:40]!r} is no whole number of {smallest} or more", "leave it out, or mend it")
    return int(text)


def box_user() -> tuple[int, int]:
    """uid and gid of what runs in a box: the caller's, and never root's."""
    return (os.getuid(), os.getgid()) if os.getuid() else (ROOTS_BOX_ID, ROOTS_BOX_ID)


def require_readable(folder: Path, artifact: str | None = None) -> None:
    """Refuses a folder with files that root's boxes, which are nobody's, cannot read; others' boxes are the caller's.

    What lies under a name with a dot in front is no box's to read: a conversion that goes on meanwhile writes there.
    Of a model's folder a box reads one ``artifact``: what is wrong with another is no reason to refuse it.

    Raises:
        BadInput: names the first.
    """
    if os.getuid():
        return
    for _, name, status in _entries(folder):
        top, below, _ = name.partition("/")
        if artifact not in (None, top) and (below or stat.S_ISDIR(status.st_mode)):
            continue
        if stat.S_ISLNK(status.st_mode) or status.st_uid == ROOTS_BOX_ID or layout.is_hidden(PurePath(name)):
            continue
        needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
        if status.st_mode & needed != needed:
            hint = f"chmod -R o+rX {folder}, or run the driver as an ordinary user"
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                # Another name of the same file is a person's own, whose mode would change with this one's.
                hint = (
                    f"remove {folder / top}: it is made again with a copy of that file, which leaves the original alone"
                )
            raise BadInput(
                f"{folder}: {name} may not be read by others, and root's containers do not run as root", hint
            )


@dataclass
class Doors:
    """Folders that boxes write into, opened for them and closed behind the last of them."""

    _open: Counter[Path] = field(default_factory=Counter)
    _persons: dict[Path, frozenset[tuple[int, int]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def opened(self, folder: Path, removed: list[str]) -> Iterator[None]:
        """Hands the folder to the box's user, and takes back what it holds when no box is left that writes there.

        ``removed`` gets the name of each link, pipe, socket or device found: none of them has a place in a run or
        among a model's artifacts, and none is followed. A link that stood in a model's folder before is a person's.

        Raises:
            BadInput: root may not give the folder away (a file system without owners, or a network's).
        """
        user, group = box_user()
        with self._lock:
            if user != os.getuid():
                _hand_over(folder, user, group)
            if not self._open[folder]:
                self._persons[folder] = _oddities(folder) if _is_model(folder) else frozenset()
            self._open[folder] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[folder] -= 1
                take_back = user != os.getuid() and not self._open[folder]
                removed += _cleared(folder, self._persons[folder], take_back=take_back)


def _hand_over(folder: Path, user: int, group: int) -> None:
    """The folder itself, and those in it that a box adds to or replaces: of a run the folders of cells, of device rates
    and of load searches, of a model its artifacts, but not the model that they are made of. Files stay whose they are.
    """
    try:
        os.chown(folder, user, group, follow_symlinks=False)
        is_model = _is_model(folder)
        for parent, name, status in _entries(folder):
            of_a_run = name in (layout.CELLS_FOLDER, layout.DEVICE_RATES_FOLDER, layout.CAPACITY_FOLDER)
            of_a_model = is_model and name.partition("/")[0] != layout.HF_ARTIFACT
            if stat.S_ISDIR(status.st_mode) and (of_a_run or of_a_model):
                os.chown(name.rpartition("/")[2], user, group, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be handed to the user that root's containers run as: {error.strerror or error}",
            "run the driver as an ordinary user, or name a folder on a local disk",
        ) from error


def _is_model(folder: Path) -> bool:
    return (folder / layout.MODEL_FILE).is_file()


def _oddities(folder: Path) -> frozenset[tuple[int, int]]:
    """Device and inode of what is neither file nor folder."""
    return frozenset((status.st_dev, status.st_ino) for _, _, status in _entries(folder) if not _is_plain(status))


def _is_plain(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)


def _cleared(folder: Path, persons: frozenset[tuple[int, int]], *, take_back: bool) -> list[str]:
    """Removes what is neither file nor folder unless it is a person's, strips the rights of set-user-id files, and
    makes the caller the owner of what the box's user owns. By open folders throughout, so that nothing is followed,
    whatever moves meanwhile."""
    user, _ = box_user()
    removed = []
    for parent, name, status in _entries(folder):
        base = name.rpartition("/")[2]
        try:
            if not _is_plain(status):
                if (status.st_dev, status.st_ino) in persons:
                    continue
                os.unlink(base, dir_fd=parent)
                removed.append(name)
                continue
            if take_back and status.st_uid == user:
                os.chown(base, os.getuid(), os.getgid(), dir_fd=parent, follow_symlinks=False)
            if status.st_mode & _SET_ID and stat.S_ISREG(status.st_mode):
                _strip(base, parent)
                removed.append(f"{name} (its set-user-id bit)")
        except OSError:
            continue  # gone meanwhile, or another's: the driver's own reading says what is wrong
    if take_back:
        with contextlib.suppress(OSError):  # it has gone, or has become read-only
            os.chown(folder, os.getuid(), os.getgid(), follow_symlinks=False)
    return removed


def _strip(name: str, parent: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    try:
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_SET_ID)
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """(open parent folder, path below ``folder``, status) of everything in it; links are not followed, and folders
    deeper than sixteen are not entered."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    yield from _below(descriptor, "", 0)


def _below(folder: int, path: str, depth: int) -> Iterator[tuple[int, str, os.stat_result]]:
    try:
        for name in os.listdir(folder):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                yield folder, f"{path}{name}", status
                if not stat.S_ISDIR(status.st_mode) or depth == _DEEPEST:
                    continue
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            except OSError:  # gone meanwhile
                continue
            yield from _below(child, f"{path}{name}/", depth + 1)
    finally:
        os.close(folder)
