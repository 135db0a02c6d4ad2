"""The client: has the server started, measures one cell after the other, and leaves a verdict on each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench_core.client.ask import Address, Ask, Asker
from bench_core.client.capacity import search
from bench_core.client.cell import CellRun, Doors, ServerGone, end_of, result_of
from bench_core.client.generators import Generators
from bench_core.client.sidecar import SidecarClient
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records.events import CellEnded, Progress
from bench_core.contract.records.outcome import Outcome, Verdict, stopped_on_request
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import Assignment, CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.schedule import Schedule
from bench_core.contract.serving.sidecar import Greeting, ServerState
from bench_core.system.cell_writer import CellWriter, refuse_if_measured

_ASK_EVERY_S = 0.2
_WITHOUT_END = 1 << 40  # requests of a closed loop: it goes on until it is told to stop
_TELL_EVERY_S = 60.0


@dataclass(frozen=True)
class Places:
    """Where things are: what is sent, and the run's folder."""

    data: Path
    run_folder: Path


@dataclass(frozen=True)
class Measuring:
    """What all cells of an assignment are measured with."""

    greeting: Greeting
    workload: Workload


class Client:
    """The cells of one assignment, against one server."""

    def __init__(
        self,
        assignment: Assignment,
        places: Places,
        server: tuple[str, int],
        network: str,
        say: Callable[[Record], None],
    ) -> None:
        self._assignment, self._places = assignment, places
        self._address, self._network = server, network
        self._say = say
        self._sidecar = SidecarClient(server[0], server[1] + 1)
        self._stops = 0
        self._gone = False

    def stop(self) -> None:
        """Ends the cell in hand and begins no other."""
        self._stops += 1

    def server_is_gone(self) -> None:
        """The driver has seen that the server's container has ended."""
        self._gone = True

    def measure(self) -> Outcome | None:
        """Measures all cells; the first outcome that is not ``ok``, else that. ``None``: the server's container has
        ended, and the driver judges.

        Raises:
            BadInput, MachineFailure: nothing could be begun.
        """
        workload = Workload.read(self._places.data / self._assignment.workload)
        greeting = self._sidecar.greeting()
        self._require_same(greeting)
        here, folder = Measuring(greeting, workload), self._places.run_folder
        try:
            if self._assignment.capacity is not None:
                return search(self, here, self._with_client(greeting.cells[0]), self._assignment.capacity, folder)
            outcomes = []
            for spec in greeting.cells:
                refuse_if_measured(folder, spec)
                outcomes.append(self.cell(self._with_client(spec), here, self._schedule(spec), folder).outcome)
        except ServerGone:
            return None
        return next((outcome for outcome in outcomes if outcome is not Outcome.OK), Outcome.OK)

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self._stops > 0

    def note(self, cell: str, done: int, of: int) -> None:
        """Tells how far a search is."""
        self._say(Progress(cell=cell, phase="measure", done=done, of=of))

    def _require_same(self, greeting: Greeting) -> None:
        planned = [cell.cell_id for cell in self._assignment.cells]
        found = [cell.cell_id for cell in greeting.cells]
        if planned != found:
            raise MachineFailure(f"the server was started for {', '.join(found)}, and not for {', '.join(planned)}")

    def _with_client(self, spec: CellSpec) -> CellSpec:
        assert spec.server is not None  # noqa: S101  # the server's supervisor has said it
        here = {"client_cpus": tuple(sorted(os.sched_getaffinity(0))), "network": self._network}
        return spec.model_copy(update={"server": spec.server.model_copy(update=here)})

    def cell(self, spec: CellSpec, here: Measuring, schedule: Schedule, folder: Path) -> Verdict:
        """Measures one cell into a run's folder, or a trial's.

        Raises:
            ServerGone: the server's container has ended.
        """
        state = self._ready(spec)
        writer = CellWriter(folder, spec, result_of)
        if state.state == "ready" and not self._stops:
            doors = Doors(self._sidecar, self._say, lambda: self._stops, lambda: self._gone)
            with self._generators(spec, here, schedule) as generators:
                verdict = CellRun(spec, here.greeting, state, generators, schedule.requests, doors).run(writer)
        else:
            verdict = state.verdict if state.verdict is not None and not self._stops else stopped_on_request("load")
            writer.event(here.greeting.start)
            writer.event(end_of(verdict))
        final = writer.end(verdict, self._log())
        self._say(CellEnded(cell=spec.cell_id, outcome=final.outcome, cause=final.cause))
        return final

    def _log(self) -> str:
        try:
            return self._sidecar.log()
        except MachineFailure:
            return ""

    def _ready(self, spec: CellSpec) -> ServerState:
        """A server that answers, or how it died while it was loading.

        Raises:
            ServerGone: its container has ended.
        """
        told_s = 0.0
        state = self._sidecar.start()
        while state.state == "loading" and not self._stops:
            if self._gone:
                raise ServerGone
            now = time.monotonic()
            if now - told_s >= _TELL_EVERY_S:
                told_s = now
                self._say(Progress(cell=spec.cell_id, phase="load", done=0, of=1))
            time.sleep(_ASK_EVERY_S)
            try:
                state = self._sidecar.state()
            except MachineFailure:
                time.sleep(_ASK_EVERY_S)  # its container may be ending: the driver then says so
                if self._gone:
                    raise ServerGone from None
                state = self._sidecar.state()
        return state

    def _schedule(self, spec: CellSpec) -> Schedule:
        assert spec.serve is not None  # noqa: S101  # of a cell under load
        assert spec.load is not None  # noqa: S101
        schedule = Schedule.read_packed(self._places.data / self._assignment.schedules[spec.load.word])
        if schedule.digest != spec.serve.schedule:
            raise BadInput(f"{spec.cell_id} was planned with another schedule than there is here")
        return schedule

    def _generators(self, spec: CellSpec, here: Measuring, schedule: Schedule) -> Generators:
        entry, workload = here.greeting.entry, here.workload
        plan, load = spec.serve, spec.load
        assert plan is not None  # noqa: S101  # of a cell under load
        assert load is not None  # noqa: S101
        address = Address(*self._address)
        cache = entry.prefix_cache_on if plan.prefix_cache else entry.prefix_cache_off
        asker = Asker(entry, address, forced=spec.length == "forced", extra=cache.body)
        asks: dict[tuple[int, int], int] = {}  # prompt and output tokens to the place among the distinct requests
        made: list[Ask] = []
        order: list[int] = []
        for number, prompt in enumerate(schedule.prompts):
            key = (prompt, schedule.output_of(number))
            if key not in asks:
                asks[key] = len(made)
                made.append(asker.ask(prompt, workload.prompts[prompt], key[1]))
            order.append(asks[key])
        return Generators(
            address, entry,
            asks=made, load=load, order=order,
            total=None if load.open_loop else _WITHOUT_END, offsets_us=schedule.offsets_us,
            timeout_s=plan.protocol.request_timeout_s, processes=plan.protocol.client_processes,
            cpus=tuple(sorted(os.sched_getaffinity(0)))[: plan.protocol.client_processes],
        )  # fmt: skip
