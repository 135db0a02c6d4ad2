"""Where a run stands, and how long the rest of it will take. No clock is read here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench_core.contract.records import layout
from bench_core.contract.records.events import CellEnded, Progress
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import PlannedCell
from bench_core.contract.records.workload import Workload
from bench_core.drive.show.outline import Outline, Step
from bench_core.drive.show.so_far import BatchesSoFar, ServedSoFar, SoFar, ended_words
from bench_core.drive.show.tail import Tail, read_beneath

_WELL = (Outcome.OK, Outcome.SKIPPED)


@dataclass
class StepState:
    """A step, and when it began and ended."""

    step: Step
    began_s: float | None = None
    ended_s: float | None = None


@dataclass
class Running:
    """A cell in hand."""

    cell: str
    began_s: float
    tail: Tail
    so_far: SoFar
    news: Progress
    told_s: float  # when that came
    load: bool = False  # requests to a server: how far it is counts in seconds
    measuring_s: float | None = None


class Done(NamedTuple):
    """A cell that has ended; ``words``: its number, or how it failed."""

    cell: str
    well: bool
    words: str
    seconds: float | None


class Left(NamedTuple):
    """What a call will roughly still take.

    Attributes:
        measured: cells whose own times it follows from; 0: it is the plan's estimate.
        unknown: steps whose time nobody knows, which come on top.
    """

    seconds: float
    measured: int
    unknown: int


@dataclass
class Board:
    """Of one call; all times are of CLOCK_MONOTONIC."""

    outline: Outline
    began_s: float
    steps: dict[str, StepState] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    newest: str = ""  # line of the step in hand
    stop: str = ""  # what a stop that was asked for will do
    of: int = 0
    _folder: Path | None = None
    _workload: Workload | None = None
    _planned: dict[str, PlannedCell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = {step.name: StepState(step) for step in self.outline.steps}
        self.of = len(self.outline.cells)

    # News

    def begin_step(self, name: str, now_s: float) -> None:
        """A step begins, or none does; the one before it has ended."""
        for state in self.steps.values():
            if state.began_s is not None and state.ended_s is None:
                state.ended_s = now_s
        self.newest = ""
        if name:
            known = self.steps.get(name)
            self.steps[name] = StepState(known.step if known is not None else Step(name), began_s=now_s)

    def measures(self, folder: Path, workload: Workload, cells: Iterable[PlannedCell], now_s: float) -> None:
        """These cells are measured into this folder from now on: no step is to come."""
        self.begin_step("", now_s)
        self.steps = {name: state for name, state in self.steps.items() if state.began_s is not None}
        self._folder, self._workload = folder, workload
        self._planned |= {planned.cell: planned for planned in cells}

    def progress(self, news: Progress, told_s: float) -> None:
        """A cell goes on, or begins."""
        running = self.running.get(news.cell)
        if running is None or (news.phase in ("load", "prepare") and running.news.phase not in ("load", "prepare")):
            if running is not None:
                running.tail.close()
            tail = Tail(self._folder or self.outline.run_folder, news.cell)
            load = self._kind(news.cell) is True
            running = Running(news.cell, told_s, tail, self._so_far(news.cell), news, told_s, load)
            self.running[news.cell] = running
        if news.phase == "measure" and running.measuring_s is None:
            running.measuring_s = told_s
            running.so_far.measuring_since(told_s)
        running.news, running.told_s = news, told_s

    def _so_far(self, cell: str) -> SoFar:
        planned = self._planned.get(cell)
        if planned is None or planned.load is not None:
            return ServedSoFar()
        return BatchesSoFar(planned.batch_size, self._workload)

    def ended(self, news: CellEnded, of: int, now_s: float) -> Done:
        """A cell has ended."""
        running = self.running.pop(news.cell, None)
        seconds = None
        if running is not None:
            running.tail.close()
            seconds = now_s - running.began_s
        words = news.words
        if news.outcome is Outcome.OK:
            words = self._number(news.cell) or words
        ended = Done(news.cell, news.outcome in _WELL or news.stopped, words, seconds)
        self.done = [*(one for one in self.done if one.cell != news.cell), ended]
        self.of = max(of, len(self.done))
        return ended

    def _number(self, cell: str) -> str:
        folder = self._folder or self.outline.run_folder
        try:
            result = read_beneath(folder, layout.CELLS_FOLDER, cell, layout.RESULT_FILE)
        except OSError:
            return ""
        planned = self._planned.get(cell)
        return ended_words(result, served=planned is not None and planned.load is not None)

    def look(self, most_bytes: int) -> None:
        """Reads what the logs of the cells in hand have grown by, at most so much."""
        for running in self.running.values():
            for line in running.tail.lines(most_bytes // len(self.running)):
                running.so_far.take(line)

    def close(self) -> None:
        """Reads no more."""
        for running in self.running.values():
            running.tail.close()

    # What follows

    @property
    def step_in_hand(self) -> StepState | None:
        """What is being done before cells are measured; ``None`` where nothing is."""
        states = self.steps.values()
        return next((one for one in states if one.began_s is not None and one.ended_s is None), None)

    @property
    def failed(self) -> list[Done]:
        """Cells that have ended badly."""
        return [one for one in self.done if not one.well]

    @property
    def to_come(self) -> list[str]:
        """Cells that have not begun."""
        begun = {*self.running, *(one.cell for one in self.done)}
        return [cell for cell in self.outline.cells if cell not in begun]

    def left(self, now_s: float) -> Left | None:
        """Steps by their estimates; cells by the times that cells of the same method have taken so far, compared with
        the plan's estimates of them, or else that all cells of their kind have. ``None`` where nothing was planned."""
        if not self.outline.cells and not self.outline.steps:
            return None
        before_s, unknown = self._steps_left(now_s)
        # One that failed has not taken the time of a cell.
        took = [one for one in self.done if one.well and one.seconds and self.outline.cells.get(one.cell, 0) > 0]
        cells_s = sum(self._expected_s(cell, took) for cell in self.to_come)
        for running in self.running.values():
            cells_s += self._rest_s(running, self._expected_s(running.cell, took), now_s)
        places = min(self.outline.places, max(len(self.to_come) + len(self.running), 1))
        return Left(before_s + cells_s / places, len(took), unknown)

    def _steps_left(self, now_s: float) -> tuple[float, int]:
        seconds, unknown = 0.0, 0
        for state in self.steps.values():
            if state.ended_s is not None:
                continue
            if state.step.expected_s is None:
                unknown += 1
                continue
            seconds += max(0.0, state.step.expected_s - (now_s - state.began_s if state.began_s is not None else 0.0))
        return seconds, unknown

    def _expected_s(self, cell: str, took: list[Done]) -> float:
        planned_s = self.outline.cells.get(cell, 0.0)
        for alike in (self._method, self._kind):
            same = [one for one in took if alike(one.cell) == alike(cell)]
            planned_of_them = math.fsum(self.outline.cells[one.cell] for one in same)
            if same and planned_of_them > 0:
                return planned_s * math.fsum(one.seconds or 0.0 for one in same) / planned_of_them
        return planned_s

    def _method(self, cell: str) -> object:
        planned = self._planned.get(cell)
        return (planned.image, planned.variant, self._kind(cell)) if planned is not None else None

    def _kind(self, cell: str) -> object:
        planned = self._planned.get(cell)
        return planned is not None and planned.load is not None

    @staticmethod
    def _rest_s(running: Running, expected_s: float, now_s: float) -> float:
        rest_s = max(0.0, expected_s - (now_s - running.began_s))
        if running.measuring_s is None or not 0 < running.news.done <= running.news.of:
            return rest_s
        # Never more than if it went on to its last batch, or to the limit of its window.
        since_s = running.told_s - running.began_s
        return min(rest_s, since_s / running.news.done * (running.news.of - running.news.done))


Change = Callable[[Board, float], None]
