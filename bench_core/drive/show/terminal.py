"""The terminal: a frame that is drawn again and again at its foot, and lines above it that stay."""

from __future__ import annotations

from rich.console import Console, Group
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
        # The cursor waits on a line of its own: what the terminal echoes there (^C) moves nothing of the frame.
        self._live.update(Group(frame(board, now_s, self.console), Text("")), refresh=True)

    def say(self, text: str, style: str = "", *, whole: bool = False) -> None:
        """A line above the frame, folded between words.

        Args:
            whole: the terminal wraps it, not this program, so that it can be copied as one line.
        """
        # Of the text alone: print's own soft_wrap would be the frame's as well, which is drawn in the same call.
        how = Text(text, style=style, no_wrap=whole, overflow="ignore" if whole else "fold")
        self.console.print(how, crop=not whole)

    def end(self) -> None:
        """Takes the frame away."""
        self._live.update(Text(""))
        self._live.stop()
