"""Handing cells to a box: one file beside the workload, in the folder that boxes may read and not write."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_core.contract.records import layout
from bench_core.contract.records.spec import Assignment
from bench_core.system.files import write_text
from bench_core.system.processes import alive


@contextmanager
def handed_over(assignment: Assignment, data: Path) -> Iterator[str]:
    """The file's path below the data folder, for as long as its box lives.

    Raises:
        OSError: it cannot be written.
    """
    path = data / f"{layout.ASSIGNMENT}.{_owner(os.getpid())}.{secrets.token_hex(4)}.json"
    write_text(path, assignment.to_json())
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def clear_left_over(data: Path) -> None:
    """Removes files of drivers that have ended on this machine before they could."""
    for path in data.glob(f"{layout.ASSIGNMENT}.{_owner('*')}.*.json"):
        pid = path.name.removeprefix(f"{layout.ASSIGNMENT}.{_owner('')}").split(".")[0]
        if pid.isdigit() and not alive(int(pid)):
            with contextlib.suppress(OSError):  # another user's
                path.unlink(missing_ok=True)


def _owner(pid: int | str) -> str:
    """``<host>-<pid>``: folders may be shared by machines."""
    return f"{layout.slug(platform.node())}-{pid}"
