"""The smallest memory budget with which an engine still sustains a batch size: what comes out of a search for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from bench_core.contract.bisection import Unanswered, narrow
from bench_core.contract.outcome import Outcome
from bench_core.contract.record import Record

RELATIVE_INTERVAL = 0.02
# An engine short of cache may still finish, by taking rows out and reading their prompts again: that is not sustaining.
SUSTAINED_SHARE = 0.9
MOST_TRIALS = 40
_OUT_OF_MEMORY = (Outcome.OOM_LOAD, Outcome.OOM_KV)


class Trial(Record):
    """One short measurement of the cell with one budget.

    Attributes:
        value: of the budget, in the option's unit.
        sustained: it ended well, at 0.9 or more of the throughput that it has with the largest budget.
        device_peak_bytes: GPU memory in use by all processes at most; ``host_peak_bytes``: of the engine's processes.
    """

    value: float
    outcome: Outcome
    cause: str = ""
    sustained: bool
    output_throughput_tok_s: float | None = None
    device_peak_bytes: int | None = None
    host_peak_bytes: int | None = None


class MinMemory(Record):
    """``min-memory/<cell>.json``.

    Attributes:
        option, unit: of the image's memory budget.
        device_memory_bytes: what a fraction is of; ``None`` on a CPU.
        trials: in the order made.
        smallest: the smallest value that sustained, once all above it that were tried did and the largest that did not
            is within 2 % of it (or nothing smaller makes sense); ``None`` where the search found no such value.
        largest_failing: the largest value that did not sustain; ``None`` where the smallest allowed one did.
        problem: why there is no ``smallest``, in one line.
    """

    schema_version: Literal[1] = 1
    cell: str
    option: str
    unit: Literal["bytes", "fraction"]
    device_memory_bytes: int | None = None
    gpu_uuid: str | None = None
    trials: tuple[Trial, ...] = Field(())
    smallest: float | None = None
    largest_failing: float | None = None
    problem: str = ""

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


class Search(Record):
    """Where a search stands: see :func:`search_smallest`."""

    trials: tuple[Trial, ...]
    smallest: float | None
    largest_failing: float | None
    problem: str


def search_smallest(low: float, high: float, attempt: Callable[[float, float | None], Trial], *, whole: bool) -> Search:
    """Bisects for the smallest value in ``low`` .. ``high`` that sustains.

    ``high`` is tried first: its throughput is what the others are compared with. Then ``low``, then the middle of the
    interval, until it is narrower than 2 % of its upper end.

    Args:
        attempt: (value, throughput at ``high`` or ``None`` for the first) to a trial.
        whole: values are whole numbers.

    A failure that is not one of memory ends the search: it would say nothing about the budget.
    """
    trials: list[Trial] = []

    def tried(value: float) -> Trial:
        trials.append(attempt(value, trials[0].output_throughput_tok_s if trials else None))
        return trials[-1]

    def sustains(value: float) -> bool:
        if len(trials) >= MOST_TRIALS:
            raise Unanswered(f"not found in {MOST_TRIALS} trials")
        trial = tried(value)
        if trial.outcome is not Outcome.OK and trial.outcome not in _OUT_OF_MEMORY:
            cause = f"{trial.outcome.value}: {trial.cause}".rstrip(": ")
            raise Unanswered(f"a trial failed for another reason: {cause}")
        return trial.sustained

    def middle(enough: float, too_little: float) -> float | None:
        if enough - too_little <= RELATIVE_INTERVAL * enough or (whole and enough - too_little <= 1):
            return None
        value = (too_little + enough) / 2
        value = float(round(value)) if whole else round(value, 6)
        return value if too_little < value < enough else None

    def ended(problem: str = "", smallest: float | None = None, failing: float | None = None) -> Search:
        return Search(trials=tuple(trials), smallest=smallest, largest_failing=failing, problem=problem)

    first = tried(high)
    if not first.sustained:
        return ended(f"not even the largest budget sustains it: {first.outcome.value}: {first.cause}".rstrip(": "))
    try:
        if sustains(low):
            return ended(smallest=low)
        smallest, failing = narrow(high, low, middle, sustains)
    except Unanswered as why:
        return ended(str(why))
    return ended(smallest=smallest, failing=failing)
