"""The terminal: a frame that is drawn again and again at its foot, and lines above it that stay."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bench_core.drive.show.board import Board
from bench_core.drive.show.frame import frame


class Terminal:
    """Standard error of a person's terminal. Used by one thread at a time.

    Attributes:
        console: that is drawn on.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def begin(self) -> None:
        """From now on there is a frame. The cursor stays: no way of ending leaves a terminal without one."""
        self._live.start()
        self.console.show_cursor(True)

    def draw(self, board: Board, now_s: float) -> None:
        """The frame, as the board is now."""
        self._live.update(frame(board, now_s, self.console), refresh=True)

    def say(self, text: str, style: str = "") -> None:
        """A line above the frame. The terminal wraps it, not this program, so that paths and commands can be copied."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def end(self) -> None:
        """Takes the frame away."""
        self._live.update(Text(""))
        self._live.stop()
