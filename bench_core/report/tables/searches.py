"""Searches: the smallest memory budget, and the largest batch size that fits with the evidence of each trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench_core.contract.measures.max_batch import BatchTrial, MaxBatch
from bench_core.contract.measures.min_memory import MinMemory
from bench_core.contract.records.outcome import MARKED, MemoryEvidence
from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.format import ABSENT, digits, gib, share3, signed_gib
from bench_core.runs.view import Row, RunView
from bench_core.system.text import foreign

_LIMITS = {"prompts": "the workload has no more prompts", "request": "no more were to be tried"}

# --- the smallest memory budget ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Budget:
    search: MinMemory
    row: Row | None


def _in_unit(budget: _Budget, value: float | None) -> Entry:
    if value is None:
        return Entry(ABSENT)
    return Entry((signed_gib if budget.search.unit == "bytes" else share3)(value), value)


_BUDGETS: Sequence[Column[_Budget]] = [
    Column("Method", lambda budget: budget.row.label if budget.row else budget.search.cell, words=True),
    Column("Batch size", "row.planned.batch_size"),
    Column("Option", "search.option", words=True),
    Column(
        "Smallest",
        "search.smallest",
        failed=lambda budget: ABSENT if budget.search.smallest is None else "",
        shown=lambda budget: _in_unit(budget, budget.search.smallest),
    ),
    Column("In bytes", "search.smallest_bytes", signed_gib),
    Column(
        "Largest that failed",
        "search.largest_failing",
        shown=lambda budget: _in_unit(budget, budget.search.largest_failing),
    ),
    Column("GPU peak there", "search.at_smallest.device_peak_bytes", signed_gib),
    Column("Throughput there", "search.at_smallest.output_throughput_tok_s", digits(4), unit="token/s"),
    Column("Trials", lambda budget: len(budget.search.trials)),
    Column("Problem", lambda budget: foreign(budget.search.problem) or ABSENT, words=True),
]


def smallest_sheet(view: RunView) -> Iterator[Sheet]:
    """One row for each search for the smallest memory budget."""
    rows = {row.planned.cell: row for row in view.rows}
    if view.searches:
        lines = [_Budget(search, rows.get(search.cell)) for search in view.searches]
        yield sheet("Smallest memory", _BUDGETS, lines, _BUDGETS_NOTES)


_BUDGETS_NOTES = (
    "The smallest memory budget with which one batch of the full shape still ends well, at nine tenths or more of "
    "the throughput that the largest budget gives, known to 2 %. Batches with more tokens than that one need more.",
)

# --- the largest batch size -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """A trial of a search, or none: an answer's neighbours need not exist."""

    view: RunView
    found: MaxBatch
    trial: BatchTrial | None

    @property
    def label(self) -> str:
        """Of the method."""
        wanted = (self.found.image, self.found.variant)
        labels = (row.label for row in self.view.rows if (row.planned.image, row.planned.variant) == wanted)
        return next(labels, self.found.method)

    @property
    def peak_bytes(self) -> int | None:
        """Of the memory that the run compares."""
        trial, on_cuda = self.trial, self.view.on_cuda
        if trial is None:
            return None
        told = trial.device_peak_bytes if on_cuda else trial.host_peak_bytes
        return told if told is not None else MemoryEvidence.of(trial.evidence).peak(on_cuda=on_cuda)

    @property
    def at_death_bytes(self) -> int | None:
        """Last reading of the same memory, of a trial that died."""
        return MemoryEvidence.of(self.trial.evidence).at_death(on_cuda=self.view.on_cuda) if self.trial else None


@dataclass(frozen=True)
class _Answer:
    fits: _Trial
    fails: _Trial
    found: MaxBatch


def _largest(answer: _Answer) -> Entry:
    found = answer.found
    more = f" or more: {_LIMITS[found.limited_by]}" if found.at_limit else ""
    return Entry(f"{found.largest}{more}", found.largest)


_ANSWERS: Sequence[Column[_Answer]] = [
    Column("Method", "fits.label", words=True),
    Column(
        "Largest that fits",
        "found.largest",
        failed=lambda answer: ABSENT if answer.found.largest is None else "",
        shown=_largest,
    ),
    Column("Peak memory there", "fits.peak_bytes", gib),
    Column("Smallest that does not", "fails.trial.batch_size"),
    Column("Outcome there", "fails.trial.outcome.value", words=True),
    Column("Memory at death", "fails.at_death_bytes", gib),
    Column("Trials", lambda answer: len(answer.found.trials)),
    Column("Problem", lambda answer: foreign(answer.found.problem) or ABSENT, words=True),
]


def _ended(line: _Trial) -> Entry:
    trial = line.trial
    return Entry(trial.outcome.value, failed=trial.fits is not True) if trial else Entry(ABSENT)


def _cause(line: _Trial) -> str | None:
    trial = line.trial
    return "; ".join(filter(None, (foreign(trial.cause), trial.evidence.get(MARKED)))) or None if trial else None


_TRIALS: Sequence[Column[_Trial]] = [
    Column("Method", "label", words=True),
    Column("Trial", "trial.number"),
    Column("Batch size", "trial.batch_size"),
    Column("Outcome", "trial.outcome.value", shown=_ended, words=True),
    Column("Peak memory", "peak_bytes", gib),
    Column("Memory at death", "at_death_bytes", gib),
    Column("Cause", _cause, words=True),
]


def largest_sheets(view: RunView) -> Iterator[Sheet]:
    """One row for each search for the largest batch size, then one for each trial."""
    if not view.max_batches:
        return
    memory = "GPU memory in use by all processes" if view.on_cuda else "resident memory of the engine's processes"
    notes = (
        "The largest batch of which one warm-up batch and one measured one end well, each size in a container of its "
        "own, prepared for the longest prompt that a cell of that size may meet. Doubled from 1 until one runs out of "
        f"memory, then bisected until two neighbours differ. Memory: {memory}; at death: their last reading.",
    )
    answers = [
        _Answer(
            _Trial(view, found, found.trial_of(found.largest)),
            _Trial(view, found, found.trial_of(found.smallest_failing)),
            found,
        )
        for found in view.max_batches
    ]
    yield sheet("Largest batch size", _ANSWERS, answers, notes)
    trials = [_Trial(view, found, trial) for found in view.max_batches for trial in found.trials]
    notes = ("The cell of each trial, with its events and its log, lies in max-batch/<method>/trial-<n>/cells/.",)
    yield sheet("Trials of the largest batch size", _TRIALS, trials, notes)
