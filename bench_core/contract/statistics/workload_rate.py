"""The throughput of a whole workload, estimated from the batches that were measured.

A cell stops when it is precise enough, so its batches are a sample of the workload's. How long a batch takes depends on
its prompts: on the tokens in it, and on its longest prompt where an engine pads. Both are known for every batch of the
workload before anything is measured. Survey sampling calls this an auxiliary variable and uses it twice (Cochran,
"Sampling Techniques", 3rd ed. 1977, chapter 7, the regression estimator; Särndal, Swensson and Wretman, "Model Assisted
Survey Sampling", 1992, chapter 6): the mean is moved to the workload's own mean of the auxiliary variables, so that one
story of 1024 tokens among the first batches does not speak for all the others; and what remains uncertain is only what
the prompts do not explain. The estimate needs no model of an engine to be right, only to be narrow.

Fitted is what is worth it: with eight batches or more both variables, if they explain half of the differences between
batches; with five to seven the better one, if it explains 80 %. Otherwise, and where the workload's mean lies far
outside of what was measured (by more than the measured range), the estimate is the plain ratio of sums and the interval
that of ``contract.interval``. Where the batches' mean work is too far from the workload's for a plain ratio to stand
for it, a line is fitted whatever it explains, and its interval holds what is not known of the slope.

All of this is sound for a sample that represents the workload, and for no other: a plain ratio speaks for the batches
that it is of, and a line says little of lengths that were not measured. So ``contract.representation`` is asked, and
where it says no there is no interval: the numbers are as near as these batches come, and nobody knows how near that is.
How often the interval covers the truth is simulated in ``tests/contract/test_contract_workload_rate.py`` for samples at
random, and in ``tests/contract/test_contract_coverage.py`` for orders of every kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from pydantic import Field

from bench_core.contract.records.record import Record
from bench_core.contract.statistics.fit import Fit, known_fit
from bench_core.contract.statistics.interval import Interval, interval_around, throughput_interval
from bench_core.contract.statistics.representation import (
    WHOLLY_ALIKE,
    Likeness,
    Misfit,
    WorkSpread,
    likeness,
    spread_of,
)

# Few batches cannot show that neighbours are not alike, so intervals reckon with a correlation of up to 0.9; of eight
# batches that leaves less than one degree of freedom, whose quantile is 12.7. Simulated, 3 (a quantile of 3.2) cover
# the truth as often, but for a percent where neighbours really are that much alike, with a quarter of the width.
LEAST_FREEDOM = 3.0
BOTH_FROM_BATCHES = 8
BOTH_EXPLAIN = 0.5
ONE_EXPLAINS = 0.8


class Work(NamedTuple):
    """What a batch asks of an engine, known beforehand: prompt tokens of all its rows, and of its longest."""

    prompt_tokens: float
    longest_prompt_tokens: float


class MeanWork(Record):
    """Means over all full batches of a workload.

    Attributes:
        prompt_tokens: of all rows of a batch.
        longest_prompt_tokens: of a batch's longest prompt.
    """

    prompt_tokens: float = Field(gt=0)
    longest_prompt_tokens: float = Field(gt=0)


class WholeWork(Record):
    """The work in all full batches of a workload.

    Attributes:
        spread: absent in logs of before it was looked at; whether measured batches represent the workload is then not
            asked.
    """

    batches: int = Field(ge=1)
    mean: MeanWork
    spread: WorkSpread | None = None


class WorkloadRate(Record):
    """How fast a cell works through the whole workload.

    Attributes:
        throughput_tok_s: output tokens / seconds.
        batch_latency_s, output_tokens_per_batch: means of a batch.
        interval: of the throughput, 95 % confidence; absent for fewer than five batches, where nothing was generated,
            and where the batches do not represent the workload.
        explained: share of the differences between batches that their prompts explain (adjusted for the number of
            batches), where use was made of it; absent where the numbers are those of the measured batches as they are.
        misfit: why these do not represent the workload; absent where they do, and where it was not asked.
    """

    throughput_tok_s: float
    batch_latency_s: float
    output_tokens_per_batch: float
    interval: Interval | None
    explained: float | None = None
    misfit: Misfit | None = None


def work_of(prompt_tokens: Sequence[int]) -> Work:
    """The work in a batch of prompts of these lengths."""
    return Work(sum(prompt_tokens), max(prompt_tokens))


def mean_work(batches: Sequence[Sequence[int]]) -> MeanWork:
    """Of the prompts' lengths in each full batch of a workload."""
    works = [work_of(batch) for batch in batches]
    return MeanWork(
        prompt_tokens=math.fsum(work.prompt_tokens for work in works) / len(works),
        longest_prompt_tokens=math.fsum(work.longest_prompt_tokens for work in works) / len(works),
    )


def whole_work(batches: Sequence[Sequence[int]]) -> WholeWork:
    """Of the prompts' lengths in each full batch of a workload."""
    works = [work_of(batch) for batch in batches]
    return WholeWork(
        batches=len(works),
        mean=mean_work(batches),
        spread=WorkSpread(
            prompt_tokens=spread_of([work.prompt_tokens for work in works]),
            longest_prompt_tokens=spread_of([work.longest_prompt_tokens for work in works]),
        ),
    )


def workload_rate(
    tokens: Sequence[int], latencies_s: Sequence[float], works: Sequence[Work], whole: WholeWork | None
) -> WorkloadRate:
    """The estimate from output tokens, latency and work of each measured batch (one at least), in order of time.

    Without ``whole``, that of the batches as they are.
    """
    plain = throughput_interval(tokens, latencies_s, least_freedom=LEAST_FREEDOM)
    like = _likeness(works, whole) if whole is not None and plain is not None else WHOLLY_ALIKE
    fitted = None
    if whole is not None and plain is not None:
        fitted = _fitted(tokens, latencies_s, works, whole.mean, like.apart)
    n = len(tokens)
    found = fitted or WorkloadRate(
        throughput_tok_s=sum(tokens) / math.fsum(latencies_s),
        batch_latency_s=math.fsum(latencies_s) / n,
        output_tokens_per_batch=sum(tokens) / n,
        interval=plain,
    )
    misfit = like.misfit or (like.apart if fitted is None else None)
    if misfit is not None:
        return found.model_copy(update={"interval": None, "misfit": misfit})
    if found.interval is None or like.allowance == 0.0:
        return found
    return found.model_copy(update={"interval": found.interval.widened(like.allowance)})


# Cells of one run were given the same batches.
_known_likeness = lru_cache(maxsize=64)(likeness)


def _likeness(works: Sequence[Work], whole: WholeWork) -> Likeness:
    """Of both kinds of work: the first misfit, what is apart, the larger allowance."""
    spread, mean = whole.spread, whole.mean
    if spread is None:
        return WHOLLY_ALIKE
    tokens, longest = zip(*works, strict=True)
    found = (
        _known_likeness(tokens, "prompt_tokens", spread.prompt_tokens, mean.prompt_tokens, whole.batches),
        _known_likeness(
            longest, "longest_prompt_tokens", spread.longest_prompt_tokens, mean.longest_prompt_tokens, whole.batches
        ),
    )
    return Likeness(
        misfit=next((one.misfit for one in found if one.misfit is not None), None),
        apart=next((one.apart for one in found if one.apart is not None), None),
        allowance=max(one.allowance for one in found),
    )


def _fitted(
    tokens: Sequence[int], latencies_s: Sequence[float], works: Sequence[Work], mean: MeanWork, apart: Misfit | None
) -> WorkloadRate | None:
    """Where it is worth it; with batches whose mean is apart, wherever it can be had, by the work that shows it at
    least: what the slope is not known by is in the interval."""
    columns = list(zip(*works, strict=True))
    at = (mean.prompt_tokens, mean.longest_prompt_tokens)
    if any(_is_far(place, column) for column, place in zip(columns, at, strict=True)):
        return None
    n = len(tokens)
    throughput = sum(tokens) / math.fsum(latencies_s)
    differences = [count - throughput * s for count, s in zip(tokens, latencies_s, strict=True)]
    if n >= BOTH_FROM_BATCHES:
        found, needed = known_fit(tuple(columns), at), BOTH_EXPLAIN
    else:
        names = Work._fields if apart is None else (apart.work,)
        each = [known_fit((columns[Work._fields.index(name)],), (getattr(mean, name),)) for name in names]
        found, needed = max(each, key=lambda fit: _explained(fit, differences)), ONE_EXPLAINS
    explained = _explained(found, differences)
    per_batch = sum(tokens) / n + found.shift(tokens)
    latency_s = math.fsum(latencies_s) / n + found.shift(latencies_s)
    if found.columns == 0 or (explained < needed and apart is None) or per_batch <= 0.0 or latency_s <= 0.0:
        return None
    rate = per_batch / latency_s
    residuals = [
        (count - rate * s) / per_batch
        for count, s in zip(found.residuals(tokens), found.residuals(latencies_s), strict=True)
    ]
    interval = interval_around(
        rate,
        residuals,
        least_freedom=LEAST_FREEDOM,
        columns=found.columns,
        leverage=found.leverage,
        likeness=n * found.neighbours / (n - 1 - found.columns),
    )
    return WorkloadRate(
        throughput_tok_s=rate,
        batch_latency_s=latency_s,
        output_tokens_per_batch=per_batch,
        interval=interval,
        explained=max(explained, 0.0),
    )


def _is_far(place: float, column: Sequence[float]) -> bool:
    low, high = min(column), max(column)
    return not low - (high - low) <= place <= high + (high - low)


def _explained(fit: Fit, differences: Sequence[float]) -> float:
    """Share of the variance of differences that sum to 0, adjusted for degrees of freedom; 0 where there is nothing to
    explain or nothing to explain it by."""
    n = len(differences)
    whole = math.fsum(value * value for value in differences)
    if fit.columns == 0 or whole <= 0.0:
        return 0.0
    rest = math.fsum(value * value for value in fit.residuals(differences))
    return 1.0 - rest / whole * (n - 1) / (n - 1 - fit.columns)
