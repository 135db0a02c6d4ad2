"""What was in use while an engine lived: the evidence of a cell that ran out of memory, or died of anything else."""

from __future__ import annotations

from bench_core.contract.records.outcome import MemoryEvidence


class LastMemory:
    """Follows the samples of one engine process; the highest are kept for each cell.

    Once no process of the engine holds memory any more, nothing is taken: what is in use then is not its own.
    """

    def __init__(self) -> None:
        self._last: tuple[int | None, int | None] = (None, None)
        self._peak: tuple[int | None, int | None] = (None, None)

    def add(self, host_bytes: int | None, device_bytes: int | None) -> None:
        """One sample: resident memory of the engine's processes, device memory in use by all."""
        if not host_bytes:  # a process that has ended and is not yet waited for holds none
            return
        self._last = (host_bytes, device_bytes)
        self._peak = (_higher(self._peak[0], host_bytes), _higher(self._peak[1], device_bytes))

    def begin_cell(self) -> None:
        """What was in use before counts no more, except for what still is."""
        self._peak = self._last

    def evidence(self, limit_bytes: int | None) -> MemoryEvidence:
        """As it stands."""
        if self._last[0] is None:
            return MemoryEvidence()
        return MemoryEvidence(self._last[0], self._peak[0], self._last[1], self._peak[1], limit_bytes)


def _higher(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)
