"""What a call shows, by where it goes: lines for a pipe, JSON where asked for, a frame on a terminal, a page beside."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from bench_core.contract.records import layout
from bench_core.contract.records.events import CellEnded, Progress
from bench_core.contract.records.run import PlannedCell
from bench_core.contract.records.workload import Workload
from bench_core.drive.plan.builds import BuildBegins
from bench_core.drive.run.progress import Display, JsonDisplay, PlainDisplay, printable
from bench_core.drive.show.board import Board
from bench_core.drive.show.follow import Follower
from bench_core.drive.show.frame import ended_line
from bench_core.drive.show.outline import Outline
from bench_core.drive.show.terminal import Terminal
from bench_core.drive.show.web import Web

_LONGEST_DETAIL = 200
_STOPPING = (
    "Stopping after the batch in hand (a load ends now); then the report is written. Ctrl-C again ends it at once."
)


def make_display(as_json: bool, outline: Outline, web: Web | None = None) -> Display:
    """The display that fits where standard error goes; ``web``: a page beside it."""
    lines: Display | None = JsonDisplay() if as_json else None
    if lines is None and not (sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb")):
        lines = PlainDisplay()
    if lines is not None and web is None:
        return lines
    return FollowedDisplay(outline, lines, web)


class FollowedDisplay(Display):
    """A board that is followed on a terminal or by a browser; where it is no terminal, the usual lines too."""

    def __init__(self, outline: Outline, lines: Display | None, web: Web | None = None) -> None:
        """``lines``: takes the place of the terminal."""
        self._outline, self._lines, self._web = outline, lines, web
        self.follower = Follower(outline, Terminal() if lines is None else None, web)
        if web is not None:
            web.begin(outline.run_folder, on_cpu=outline.on_cpu)

    def __enter__(self) -> Display:
        self.follower.start()
        return self

    def close(self) -> None:
        """Takes the frame away."""
        self.follower.close()
        self._plainly.close()

    @property
    def _plainly(self) -> Display:
        """Lines, where there is no terminal, or where the view of it has failed."""
        if self._lines is None and self.follower.broken:
            self._lines = PlainDisplay()
            self._lines.note(f"the view has failed, lines follow: {self.follower.broken}")
        return self._lines or _NONE

    def note(self, text: str) -> None:
        """Above the frame."""
        self.follower.say(printable(text))
        self._plainly.note(text)

    def detail(self, text: str) -> None:
        """In the frame, while it is the newest."""
        if isinstance(text, BuildBegins):
            self.step(f"build {text.build}")
        else:
            self.follower.tell(lambda board, _: _set_newest(board, text))
        self._plainly.detail(text)

    def trouble(self, text: str) -> None:
        """Above the frame and in it, where it stays."""
        self.follower.tell(lambda board, _: board.troubles.append(text))
        self.follower.say(printable(text), "yellow")
        self._plainly.trouble(text)

    def step(self, name: str) -> None:
        """In the frame."""
        self.follower.tell(lambda board, now_s: board.begin_step(name, now_s), at_once=True)
        self._plainly.step(name)

    def measures(self, folder: Path, workload: Workload, cells: Iterable[PlannedCell]) -> None:
        """The frame is of cells from now on."""
        planned = tuple(cells)
        self.follower.tell(lambda board, now_s: board.measures(folder, workload, planned, now_s), at_once=True)
        self._plainly.measures(folder, workload, planned)

    def between(self) -> None:
        """On a CPU a page is made now, if somebody waits for one."""
        if self._web is not None:
            self._web.between()

    def stopping(self, times: int, *, measuring: bool) -> None:
        """Says at once what it will do and how to go on."""
        words = "Stopped; no cell was being measured."
        if measuring:
            words = _STOPPING if times == 1 else "Ending at once, in the middle of a batch."
        there = (self._outline.run_folder / layout.RUN_FILE).is_file()
        resume = f"Go on later: {self._outline.resume}" if there else "Nothing was begun: call it again."
        self.follower.tell(lambda board, _: setattr(board, "stop", words), at_once=True)
        self.follower.say(words, "bold yellow")
        self.follower.say(printable(resume), "bold yellow", whole=True)

    def progress(self, news: Progress) -> None:
        """In the frame, at its next drawing."""
        self.follower.progress(news)
        self._plainly.progress(news)

    def ended(self, news: CellEnded, done: int, of: int) -> None:
        """Above the frame, with its number; one that failed in the frame as well."""
        if self._web is not None:
            self._web.ended += 1
        self.follower.tell(lambda board, now_s: self._ended(board, news, done, of, now_s), at_once=True)
        self._plainly.ended(news, done, of)

    def _ended(self, board: Board, news: CellEnded, done: int, of: int, now_s: float) -> None:
        ended = board.ended(news, of, now_s)
        self.follower.print_now(ended_line(ended, done, of), "" if ended.well else "bold red")


def _set_newest(board: Board, text: str) -> None:
    board.newest = next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()[:_LONGEST_DETAIL]


_NONE = Display()
