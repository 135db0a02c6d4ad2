"""How far the clock of another machine is from one's own: told by questions and answers, the bound with it.

A question leaves at ``asked``, is there at ``heard`` (the other clock), its answer leaves at ``answered`` (the other
clock) and is back at ``back``. Nothing travels in less than no time, so the other clock is ahead by something between
``answered - back`` and ``heard - asked``: by their middle, to within half of the round trip. That holds whichever way
was the slower one. Of many rounds the shortest says most.

Clocks are CLOCK_MONOTONIC, which nobody sets. How fast they run differs, so the offset is told again at the end: what
it has changed by meanwhile is the drift.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bench_core.contract.records.record import LARGEST_INT, Record

Nanoseconds = Annotated[int, Field(ge=0, le=LARGEST_INT)]
_SECOND = 1_000_000_000
# No kernel lets a clock that is held to the time run faster or slower by more than this (adjtimex: 500 ppm); two may
# do so in both directions.
MOST_DRIFT = 0.001


class ClockRounds(Record):
    """Questions to another machine, in order: columns, with one value for each, nanoseconds.

    Attributes:
        asked, back: of the clock of who asks.
        heard, answered: of the clock of who is asked.
    """

    asked: tuple[Nanoseconds, ...] = Field(min_length=1)
    heard: tuple[Nanoseconds, ...]
    answered: tuple[Nanoseconds, ...]
    back: tuple[Nanoseconds, ...]

    @model_validator(mode="after")
    def _columns(self) -> ClockRounds:
        if not len(self.asked) == len(self.heard) == len(self.answered) == len(self.back):
            raise ValueError("columns of questions differ in length")
        if any(self._trip(place) < 0 for place in range(len(self.asked))):
            raise ValueError("an answer was back before it could be")
        return self

    def _trip(self, place: int) -> int:
        """Both ways together."""
        return (self.back[place] - self.asked[place]) - (self.answered[place] - self.heard[place])

    @property
    def _best(self) -> int:
        return min(range(len(self.asked)), key=self._trip)

    @property
    def offset_ns(self) -> int:
        """By how much the other clock is ahead."""
        best = self._best
        return ((self.heard[best] - self.asked[best]) + (self.answered[best] - self.back[best])) // 2

    @property
    def bound_ns(self) -> int:
        """How far ``offset_ns`` may be from the truth."""
        return self._trip(self._best) // 2 + 1

    @property
    def at_ns(self) -> int:
        """When the shortest round was asked."""
        return self.asked[self._best]


class ClientEvent(Record):
    """A host that load generators ran on beside others, written when all have ended.

    Attributes:
        node: its name in the cluster.
        processes: load generators that ran there, by number.
        before, after: its clock, compared before the load began and after it had ended.
        start_ns: the schedule's zero, by the clock of who writes the log.
        start_there_ns: the same moment as the host was told it, by its own clock. All stamps of its requests are its
            own, less the difference of these two.
    """

    type: Literal["client"] = "client"
    node: str = Field(min_length=1)
    processes: tuple[Annotated[int, Field(ge=0, le=10**6)], ...] = Field(min_length=1)
    before: ClockRounds
    after: ClockRounds
    start_ns: Nanoseconds
    start_there_ns: Nanoseconds

    @property
    def offset_s(self) -> float:
        """By how much its clock was ahead before the load; what its stamps were moved by."""
        return self.before.offset_ns / _SECOND

    @property
    def bound_s(self) -> float:
        """How far that may be from the truth."""
        return self.before.bound_ns / _SECOND

    @property
    def bound_after_s(self) -> float:
        """The same of the offset after the load."""
        return self.after.bound_ns / _SECOND

    @property
    def drift_s(self) -> float:
        """How much further ahead its clock was after the load."""
        return (self.after.offset_ns - self.before.offset_ns) / _SECOND

    @property
    def lasted_s(self) -> float:
        """Between the two comparisons."""
        return (self.after.at_ns - self.before.at_ns) / _SECOND

    @property
    def misplaced_s(self) -> float:
        """How far its requests may be, among those of other hosts, from where the log has them: by the first bound at
        the beginning; at the end its clock may have run away as well."""
        return max(self.bound_s, abs(self.drift_s) + self.bound_after_s)
