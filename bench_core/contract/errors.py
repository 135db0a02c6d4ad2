"""The one error that input from a person, a file or a hub may cause."""

from __future__ import annotations

import errno
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


class MachineFailure(BadInput):
    """This machine does not let the work be done: no GPU answers, a folder cannot be written, the disk is full.

    Says nothing of what was asked for, so it is never the outcome of a cell. Command lines exit with
    ``EXIT_MACHINE``; what was not measured is still to come.
    """


class MayPass(MachineFailure):
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


# What the same program would meet with any other input. Memory and descriptors are not among it: that an engine needs
# too many is a result.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
_OF_OUR_OWN_WRITING = (errno.EROFS, errno.EFBIG)
_NO_SPACE = ("no space left on device", "disk quota exceeded")  # of libraries that keep no number


def is_of_the_machine(error: BaseException, *, own: bool = False) -> bool:
    """Whether an exception tells of a machine that does not hold what is written, not of what was asked for.

    Args:
        own: it was raised where the suite itself writes. An engine that writes where it may not has failed itself.
    """
    if isinstance(error, MachineFailure):
        return True
    if isinstance(error, OSError) and error.errno in (*_OF_THE_MACHINE, *(_OF_OUR_OWN_WRITING if own else ())):
        return True
    return any(words in str(error).lower() for words in _NO_SPACE)


def first_line(error: BaseException, limit: int = 300) -> str:
    """The cause of an exception in one printable line of at most ``limit`` characters, with its type in front."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    text = next((line for line in lines if line), "")
    text = "".join(char if char.isprintable() else "?" for char in text)
    name = type(error).__name__
    return shortened(f"{name}: {text}" if text else name, limit)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word and all of them."""
    import difflib  # noqa: PLC0415  # of a mistake alone: a launch is mostly imports

    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + "known: " + ", ".join(names)
