"""How a cell can end, and the exit codes that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from bench_core.contract.records.record import Record

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_MACHINE = 3  # this machine failed (no GPU answers, nothing can be written): never an outcome of a cell
EXIT_INCONCLUSIVE = 3  # of a comparison of runs alone: nothing is known to be worse, and not all can be told
EXIT_INTERRUPTED = 130
# Causes of ``killed`` that are somebody's wish and no failure. The first one outside any phase is of a cell that was
# not begun.
STOPPED_ON_REQUEST = "stopped on request"
STOPPED_AFTER_BATCH = f"{STOPPED_ON_REQUEST} after the batch in hand"
INTERRUPTED = "interrupted: somebody asked twice to stop, and did not wait for the batch"
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
    KILLED = "killed"  # stopped from outside: a signal
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


@dataclass(frozen=True)
class MemoryEvidence:
    """What a verdict that is not ``ok`` says of memory, bytes, in its ``evidence``: the last readings while the engine
    lived and the highest of its cell (of its load, where no cell was begun). ``None`` where nothing was read.

    Attributes:
        host_at_death, host_peak: resident memory of the engine's processes.
        device_at_death, device_peak: GPU memory in use by all processes.
        host_limit: of the container.
    """

    host_at_death: int | None = None
    host_peak: int | None = None
    device_at_death: int | None = None
    device_peak: int | None = None
    host_limit: int | None = None

    @property
    def words(self) -> dict[str, str]:
        """As entries of ``evidence``."""
        return {key: str(value) for name, key in _MEMORY_KEYS.items() if (value := getattr(self, name)) is not None}

    @classmethod
    def of(cls, evidence: Mapping[str, str]) -> MemoryEvidence:
        """Read back; what is no whole number of bytes counts as not read."""
        found = {name: evidence.get(key, "") for name, key in _MEMORY_KEYS.items()}
        # 18 digits: what fits into 64 bits, and what Python reads without complaint.
        told = {name: text for name, text in found.items() if text.isascii() and text.isdigit() and len(text) <= 18}
        return cls(**{name: int(text) for name, text in told.items()})

    def at_death(self, *, on_cuda: bool) -> int | None:
        """Of the device that the cell ran on."""
        return self.device_at_death if on_cuda else self.host_at_death

    def peak(self, *, on_cuda: bool) -> int | None:
        """Of the device that the cell ran on."""
        return self.device_peak if on_cuda else self.host_peak


_MEMORY_KEYS = {
    "host_at_death": "host_bytes_at_death",
    "host_peak": "host_peak_bytes",
    "device_at_death": "device_bytes_at_death",
    "device_peak": "device_peak_bytes",
    "host_limit": "host_limit_bytes",
}


class Verdict(Record):
    """``outcome.json``: how a cell ended and who says so.

    Attributes:
        outcome: the verdict.
        cause: one line; empty for ``ok``.
        phase: the phase in which it ended, where known (``load``, ``prepare``, ``warmup``, ``measure``, ``close``).
        judged_by: the worker's supervisor, or the driver where the supervisor could not speak any more.
        exit_code: of the engine's process (negative: the signal that ended it), where one is known.
        evidence: further facts, as text: memory at death (see :class:`MemoryEvidence`), the limit that was exceeded,
            what the engine said last, what disturbed the measurement.
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

    @property
    def stopped(self) -> bool:
        """Whether it has no numbers since somebody asked for a stop: nothing failed."""
        return was_stopped(self.outcome, self.cause)

    @property
    def never_begun(self) -> bool:
        """Whether the stop came before the cell was begun."""
        return self.stopped and self.cause == STOPPED_ON_REQUEST and self.phase is None


def was_stopped(outcome: Outcome, cause: str) -> bool:
    """Whether these say that somebody asked for a stop, in records of any age."""
    return outcome is Outcome.KILLED and (cause.startswith(STOPPED_ON_REQUEST) or cause == INTERRUPTED)


def stopped_on_request(phase: str | None = None, exit_code: int | None = None) -> Verdict:
    """The verdict of those inside a container where a stop was asked for."""
    return Verdict(
        outcome=Outcome.KILLED, cause=STOPPED_ON_REQUEST, phase=phase, judged_by="worker", exit_code=exit_code
    )
