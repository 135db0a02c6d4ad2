"""The event log of a serving cell: the same file as of any cell, with events of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cpu_use import CpuReading
from bench_core.contract.records.events import EndEvent, EngineEvent, PhaseEvent, StartEvent, TelemetryEvent
from bench_core.contract.records.record import Record, describe
from bench_core.contract.serving.requests import CourseEvent, GeneratorEvent, RequestEvent, WindowEvent
from bench_core.contract.statistics.clocks import ClientEvent


class CpuEvent(Record):
    """Counters of the server's CPUs at one moment, read beside it; see ``contract.measures.cpu_use``."""

    type: Literal["cpu"] = "cpu"
    reading: CpuReading


ServeEvent = (
    StartEvent
    | PhaseEvent
    | EngineEvent
    | RequestEvent
    | GeneratorEvent
    | ClientEvent
    | CourseEvent
    | WindowEvent
    | TelemetryEvent
    | CpuEvent
    | EndEvent
)
_ADAPTER: TypeAdapter[ServeEvent] = TypeAdapter(
    Annotated[ServeEvent, Field(discriminator="type")],
    config=ConfigDict(defer_build=True),  # most commands read no such log
)


def parse_serve_events(lines: Iterable[str | bytes], origin: str) -> Iterator[ServeEvent]:
    """Reads the lines of a serving cell's log in order.

    Raises:
        BadInput: a line is no such event; the message names it.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield _ADAPTER.validate_json(line)
        except (ValidationError, ValueError, RecursionError) as error:
            raise BadInput(f"{origin}:{number}: {describe(error)}", "the event log is damaged") from error


@dataclass
class ServeEvents:
    """A serving cell's events, sorted by kind."""

    start: StartEvent | None = None
    end: EndEvent | None = None
    course: CourseEvent | None = None
    window: WindowEvent | None = None
    phases: dict[str, PhaseEvent] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)  # how the server runs, as it told
    requests: list[RequestEvent] = field(default_factory=list)
    generators: list[GeneratorEvent] = field(default_factory=list)
    clients: list[ClientEvent] = field(default_factory=list)
    telemetry: list[TelemetryEvent] = field(default_factory=list)
    cpu: list[CpuReading] = field(default_factory=list)

    def add(self, event: ServeEvent) -> None:
        """Files one event.

        Raises:
            BadInput: a second start, course, window or end, a phase or a request told twice, or anything after the end.
        """
        if self.end is not None:
            raise BadInput(f"the event log goes on after its end, with {event.type}")
        if isinstance(event, RequestEvent):
            self.requests.append(event)
        elif isinstance(event, TelemetryEvent):
            self.telemetry.append(event)
        elif isinstance(event, GeneratorEvent):
            self.generators.append(event)
        elif isinstance(event, ClientEvent):
            self.clients.append(event)
        elif isinstance(event, CpuEvent):
            self.cpu.append(event.reading)
        elif isinstance(event, EngineEvent):
            self.facts.update(event.facts)
        elif isinstance(event, PhaseEvent):
            self._once(event.phase in self.phases, f"the phase {event.phase}")
            self.phases[event.phase] = event
        elif isinstance(event, StartEvent):
            self._once(self.start is not None, "its start")
            self.start = event
        elif isinstance(event, CourseEvent):
            self._once(self.course is not None, "its course")
            self.course = event
        elif isinstance(event, WindowEvent):
            self._once(self.window is not None, "its window")
            self.window = event
        else:
            self.end = event

    @staticmethod
    def _once(told: bool, what: str) -> None:
        if told:
            raise BadInput(f"the event log tells {what} twice")

    @classmethod
    def of_lines(cls, lines: Iterable[str | bytes], origin: str) -> ServeEvents:
        """All events of a log.

        Raises:
            BadInput: as :func:`parse_serve_events` and :meth:`add`.
        """
        events = cls()
        for event in parse_serve_events(lines, origin):
            events.add(event)
        return events
