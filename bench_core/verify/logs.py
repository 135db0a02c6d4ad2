"""What holds in every event log that a worker wrote, whatever was measured: order, times, columns.

Tolerant of phases and events that it does not know: only what it knows must stand in its place.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench_core.contract.errors import first_line
from bench_core.contract.records.events import BatchEvent, EndEvent, Event, PhaseEvent, StartEvent, TelemetryEvent
from bench_core.contract.records.outcome import Outcome

# Clock readings are rounded to whole nanoseconds and arrivals to microseconds; an engine's own stamps may be taken a
# little after the call has returned.
SLACK_S = 1e-6
ENGINE_STAMP_SLACK_S = 0.01
_ORDER = ("start", "load", "prepare", "warmup", "measure", "latency", "direct", "close")
_BESIDE = {"paired": "direct"}  # in turns


@dataclass
class LogFacts:
    """What is kept of one log for comparisons with other files.

    Attributes:
        end: its last line, if it has one that says how it ended.
        batches: (phase, start, latency) of each.
    """

    start: StartEvent | None = None
    end: EndEvent | None = None
    batches: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def window_s(self) -> tuple[float, float] | None:
        """Seconds of the machine's monotonic clock."""
        if not self.batches:
            return None
        return self.batches[0][1], max(start + latency for _, start, latency in self.batches)


class LogChecks:
    """Sees the events of one log in their order.

    Attributes:
        facts: what is kept of it.
        found: one line for each thing that cannot be.
        beyond_reason: why checking it ended early: a number with which nothing can be computed; else empty.
    """

    def __init__(self) -> None:
        self.facts = LogFacts()
        self._content = hashlib.sha256()
        self._sha256 = ""
        self.found: list[str] = []
        self.beyond_reason = ""
        self._number = 0  # of the line seen last
        self._stage = 0  # place in _ORDER of the last phase seen
        self._free_s: float | None = None  # end of the last phase or batch
        self._free_after = ""
        self._indices: dict[str, int] = {}
        self._sampled_s: float | None = None
        self._columns: frozenset[str] | None = None

    def line(self, content: bytes) -> None:
        """The next line."""
        self._content.update(content)

    @property
    def sha256(self) -> str:
        """Of the lines seen."""
        return self._sha256 or self._content.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """A digest that can go on cannot be sent to another process."""
        return {**self.__dict__, "_content": None, "_sha256": self.sha256}

    def take(self, event: Event) -> None:
        """The next event."""
        self._number += 1
        if self.beyond_reason:
            return
        try:
            self._check(self._number, event)
        except (ArithmeticError, ValueError) as error:
            self.beyond_reason = first_line(error)

    def _check(self, number: int, event: Event) -> None:
        if number == 1 and not isinstance(event, StartEvent):
            self.found.append("line 1: the log does not begin with its start")
        if self.facts.end is not None:
            self.found.append(f"line {number}: the log goes on after its end")
        if isinstance(event, StartEvent):
            self.facts.start = event
        elif isinstance(event, PhaseEvent):
            self._stands(number, event.phase)
            self._occupies(number, event.phase, event.started_s, event.duration_s)
        elif isinstance(event, BatchEvent):
            self._batch(number, event)
        elif isinstance(event, TelemetryEvent):
            self.found += [f"line {number}: {what}" for what in self._telemetry(event)]
        elif isinstance(event, EndEvent):
            self.facts.end = event

    def close(self) -> None:
        """What only the whole log tells."""
        end = self.facts.end
        if end is not None and self._free_s is not None and self._free_s > end.t_s + SLACK_S:
            self.found.append(f"{self._free_after} ends after the log's end")
        if end is not None and end.outcome is Outcome.OK and not self._indices.get("measure"):
            self.found.append("the log ends well, without a measured batch")

    def _stands(self, number: int, phase: str) -> None:
        phase = _BESIDE.get(phase, phase)
        if phase not in _ORDER:
            return
        stage = _ORDER.index(phase)
        if stage < self._stage:
            self.found.append(f"line {number}: {phase} after {_ORDER[self._stage]}")
        self._stage = max(stage, self._stage)

    def _occupies(self, number: int, what: str, started_s: float, duration_s: float) -> None:
        """Phases and batches follow each other: the engine does one thing at a time, within its process's life."""
        start = self.facts.start
        if start is not None and started_s < start.t_s - SLACK_S:
            self.found.append(f"line {number}: {what} begins before the process did")
        if self._free_s is not None and started_s < self._free_s - SLACK_S:
            self.found.append(f"line {number}: {what} begins before {self._free_after} has ended")
        self._free_s, self._free_after = started_s + duration_s, what

    def _batch(self, number: int, batch: BatchEvent) -> None:
        name = f"{batch.phase} batch {batch.index}"
        self._stands(number, batch.phase)
        self._occupies(number, name, batch.started_s, batch.latency_s)
        expected = self._indices.get(batch.phase, 0)
        if batch.index != expected:
            self.found.append(f"line {number}: {name} where batch {expected} should stand")
        self._indices[batch.phase] = batch.index + 1
        self.facts.batches.append((batch.phase, batch.started_s, batch.latency_s))
        if batch.arrivals is not None:
            slack_s = SLACK_S if batch.arrivals.source == "worker" else ENGINE_STAMP_SLACK_S
            last = max((offsets[-1] for offsets in batch.arrivals.offsets_us if offsets), default=0)
            if last / 1e6 > batch.latency_s + slack_s:
                self.found.append(f"line {number}: {name}: a token arrives after the batch has ended")

    def _telemetry(self, event: TelemetryEvent) -> Iterator[str]:
        times = event.t_s if self._sampled_s is None else (self._sampled_s, *event.t_s)
        if len(times) > 1 and any(map(operator.gt, times, times[1:])):
            yield "samples are not in the order of time"
        self._sampled_s = event.t_s[-1] if event.t_s else self._sampled_s
        filled = frozenset(name for name, column in event.__dict__.items() if isinstance(column, tuple))
        if self._columns is not None and filled != self._columns:
            yield f"columns differ from those of earlier samples: {', '.join(sorted(filled ^ self._columns))}"
        self._columns = filled
        # The other columns cannot be read where a value is negative, and a temperature may be.
        if event.power_w is not None and any(value is not None and value < 0 for value in event.power_w):
            yield "power_w is negative"


def overlaps(logs: Iterable[tuple[str, str, LogFacts]]) -> Iterator[tuple[str, str]]:
    """Cells that cannot both have been measured: (cell, what). One device does one cell at a time.

    Args:
        logs: cell, the device with the visit that it was measured in, and the log's facts.
    """
    known = [(cell, place, facts, window) for cell, place, facts in logs if (window := facts.window_s) is not None]
    touching: list[tuple[int, int]] = []  # the later in the run's order, the earlier
    running: dict[str, list[tuple[float, int]]] = {}  # end and number of those begun and not known to have ended
    for number in sorted(range(len(known)), key=lambda n: known[n][3]):
        _, place, _, (begin, end) = known[number]
        still = [one for one in running.get(place, ()) if one[0] >= begin]
        touching += [(max(number, other), min(number, other)) for _, other in still]
        running[place] = [*still, (end, number)]
    for later, earlier in sorted(touching):
        cell, _, facts, one = known[later]
        other, _, others, two = known[earlier]
        if facts.batches == others.batches:
            yield cell, f"its batches are those of {other}"
        elif one[0] < two[1] and two[0] < one[1]:
            yield cell, f"it was measured at the same time as {other}, on the same device"
