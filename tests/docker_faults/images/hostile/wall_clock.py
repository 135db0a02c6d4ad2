"""A wall clock that is set back and forth by days between any two looks at it, as an administrator might set it once.

What is replaced are Python's ``time.time`` and ``time.time_ns`` in this process; the machine's own clock stays.
"""

from __future__ import annotations

import itertools
import time

_DAY_S = 86400
_JUMPS_S = itertools.cycle((0, 3 * _DAY_S, -2 * _DAY_S, 400 * _DAY_S, -_DAY_S))
_true_ns = time.time_ns


def _jumping_ns() -> int:
    return _true_ns() + next(_JUMPS_S) * 10**9


time.time_ns = _jumping_ns
time.time = lambda: _jumping_ns() / 1e9
