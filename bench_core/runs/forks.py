"""Work on many items by several processes of one command."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOST = 8  # what comes back is put together by one process
_FEWEST_ITEMS = 16  # for fewer, starting processes takes longer than they save
_PIECES = 8  # of each process: cells differ in size

_work: Callable[[Any], Any] | None = None  # of this process's parent, at the moment it was forked


def cpus() -> int:
    """How many processes are worth it here."""
    return min(len(os.sched_getaffinity(0)), _MOST)


def spread(
    work: Callable[[T], R], items: Sequence[T], processes: int, meanwhile: Callable[[], object] | None = None
) -> list[R]:
    """``work`` of each item, in order.

    Processes are forked: they have all that ``work`` refers to without a copy, and only results are sent. So a caller
    that asks for more than one must have no threads. The first item is worked on before the fork: what that makes for
    the others, as the readers of its records, is made once.

    Args:
        meanwhile: what this process may do while others work; not called where it works alone.
    """
    global _work  # noqa: PLW0603  # what a forked process begins with
    if processes < 2 or len(items) < _FEWEST_ITEMS:
        return [work(item) for item in items]
    first, rest = work(items[0]), items[1:]
    _work = work
    try:
        with ProcessPoolExecutor(processes, get_context("fork")) as pool:
            found = pool.map(_one, rest, chunksize=max(len(rest) // (processes * _PIECES), 1))
            if meanwhile is not None:
                meanwhile()
            return [first, *found]
    finally:
        _work = None


def side_by_side(one: Callable[[], T], other: Callable[[], R], processes: int) -> tuple[T, R]:
    """What both give: the first by a process that is forked, where there may be more than one; as :func:`spread`."""
    global _work  # noqa: PLW0603  # as above
    if processes < 2:
        return one(), other()
    _work = lambda _: one()  # noqa: E731
    try:
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            found = pool.submit(_one, None)
            mine = other()
            return found.result(), mine
    finally:
        _work = None


def _one(item: Any) -> Any:
    assert _work is not None  # noqa: S101  # set before the fork
    return _work(item)
