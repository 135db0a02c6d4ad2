"""The largest batch size that fits into memory: what comes out of a search for it (``--find-max-batch``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from bench_core.contract.asked.manifest import Name
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.record import Record
from bench_core.contract.statistics.bisection import Unanswered, narrow

LARGEST_BATCH = 65536  # of a spec
FITS, DOES_NOT_FIT = Outcome.OK, Outcome.OOM_KV


class BatchTrial(Record):
    """One short cell in a box of its own: a warm-up and a measured batch.

    Attributes:
        number: of the trial, from 1; its cell lies in ``trial-<number>/cells/`` below the search's folder.
        outcome: ``ok`` fits, ``oom_kv`` does not; any other says nothing about the batch size.
        evidence: of the cell's verdict: memory at death, for one.
        device_peak_bytes: GPU memory in use by all processes at most; ``host_peak_bytes``: of the engine's processes.
            Of a trial that fits; for the others see ``evidence``.
    """

    batch_size: int = Field(ge=1, le=LARGEST_BATCH)
    number: int = Field(ge=1)
    outcome: Outcome
    cause: str = ""
    phase: str | None = None
    evidence: dict[str, str] = {}
    gpu_uuid: str | None = None
    device_peak_bytes: int | None = None
    host_peak_bytes: int | None = None

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return layout.trial_folder(self.number)

    @property
    def fits(self) -> bool | None:
        """``None`` where the trial does not tell."""
        return {FITS: True, DOES_NOT_FIT: False}.get(self.outcome)


class BatchSearch(Record):
    """Where a search stands.

    Attributes:
        trials: in the order made.
        largest: the largest batch size that fits: the next one does not, or it is the limit. ``None`` without answer.
        smallest_failing: the smallest that does not fit; ``None`` where all up to the limit do.
        problem: why there is no ``largest``, in one line.
    """

    trials: tuple[BatchTrial, ...] = ()
    largest: int | None = None
    smallest_failing: int | None = None
    problem: str = ""


class MaxBatch(BatchSearch):
    """``max-batch/<image>.<variant>.json``, written after each trial.

    Attributes:
        searches: searches of this method in this run, under whatever conditions; the last one's trials stand here.
        conditions: what decides the answer; trials are used again only where all of it is the same.
        limit: no larger batch size was to be tried, because of ``limited_by``: the request, or the number of prompts,
            which are unique within a batch.
    """

    schema_version: Literal[1] = 1
    image: Name
    variant: Name
    searches: int = Field(1, ge=1)
    conditions: dict[str, str]
    limit: int = Field(ge=1, le=LARGEST_BATCH)
    limited_by: Literal["request", "prompts"]
    gpus: int = Field(1, ge=1, description="that the model of each trial is split over; 1 in older records")

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
        """Whether more may fit than was tried."""
        return self.largest == self.limit

    def trial_of(self, batch_size: int | None) -> BatchTrial | None:
        """The conclusive trial of a batch size."""
        return _conclusive(self.trials, batch_size)


def _conclusive(trials: Iterable[BatchTrial], batch_size: int | None) -> BatchTrial | None:
    return next((t for t in trials if t.batch_size == batch_size and t.fits is not None), None)


def search_largest(limit: int, attempt: Callable[[int], BatchTrial], known: Iterable[BatchTrial] = ()) -> BatchSearch:
    """Doubles from 1 until a batch size does not fit or ``limit`` does, then bisects until two neighbours differ.

    Args:
        attempt: makes a trial.
        known: trials made earlier; a batch size of which one is conclusive is not tried again.

    A trial that is neither ``ok`` nor ``oom_kv`` ends the search: it says nothing about the batch size. Nor does memory
    that runs out while loading, since an engine learns its batch size later.
    """
    trials = list(known)

    def fits(value: float) -> bool:
        size = int(value)
        trial = _conclusive(trials, size)
        if trial is None:
            trial = attempt(size)
            trials.append(trial)
        if trial.fits is None:
            raise Unanswered(f"batch size {size}: {trial.outcome.value}: {trial.cause}".rstrip(": "))
        return trial.fits

    try:
        fitting, failing = 0, 0
        while not failing and fitting < limit:
            size = min(max(1, 2 * fitting), limit)
            if fits(size):
                fitting = size
            else:
                failing = size
        if not fitting:
            first = next(t for t in trials if t.batch_size == 1 and t.fits is False)
            raise Unanswered(f"not even batch size 1 fits: {first.outcome.value}: {first.cause}".rstrip(": "))
        if failing:
            fitting, failing = map(int, narrow(fitting, failing, _middle, fits))
    except Unanswered as why:
        fitting = max((t.batch_size for t in trials if t.fits), default=0)
        least = f"; {fitting} fits" if fitting else ""
        return BatchSearch(trials=tuple(trials), problem=f"{why}{least}")
    return BatchSearch(trials=tuple(trials), largest=fitting, smallest_failing=failing or None)


def _middle(good: float, bad: float) -> int | None:
    return int(good + bad) // 2 if bad - good > 1 else None
