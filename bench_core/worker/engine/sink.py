"""Stamps tokens as they arrive, and keeps the stamps in memory until the batch is over."""

from __future__ import annotations

from collections.abc import Sequence

from bench_core.contract.records.events import Arrivals
from bench_core.worker.engine.clock import Clock


class StampingSink:
    """The worker's :class:`~bench_core.contract.adapter.TokenSink` for one batch."""

    def __init__(self, rows: int, clock: Clock, wanted: bool) -> None:
        self._clock = clock
        self._wanted = wanted
        self._rows: list[list[int]] = [[] for _ in range(rows)]
        self._engine_rows: dict[int, Sequence[float]] = {}

    @property
    def wanted(self) -> bool:
        """Whether the adapter should report tokens at all."""
        return self._wanted

    def __call__(self, row: int, count: int = 1) -> None:
        """``count`` tokens of a row have arrived now."""
        stamp = self._clock()
        stamps = self._rows[row]
        for _ in range(count):
            stamps.append(stamp)

    def step(self, rows: Sequence[int]) -> None:
        """One token of each of these rows has arrived now."""
        stamp, stamps = self._clock(), self._rows
        for row in rows:
            stamps[row].append(stamp)

    def engine(self, row: int, monotonic_s: Sequence[float]) -> None:
        """The engine's own stamps of all tokens of a row."""
        self._engine_rows[row] = monotonic_s

    def arrivals(self, started_ns: int) -> Arrivals | None:
        """The stamps as offsets from the batch's start; ``None`` if none were wanted or none were given."""
        if not self._wanted:
            return None
        if self._engine_rows:
            started_s = started_ns / 1e9
            rows = [
                tuple(max(0, round((stamp - started_s) * 1e6)) for stamp in self._engine_rows.get(row, ()))
                for row in range(len(self._rows))
            ]
            return _arrivals("engine", rows)
        if not any(self._rows):
            return None
        return _arrivals("worker", [tuple((stamp - started_ns) // 1000 for stamp in row) for row in self._rows])


def _arrivals(source: str, rows: list[tuple[int, ...]]) -> Arrivals:
    """Engines that step all rows together give equal rows; one is then enough for the log."""
    shared = all(row == rows[0] for row in rows)
    return Arrivals.model_validate({"source": source, "shared": shared, "offsets_us": rows[:1] if shared else rows})
