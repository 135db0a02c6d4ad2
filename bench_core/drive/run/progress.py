"""What a run tells while it goes on: plain lines, or JSON where asked for. On a terminal, ``drive.show`` draws them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from bench_core.contract.records.events import CellEnded
from bench_core.contract.records.events import Progress as CellProgress
from bench_core.contract.records.run import PlannedCell
from bench_core.contract.records.workload import Workload
from bench_core.prepare.staging import Waiting

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

    def trouble(self, text: str) -> None:
        """A note that says what went wrong, though the run goes on."""
        self.note(text)

    def step(self, name: str) -> None:
        """A step of the plan begins, and the one before it has ended; without a name none begins."""

    def measures(self, folder: Path, workload: Workload, cells: Iterable[PlannedCell]) -> None:
        """These cells are measured into this folder from now on; what was made ready before is done."""

    def between(self) -> None:
        """Nothing is being measured on this device until this returns."""

    def stopping(self, times: int, *, measuring: bool) -> None:
        """A stop was asked for, for the ``times``-th time. Called by a signal: it interrupts whatever goes on."""

    def progress(self, news: CellProgress) -> None:
        """A batch of a cell is done."""

    def ended(self, news: CellEnded, done: int, of: int) -> None:
        """A cell has its verdict."""


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
        """At most one in ten seconds, but for one that says why nothing goes on."""
        if isinstance(text, Waiting):
            self._write("  " + text)
        else:
            self._sometimes("  " + text)

    def progress(self, news: CellProgress) -> None:
        """At most one in ten seconds."""
        self._sometimes(f"  {news.cell}: {news.phase} {news.done}/{news.of}")

    def ended(self, news: CellEnded, done: int, of: int) -> None:
        """A line of its own."""
        self._write(verdict_line(news, done, of))

    def _sometimes(self, text: str) -> None:
        if time.monotonic() >= self._silent_until:
            self._write(text)

    def _write(self, text: str) -> None:
        self._silent_until = time.monotonic() + _PLAIN_INTERVAL_S
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def printable(text: str) -> str:
    """Foreign text for a terminal: lines stay lines, and nothing in it moves the cursor or colours what follows."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def verdict_line(news: CellEnded, done: int, of: int) -> str:
    """``[3/12] cell  outcome: cause``."""
    return f"[{done}/{of}] {news.cell}  {news.words}"
