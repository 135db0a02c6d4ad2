"""The clock of the suite."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

# Nanoseconds of CLOCK_MONOTONIC: one clock for all processes of a machine, the same that `time.perf_counter` and
# engines' `time.monotonic` read on Linux, never set back. A test hands in another function.
Clock = Callable[[], int]

monotonic_ns: Clock = time.monotonic_ns


def seconds(nanoseconds: int) -> float:
    """Nanoseconds as seconds (a double holds CLOCK_MONOTONIC to below a microsecond for centuries)."""
    return nanoseconds / 1e9


def utc_now() -> str:
    """The wall time in ISO 8601, for people; no duration is ever computed from it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
