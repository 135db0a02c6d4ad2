"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere, JSON where asked for."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench_core.contract.records.events import CellEnded
from bench_core.contract.records.events import Progress as CellProgress

_PLAIN_INTERVAL_S = 10.0


class Display:
    """Takes the news of a run; this one says nothing."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The run is over."""

    def note(self, text: str) -> None:
        """A step that is not a cell: a build, a download, a conversion."""

    def detail(self, text: str) -> None:
        """A line of a step's output: shown only while it is the newest."""

    def progress(self, news: CellProgress) -> None:
        """A batch of a cell is done."""

    def ended(self, news: CellEnded, done: int, of: int) -> None:
        """A cell has its verdict."""


def make_display(as_json: bool) -> Display:
    """The display that fits where standard output goes."""
    if as_json:
        return JsonDisplay()
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()


class JsonDisplay(Display):
    """One JSON object per line on standard output."""

    def close(self) -> None:
        """All is out."""
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """``{"type": "note"}``."""
        self._write(json.dumps({"type": "note", "text": text}))

    def detail(self, text: str) -> None:
        """``{"type": "detail"}``."""
        self._write(json.dumps({"type": "detail", "text": text}))

    def progress(self, news: CellProgress) -> None:
        """As the worker said it."""
        self._write(news.model_dump_json())

    def ended(self, news: CellEnded, done: int, of: int) -> None:
        """As the worker said it, with the count of cells."""
        self._write(json.dumps({**news.model_dump(mode="json"), "cells_done": done, "cells": of}))

    def _write(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class PlainDisplay(Display):
    """Lines on standard error; a long cell or step says every ten seconds how far it is."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def close(self) -> None:
        """All is out."""
        sys.stderr.flush()

    def note(self, text: str) -> None:
        """A line of its own."""
        self._write(text)

    def detail(self, text: str) -> None:
        """At most one in ten seconds."""
        self._sometimes("  " + text)

    def progress(self, news: CellProgress) -> None:
        """At most one in ten seconds."""
        self._sometimes(f"  {news.cell}: {news.phase} {news.done}/{news.of}")

    def ended(self, news: CellEnded, done: int, of: int) -> None:
        """A line of its own."""
        self._write(_verdict_line(news, done, of))

    def _sometimes(self, text: str) -> None:
        if time.monotonic() >= self._silent_until:
            self._write(text)

    def _write(self, text: str) -> None:
        self._silent_until = time.monotonic() + _PLAIN_INTERVAL_S
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


class LiveDisplay(Display):
    """A bar on a terminal; notes and verdicts stay above it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def note(self, text: str) -> None:
        """Above the bar."""
        self._console.print(printable(text), markup=False)
        self._bar.reset(self._task, description=_escaped(text), total=None)

    def detail(self, text: str) -> None:
        """In the bar's own line."""
        self._bar.update(self._task, description=_escaped(text[:100]))

    def progress(self, news: CellProgress) -> None:
        """The bar of the cell."""
        self._bar.update(self._task, description=f"{news.cell} {news.phase}", completed=news.done, total=news.of)

    def ended(self, news: CellEnded, done: int, of: int) -> None:
        """Above the bar."""
        self._console.print(printable(_verdict_line(news, done, of)), markup=False)
        self._bar.reset(self._task, description="", total=None)


def printable(text: str) -> str:
    """Foreign text for a terminal: lines stay lines, and nothing in it moves the cursor or colours what follows."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def _escaped(text: str) -> str:
    return printable(text).replace("[", "\\[")


def _verdict_line(news: CellEnded, done: int, of: int) -> str:
    cause = f": {news.cause}" if news.cause else ""
    return f"[{done}/{of}] {news.cell}  {news.outcome.value}{cause}"
