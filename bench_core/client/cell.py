"""One cell under load: generators are started, the course is followed, and what came of it is written down."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench_core.client.load_generators import LoadGenerators
from bench_core.client.sidecar import SidecarClient
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.events import EndEvent, EngineEvent, PhaseEvent, Progress
from bench_core.contract.records.outcome import MARKED, Outcome, Verdict, stopped_on_request
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.latencies import scheduled_in
from bench_core.contract.serving.log import CpuEvent, ServeEvents
from bench_core.contract.serving.protocol import DRAIN_S
from bench_core.contract.serving.requests import CourseEvent, RequestEvent, WindowEvent
from bench_core.contract.serving.result import ServeResult, serving_result
from bench_core.contract.serving.sidecar import Greeting, ServerState
from bench_core.contract.serving.window import Course
from bench_core.system.cell_writer import CellWriter

_LOOK_EVERY_S = 0.25
_SAMPLE_EVERY_S = 0.5
_POLL_S = 0.05
_BEGIN_IN_S = 0.3  # from now: all generators are ready by then
_EMPTY_WITHIN_S = 30.0  # a server that keeps up, once nothing more is sent to it


class ServerGone(Exception):  # no error of the client
    """The server's container has ended: its driver judges the cell in hand."""


@dataclass(frozen=True)
class Doors:
    """What a cell under load has to do with others.

    Attributes:
        say: tells the driver how far it is.
        stops: how often a stop was asked for.
        gone: whether the server's container has ended.
    """

    sidecar: SidecarClient
    say: Callable[[Progress], None]
    stops: Callable[[], int]
    gone: Callable[[], bool]


class CellRun:
    """One cell, from its first event to its verdict."""

    def __init__(
        self,
        spec: CellSpec,
        greeting: Greeting,
        server: ServerState,
        generators: LoadGenerators,
        requests: int | None,
        doors: Doors,
        *,
        last: bool,
    ) -> None:
        """
        Args:
            requests: of the schedule; ``None``: without end.
            last: no other cell is measured on this server.
        """
        assert spec.serve is not None  # noqa: S101  # a cell under load has a plan of it
        assert spec.load is not None  # noqa: S101
        self._spec, self._plan, self._load = spec, spec.serve, spec.load
        self._greeting, self._server = greeting, server
        self._generators, self._doors = generators, doors
        self._scheduled, self._last = requests, last
        self._course: Course | None = None
        self._window: WindowEvent | None = None
        self._begun_s: float | None = None
        self._requests: list[RequestEvent] = []
        self._sampled_s = self._looked_s = self._t0_s = 0.0
        self._told = 0
        self._known: dict[int, None] = {}  # requests that are due, in the order in which that was learned
        self._looks: list[tuple[float, int, int]] = []  # when, and how many were known to have ended and to be due

    @property
    def left_behind(self) -> bool:
        """Whether the server was left with requests that it had not finished."""
        return any(request.end == "unfinished" for request in self._requests)

    def run(self, writer: CellWriter) -> Verdict:
        """Measures the cell; returns the verdict on it, which is not written yet.

        Raises:
            ServerGone: the server's container has ended.
        """
        began, ready = self._server.began_s, self._server.ready_s
        writer.event(self._greeting.start)
        writer.event(PhaseEvent(phase="load", started_s=began, duration_s=max(0.0, ready - began)))
        if self._server.facts:
            writer.event(EngineEvent(t_s=time.monotonic(), facts=self._server.facts))
        self._doors.sidecar.begin()
        self._sample(writer)
        dead = self._follow(writer)
        finished = self._generators.finish()
        for request in finished.requests:
            self._took(writer, request)
        for told in (*finished.generators, *finished.clients):
            writer.event(told)
        if self._doors.gone():
            raise ServerGone
        if self._window is not None:
            writer.event(self._traced())
            writer.event(self._window)
        self._sample(writer)
        verdict = dead or self._judged(self._window)
        writer.event(end_of(verdict))
        return self._marked(verdict)

    def _follow(self, writer: CellWriter) -> Verdict | None:
        """Until the cell has been measured, a stop is asked for, or the server dies; the verdict then."""
        self._t0_s = self._generators.start(time.monotonic() + _BEGIN_IN_S)
        course = Course(self._load, self._plan.protocol, self._t0_s, requests=self._scheduled)
        self._course = course
        while True:
            for request in self._generators.poll(_POLL_S):
                self._took(writer, request)
            now = time.monotonic()
            if self._doors.gone():
                self._generators.abort()
                return None
            if now - self._sampled_s >= _SAMPLE_EVERY_S:
                state = self._sample(writer)
                if state is not None and state.state == "dead":
                    self._generators.abort()
                    return state.verdict
            if self._doors.stops():
                self._generators.abort()
                return stopped_on_request("measure")
            if now - self._looked_s >= _LOOK_EVERY_S and self._is_over(course, now, writer):
                self._leave(writer)
                return None

    def _leave(self, writer: CellWriter) -> None:
        """Ends the load. Where another cell follows, the server finishes what it has in hand: a connection that is
        closed does not end a request everywhere, and a server may read requests only after their clients have gone."""
        if not self._last and self._empties_soon():
            self._generators.stop_issuing()
            until_s = time.monotonic() + _EMPTY_WITHIN_S
            while time.monotonic() < until_s and not (
                self._generators.done or self._doors.stops() or self._doors.gone()
            ):
                for request in self._generators.poll(_POLL_S):
                    self._took(writer, request)
        self._generators.abort()

    def _empties_soon(self) -> bool:
        """Whether the server finishes what it has in hand, as fast as it has answered since the window began."""
        window, now = self._window, time.monotonic()
        assert window is not None  # noqa: S101  # the cell is over
        if window.saturated or now - window.end_s > DRAIN_S:
            return False
        answered = sum(request.ended_s >= window.begin_s for request in self._requests)
        in_flight = len(self._known) - len(self._requests)
        return in_flight * (now - window.begin_s) <= answered * _EMPTY_WITHIN_S

    def _is_over(self, course: Course, now: float, writer: CellWriter) -> bool:
        """Whether all that is to be measured has been."""
        self._looked_s = now
        self._sent(course)
        self._looks.append((now, len(self._requests), len(self._known)))
        look = course.look(now)
        self._window = look.window
        if look.phase == "measuring" and self._begun_s is None:
            self._begun_s = now
            self._sample(writer)
        self._tell(now)
        return look.over

    def _traced(self) -> CourseEvent:
        """What was known at each look."""
        t_s, ended, due = zip(*self._looks, strict=True)
        known = itertools.islice(self._known, due[-1])
        return CourseEvent(
            start_s=self._t0_s, t_s=t_s, ended=ended, due=due, order=tuple(known), drains=True, follows=True
        )

    def _sent(self, course: Course) -> None:
        """Tells the course which requests are due since the last call."""
        for index, scheduled_s in itertools.islice(self._generators.started.items(), self._told, None):
            self._told += 1
            self._due(course, index, scheduled_s)

    def _due(self, course: Course, index: int, scheduled_s: float) -> None:
        if index not in self._known:
            self._known[index] = None
            course.sent(scheduled_s)

    def _took(self, writer: CellWriter, request: RequestEvent) -> None:
        writer.event(request)
        self._requests.append(request)
        if self._course is None:
            return
        self._sent(self._course)
        self._due(self._course, request.index, request.scheduled_s)  # one that was never sent is told nowhere else
        self._course.finished(request)

    def _sample(self, writer: CellWriter) -> ServerState | None:
        """Asks for what was sampled beside the server; ``None`` where nobody answers, which the driver will see."""
        self._sampled_s = time.monotonic()
        try:
            taken = self._doors.sidecar.take()
        except MachineFailure:
            return None
        if taken.telemetry is not None:
            writer.event(taken.telemetry)
        if taken.cpu is not None:
            writer.event(CpuEvent(reading=taken.cpu))
        return taken.state

    def _tell(self, now: float) -> None:
        protocol = self._plan.protocol
        phase, since, limit = "warmup", self._t0_s, protocol.max_ramp_seconds
        if self._begun_s is not None:
            phase, since, limit = "measure", self._begun_s, protocol.max_serve_seconds
        done, of = int(max(0.0, now - since)), int(limit) or 1
        line = {"cell": self._spec.cell_id, "phase": phase, "done": done, "of": max(of, done)}
        self._doors.say(Progress.model_validate(line))

    def _judged(self, window: WindowEvent | None) -> Verdict:
        """Where nothing was answered as asked, that is what the cell tells; where some was, it is measured, unless no
        request was due in the window: the load was too low for it, or the server too slow."""
        if window is not None and any(request.ok for request in self._requests):
            if scheduled_in(self._requests, window.begin_s, window.end_s):
                return Verdict(outcome=Outcome.OK, judged_by="worker")
            lasted_s = window.end_s - window.begin_s
            cause = (
                f"no request was due in the {lasted_s:.3g} s that were measured: a longer --max-serve-seconds has some"
            )
            return Verdict(outcome=Outcome.TIMEOUT, cause=cause, phase="measure", judged_by="worker")
        failed = next((request for request in self._requests if request.end not in ("ok", "unfinished")), None)
        if failed is None:
            cause = f"no request was answered within {time.monotonic() - self._t0_s:.3g} s"
            return Verdict(outcome=Outcome.TIMEOUT, cause=cause, phase="measure", judged_by="worker")
        ends = sum(request.end == failed.end for request in self._requests)
        cause = f"no request was answered as asked: {ends} x {failed.end}: {failed.cause}"
        return Verdict(outcome=Outcome.GENERATE_FAILED, cause=cause, phase="measure", judged_by="worker")

    def _marked(self, verdict: Verdict) -> Verdict:
        if not self._greeting.marked:
            return verdict
        return verdict.model_copy(update={"evidence": {**verdict.evidence, MARKED: self._greeting.marked}})


def end_of(verdict: Verdict) -> EndEvent:
    """The last line of a cell's log, written now."""
    found = {"outcome": verdict.outcome, "phase": verdict.phase, "cause": verdict.cause}
    return EndEvent.model_validate({"t_s": time.monotonic(), **found})


def result_of(spec: CellSpec, lines: Iterable[bytes]) -> ServeResult:
    """Of a serving cell, from the lines of its log; see ``CellWriter``.

    Raises:
        BadInput: no result follows from them.
    """
    if spec.serve is None:
        raise BadInput(f"{spec.cell_id} is no cell under load")
    events = ServeEvents.of_lines(lines, layout.EVENTS_FILE)
    return serving_result(spec.cell_id, events, spec.serve.protocol.limits, spec.protocol.busy)
