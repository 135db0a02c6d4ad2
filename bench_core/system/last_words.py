"""What a person reads last who started a container by hand: each cell's number or cause, and what comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Verdict


def last_words(run_folder: Path, cells: Iterable[str], number: Callable[[Path], str], then: str = "") -> list[str]:
    """Lines for standard error.

    Args:
        number: from a cell's folder to its number in words.

            Raises BadInput where it has no result.
        then: a command that comes last, such as one that removes what is left; none where empty.
    """
    lines = [f"{cell}: {_told(layout.cell_folder(run_folder, cell), number)}" for cell in cells]
    folder = f"results/{run_folder.name}"  # of the host, where compose is called
    lines += [f"run folder: {folder}", f"tables and figures: python -m bench_core.report {folder}"]
    return [*lines, *([f"remove the containers that are left: {then}"] if then else [])]


def _told(folder: Path, number: Callable[[Path], str]) -> str:
    try:
        return number(folder)
    except BadInput:
        pass
    try:
        verdict = Verdict.read(folder / layout.OUTCOME_FILE)
        return f"{verdict.outcome.value}: {verdict.cause}"
    except BadInput:
        return "not reached"
