"""How a cell can end, and the exit codes that say so."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from bench_core.contract.record import Record

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
MARKED = "marked"  # key of a verdict's evidence: what disturbed the measurement, whatever its outcome


class Outcome(str, Enum):
    """The verdict on one cell. Outcomes are data: a cell that failed is a row that says how."""

    OK = "ok"
    OOM_LOAD = "oom_load"  # memory ran out while the model was loaded
    OOM_KV = "oom_kv"  # memory ran out while caches were made or tokens generated
    UNSUPPORTED = "unsupported"  # the engine cannot do this here: device, architecture, variant
    LOAD_FAILED = "load_failed"
    GENERATE_FAILED = "generate_failed"
    BAD_SPEC = "bad_spec"
    TIMEOUT = "timeout"
    KILLED = "killed"  # stopped from outside: a signal, the out-of-memory killer
    CRASHED = "crashed"  # the engine's process ended by itself without a result
    QUALITY_FAILED = "quality_failed"
    SKIPPED = "skipped"

    @property
    def is_of_the_cell(self) -> bool:
        """Whether it would come again: false for a cell that was stopped from outside or not begun."""
        return self not in (Outcome.KILLED, Outcome.SKIPPED)

    @property
    def worker_exit_code(self) -> int:
        """The exit code of a worker whose worst cell ended so."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Outcome.OK: EXIT_OK,
    Outcome.BAD_SPEC: EXIT_BAD_INPUT,
    Outcome.OOM_LOAD: 11,
    Outcome.OOM_KV: 12,
    Outcome.UNSUPPORTED: 13,
    Outcome.LOAD_FAILED: 14,
    Outcome.GENERATE_FAILED: 15,
    Outcome.QUALITY_FAILED: 16,
    Outcome.TIMEOUT: 17,
    Outcome.KILLED: 18,
    Outcome.CRASHED: 19,
    Outcome.SKIPPED: 20,
}


class Verdict(Record):
    """``outcome.json``: how a cell ended and who says so.

    Attributes:
        outcome: the verdict.
        cause: one line; empty for ``ok``.
        phase: the phase in which it ended, where known (``load``, ``prepare``, ``warmup``, ``measure``, ``close``).
        judged_by: the worker's supervisor, or the driver where the supervisor could not speak any more.
        exit_code: of the engine's process (negative: the signal that ended it), where one is known.
        evidence: further facts, as text, such as the memory in use at death.
        events_sha256: of the event log as the worker left it, not compressed; ``None`` where the driver judged, and in
            records of before it was kept.
    """

    schema_version: Literal[1] = 1
    outcome: Outcome
    cause: str = ""
    phase: str | None = None
    judged_by: Literal["worker", "driver"]
    exit_code: int | None = None
    evidence: dict[str, str] = {}
    events_sha256: str | None = None
