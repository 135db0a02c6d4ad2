"""A board in words, line by line, and as a frame for a terminal of any width."""

from __future__ import annotations

from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bench_core.contract.records.events import Progress
from bench_core.drive.plan.estimate import readable_duration
from bench_core.drive.run.progress import printable
from bench_core.drive.show.board import Board, Done, Running, StepState
from bench_core.prepare.disk import readable

NARROW = 44  # columns; below, a label stands in its line and not beside it
_LABEL_COLUMNS = 9
_FEW_S = 5.0
_MOST_NAMED = (4, 2, 0)  # cells or steps named in a line, the fuller the frame the fewer
_STYLES = {"failed": "bold red", "trouble": "yellow", "stop": "bold yellow", "running": "bold"}


class Line(NamedTuple):
    """What it is about (``running``, ``to come``), and the words."""

    label: str
    words: str


def heading(board: Board, now_s: float) -> str:
    """``results/mine: 3 of 12 cells ended, 1 failed; 4 min so far, about 12 min left (from measured times)``."""
    parts = []
    if board.of:
        failed = f", {len(board.failed)} failed" if board.failed else ""
        parts.append(f"{len(board.done)} of {board.of} cells ended{failed}")
    times = f"{readable_duration(now_s - board.began_s)} so far"
    left = board.left(now_s)
    if left is not None:
        basis = "from measured times" if left.measured else "rough"
        more = ", and what was never built" if left.unknown else ""
        about = f"about {readable_duration(left.seconds)}" if left.seconds >= _FEW_S else "a few seconds"
        times += f", {about} left{more} ({basis})"
    return printable(f"{board.outline.title or board.outline.run_folder}: {'; '.join([*parts, times])}")


def lines(board: Board, now_s: float, most_named: int = _MOST_NAMED[0]) -> list[Line]:
    """What is told below the heading, what matters first.

    Args:
        most_named: cells and steps that are named in one line; those left out are counted.
    """
    found = [Line("stop", board.stop)] if board.stop else []
    found += [Line("running", _running(one, now_s)) for one in board.running.values()]
    step = board.step_in_hand
    if step is not None:
        found.append(Line("now", _step(step, now_s)))
        found += [Line("", board.newest)] if board.newest else []
    failed = [_failed(one) for one in board.failed]
    found += [Line("failed", words) for words in _last(failed, max(most_named, 1))]
    found += [Line("trouble", words) for words in _last(board.troubles, max(most_named, 1))]
    ended = [f"{one.step.name} in {_took(one)}" for one in board.steps.values() if one.ended_s is not None]
    if not board.done and not board.running:
        found += [Line("made", "; ".join(_last(ended, most_named)))] if ended and most_named else []
    waiting = [_expected(one) for one in board.steps.values() if one.began_s is None]
    found += [Line("to make", "; ".join(_first(waiting, most_named)))] if waiting else []
    found += [Line("to come", ", ".join(_first(board.to_come, most_named)))] if board.to_come else []
    return [Line(line.label, printable(line.words)) for line in found]


def frame(board: Board, now_s: float, console: Console) -> RenderableType:
    """All of it, within the terminal's width and height: lines fold, and a low terminal has fewer names."""
    width, height = console.size
    made: Table | None = None
    for most_named in _MOST_NAMED:
        made = _table(heading(board, now_s), lines(board, now_s, most_named), width)
        if len(console.render_lines(made, pad=False)) < height - 1:
            return made
    assert made is not None  # noqa: S101  # there is one at least
    return made


def _table(title: str, rows: list[Line], width: int) -> Table:
    grid = Table.grid(padding=(0, 1))
    if width < NARROW:
        grid.add_column(overflow="fold")
        grid.add_row(Text(title, style="bold"))
        for label, words in rows:
            grid.add_row(Text(f"{label}: {words}" if label else words, style=_STYLES.get(label, "")))
        return grid
    whole = Table.grid()
    whole.add_column(overflow="fold")
    whole.add_row(Text(title, style="bold"))
    grid.add_column(width=_LABEL_COLUMNS, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, words in rows:
        grid.add_row(Text(label, style=_STYLES.get(label, "dim")), Text(words, style="" if label else "dim"))
    whole.add_row(grid)
    return whole


def ended_line(done: Done, number: int, of: int) -> str:
    """``[3/12] null.scripted.b4  764.1 ± 0.04 token/s, TTFT p50 0.0203 s (41 s)``."""
    took = f" ({readable_duration(done.seconds)})" if done.seconds is not None else ""
    return printable(f"[{number}/{of}] {done.cell}  {done.words}{took}")


def _running(running: Running, now_s: float) -> str:
    took = readable_duration(now_s - running.began_s)
    so_far = running.so_far.words()
    return f"{running.cell}: {_phase(running.news, load=running.load)}{f'; {so_far} so far' if so_far else ''}; {took}"


def _phase(news: Progress, *, load: bool) -> str:
    if news.phase in ("load", "prepare"):
        return news.phase
    if load:
        return f"{news.phase}, {readable_duration(news.done)} of at most {readable_duration(news.of)}"
    return f"{news.phase}, batch {news.done} of at most {news.of}"


def _step(state: StepState, now_s: float) -> str:
    step, began_s = state.step, state.began_s if state.began_s is not None else now_s
    size = f", {readable(step.size_bytes)}" if step.size_bytes is not None else ""
    of = f" of about {readable_duration(step.expected_s)}" if step.expected_s is not None else ""
    return f"{step.name}{size}: {readable_duration(now_s - began_s)}{of}"


def _expected(state: StepState) -> str:
    step = state.step
    facts = [readable(step.size_bytes)] if step.size_bytes is not None else []
    facts += [f"about {readable_duration(step.expected_s)}"] if step.expected_s is not None else []
    return f"{step.name} ({', '.join(facts)})" if facts else step.name


def _took(state: StepState) -> str:
    return readable_duration((state.ended_s or 0.0) - (state.began_s or 0.0))


def _failed(done: Done) -> str:
    return f"{done.cell}: {done.words}"


def _first(names: list[str], most: int) -> list[str]:
    if len(names) <= most + 1:
        return names
    return [*names[:most], f"{len(names) - most} {'more' if most else 'cells or steps'}"]


def _last(names: list[str], most: int) -> list[str]:
    return names if len(names) <= most else [*names[-most:], f"and {len(names) - most} before"]
