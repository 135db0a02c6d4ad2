"""One thread that follows a run, for all who watch it.

It takes little on purpose: what it watches may be measured on the same CPUs. News wakes it only where a person waits
for it (a cell has ended, a stop was asked for). Between two looks it rests until its share of a CPU is small.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from threading import Thread

from bench_core.contract.errors import first_line
from bench_core.contract.records.events import Progress
from bench_core.drive.show.board import Board, Change
from bench_core.drive.show.frame import heading, lines
from bench_core.drive.show.outline import Outline
from bench_core.drive.show.terminal import Terminal
from bench_core.drive.show.web import Snapshot, Web

LEAST_REST_S, LEAST_REST_ON_CPU_S = 1.0, 2.0
MOST_SHARE = 0.005  # of one CPU
_MOST_BYTES = 2 << 20  # of logs at one look
_ENDING_S = 10.0


class Follower:
    """Keeps the board, and shows it.

    Attributes:
        cpu_s: CPU time that following has taken.
        broken: why it has ended before its time; empty where it has not.
    """

    def __init__(self, outline: Outline, terminal: Terminal | None, web: Web | None) -> None:
        self._board = Board(outline, time.monotonic())
        self._terminal, self._web = terminal, web
        self._rest_s = LEAST_REST_ON_CPU_S if outline.on_cpu else LEAST_REST_S
        # Its put may be called by a signal's handler that has interrupted another put of the same thread.
        self._news: queue.SimpleQueue[tuple[Change, bool] | None] = queue.SimpleQueue()
        self._latest: dict[str, tuple[Progress, float]] = {}
        self._thread = Thread(target=self._run, name="follow", daemon=True)
        self.cpu_s = 0.0
        self.broken = ""

    def start(self) -> None:
        """Begins."""
        if self._terminal is not None:
            self._terminal.begin()
        self._thread.start()

    def tell(self, change: Change, *, at_once: bool = False) -> None:
        """News for the board. ``at_once``: somebody waits for it."""
        self._news.put((change, at_once))

    def say(self, text: str, style: str = "", *, whole: bool = False) -> None:
        """A line that stays on the terminal (see ``Terminal.say``); nothing where there is none."""
        if self._terminal is not None:
            self.tell(lambda _board, _now_s: self.print_now(text, style, whole=whole), at_once=True)

    def print_now(self, text: str, style: str = "", *, whole: bool = False) -> None:
        """The same from within a change, which is made by the thread that draws."""
        if self._terminal is not None:
            self._terminal.say(text, style, whole=whole)

    def progress(self, news: Progress) -> None:
        """A batch is done; it wakes nobody, unless the cell is a new one."""
        now_s = time.monotonic()
        known = self._latest.get(news.cell)
        self._latest[news.cell] = (news, now_s)
        if known is None or known[0].phase != news.phase:
            self.tell(lambda board, _: board.progress(news, now_s))

    def close(self) -> None:
        """Shows what there is to show and ends."""
        self._news.put(None)
        self._thread.join(_ENDING_S)
        self._board.close()

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001  # a view worth nothing beside a run that may be worth a night
            self.broken = first_line(error)
        finally:
            if self._terminal is not None:
                self._terminal.end()

    def _follow(self) -> None:
        due_s = time.monotonic()
        while True:
            try:
                told = self._news.get(timeout=max(0.0, due_s - time.monotonic()))
            except queue.Empty:
                told = _NOTHING
            if told is None:
                return
            change, at_once = told
            began_s, now_s = time.thread_time(), time.monotonic()
            change(self._board, now_s)
            if now_s >= due_s:
                self._look()
            if now_s >= due_s or (at_once and self._news.empty()):
                self._show(now_s)
            spent_s = time.thread_time() - began_s
            self.cpu_s += spent_s
            if now_s >= due_s:
                due_s = time.monotonic() + max(self._rest_s, spent_s / MOST_SHARE)

    def _look(self) -> None:
        for news, told_s in list(self._latest.values()):
            if news.cell in self._board.running:
                self._board.progress(news, told_s)
        if self._terminal is not None or (self._web is not None and self._web.is_watched):
            self._board.look(_MOST_BYTES)

    def _show(self, now_s: float) -> None:
        if self._terminal is not None:
            self._terminal.draw(self._board, now_s)
        if self._web is not None:
            told = tuple((line.label, line.words) for line in lines(self._board, now_s))
            ended = tuple(f"{one.cell}: {one.words}" for one in self._board.done)
            self._web.show(Snapshot(heading(self._board, now_s), told, ended))


def _nothing(_board: Board, _now_s: float) -> None:
    """No news: it was time for a look."""


_NOTHING: tuple[Callable[[Board, float], None], bool] = (_nothing, False)
