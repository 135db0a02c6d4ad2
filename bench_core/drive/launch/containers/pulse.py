"""Whether the Docker engine still answers: one that hangs must not hold up a night's run for ever.

A container is the kernel's and its own supervisor's: while the engine hangs it measures on, and nothing is lost if the
engine comes back in time. What has to end is the driver's waiting.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from bench_core.contract.errors import BadInput

PATIENCE_S = 120.0  # a restart takes seconds; an upgrade of the package a minute
_VARIABLE = "BENCH_DOCKER_PATIENCE_S"
_BEATS = 12  # within the patience
_PIECES = 256  # of output that may wait for the driver, before the engine is made to wait

T = TypeVar("T")


def patience_s() -> float:
    """How long the Docker engine may not answer before it counts as gone, seconds: ``BENCH_DOCKER_PATIENCE_S``, or two
    minutes.

    Raises:
        BadInput: the variable holds no number of seconds.
    """
    text = os.environ.get(_VARIABLE, "")
    try:
        value = float(text) if text else PATIENCE_S
    except ValueError:
        value = 0.0
    if not 1.0 <= value <= 86400.0:
        raise BadInput(f"{_VARIABLE}={text!r} is no number of seconds from 1 to 86400", f"the default is {PATIENCE_S}")
    return value


class EngineSilent(OSError):
    """The Docker engine has not answered for as long as it is given."""


class Pulse:
    """Asks the engine for a sign of life, in a thread of its own, while there is something to wait for.

    Args:
        ping: one call to the engine, with a time limit of its own; any exception is no answer.
        limit_s: without an answer for so long, :meth:`check` raises.
    """

    def __init__(self, ping: Callable[[], object], limit_s: float) -> None:
        self._ping = ping
        self._limit_s = limit_s
        self._answered_s = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="docker pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._answered_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()  # not joined: it may hang in a call, which ends by itself

    def check(self, limit_s: float | None = None) -> None:
        """Goes on where the engine has answered within ``limit_s`` (else the pulse's own limit).

        Raises:
            EngineSilent: it has not.
        """
        limit_s = self._limit_s if limit_s is None else limit_s
        silent_s = time.monotonic() - self._answered_s
        if silent_s > limit_s:
            raise EngineSilent(f"no answer for {silent_s:.0f} s")

    def _beat(self) -> None:
        while not self._over.wait(self._limit_s / _BEATS):
            try:
                self._ping()
            except Exception:  # noqa: BLE001, S112  # whatever it is, it is no answer
                continue
            self._answered_s = time.monotonic()


def followed(start: Callable[[], Iterable[T]], check: Callable[[], None]) -> Iterator[T]:
    """The pieces of a stream that may stop without an end; ``check`` is asked once a second while nothing comes.

    The stream is read in a thread of its own, which is left behind if ``check`` raises: no call can interrupt it.

    Raises:
        Exception: what ``start``, the stream or ``check`` raises.
    """
    pieces: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_PIECES)
    left = threading.Event()

    def put(piece: tuple[T] | BaseException | None) -> bool:
        while not left.is_set():
            try:
                pieces.put(piece, timeout=1.0)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for piece in start():
                if not put((piece,)):
                    return
        except BaseException as error:  # noqa: BLE001  # it is the reader's to raise
            put(error)
        else:
            put(None)

    threading.Thread(target=read, name="docker stream", daemon=True).start()
    try:
        while True:
            try:
                found = pieces.get(timeout=1.0)
            except queue.Empty:
                check()
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        left.set()
