"""The one error that input from a person, a file or a hub may cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """Something given to the suite cannot be used: one line of cause, one line of what to do about it.

    Command lines print it as ``error: <cause>`` and ``hint: <hint>`` and exit with code 2; nothing has been written.
    """

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = " ".join(cause.split())
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return f"{self.cause} ({self.hint})" if self.hint else self.cause


class MayPass(BadInput):
    """A failure of the environment that may pass by itself: a network, a hub, a Docker engine that is restarted.

    Nothing that an engine does under measurement is one.
    """


def shortened(text: str, longest: int) -> str:
    """Foreign text of at most ``longest`` characters. Where something is left out, the end says how much:
    ``it begins so … (1234 more characters)``.

    For what engines, tools and users write. A text of the suite's own is never shortened.
    """
    if len(text) <= longest:
        return text
    kept = max(longest - len(_left_out(len(text))), 0)
    return text[:kept] + _left_out(len(text) - kept)


def _left_out(characters: int) -> str:
    return f"\N{HORIZONTAL ELLIPSIS} ({characters} more characters)"


def first_line(error: BaseException, limit: int = 300) -> str:
    """The cause of an exception in one printable line of at most ``limit`` characters, with its type in front."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    text = next((line for line in lines if line), "")
    text = "".join(char if char.isprintable() else "?" for char in text)
    name = type(error).__name__
    return shortened(f"{name}: {text}" if text else name, limit)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + "known: " + ", ".join(names)
