"""When a cell has warmed up, and when it is measured well enough. Decided from what was measured; no clock is read.

The worker asks between two batches, and the same functions judge an event log afterwards: given the batches before it,
each decision can be made again.

**Warm-up.** The study's "first batch discarded" is the floor. Then the prompts of the floor's last batch are repeated
until the last five latencies of them show no trend (Mann and Kendall, exact; see ``contract.trend``). The same prompts
each time, because batches of other prompts have other lengths, and a trend must not be one of lengths. The five are
always run: a first batch is slow for reasons of its own (kernels are compiled, graphs recorded), so that it says
nothing of what the test will cost, and a slow engine is not to be taken as warm unseen. That is four batches beyond the
floor. The limit of seconds counts from the floor's end and ends what comes after the five: beyond its floor a cell
spends that limit, or four batches where these take longer. The measured batches are tested for a trend in any case.

**Measuring.** Until the 95 % confidence interval of the workload's throughput, as ``contract.workload_rate`` estimates
it, is within the precision asked for, at two looks running. Batches that do not represent the workload have no
interval, so that no cell ends by precision on them. Looks are few and grow apart by half (after 5, 8, 12, 18,
27 ... batches): who looks after every batch sooner or later sees an interval that is narrow by chance, and one that was
narrow by chance seldom is so again with half as many batches more (Glynn and Whitt, "The asymptotic validity of
sequential stopping rules for stochastic simulations", Annals of Applied Probability 2, 1992, on why stopping by width
is sound at all; Singham and Schruben 2012, cited in ``contract.interval``, on what it costs with few values).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from pydantic import Field

from bench_core.contract.measures.cpu_use import BusyRule, CpuReadings, judged
from bench_core.contract.records.record import Record
from bench_core.contract.statistics.interval import FEWEST_BATCHES, Interval, throughput_interval
from bench_core.contract.statistics.trend import trend
from bench_core.contract.statistics.workload_rate import WholeWork, Work, WorkloadRate, workload_rate

StopReason = Literal["precision", "busy", "workload", "max_seconds", "max_batches", "exhaustive"]
WarmupEnd = Literal["flat", "trend", "not_tested"]

FLATNESS_BATCHES = 5
# A false alarm costs one more warm-up batch, so the test may be strict. With five values: 9 of 10 pairs in one order.
FLATNESS_SIGNIFICANCE = 0.1
# A change of less over the whole series is of no matter, however clear.
TREND_TOLERANCE = 0.01

_GROWTH = 1.5


class WarmupRule(Record):
    """How long to warm up.

    Attributes:
        at_least: batches, of other prompts each.
        at_most: batches; nothing is tested where it is ``None`` or leaves no room for the test.
        max_s: seconds that batches beyond the five of the test may reach; ``None`` for no limit. See ``max_s_from``.
        max_s_from: ``floor``: they count from the end of the batches of the floor, and the test is always made.
            ``first_batch``, the rule of before: from the first warm-up batch's start, and no test is made that would
            not fit into them.
    """

    at_least: int = Field(1, ge=1)
    at_most: int | None = None
    max_s: float | None = None
    max_s_from: Literal["first_batch", "floor"] = "first_batch"

    @property
    def has_room_for_the_test(self) -> bool:
        """Whether the limit on batches allows for as many of equal prompts as the test needs."""
        return self.at_most is not None and self.at_most >= self._with_test

    @property
    def fewest(self) -> int:
        """Batches that are run whatever they take: the floor, and with it those of the test where it is asked for."""
        return self._with_test if self.has_room_for_the_test else self.at_least

    @property
    def _with_test(self) -> int:
        return self.at_least - 1 + FLATNESS_BATCHES


class StoppingRule(Record):
    """How long to measure.

    Attributes:
        precision: half width of throughput's interval / throughput; ``None`` measures everything.
        max_s: seconds from the first measured batch's start after which no other is begun.
        max_batches: measured batches at most.
        busy: from when on others disturb; ``None``, as in logs of before that was looked at: nobody does.
    """

    precision: float | None = Field(None, gt=0, lt=1)
    max_s: float | None = Field(None, gt=0)
    max_batches: int | None = Field(None, ge=1)
    busy: BusyRule | None = None


class Sample(NamedTuple):
    """What a decision needs of a batch: output tokens of all rows, seconds, what its prompts ask for."""

    tokens: int
    latency_s: float
    started_s: float
    work: Work
    cpu: CpuReadings | None = None

    @property
    def ended_s(self) -> float:
        """When the device had finished."""
        return self.started_s + self.latency_s


def warmup_end(rule: WarmupRule, done: Sequence[Sample]) -> WarmupEnd | None:
    """What ends the warm-up after these batches: ``None`` to go on.

    ``flat``: the last five show no trend. ``trend``: they do, and a limit is reached. ``not_tested``: too few were run
    to tell, since a test was not asked for or, by the rule of before, there was no time for it.
    """
    if len(done) < rule.at_least:
        return None
    same = [batch.latency_s for batch in done[rule.at_least - 1 :]]  # those of equal prompts
    tested = len(same) >= FLATNESS_BATCHES
    if tested and not _rises_or_falls(same[-FLATNESS_BATCHES:]):
        return "flat"
    further = max(FLATNESS_BATCHES - len(same), 1)  # until the next answer
    full = rule.at_most is None or len(done) + further > rule.at_most
    if full or _is_late(rule, done, further, tested=tested):
        return "trend" if tested else "not_tested"
    return None


def _is_late(rule: WarmupRule, done: Sequence[Sample], further: int, *, tested: bool) -> bool:
    """Whether so many batches more, each as long as the last, would end after the limit of seconds."""
    if rule.max_s is None:
        return False
    if rule.max_s_from == "floor":
        counted_from_s = done[rule.at_least - 1].ended_s
        needed = not tested
    else:
        counted_from_s, needed = done[0].started_s, False
    return not needed and done[-1].ended_s + further * done[-1].latency_s - counted_from_s > rule.max_s


def warmup_batch(rule: WarmupRule, index: int, batches: int) -> int:
    """Which of the workload's batches the warm-up runs as its ``index``-th: from the end backwards, so that measuring
    starts on prompts seen longest ago or never; beyond the floor, the floor's last one again."""
    return batches - 1 - min(index, rule.at_least - 1) % batches


def _rises_or_falls(latencies_s: Sequence[float]) -> bool:
    return trend(latencies_s).is_seen(FLATNESS_SIGNIFICANCE, TREND_TOLERANCE)


def stop_reason(
    rule: StoppingRule, done: Sequence[Sample], available: int, whole: WholeWork | None
) -> StopReason | None:
    """Why measuring ends after these batches: ``None`` to go on.

    Args:
        available: full batches of the workload.
        whole: their work; ``None`` judges as it was done before work was looked at.
    """
    n = len(done)
    if n == 0:
        return None
    if rule.precision is not None and _is_precise(rule.precision, done, whole):
        disturbed = _disturbed(rule, done)
        # A disturbed sample has one look more to become a quiet one.
        if not disturbed or _is_precise(rule.precision, done[: looks_until(n)[-2]], whole):
            return "busy" if disturbed else "precision"
    if n >= available:
        return "workload" if rule.precision is not None else "exhaustive"
    if rule.max_batches is not None and n >= rule.max_batches:
        return "max_batches"
    if rule.max_s is not None and done[-1].ended_s - done[0].started_s >= rule.max_s:
        return "max_seconds"
    return None


@lru_cache(maxsize=1024)
def looks_until(n: int) -> tuple[int, ...]:
    """The numbers of batches, up to ``n``, after which the interval is looked at."""
    looks = []
    look = FEWEST_BATCHES
    while look <= n:
        looks.append(look)
        look = math.ceil(look * _GROWTH)
    return tuple(looks)


def _is_precise(precision: float, done: Sequence[Sample], whole: WholeWork | None) -> bool:
    looks = looks_until(len(done))
    if len(looks) < 2 or looks[-1] != len(done):
        return False
    return all(_half_width(done[:look], whole) <= precision for look in (looks[-1], looks[-2]))


def _disturbed(rule: StoppingRule, done: Sequence[Sample]) -> bool:
    use = judged(rule.busy, [batch.cpu for batch in done])
    return use is not None and use.busy


def _half_width(done: Sequence[Sample], whole: WholeWork | None) -> float:
    interval = interval_of(done) if whole is None else rate_of(done, whole).interval
    return math.inf if interval is None else interval.relative_half_width


def interval_of(done: Sequence[Sample]) -> Interval | None:
    """What logs of before the workload was looked at were judged by; ``None`` for fewer than five batches."""
    return throughput_interval([batch.tokens for batch in done], [batch.latency_s for batch in done])


def rate_of(done: Sequence[Sample], whole: WholeWork | None) -> WorkloadRate:
    """What these batches say of the whole workload."""
    return workload_rate(
        [batch.tokens for batch in done], [batch.latency_s for batch in done], [batch.work for batch in done], whole
    )
