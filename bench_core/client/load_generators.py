"""One load on one server: starting it, hearing of it and ending it are the same wherever its load generators run."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from bench_core.client.intake import Generator, Intake
from bench_core.contract.errors import MachineFailure
from bench_core.contract.serving.requests import GeneratorEvent, RequestEvent
from bench_core.contract.statistics.clocks import ClientEvent

_START_IN_S = 0.05  # from a word to start until T0, by default
_READY_WITHIN_S = 60.0
_ENDED_WITHIN_S = 60.0
_SECOND = 1_000_000_000
_Own = TypeVar("_Own", bound="LoadGenerators")


@dataclass(frozen=True, slots=True)
class Finished:
    """What is left when all generators have ended.

    Attributes:
        requests: that no ``poll`` has returned; those in flight at an abort are ``unfinished``.
        generators: what each process says of itself, in their order.
        clients: the hosts that they ran on, where these were others.
    """

    requests: list[RequestEvent]
    generators: list[GeneratorEvent]
    clients: list[ClientEvent] = field(default_factory=list)


class LoadGenerators(ABC):
    """One load on one server, from one or several processes.

    Args:
        intake: what their frames become.
        timeout_s: for one request, from its sending.

    Attributes:
        started: of each request that was sent, by index: when it was scheduled, seconds of CLOCK_MONOTONIC. It may be
            a moment behind.
    """

    def __init__(self, intake: Intake, timeout_s: float) -> None:
        self._intake = intake
        self.started = intake.started
        self._timeout_s = timeout_s
        self._lost: MachineFailure | None = None

    def __enter__(self: _Own) -> _Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def done(self) -> bool:
        """Whether all generators have ended; ``finish`` does not wait then."""
        return all(one.facts is not None for one in self._generators)

    def start(self, t0_s: float | None = None) -> float:
        """Begins at T0, seconds of CLOCK_MONOTONIC (``time.monotonic``), a moment from now by default; T0 as the
        generators have it, in whole nanoseconds: a request that is due at T0 is not due before it.

        Raises:
            MachineFailure: a host that generators run on is lost.
        """
        t0_ns = int((time.monotonic() + _START_IN_S if t0_s is None else t0_s) * _SECOND)
        self._begin(t0_ns)
        return t0_ns / _SECOND

    def stop_issuing(self) -> None:
        """No further request is sent; those in flight go on."""
        self._tell(b"stop\n")

    def abort(self) -> None:
        """The load ends at once; what is in flight is ``unfinished``."""
        self._tell(b"abort\n")

    def poll(self, timeout_s: float) -> list[RequestEvent]:
        """Requests that have ended since the last call; waits for one for so many seconds.

        Raises:
            MachineFailure: a generator has died, or a host that they run on is lost; what had ended by then was
                returned before.
        """
        end = time.monotonic() + timeout_s
        while True:
            left = end - time.monotonic()
            if self._lost is None:
                try:
                    self._take(max(left, 0.0) if not self._intake.events else 0.0)
                except MachineFailure as error:
                    self._lost = error
            if self._lost is not None and not self._intake.events:
                raise self._lost
            if self._intake.events or left <= 0 or self.done:
                return self._intake.taken()

    def finish(self) -> Finished:
        """Waits until all generators have ended, which they do once they were told to or have nothing left to do: for
        the time limit of one request, and a minute.

        Raises:
            MachineFailure: one has died, or does not end: it was not told to, and a request takes too long.
        """
        self._until(lambda: self.done, self._timeout_s + _ENDED_WITHIN_S, "to end")
        finished = self._finished()
        self.close()
        return finished

    @abstractmethod
    def close(self) -> None:
        """Ends what still runs. May be called again."""

    def _until_connected(self) -> None:
        """Waits until all generators are ready to start.

        Raises:
            MachineFailure: one has died, or takes too long.
        """
        self._until(lambda: all(one.ready for one in self._generators), _READY_WITHIN_S, "to connect")

    def _until(self, reached: Callable[[], bool], within_s: float, what: str) -> None:
        end = time.monotonic() + within_s
        while not reached():
            left = end - time.monotonic()
            if self._lost is not None:
                raise self._lost
            if left <= 0:
                raise MachineFailure(f"a load generator took more than {within_s:g} s {what}")
            self._take(left)

    @property
    @abstractmethod
    def _generators(self) -> Sequence[Generator]:
        """All of them, in the order of their numbers."""

    @abstractmethod
    def _begin(self, t0_ns: int) -> None:
        """Tells all generators when T0 is, nanoseconds of this host's CLOCK_MONOTONIC."""

    @abstractmethod
    def _tell(self, word: bytes) -> None:
        """Hands a control word to all generators; one that is gone is told of by ``_take``."""

    @abstractmethod
    def _take(self, timeout_s: float) -> None:
        """Hands what generators have told to the intake; waits for it for so many seconds.

        Raises:
            MachineFailure: one has died, or a host is lost; what others had told by then was taken in.
        """

    @abstractmethod
    def _finished(self) -> Finished:
        """What is left, once all have ended."""
