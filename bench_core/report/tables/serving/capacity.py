"""Searches for the highest load that keeps latency limits: the answers, and the evidence of each trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench_core.contract.serving.capacity import FEWEST_REQUESTS, Capacity, LoadTrial
from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.explain.under_load import SATURATED, limits_words
from bench_core.report.format import ABSENT, within
from bench_core.runs.view import RunView
from bench_core.system.text import foreign

_NONE = "none that was tried"


@dataclass(frozen=True)
class _Answer:
    view: RunView
    found: Capacity

    @property
    def label(self) -> str:
        """Of the method."""
        wanted = (self.found.image, self.found.variant)
        labels = (row.planned.label for row in self.view.every if (row.planned.image, row.planned.variant) == wanted)
        return next(labels, self.found.method)

    def load(self, value: float) -> str:
        """A load in words."""
        return f"concurrency {value:g}" if self.found.varied == "concurrency" else f"{value:g} requests/s"


@dataclass(frozen=True)
class _Trial(_Answer):
    trial: LoadTrial


def _highest(line: _Answer) -> Entry:
    found = line.found
    if found.highest is None:
        return Entry(_NONE if found.none_keeps else ABSENT)
    more = " or more: no higher was to be tried" if found.at_limit else ""
    return Entry(f"{line.load(found.highest)}{more}", found.highest)


def _failing(line: _Answer) -> str | None:
    failing = line.found.lowest_failing
    return None if failing is None else line.load(failing)


_ANSWERS: Sequence[Column[_Answer]] = [
    Column("Method", "label", words=True),
    Column(
        "Highest load that keeps the limits",
        "found.highest",
        shown=_highest,
        failed=lambda line: "" if line.found.highest is not None else _NONE if line.found.none_keeps else ABSENT,
        words=True,
    ),
    Column("Lowest that does not", _failing, words=True),
    Column("Limits", lambda line: limits_words(line.found.limits), words=True),
    Column("Kept by", "found.attainment", lambda share: f"{share * 100:g} % of requests", words=True),
    Column("Trials", lambda line: len(line.found.trials)),
    Column("Problem", lambda line: foreign(line.found.problem) or ABSENT, words=True),
]


def _kept(line: _Trial) -> Entry:
    share = line.trial.attainment
    if share is None:
        return Entry(ABSENT)
    return Entry(within(share.value, share.low, share.high, 100.0), share.value)


def _says(line: _Trial) -> Entry:
    keeps = line.trial.keeps(line.found.attainment)
    if keeps is None:
        return Entry("says nothing", failed=True)
    word = "keeps them" if keeps else SATURATED if line.trial.saturated else "does not"
    return Entry(word + (", close" if line.trial.is_close(line.found.attainment) else ""), failed=not keeps)


_TRIALS: Sequence[Column[_Trial]] = [
    Column("Method", "label", words=True),
    Column("Trial", "trial.number"),
    Column("Load", lambda line: line.load(line.trial.load), words=True),
    Column("Within limits", "trial.attainment.value", unit="%", shown=_kept),
    Column("Says", _says, shown=_says, words=True),
    Column("Problem", lambda line: foreign(line.trial.problem) or ABSENT, words=True),
]


def capacity_sheets(view: RunView) -> Iterator[Sheet]:
    """One row for each search, then one for each trial."""
    if not view.capacities:
        return
    yield sheet("Highest load within limits", _ANSWERS, [_Answer(view, found) for found in view.capacities], _NOTES)
    trials = [_Trial(view, found, trial) for found in view.capacities for trial in found.trials]
    notes = (
        "Close: the interval of the share holds the bound, so that the same load may come out otherwise. The cell of "
        "each trial lies in capacity/<method>/trial-<n>/cells/.",
    )
    yield sheet("Trials of the highest load", _TRIALS, trials, notes)


_NOTES = (
    "The load is doubled until the limits are kept by too few requests, or the server does not keep up; then halved "
    "between the two until they differ by 3 %, or are neighbours. Where the first load fails, it is halved: a rate for "
    f"as long as {FEWEST_REQUESTS} requests fall into the longest window.",
)
