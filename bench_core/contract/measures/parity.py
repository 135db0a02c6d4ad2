"""What the suite itself costs: its batches beside the same batches given to the engine directly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.record import Record
from bench_core.contract.statistics.median import median_interval


class Parity(Record):
    """The suite's own batches beside the same batches given to the engine directly, in the same process.

    Attributes:
        batches: different ones.
        rounds: how often each was run by both.
        output_throughput_tok_s, direct_output_throughput_tok_s: over all rounds of all batches.
        ratio: suite / direct; 1 where the suite costs nothing.
        median_ratio: of the batches' own: fastest by the suite / fastest by the engine directly. What a host does to a
            call makes it slower and never faster, so that the fastest of some rounds tells of the calls and the mean of
            the host (Python's documentation of ``timeit.Timer.repeat`` says the same). Absent in logs of before the two
            of a pair were run one right after the other; there the suite's is the measured batch.
        median_low, median_high: the median's 95 % interval; absent for fewer than six batches.
        rows_with_equal_tokens: prompts of the pairs that got the same ids from both, of ``rows``.
    """

    batches: int = Field(ge=1)
    rounds: int = Field(1, ge=1)
    rows: int = Field(ge=1)
    rows_with_equal_tokens: int = Field(ge=0)
    output_throughput_tok_s: float
    direct_output_throughput_tok_s: float
    ratio: float
    median_ratio: float | None = None
    median_low: float | None = None
    median_high: float | None = None


def parity(direct: list[BatchEvent], paired: list[BatchEvent], measured: list[BatchEvent]) -> Parity | None:
    """``None`` where no batch was given to the engine directly.

    Raises:
        BadInput: a batch was given to the engine directly that was not measured, or whose pair is another one.
    """
    if not direct:
        return None
    of_prompts = {batch.prompts_digest: batch for batch in measured}
    if any(batch.prompts_digest not in of_prompts for batch in direct):
        raise BadInput("a batch was given to the engine directly that was not measured")
    if paired and [batch.prompts_digest for batch in paired] != [batch.prompts_digest for batch in direct]:
        raise BadInput("a batch was given to the engine directly whose pair is another one")
    pairs = list(zip(paired or [of_prompts[batch.prompts_digest] for batch in direct], direct, strict=True))
    rates = [throughput_tok_s(side) for side in zip(*pairs, strict=True)]
    theirs_at_best = _at_best(direct)
    rounds, uneven = divmod(len(pairs), len(theirs_at_best))
    if uneven:
        raise BadInput("not all batches were given to the engine directly equally often")
    ratios = [best / theirs_at_best[digest] for digest, best in _at_best(paired).items()]
    low, high = median_interval(ratios) or (None, None)
    return Parity(
        batches=len(theirs_at_best),
        rounds=rounds,
        rows=sum(len(batch.outputs) for _, batch in pairs),
        rows_with_equal_tokens=sum(
            ours == theirs for suite, batch in pairs for ours, theirs in zip(suite.outputs, batch.outputs, strict=True)
        ),
        output_throughput_tok_s=rates[0],
        direct_output_throughput_tok_s=rates[1],
        ratio=rates[0] / rates[1],
        median_ratio=statistics.median(ratios) if ratios else None,
        median_low=low,
        median_high=high,
    )


def _at_best(batches: Iterable[BatchEvent]) -> dict[str, float]:
    """Digest of a batch's prompts to the highest throughput that it had, tokens/s."""
    best: dict[str, float] = {}
    for batch in batches:
        best[batch.prompts_digest] = max(best.get(batch.prompts_digest, 0.0), throughput_tok_s([batch]))
    return best


def throughput_tok_s(batches: Sequence[BatchEvent]) -> float:
    """Output tokens of all batches / their latencies."""
    return sum(sum(batch.output_tokens) for batch in batches) / math.fsum(batch.latency_s for batch in batches)
