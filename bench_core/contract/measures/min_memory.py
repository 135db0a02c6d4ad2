"""The smallest memory budget with which an engine still sustains a batch size: what comes out of a search for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from bench_core.contract.asked.manifest import BudgetUnit
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.record import Record
from bench_core.contract.statistics.bisection import Unanswered, narrow

RELATIVE_INTERVAL = 0.02
# A little less: what two steps down enclose is then, halved once, within the interval of either half.
_FIRST_STEP = 0.975 * RELATIVE_INTERVAL
# An engine short of cache may still finish, by taking rows out and reading their prompts again: that is not sustaining.
SUSTAINED_SHARE = 0.9
MOST_TRIALS = 40
# It names folders, too.
CellName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,199}$")]
# A share of a device, or bytes.
Budget = Annotated[float, Field(gt=0, le=2.0**63)]
_OUT_OF_MEMORY = (Outcome.OOM_LOAD, Outcome.OOM_KV)


class Trial(Record):
    """One short measurement of the cell with one budget.

    Attributes:
        value: of the budget, in the option's unit.
        number: of the launch that told, from 1; its cell lies in ``trial-<number>/cells/`` below the search's folder.
        sustained: it ended well, at 0.9 or more of the throughput that it has with the largest budget.
        device_peak_bytes: GPU memory in use by all processes at most; ``host_peak_bytes``: of the engine's processes.
        prompt_tokens, cache_tokens: of its one batch: what was read at once, and positions of the key-value cache (see
            :func:`~bench_core.contract.measures.memory_model.cache_tokens`).
        unused_bytes: what the engine says that it reserved and did not fill; ``None`` where it has no pool of its own.
    """

    value: Budget
    number: int = Field(ge=1)
    outcome: Outcome
    cause: str = ""
    sustained: bool
    output_throughput_tok_s: float | None = None
    device_peak_bytes: int | None = None
    host_peak_bytes: int | None = None
    prompt_tokens: int | None = None
    cache_tokens: int | None = None
    unused_bytes: int | None = None

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return layout.trial_folder(self.number)


class Search(Record):
    """Where a search stands: see :func:`search_smallest`.

    Attributes:
        trials: in the order made.
        guess: where the search began after the largest budget; ``None`` where nothing told.
        smallest: the smallest value that sustained, once all above it that were tried did and the largest that did not
            is within 2 % of it (or nothing smaller makes sense); ``None`` where the search found no such value.
        largest_failing: the largest value that did not sustain; ``None`` where the smallest allowed one did.
        problem: why there is no ``smallest``, in one line.
    """

    trials: tuple[Trial, ...] = ()
    guess: Budget | None = None
    smallest: float | None = None
    largest_failing: float | None = None
    problem: str = ""


class MinMemory(Search):
    """``min-memory/<cell>.json``.

    Attributes:
        searches: searches for this cell in this run; the last one's trials stand here.
        option, unit: of the image's memory budget; ``low``, ``high``: between which it may lie.
        device_memory_bytes: what a fraction is of; ``None`` on a CPU.
    """

    schema_version: Literal[1] = 1
    cell: CellName
    searches: int = Field(1, ge=1)
    option: str
    unit: BudgetUnit
    low: Budget
    high: Budget
    device_memory_bytes: int | None = None
    gpu_uuid: str | None = None

    @property
    def home(self) -> str:
        """Name of the folder of the trials, beside this file."""
        return layout.numbered(self.cell, self.searches)

    @property
    def smallest_bytes(self) -> float | None:
        """The smallest budget in bytes, where a fraction's whole is known."""
        if self.smallest is None or self.unit == "bytes":
            return self.smallest
        return self.smallest * self.device_memory_bytes if self.device_memory_bytes else None

    @property
    def at_smallest(self) -> Trial | None:
        """The trial with the smallest budget that sustained."""
        return next((trial for trial in self.trials if trial.sustained and trial.value == self.smallest), None)


def search_smallest(
    low: float,
    high: float,
    attempt: Callable[[float, float | None], Trial],
    *,
    whole: bool,
    guess: Callable[[Trial], float | None] = lambda _: None,
) -> Search:
    """Searches for the smallest value in ``low`` .. ``high`` that sustains.

    ``high`` is tried first: its throughput is what the others are compared with. Where that trial lets a value be
    guessed, that is tried next, then values farther and farther to the side where the border must be (nearly 2 % of it,
    then twice that, and again), until the border is passed. Otherwise ``low`` is. Then the middle between the last that
    sustained and the last that did not, until they are within 2 % of each other. A launch may take minutes, and a good
    guess saves more than half of them.

    Args:
        attempt: (value, throughput at ``high`` or ``None`` for the first) to a trial.
        whole: values are whole numbers.
        guess: the trial of ``high`` to where the border may be; what lies outside ``low`` .. ``high`` is not used.

    A failure that is not one of memory ends the search: it would say nothing about the budget.
    """
    trials = _Trials(low, high, attempt, whole=whole)
    first = trials.make(high)
    if not first.sustained:
        problem = f"not even the largest budget sustains it: {first.outcome.value}: {first.cause}".rstrip(": ")
        return Search(trials=tuple(trials.made), problem=problem)
    told = guess(first)
    begin = trials.rounded(told) if told is not None and low < trials.rounded(told) < high else None
    smallest, failing, problem = None, None, ""
    try:
        smallest, failing = trials.border(begin)
    except Unanswered as why:
        problem = str(why)
    return Search(trials=tuple(trials.made), guess=begin, smallest=smallest, largest_failing=failing, problem=problem)


class _Trials:
    """The trials of one search so far, and which value is next."""

    def __init__(
        self, low: float, high: float, attempt: Callable[[float, float | None], Trial], *, whole: bool
    ) -> None:
        self.made: list[Trial] = []
        self._low, self._high, self._attempt, self._whole = low, high, attempt, whole

    def make(self, value: float) -> Trial:
        """One more trial."""
        self.made.append(self._attempt(value, self.made[0].output_throughput_tok_s if self.made else None))
        return self.made[-1]

    def rounded(self, value: float) -> float:
        """The value that is tried in its place."""
        return float(round(value)) if self._whole else round(value, 6)

    def border(self, begin: float | None) -> tuple[float, float | None]:
        """The smallest value that sustains and the largest that does not, or ``None`` where the lowest does; what is
        around ``begin`` is tried first.

        Raises:
            Unanswered: there is no answer to be had.
        """
        enough, too_little = self._around(begin) if begin is not None else self._at_the_ends()
        if too_little is None:
            return enough, None
        return narrow(enough, too_little, self._middle, self._sustains)

    def _sustains(self, value: float) -> bool:
        if len(self.made) >= MOST_TRIALS:
            raise Unanswered(f"not found in {MOST_TRIALS} trials")
        trial = self.make(value)
        if trial.outcome is not Outcome.OK and trial.outcome not in _OUT_OF_MEMORY:
            cause = f"{trial.outcome.value}: {trial.cause}".rstrip(": ")
            raise Unanswered(f"a trial failed for another reason: {cause}")
        return trial.sustained

    def _middle(self, enough: float, too_little: float) -> float | None:
        if enough - too_little <= RELATIVE_INTERVAL * enough or (self._whole and enough - too_little <= 1):
            return None
        value = self.rounded((too_little + enough) / 2)
        return value if too_little < value < enough else None

    def _at_the_ends(self) -> tuple[float, float | None]:
        return (self._low, None) if self._sustains(self._low) else (self._high, self._low)

    def _around(self, value: float) -> tuple[float, float | None]:
        """The nearest tried values on both sides of the border: one that sustained, and one that did not, if any."""
        down, step = self._sustains(value), _FIRST_STEP
        while True:
            known = value
            while value == known:
                value = self.rounded(known * (1 - step if down else 1 + step))
                step *= 2
            if down and value <= self._low:
                return (self._low, None) if self._sustains(self._low) else (known, self._low)
            if not down and value >= self._high:
                return self._high, known
            if self._sustains(value) is not down:
                return (known, value) if down else (value, known)


def search_budget(
    low: float,
    high: float,
    attempt: Callable[[float, float | None], Trial],
    *,
    unit: BudgetUnit,
    device_memory_bytes: int | None,
) -> Search:
    """:func:`search_smallest` over a budget, which begins at the largest less what the engine reserved with it in vain.

    Args:
        device_memory_bytes: what a fraction is of; ``None`` on a CPU.
    """

    def guess(first: Trial) -> float | None:
        if first.unused_bytes is None:
            return None
        if unit == "bytes":
            return first.value - first.unused_bytes
        return first.value - first.unused_bytes / device_memory_bytes if device_memory_bytes else None

    return search_smallest(low, high, attempt, whole=unit == "bytes", guess=guess)
