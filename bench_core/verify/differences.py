"""What a verification finds, one line each, and how two pieces of data are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_core.contract.records import layout
from bench_core.system.text import one_line

# Sums of the same numbers differ in their last digits between versions of Python; no measurement has twelve digits.
SAME_WITHIN = 1e-12


@dataclass(frozen=True)
class Difference:
    """Something in a run that does not agree with the rest of it.

    Attributes:
        file: relative to the run's folder, with the line where there is one.
        cell: the cell concerned; ``None`` for the whole run.
        what: one line.
    """

    file: str
    cell: str | None
    what: str

    @property
    def line(self) -> str:
        """``file: cell: what``."""
        return one_line(": ".join(part for part in (self.file, self.cell, self.what) if part))


def in_cell(cell: str, file: str, what: str) -> Difference:
    """A difference in a file of a cell's folder."""
    return Difference(f"{layout.CELLS_FOLDER}/{cell}/{file}", cell, " ".join(what.split()))


def of_run(file: str, what: str, cell: str | None = None) -> Difference:
    """A difference in a file of the run's folder."""
    return Difference(file, cell, " ".join(what.split()))


def present(path: Path) -> bool:
    """Whether something of that name is there, be it a dangling link."""
    return path.exists() or path.is_symlink()


def unequal(has: Any, expected: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two pieces of plain JSON data differ: (path, has, expected).

    A key that only ``expected`` has is left out: the file was then written before there was such a number.
    """
    if isinstance(has, dict) and isinstance(expected, dict):
        for key, value in has.items():
            path = f"{where}.{key}" if where else key
            if key in expected:
                yield from unequal(value, expected[key], path)
            else:
                yield path, value, None
    elif isinstance(has, list) and isinstance(expected, list) and len(has) == len(expected):
        for index, pair in enumerate(zip(has, expected, strict=True)):
            yield from unequal(*pair, f"{where}.{index}")
    elif isinstance(has, float) and isinstance(expected, float):
        if not math.isclose(has, expected, rel_tol=SAME_WITHIN, abs_tol=0.0):
            yield where, has, expected
    elif has != expected or isinstance(has, bool) != isinstance(expected, bool):
        yield where, has, expected


def absent(has: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Paths of what ``expected`` has and ``has`` does not name at all."""
    if isinstance(has, dict) and isinstance(expected, dict):
        for key, value in expected.items():
            path = f"{where}.{key}" if where else key
            if key in has:
                yield from absent(has[key], value, path)
            elif value is not None:
                yield path
