"""The client: has the server started, measures one cell after the other, and leaves a verdict on each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench_core.client.ask import Address, Ask, Asker
from bench_core.client.capacity import search
from bench_core.client.cell import CellRun, Doors, ServerGone, end_of, result_of
from bench_core.client.generators import Generators
from bench_core.client.load_generators import LoadGenerators
from bench_core.client.nodes.gathering import Gathering
from bench_core.client.nodes.generators import NodeGenerators
from bench_core.client.sidecar import SidecarClient
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.records.events import CellEnded, Progress
from bench_core.contract.records.outcome import Outcome, Verdict, stopped_on_request
from bench_core.contract.records.record import Record
from bench_core.contract.records.spec import Assignment, CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.cell import CapacityAsk
from bench_core.contract.serving.schedule import Schedule
from bench_core.contract.serving.sidecar import Greeting, ServerState
from bench_core.system.cell_writer import CellWriter, refuse_if_measured

_ASK_EVERY_S = 0.2
_WITHOUT_END = 1 << 40  # requests of a closed loop: it goes on until it is told to stop
_TELL_EVERY_S = 60.0
_GONE_AFTER_S = 10.0  # of silence, where no driver sees the server's container; it is asked twice a second


@dataclass(frozen=True)
class Work:
    """What is to be measured, and where it goes.

    Attributes:
        cells: their names, as they were planned.
        schedules: by the word of their load.
        capacity: a search that begins with the one cell instead of measuring it.
        by_hand: no driver watches the server's container or judges how it ended.
    """

    cells: tuple[str, ...]
    workload: Workload
    schedules: Mapping[str, Schedule]
    run_folder: Path
    capacity: CapacityAsk | None = None
    by_hand: bool = False

    @classmethod
    def assigned(cls, assignment: Assignment, data: Path, run_folder: Path) -> Work:
        """As a driver has planned it; its files are below ``data``.

        Raises:
            BadInput: one of them cannot be read.
        """
        return cls(
            cells=tuple(cell.cell_id for cell in assignment.cells),
            workload=Workload.read(data / assignment.workload),
            schedules={word: Schedule.read_packed(data / name) for word, name in assignment.schedules.items()},
            run_folder=run_folder,
            capacity=assignment.capacity,
        )


@dataclass(frozen=True)
class Measuring:
    """What all cells are measured with."""

    greeting: Greeting
    workload: Workload


class Client:
    """The cells of one launch, against one server."""

    def __init__(
        self,
        server: tuple[str, int],
        network: str,
        say: Callable[[Record], None],
        gathering: Gathering | None = None,
        reached_at: tuple[str, int] | None = None,
    ) -> None:
        """
        Args:
            server: as this process reaches it; its supervisor is on the next port.
            gathering: the other hosts that the load comes from; by default it comes from here.
            reached_at: where these reach the server.
        """
        self._address, self._network = server, network
        self._gathering, self._reached_at = gathering, reached_at
        self._say = say
        self.sidecar = SidecarClient(server[0], server[1] + 1)
        self._stops = 0
        self._gone = False
        self._by_hand = False

    def stop(self) -> None:
        """Ends the cell in hand and begins no other."""
        self._stops += 1

    def server_is_gone(self) -> None:
        """The driver has seen that the server's container has ended."""
        self._gone = True

    def measure(self, work: Work) -> Outcome | None:
        """Measures all cells; the first outcome that is not ``ok``, else that. ``None``: the server's container has
        ended, and the driver judges.

        Raises:
            BadInput, MachineFailure: nothing could be begun.
        """
        self._by_hand = work.by_hand
        if self._gathering is not None:
            self._gathering.gather(lambda: self.stopped or self._gone)
        greeting = self.sidecar.greeting()
        found = tuple(cell.cell_id for cell in greeting.cells)
        if found != work.cells:
            raise MachineFailure(f"the server was started for {', '.join(found)}, and not for {', '.join(work.cells)}")
        here, folder = Measuring(greeting, work.workload), work.run_folder
        try:
            if work.capacity is not None:
                return search(self, here, self._with_client(greeting.cells[0]), work.capacity, folder)
            outcomes = []
            for spec in greeting.cells:
                refuse_if_measured(folder, spec)
                schedule = _schedule(spec, work.schedules)
                last = spec is greeting.cells[-1]
                outcomes.append(self.cell(self._with_client(spec), here, schedule, folder, last=last).outcome)
                if self.server_has_gone:
                    break
        except ServerGone:
            return None
        return next((outcome for outcome in outcomes if outcome is not Outcome.OK), Outcome.OK)

    @property
    def server_has_gone(self) -> bool:
        """Whether the server's container has ended: the driver says so, or, where there is none, silence."""
        if self._gone or not self._by_hand or self.sidecar.silent_s <= _GONE_AFTER_S:
            return self._gone
        try:
            self.sidecar.state()
        except MachineFailure:
            return True
        return False

    @property
    def stopped(self) -> bool:
        """Whether a stop was asked for."""
        return self._stops > 0

    def note(self, cell: str, done: int, of: int) -> None:
        """Tells how far a search is."""
        self._say(Progress(cell=cell, phase="measure", done=done, of=of))

    def _with_client(self, spec: CellSpec) -> CellSpec:
        assert spec.server is not None  # noqa: S101  # the server's supervisor has said it
        here = {"client_cpus": tuple(sorted(os.sched_getaffinity(0))), "network": self._network}
        return spec.model_copy(update={"server": spec.server.model_copy(update=here)})

    def cell(self, spec: CellSpec, here: Measuring, schedule: Schedule, folder: Path, *, last: bool = False) -> Verdict:
        """Measures one cell into a run's folder, or a trial's. Where it is not the ``last``, the server has nothing in
        hand when the next one begins: one that is left with requests is ended, and the next cell has a new one.

        Raises:
            ServerGone: the server's container has ended.
        """
        try:
            state = self._ready(spec)
        except MachineFailure as error:
            if not self._by_hand:
                raise
            state = ServerState(state="dead", verdict=_gone("load", error.cause))
        writer, left_behind = CellWriter(folder, spec, result_of), False
        if state.state == "ready" and not self._stops:
            doors = Doors(self.sidecar, self._say, lambda: self._stops, lambda: self.server_has_gone)
            with self._generators(spec, here, schedule) as generators:
                run = CellRun(spec, here.greeting, state, generators, schedule.requests, doors, last=last)
                verdict = self._measured(run, writer)
                left_behind = run.left_behind
        else:
            verdict = state.verdict if state.verdict is not None and not self._stops else stopped_on_request("load")
            writer.event(here.greeting.start)
            writer.event(end_of(verdict))
        final = writer.end(verdict, self._log())
        self._say(CellEnded(cell=spec.cell_id, outcome=final.outcome, cause=final.cause))
        if left_behind and not (last or self._stops or self.server_has_gone):
            self.sidecar.renew()
        return final

    def _measured(self, run: CellRun, writer: CellWriter) -> Verdict:
        try:
            return run.run(writer)
        except ServerGone:
            if not self._by_hand:
                raise
            verdict = _gone("measure", f"the server's container has not answered for {self.sidecar.silent_s:.0f} s")
            writer.event(end_of(verdict))
            return verdict

    def _log(self) -> str:
        try:
            return self.sidecar.log()
        except MachineFailure:
            return ""

    def _ready(self, spec: CellSpec) -> ServerState:
        """A server that answers, or how it died while it was loading.

        Raises:
            ServerGone: its container has ended.
        """
        told_s = 0.0
        state = self.sidecar.start()
        while state.state == "loading" and not self._stops:
            if self._gone:
                raise ServerGone
            now = time.monotonic()
            if now - told_s >= _TELL_EVERY_S:
                told_s = now
                self._say(Progress(cell=spec.cell_id, phase="load", done=0, of=1))
            time.sleep(_ASK_EVERY_S)
            try:
                state = self.sidecar.state()
            except MachineFailure:
                time.sleep(_ASK_EVERY_S)  # its container may be ending: the driver then says so
                if self._gone:
                    raise ServerGone from None
                state = self.sidecar.state()
        return state

    def _generators(self, spec: CellSpec, here: Measuring, schedule: Schedule) -> LoadGenerators:
        entry, workload = here.greeting.entry, here.workload
        plan, load = spec.serve, spec.load
        assert plan is not None  # noqa: S101  # of a cell under load
        assert load is not None  # noqa: S101
        protocol = plan.protocol
        if protocol.client_nodes != (len(self._gathering.hosts) if self._gathering is not None else 0):
            raise BadInput(f"{spec.cell_id} asks for {protocol.client_nodes} client nodes, and others are here")
        address = Address(*(self._reached_at or self._address))
        cache = entry.prefix_cache(on=plan.prefix_cache)
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
        total, processes = None if load.open_loop else _WITHOUT_END, protocol.client_processes
        if self._gathering is not None:
            return NodeGenerators(
                self._gathering, address, entry, asks=made, load=load, order=order, total=total,
                offsets_us=schedule.offsets_us, timeout_s=protocol.request_timeout_s, processes=processes,
            )  # fmt: skip
        return Generators(
            address, entry,
            asks=made, load=load, order=order, total=total, offsets_us=schedule.offsets_us,
            timeout_s=protocol.request_timeout_s, processes=processes,
            cpus=tuple(sorted(os.sched_getaffinity(0)))[:processes],
        )  # fmt: skip


def _schedule(spec: CellSpec, schedules: Mapping[str, Schedule]) -> Schedule:
    assert spec.serve is not None  # noqa: S101  # of a cell under load
    assert spec.load is not None  # noqa: S101
    schedule = schedules[spec.load.word]
    if schedule.digest != spec.serve.schedule:
        raise BadInput(f"{spec.cell_id} was planned with another schedule than there is here")
    return schedule


def _gone(phase: Literal["load", "measure"], cause: str) -> Verdict:
    """On the cell in hand, where nobody else judges."""
    return Verdict(outcome=Outcome.CRASHED, cause=cause, phase=phase, judged_by="worker")
