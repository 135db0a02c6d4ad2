"""Tables of the searches for the largest batch size that fits, and the evidence of each; none where none was made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench_core.contract.max_batch import BatchTrial, MaxBatch
from bench_core.contract.outcome import MARKED, MemoryEvidence
from bench_core.report.format import ABSENT, gib
from bench_core.report.sheet import Entry, Sheet
from bench_core.runs.text import foreign, one_line
from bench_core.runs.view import RunView

if TYPE_CHECKING:
    from rich.table import Table

_LIMITS = {"prompts": "the workload has no more prompts", "request": "no more were to be tried"}


def largest_sheets(view: RunView) -> Iterable[Sheet]:
    """One row for each search, then one for each trial."""
    if view.max_batches:
        yield _answers(view)
        yield _trials(view)


def console_searches(view: RunView) -> Iterable[Table]:
    """The same for a terminal, without footnotes."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    for sheet in largest_sheets(view):
        table = Table(title=Text(sheet.heading), title_justify="left")
        for name, of_numbers in sheet.columns:
            table.add_column(name, justify="right" if of_numbers else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(Text(one_line(entry.text), style="red" if entry.failed else "") for entry in row))
        yield table


def _answers(view: RunView) -> Sheet:
    columns = (
        ("Method", False),
        ("Largest that fits", True),
        ("Peak memory there", True),
        ("Smallest that does not", True),
        ("Outcome there", False),
        ("Memory at death", True),
        ("Trials", True),
        ("Problem", False),
    )
    memory = "GPU memory in use by all processes" if view.on_cuda else "resident memory of the engine's processes"
    notes = (
        "The largest batch of which one warm-up batch and one measured one end well, each size in a box of its own, "
        "prepared for the longest prompt that a cell of that size may meet. Doubled from 1 until one runs out of "
        f"memory, then bisected until two neighbours differ. Memory: {memory}; at death: their last reading.",
    )
    return Sheet("Largest batch size", columns, tuple(_answer(view, found) for found in view.max_batches), notes)


def _answer(view: RunView, found: MaxBatch) -> tuple[Entry, ...]:
    fits, fails = found.trial_of(found.largest), found.trial_of(found.smallest_failing)
    more = f" or more: {_LIMITS[found.limited_by]}" if found.at_limit else ""
    answer = Entry(ABSENT, failed=True) if found.largest is None else Entry(f"{found.largest}{more}", found.largest)
    return (
        Entry(_label(view, found)),
        answer,
        _peak(view, fits),
        Entry(ABSENT) if fails is None else Entry(str(fails.batch_size), fails.batch_size),
        Entry(fails.outcome.value if fails else ABSENT),
        _at_death(view, fails),
        Entry(str(len(found.trials)), len(found.trials)),
        Entry(foreign(found.problem) or ABSENT),
    )


def _trials(view: RunView) -> Sheet:
    columns = (
        ("Method", False),
        ("Trial", True),
        ("Batch size", True),
        ("Outcome", False),
        ("Peak memory", True),
        ("Memory at death", True),
        ("Cause", False),
    )
    rows = tuple(
        (
            Entry(_label(view, found)),
            Entry(str(trial.number), trial.number),
            Entry(str(trial.batch_size), trial.batch_size),
            Entry(trial.outcome.value, failed=trial.fits is not True),
            _peak(view, trial),
            _at_death(view, trial),
            Entry("; ".join(filter(None, (foreign(trial.cause), trial.evidence.get(MARKED)))) or ABSENT),
        )
        for found in view.max_batches
        for trial in found.trials
    )
    notes = ("The cell of each trial, with its events and its log, lies in max-batch/<method>/trial-<n>/cells/.",)
    return Sheet("Trials of the largest batch size", columns, rows, notes)


def _label(view: RunView, found: MaxBatch) -> str:
    wanted = (found.image, found.variant)
    return next((row.label for row in view.rows if (row.planned.image, row.planned.variant) == wanted), found.method)


def _peak(view: RunView, trial: BatchTrial | None) -> Entry:
    if trial is None:
        return Entry(ABSENT)
    told = trial.device_peak_bytes if view.on_cuda else trial.host_peak_bytes
    return _bytes(told if told is not None else MemoryEvidence.of(trial.evidence).peak(on_cuda=view.on_cuda))


def _at_death(view: RunView, trial: BatchTrial | None) -> Entry:
    if trial is None:
        return Entry(ABSENT)
    return _bytes(MemoryEvidence.of(trial.evidence).at_death(on_cuda=view.on_cuda))


def _bytes(value: int | None) -> Entry:
    return Entry(gib(value), value)
