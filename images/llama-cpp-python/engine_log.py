"""llama.cpp's log: silent, but remembered, since null pointers and codes are all that its functions return."""

from __future__ import annotations

import os
import re
from collections import deque

import llama_cpp as lib

from bench_core.contract.records.outcome import Outcome

# ggml.h's log levels; the binding does not name them.
_DEBUG, _WARN, _ERROR = 1, 3, 4

_OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|unable to allocate|cudaMalloc failed|bad_alloc", re.I)
_UNSUPPORTED = re.compile(r"unknown model architecture|unsupported|not supported|no kernel image|requires", re.I)


class EngineError(RuntimeError):
    """llama.cpp said no: it returns null or a code, and its reason stands in its log."""

    def __init__(self, what: str, outcome: Outcome | None, reason: str = "") -> None:
        super().__init__(f"{what}: {reason}" if reason else what)
        self.outcome = outcome


class EngineLog:
    """The engine's last lines, in place of its chatter on stderr; errors alone are printed as well.

    One for the whole process: the library keeps the callback's address as long as it lives.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=2000)
        self._callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self._callback, None)

    def _take(self, level: int, text: bytes, _data: int | None) -> None:
        if level == _ERROR:
            # ggml aborts the process after some errors (a CUDA call that failed): nobody can ask for them any more.
            os.write(2, text)
        if level != _DEBUG:
            self._lines.append((level, text.decode("utf-8", "replace")))

    def clear(self) -> None:
        self._lines.clear()

    def text(self) -> str:
        """All lines since the last ``clear``; a line may have come in pieces."""
        return "".join(text for _, text in self._lines)

    def errors(self) -> str:
        """What went wrong, in one line, the last at the front: errors, or warnings where there are none."""
        for wanted in (_ERROR, _WARN):
            lines = [" ".join(text.split()) for level, text in self._lines if level == wanted]
            if lines:
                return " <- ".join(reversed(lines))[:600]
        return ""


LOG = EngineLog()


def failure(what: str, out_of_memory: Outcome, otherwise: Outcome | None) -> EngineError:
    """The error for a null pointer, told apart by what the log says."""
    reason = LOG.errors()
    if _OUT_OF_MEMORY.search(reason):
        return EngineError(what, out_of_memory, reason)
    return EngineError(what, Outcome.UNSUPPORTED if _UNSUPPORTED.search(reason) else otherwise, reason)
