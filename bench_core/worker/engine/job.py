"""What the supervisor hands to the engine's process, and the line protocol between the two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from bench_core.contract.records.events import (
    BatchEvent,
    EndEvent,
    EngineEvent,
    PhaseEvent,
    ScoreEvent,
    StartEvent,
    StopEvent,
    WarmupEndEvent,
)
from bench_core.contract.records.record import Reader, Record
from bench_core.contract.records.spec import CellSpec


class Job(Record):
    """Work for one engine process: cells of one variant, in order, or a self-check of it."""

    task: Literal["measure", "self-check"]
    image_folder: Path
    artifact: Path
    workload: Path
    cells: tuple[CellSpec, ...]


class BeginCell(Record):
    """The events that follow belong to this cell."""

    type: Literal["begin"] = "begin"
    cell: str


class BeginScore(Record):
    """The cell is measured to its end; the engine is now asked for probabilities, which can only cost the score."""

    type: Literal["begin_score"] = "begin_score"


class CheckEvent(Record):
    """One check of the contract suite: what it guards, and how it went."""

    type: Literal["check"] = "check"
    name: str
    outcome: Literal["passed", "failed", "recorded"]
    detail: str = ""


Message = (
    BeginCell
    | BeginScore
    | CheckEvent
    | StartEvent
    | PhaseEvent
    | EngineEvent
    | BatchEvent
    | WarmupEndEvent
    | StopEvent
    | ScoreEvent
    | EndEvent
)
_MESSAGE: Reader[Message] = Reader(Message, "message of an engine")


class Channel:
    """The engine process's end: sends one line at a time and waits until the supervisor has dealt with it.

    While the engine waits, the supervisor samples memory and writes the line: nothing of that happens while the
    clock runs.
    """

    def __init__(self, control_fd: int, events_fd: int) -> None:
        self._control = os.fdopen(control_fd, "rb", buffering=0)
        self._events = os.fdopen(events_fd, "wb", buffering=0)

    def receive_job(self) -> Job:
        """The job, which is the first line."""
        line = b""
        while not line.endswith(b"\n"):
            piece = self._control.read(1 << 16)
            if not piece:
                raise SystemExit("the supervisor has gone")
            line += piece
        return Job.parse(line, "job")

    def send(self, message: Record) -> None:
        """Sends a message and waits for its acknowledgement; ends this process if the supervisor has gone."""
        data = memoryview(message.model_dump_json().encode("utf-8", "backslashreplace") + b"\n")
        while data:
            data = data[self._events.write(data) :]
        if not self._control.read(1):
            raise SystemExit("the supervisor has gone")


def make_ready() -> None:
    """Builds what checks and writes messages, for this process and for those that are made of it."""
    for record in get_args(Message):  # first: the adapter then takes them as they are
        record.model_rebuild()
    _ = _MESSAGE.validator


def parse_message(line: bytes) -> Any:
    """The supervisor's end: one line as a message (a ``Message``)."""
    return _MESSAGE.validate_json(line)
