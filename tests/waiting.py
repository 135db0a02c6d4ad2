"""Waiting for what another process writes, for tests."""

from __future__ import annotations

import time
from pathlib import Path


def wait_until(there: Path, contains: bytes = b"", seconds: float = 60.0) -> None:
    """Returns when the file is there and holds ``contains``; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (there.exists() and contains in there.read_bytes()):
        assert time.monotonic() < deadline, f"{there} has not come"
        time.sleep(0.01)
