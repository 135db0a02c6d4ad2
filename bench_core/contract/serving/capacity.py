"""The highest load that keeps latency limits: doubling, then bisection. Pure: a trial is a callable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from bench_core.contract.asked.manifest import Name
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.serving.measures import ServeMetrics
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.serving.window import LEAST_REQUESTS
from bench_core.contract.statistics.bisection import Unanswered, narrow
from bench_core.contract.statistics.correlated import Estimate

DEFAULT_ATTAINMENT = 0.99
PRECISION = 0.03
# Of a search for a rate that begins too high: a thousandth of what was asked for at first.
_MOST_HALVINGS = 10
# In a window: a rate that has fewer is not tried for being lower than another. A share of 99 % says little of less.
FEWEST_REQUESTS = LEAST_REQUESTS

Varied = Literal["request_rate", "concurrency"]


class LoadTrial(Record):
    """One short cell at one load.

    Attributes:
        load: requests/s, or requests at once.
        number: of the trial, from 1; its cell lies in ``trial-<number>/`` below the search's folder.
        attainment: share of requests within the limits; ``None`` where the trial measured nothing.
        saturated: the server did not keep up: the limits are not kept, whatever the attainment so far.
        problem: why the trial says nothing about the load, in one line; empty where it does. Requests that failed under
            the load are misses of the attainment and no problem.
    """

    load: float = Field(gt=0, le=1e6)
    number: int = Field(ge=1)
    attainment: Estimate | None
    saturated: bool = False
    problem: str = ""

    @classmethod
    def of(cls, load: float, number: int, verdict: Verdict, metrics: ServeMetrics | None) -> LoadTrial:
        """From what became of its cell; ``metrics``: of one that is ok."""
        if verdict.outcome is not Outcome.OK or metrics is None:
            problem = f"{verdict.outcome.value}: {verdict.cause}"
            return cls(load=load, number=number, attainment=None, problem=problem)
        attainment = metrics.kept.attainment if metrics.kept is not None else None
        return cls(load=load, number=number, attainment=attainment, saturated=metrics.saturated)

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return layout.trial_folder(self.number)

    def keeps(self, wanted: float) -> bool | None:
        """Whether the limits were kept by the share wanted; ``None`` where the trial does not tell. One whose interval
        holds the bound is decided by its value."""
        if self.problem:
            return None
        if self.saturated:
            return False
        return None if self.attainment is None else self.attainment.value >= wanted

    def is_close(self, wanted: float) -> bool:
        """Whether its interval holds the bound, so that another trial of this load may come out otherwise."""
        found = self.attainment
        if self.saturated or self.problem or found is None:
            return False
        return found.low is None or found.high is None or found.low < wanted <= found.high


class LoadSearch(Record):
    """Where a search stands.

    Attributes:
        trials: in the order made.
        highest: the highest load that kept the limits; ``None`` where none did, and without answer.
        lowest_failing: the lowest that did not; ``None`` where all up to the limit did, and without answer.
        problem: why there is no ``highest``, in one line.
    """

    trials: tuple[LoadTrial, ...] = ()
    highest: float | None = None
    lowest_failing: float | None = None
    problem: str = ""

    @property
    def is_answered(self) -> bool:
        """Whether it came to its end: with the highest load, or with the word that none keeps the limits."""
        return self.highest is not None or self.lowest_failing is not None

    @property
    def none_keeps(self) -> bool:
        """Whether no load that was to be tried keeps the limits."""
        return self.highest is None and self.lowest_failing is not None


class Capacity(LoadSearch):
    """``capacity/<image>.<variant>.json``, written after each trial.

    Attributes:
        varied: what the loads are.
        limits, attainment: that are to be kept, by this share of requests.
        conditions: what else decides the answer; trials are used again only where all of it is the same.
        limit: no higher load was to be tried.
        window_s: the longest window of a trial, by which ``least_rate`` follows; ``None`` in records of before.
    """

    schema_version: Literal[1] = 1
    image: Name
    variant: Name
    searches: int = Field(1, ge=1)
    varied: Varied
    limits: Limits
    attainment: float = Field(DEFAULT_ATTAINMENT, gt=0, le=1)
    conditions: dict[str, str]
    limit: float = Field(gt=0, le=1e6)
    window_s: float | None = Field(None, gt=0)

    @property
    def method(self) -> str:
        """``image.variant``."""
        return f"{self.image}.{self.variant}"

    @property
    def home(self) -> str:
        """Name of the folder of the trials, beside this file."""
        return layout.numbered(self.method, self.searches)

    @property
    def at_limit(self) -> bool:
        """Whether more may be kept than was tried."""
        return self.highest == self.limit


def search_capacity(
    varied: Varied,
    first: float,
    limit: float,
    attempt: Callable[[float], LoadTrial],
    *,
    attainment: float = DEFAULT_ATTAINMENT,
    window_s: float | None = None,
    known: Iterable[LoadTrial] = (),
) -> LoadSearch:
    """Doubles from ``first`` until a load fails or ``limit`` does not, then bisects to within 3 %, or to neighbours.

    Where ``first`` itself fails it is halved until a load holds: a concurrency down to 1, a rate for as long as thirty
    requests fall into a window, and ten times at most. Where none holds, that is the answer.

    Args:
        attempt: makes a trial.
        window_s: the longest window of a trial; ``None``: not known, as of records of before.
        known: trials made earlier; a load of which one is conclusive is not tried again.

    A trial that does not tell ends the search.
    """
    trials = list(known)
    whole = varied == "concurrency"

    def holds(load: float) -> bool:
        told = (t for t in trials if t.load == load and t.keeps(attainment) is not None)
        trial = next(told, None)
        if trial is None:
            trial = attempt(load)
            trials.append(trial)
        answer = trial.keeps(attainment)
        if answer is None:
            raise Unanswered(f"{_words(varied, load)}: {trial.problem or 'nothing was measured'}")
        return answer

    def middle(good: float, bad: float) -> float | None:
        if whole:
            value = float(int(good + bad) // 2)
            return value if good < value < bad and bad - good > PRECISION * good else None
        return (good + bad) / 2 if bad - good > PRECISION * good else None

    try:
        good, bad = _bracket(varied, float(min(first, limit)), float(limit), window_s, holds)
        if bad is not None:
            good, bad = narrow(good, bad, middle, holds)
    except _NoneHolds as none:
        told = none.load if window_s is not None else None
        return LoadSearch(trials=tuple(trials), lowest_failing=told, problem=str(none))
    except Unanswered as why:
        least = max((t.load for t in trials if t.keeps(attainment)), default=None)
        more = f"; {_words(varied, least)} keeps them" if least is not None else ""
        return LoadSearch(trials=tuple(trials), problem=f"{why}{more}")
    return LoadSearch(trials=tuple(trials), highest=good, lowest_failing=bad)


class _NoneHolds(Unanswered):
    """No load that was to be tried holds, down to this one."""

    def __init__(self, load: float, words: str) -> None:
        super().__init__(words)
        self.load = load


def least_rate(first: float, window_s: float | None) -> float:
    """The lowest rate, requests/s, that a search which begins with ``first`` tries: a window is to have enough requests
    for a share of them to say something, or is as it was asked for."""
    enough = FEWEST_REQUESTS / window_s if window_s is not None else 0.0
    return min(first, max(first / float(2**_MOST_HALVINGS), enough))


def _bracket(
    varied: Varied, first: float, limit: float, window_s: float | None, holds: Callable[[float], bool]
) -> tuple[float, float | None]:
    """A load that holds, and one that does not: twice as much at most; ``None`` where the limit holds.

    Raises:
        _NoneHolds: none does.
    """
    least = 1.0 if varied == "concurrency" else least_rate(first, window_s)
    load, bad = first, None
    while not holds(load):
        bad = load
        if load <= least:
            raise _NoneHolds(load, _none_words(varied, load, window_s))
        load = max(float(int(load / 2)) if varied == "concurrency" else load / 2, least)
    while bad is None and load < limit:
        higher = min(2 * load, limit)
        if holds(higher):
            load = higher
        else:
            bad = higher
    return load, bad


def _none_words(varied: Varied, load: float, window_s: float | None) -> str:
    if varied == "concurrency" or window_s is None:
        return f"not even {_words(varied, load)} keeps the limits"
    words = f"no rate within the limits: the least tried was {_words(varied, load)}"
    if load / 2 * window_s >= FEWEST_REQUESTS:
        return words
    return (
        f"{words}; half of it has fewer than {FEWEST_REQUESTS} requests in a window of {window_s:g} s "
        "(a longer --max-serve-seconds tries less)"
    )


def _words(varied: Varied, load: float) -> str:
    return f"concurrency {load:g}" if varied == "concurrency" else f"{load:g} requests/s"
