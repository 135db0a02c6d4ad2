"""What the core asks of whatever runs its launches, and what it hears of them.

The core plans, judges, resumes and reports. It does not know where a launch runs: on this host (:mod:`pool`), on a
virtual clock (tests), or on another machine. So a launch is data, its news streams back as events in one queue, and a
worker that is lost is a failure of the environment, never an outcome of the cell that it had in hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import GpuInfo
from bench_core.contract.records.spec import Assignment
from bench_core.drive.launch.launcher import Ended, Launch


@dataclass(frozen=True)
class Worker:
    """A device that runs one launch at a time: a GPU, several that one model is split over, or CPUs.

    Attributes:
        name: unique among the workers of an executor.
        gpu: the first; ``None`` for the CPUs.
        placement: its share of the host; ``None`` where it has all of it to itself.
        other_gpus: beside ``gpu``.
    """

    name: str
    gpu: GpuInfo | None = None
    placement: Placement | None = None
    other_gpus: tuple[GpuInfo, ...] = ()

    @property
    def gpus(self) -> tuple[GpuInfo, ...]:
        """None for the CPUs."""
        return () if self.gpu is None else (self.gpu, *self.other_gpus)


@dataclass(frozen=True)
class Task:
    """One launch, before it is known where it runs: nothing in it holds a file or a process of this driver open.

    Attributes:
        launch: without a GPU, which is the worker's, and without what follows from the fields below.
        assignment: the cells, for the file that the launch's box reads.
        title: for people.
        mark: what disturbs it as far as the core knows; the worker adds what it sees of its device.
        pause_s: to wait before it, seconds.
        gated: whether the device is looked at before it, and its memory waited for after it.
        holds: the run whose lock a worker process holds as long as it lives.
    """

    launch: Launch
    assignment: Assignment
    title: str
    mark: str = ""
    pause_s: float = 0.0
    gated: bool = True
    holds: Path | None = None


@dataclass(frozen=True)
class Said:
    """A line of a launch's standard output."""

    worker: Worker
    line: bytes


@dataclass(frozen=True)
class Over:
    """A launch has run and ended."""

    worker: Worker
    ended: Ended


@dataclass(frozen=True)
class Failed:
    """A launch could not be begun, or not be followed: ``error`` says why. Nothing is known of its cells but what lies
    in the run's folder."""

    worker: Worker
    error: BaseException


@dataclass(frozen=True)
class Free:
    """A worker takes its next launch: after ``Over`` or ``Failed``, or alone where a stop came before the launch
    began."""

    worker: Worker


@dataclass(frozen=True)
class Lost:
    """A worker has gone for good, and what it had in hand with it; no ``Free`` follows."""

    worker: Worker
    cause: str

    @property
    def error(self) -> MachineFailure:
        """The same as a failure of the environment."""
        return MachineFailure(f"{self.worker.name} is lost: {self.cause}", "mend that, then --resume the run")


Event = Said | Over | Failed | Free | Lost


class Executor(Protocol):
    """Runs launches side by side, one on each worker."""

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All of them, at the beginning."""

    def submit(self, task: Task, worker: Worker) -> None:
        """Begins a launch on a worker that is free; returns at once."""

    def next_event(self) -> Event:
        """Waits for the next news of any launch. Of one launch they come in order."""

    def stop(self) -> None:
        """Asks every launch to stop after the batch in hand; a second call ends them at once. What has not begun does
        not begin."""


def follow(executor: Executor, task: Task, worker: Worker, on_line: Callable[[bytes], None]) -> Ended | None:
    """One launch while nothing else runs, to its end; ``None`` where a stop came before it began.

    Raises:
        BaseException: why it could not be begun. An exception of somebody else (Ctrl-C) ends the launch first.
    """
    executor.submit(task, worker)
    ended: Ended | None = None
    failure: BaseException | None = None
    free = False
    try:
        while not free:
            event = executor.next_event()
            if isinstance(event, Said):
                on_line(event.line)
            elif isinstance(event, Over):
                ended = event.ended
            elif isinstance(event, Free):
                free = True
            else:
                failure, free = event.error, isinstance(event, Lost)
    except BaseException:
        executor.stop()
        executor.stop()
        while not free:
            free = isinstance(executor.next_event(), Free | Lost)
        raise
    if failure is not None:
        raise failure
    return ended
