"""Cells under load: their records, their schedules, and their event logs against both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.result import serving_result
from bench_core.contract.serving.schedule import Schedule, constant, poisson
from bench_core.runs.files import Unreadable, read_serve_events
from bench_core.runs.served import read_schedule
from bench_core.runs.view import ServedRow
from bench_core.verify.differences import in_cell, of_run
from bench_core.verify.logs import LogFacts
from bench_core.verify.records import RecordChecks, damaged
from bench_core.verify.serving_log import log_differences

# Two C libraries may round a logarithm to neighbouring microseconds.
_SAME_OFFSET_US = 1

NO_COURSE = "why windows ended when they did: logs of an earlier version do not keep the looks at the load"


class ServedChecks(RecordChecks[ServedRow]):
    """All checks of the cells under load of one run."""

    @property
    def _rows(self) -> Iterable[ServedRow]:
        return (*self._view.served, *self._view.own_error_served)

    def _schedule(self, row: ServedRow) -> Schedule | None:
        """The cell's schedule, held against its spec and made again; ``None`` where there is none to use."""
        spec, cell = row.spec, row.planned.cell
        if spec is None:
            return None
        if spec.serve is None or spec.load is None:
            self.found.append(in_cell(cell, layout.SPEC_FILE, "does not say how requests were sent"))
            return None
        try:
            schedule = read_schedule(self._folder, spec)
        except Unreadable as error:
            if row.damage is None or row.damage != error.damage:
                self.found.append(damaged(cell, error.damage))
            return None
        except OSError as error:
            self.found.append(of_run(layout.SCHEDULES_FOLDER, first_line(error), cell))
            return None
        name = f"{layout.SCHEDULES_FOLDER}/{spec.load.word}.json.gz"
        self.found += [of_run(name, what, cell) for what in schedule_differences(spec, schedule)]
        return schedule

    def _log(self, row: ServedRow, folder: Path) -> None:
        schedule = self._schedule(row)  # which a cell without a log has as well
        there = self._whole_log(row, folder)
        if there is None:
            return
        cell, (path, verdict) = row.planned.cell, there
        try:
            events = read_serve_events(self._folder, folder)
        except Unreadable as error:
            self._unreadable(row, verdict, error)
            return
        self.found += [in_cell(cell, layout.OUTCOME_FILE, what) for what in _outcome(cell, row, verdict, events)]
        if row.spec is not None and row.spec.serve is not None and row.spec.load is not None:
            found = log_differences(events, row.spec, row.spec.serve.protocol, row.spec.load, schedule)
            self.found += [in_cell(cell, path.name, what) for what in found]
            if events.window is not None and events.course is None:
                self._note(
                    "why windows ended when they did: logs of an earlier version do not keep the looks at the load"
                )
            if self._view.workload is not None:
                lengths = [len(ids) for ids in self._view.workload.prompts]
                self.found += [in_cell(cell, path.name, what) for what in _lengths(events, lengths)]
        self._own_code(row, path.name, events.start)
        self.facts.append((cell, self._place(row), _facts(events)))


def schedule_differences(spec: CellSpec, schedule: Schedule) -> Iterator[str]:
    """How a schedule differs from what the cell asked for; that of a rate follows from its seed."""
    load = spec.load
    assert load is not None  # noqa: S101  # of a cell under load
    assert spec.serve is not None  # noqa: S101
    asked = (load.load, load.concurrency, load.request_rate)
    has = (schedule.load, schedule.concurrency, schedule.request_rate)
    if has != asked:
        yield f"is of {has}, and the cell's load is {asked}"
        return
    if load.load == "trace":
        return
    seed, prompts = spec.serve.protocol.arrival_seed, spec.workload.prompts
    if schedule.output_tokens != spec.max_new_tokens:
        yield f"asks for other numbers of tokens than {spec.max_new_tokens}"
    if any(prompt != place % prompts for place, prompt in enumerate(schedule.prompts)):
        yield "its prompts are not those of the workload in their order"
    if load.request_rate is None:
        if len(schedule.prompts) != prompts:
            yield f"has {len(schedule.prompts)} prompts, the workload {prompts}"
        return
    if schedule.seed != seed or schedule.arrivals != load.arrivals:
        yield f"is of seed {schedule.seed} and {schedule.arrivals} arrivals, asked for were {seed} and {load.arrivals}"
        return
    count = len(schedule.offsets_us)
    made = poisson(load.request_rate, seed, count) if load.arrivals == "poisson" else constant(load.request_rate, count)
    pairs = enumerate(zip(schedule.offsets_us, made, strict=True))
    for place, (offset, expected) in pairs:
        if abs(offset - expected) > _SAME_OFFSET_US:
            yield f"request {place} is sent after {offset} µs, from the seed follow {expected} µs"
            return


def _outcome(cell: str, row: ServedRow, verdict: Verdict, events: ServeEvents) -> Iterator[str]:
    """An ``ok`` of a bad log is damage to the report already; here the reverse, and one failure for another."""
    if events.end is None or verdict.judged_by != "worker":
        return
    ends, says = events.end.outcome, verdict.outcome
    if ends is Outcome.OK and says is not Outcome.OK:
        if says is not Outcome.CRASHED or _follows(cell, row, events):  # a client withdraws a good end without numbers
            yield f"outcome is {says.value}, but the event log ends well"
    elif ends is not Outcome.OK and ends is not says:
        yield f"outcome is {says.value}, but the event log ends with {ends.value}"
    elif ends is not Outcome.OK and events.end.cause != verdict.cause:
        yield f"cause is {verdict.cause!r}, but the event log says {events.end.cause!r}"


def _follows(cell: str, row: ServedRow, events: ServeEvents) -> bool:
    """Whether numbers follow from a log."""
    limits = row.spec.serve.protocol.limits if row.spec is not None and row.spec.serve is not None else None
    try:
        serving_result(cell, events, limits)
    except (BadInput, ArithmeticError, ValueError):
        return False
    return True


def _lengths(events: ServeEvents, lengths: list[int]) -> Iterator[str]:
    for request in events.requests:
        if request.prompt >= len(lengths):
            yield f"request {request.index}: prompt {request.prompt} is not in the workload"
            return
        if request.prompt_tokens != lengths[request.prompt]:
            told, there = request.prompt_tokens, lengths[request.prompt]
            yield f"request {request.index}: {told} prompt tokens are told, its prompt has {there}"
            return


def _facts(events: ServeEvents) -> LogFacts:
    """As far as other cells must know: when it was measured, and what tells it from a copy of it."""
    if not events.requests:
        return LogFacts(start=events.start, end=events.end)
    begin_s = min(request.scheduled_s for request in events.requests)
    last_s = max(request.ended_s for request in events.requests)
    told = json.dumps([(request.sent_s, request.ended_s) for request in events.requests])
    word = f"requests {hashlib.sha256(told.encode()).hexdigest()}"
    return LogFacts(start=events.start, end=events.end, batches=[(word, begin_s, last_s - begin_s)])
