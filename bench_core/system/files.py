"""Writing that is either whole or absent: files and folders appear under their name in one step."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def umask() -> int:
    """The umask of this process. Reading it sets it for a moment, which another thread would see."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Read once, while there is no other thread.
_UMASK = umask()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name in its folder, flushes it to the disk and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = f"{path.parent}/.{path.name[:40]}.{secrets.token_hex(4)}"
    # Private until it is whole, and nobody else's file or link: as tempfile, whose import costs what five files do.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # containers may run as another user
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_file` of a text; what UTF-8 cannot hold is written as escapes."""
    write_file(path, text.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        import shutil  # noqa: PLC0415  # brings four ways to compress with it

        shutil.rmtree(folder)
