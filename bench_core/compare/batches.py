"""Times of a cell's batches, kept while its log is read, and what follows from them for one run and for two."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench_core.compare.side import Known, Series
from bench_core.contract.measures.token_times import row_tpot_s, row_ttft_s
from bench_core.contract.records.events import BatchEvent
from bench_core.contract.statistics.interval import FEWEST_BATCHES, interval_around
from bench_core.contract.statistics.workload_rate import LEAST_FREEDOM

FEW = f"fewer than {FEWEST_BATCHES} batches"


def _series() -> Series:
    return Series(array("q"), array("d"))


@dataclass
class BatchTimes:
    """Of one cell: seconds of each measured batch, and the mean TTFT and TPOT of the rows of each batch that has token
    times."""

    latency_s: Series = field(default_factory=_series)
    _stamped: dict[str, dict[str, Series]] = field(default_factory=dict)

    def add(self, batch: BatchEvent) -> None:
        """The next batch of the log."""
        if batch.phase not in ("measure", "latency"):
            return
        key = _key(batch)
        if batch.phase == "measure":
            _append(self.latency_s, key, batch.latency_s)
        if batch.arrivals is None:
            return
        of_phase = self._stamped.setdefault(batch.phase, {"ttft": _series(), "tpot": _series()})
        for name, values in (("ttft", row_ttft_s(batch)), ("tpot", row_tpot_s(batch))):
            if values:
                _append(of_phase[name], key, math.fsum(values) / len(values))

    def series(self) -> dict[str, Series]:
        """By the quantity's name; token times of the measured batches, else of batches of their own."""
        stamped = self._stamped.get("measure") or self._stamped.get("latency") or {}
        found = {"throughput": self.latency_s, **stamped}
        return {name: series for name, series in found.items() if series.values and min(series.values) > 0}


def _append(series: Series, key: int, value: float) -> None:
    series.prompts.append(key)
    series.values.append(value)


def _key(batch: BatchEvent) -> int:
    """64 bits of the prompts' place and digest, the same in every process."""
    text = f"{batch.prompts[0]}/{batch.prompts_digest}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def known_of(series: Series) -> Known:
    """The mean over a run's batches, with the interval that ``contract.statistics.interval`` gives a ratio of sums."""
    mean = math.fsum(series.values) / len(series.values)
    return _around(mean, [value / mean - 1 for value in series.values])


def ratio_of(old: Series, new: Series) -> Known | None:
    """New / old on the batches that both runs measured, in the order of the new one's; ``None`` for no such batch.

    The prompts of each pair are the same, so that what they differ by from batch to batch is in neither: it is the
    ratio of two sums, whose error follows from the residuals ``new - ratio x old`` (Cochran, "Sampling Techniques",
    3rd ed. 1977, chapter 6), with the corrections for neighbouring batches and for skewness of a run's own interval.
    """
    before = dict(zip(old.prompts, old.values, strict=True))
    pairs = [(before[key], value) for key, value in zip(new.prompts, new.values, strict=True) if key in before]
    if not pairs:
        return None
    olds, news = zip(*pairs, strict=True)
    ratio = math.fsum(news) / math.fsum(olds)
    mean = math.fsum(news) / len(news)
    return _around(ratio, [(after - ratio * at_first) / mean for at_first, after in pairs])


def on_batches(series: Series, prompts: frozenset[int]) -> Series:
    """The part of a series that is of these batches."""
    found = _series()
    for key, value in zip(series.prompts, series.values, strict=True):
        if key in prompts:
            _append(found, key, value)
    return found


def _around(value: float, residuals: Sequence[float]) -> Known:
    n = len(residuals)
    if n < FEWEST_BATCHES:
        return Known(value, absent=f"no interval: {FEW}")
    interval = interval_around(value, residuals, least_freedom=LEAST_FREEDOM)
    if interval.low_tok_s <= 0:
        return Known(value, absent="no interval: batches differ by more than their mean")
    square = interval.correlation**2
    freedom = max(n * (1 - square) / (1 + square) - 1, LEAST_FREEDOM)
    return Known(value, interval.low_tok_s, interval.high_tok_s, freedom)
