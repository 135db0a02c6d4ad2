"""One cell of two runs: by how much each of its quantities has changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from bench_core.compare.batches import known_of, on_batches, ratio_of
from bench_core.compare.change import Change, Spread, paired, total, unpaired, with_repeats, with_starts
from bench_core.compare.quantities import QUANTITIES, Quantity
from bench_core.compare.side import Cell, Known, Series
from bench_core.contract.measures.quality import nll_difference
from bench_core.contract.statistics.interval import CONFIDENCE, student_quantile

# NVML's energy counter is refreshed about every 50 ms, so that either end of a measurement is told late by any part of
# that. Of the difference of two such delays, 95 % lie within this (a triangular distribution).
_REFRESHED_S = 0.05
COUNTER_ERROR_S = _REFRESHED_S * (1 - math.sqrt(1 - CONFIDENCE))


@dataclass(frozen=True)
class Pair:
    """A cell that has numbers in both runs.

    Attributes:
        forced: all rows of both have the same number of tokens, so that seconds of the same batches are comparable.
    """

    old: Cell
    new: Cell
    forced: bool
    _numbers: dict[str, tuple[list[Known], list[Known]]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def repeats(self) -> tuple[int, int]:
        """With numbers, in the old and the new run."""
        return len(self.old.repeats), len(self.new.repeats)

    @property
    def once(self) -> bool:
        """Whether both runs measured it once."""
        return self.repeats == (1, 1)

    @property
    def under_load(self) -> bool:
        """Whether it is a cell of requests."""
        return not any(repeat.series for repeat in self.new.repeats)

    @cached_property
    def measured_s(self) -> float:
        """Seconds of one measurement, of the run that measured it longer."""
        return max(repeat.measured_s for cell in (self.old, self.new) for repeat in cell.repeats)

    @cached_property
    def batches(self) -> int:
        """Batches, or answered requests, of one measurement, of the run that has more."""
        return max(repeat.batches for cell in (self.old, self.new) for repeat in cell.repeats)

    def numbers(self, name: str) -> tuple[list[Known], list[Known]]:
        """Of each repeat that has the quantity; token times on the batches that all of them measured."""
        if name not in self._numbers:
            self._numbers[name] = self._found(name)
        return self._numbers[name]

    def _found(self, name: str) -> tuple[list[Known], list[Known]]:
        common = self._common(name) if name != "throughput" else frozenset()
        old, new = (
            [
                known_of(on_batches(repeat.series[name], common)) if common else repeat.numbers[name]
                for repeat in cell.repeats
                if name in repeat.numbers
            ]
            for cell in (self.old, self.new)
        )
        return old, new

    def _common(self, name: str) -> frozenset[int]:
        repeats = [*self.old.repeats, *self.new.repeats]
        if not all(name in repeat.series for repeat in repeats):
            return frozenset()
        return frozenset.intersection(*(frozenset(repeat.series[name].prompts) for repeat in repeats))

    def spread(self, name: str) -> Spread:
        """Of the repeats of both runs about their own run's mean."""
        return total(Spread.of([one.value for one in known]) for known in self.numbers(name) if known)

    def within(self, quantity: Quantity) -> Change | None:
        """The change by what each run knows of itself; ``None`` where one of them does not have the quantity."""
        old, new = self.numbers(quantity.name)
        if not old or not new:
            return None
        if quantity.name == "quality":
            return self._quality()
        if quantity.name == "energy":
            return self._energy(old, new)
        change = unpaired(old, new)
        if not self.once or (quantity.name == "throughput" and (change.known or not self.forced)):
            return change
        return self._on_the_same_batches(quantity.name) or change

    def _on_the_same_batches(self, name: str) -> Change | None:
        series: list[Series | None] = [cell.repeats[0].series.get(name) for cell in (self.old, self.new)]
        ratio = ratio_of(series[0], series[1]) if series[0] is not None and series[1] is not None else None
        if ratio is None:
            return None
        change = paired(ratio)
        if name != "throughput":
            return change
        return replace(change, log=-change.log, below=change.above, above=change.below)  # of seconds, which is 1 / rate

    def _quality(self) -> Change:
        """Of perplexity: the difference of NLL on the same texts, by their scatter."""
        likelihoods = [cell.repeats[0].likelihood for cell in (self.old, self.new)]
        old, new = likelihoods
        found = nll_difference(new, old) if old is not None and new is not None else None
        if found is None or new is None:
            return Change(0.0, absent="the two runs scored other texts")
        if found.standard_error is None:
            return Change(found.nat_per_token, absent="a single text was scored")
        freedom = len(new.scored_tokens) - 1
        half = student_quantile(freedom) * found.standard_error
        return Change(found.nat_per_token, half, half, float(freedom))

    def _energy(self, old: list[Known], new: list[Known]) -> Change:
        """Energy is power times time: it is known as well as the time is, and as the counter tells."""
        change = unpaired(
            [Known(one.value, one.value, one.value) for one in old],
            [Known(one.value, one.value, one.value) for one in new],
        )
        speed = self.within(QUANTITIES["throughput"])
        if speed is None or speed.below is None or speed.above is None:
            return Change(change.log, absent=speed.absent if speed is not None else "no throughput")
        steps = [COUNTER_ERROR_S / max(r.measured_s, COUNTER_ERROR_S) for c in (self.old, self.new) for r in c.repeats]
        half = math.hypot(max(speed.below, speed.above), *steps)
        return Change(change.log, half, half, speed.freedom)

    def change(self, quantity: Quantity, of_image: Mapping[tuple[str, str], Spread], starts: float) -> Change | None:
        """The change with what starts of an engine differ by.

        Args:
            of_image: spread of repeats by image and quantity.
            starts: standard deviation between starts, as a share, for cells without repeats; 0: not known.
        """
        found = self.within(quantity)
        if found is None or quantity.name in ("quality", "memory"):
            return found
        spread = of_image.get((self.new.key.image, quantity.name), Spread())
        if spread.freedom:
            return with_repeats(found, self.repeats, self.spread(quantity.name), spread)
        return with_starts(found, starts, self.repeats) if starts else found
