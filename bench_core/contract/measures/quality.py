"""Quality beside speed: what an engine's outputs and probabilities say of what it computes. Formulas only.

Token agreement compares greedy outputs with those of a reference, on the very outputs that were timed. It is strict: at
a near-tie, rounding alone makes two correct engines choose differently, and from there on the texts differ. So a low
agreement is no proof of an error, and the first token of each row, chosen after the same ids by all, says most.
With random weights all choices are near-ties: agreement then says nothing.

The negative log-likelihood of a fixed text (nats for each token) has no such cliff: every token is judged after the
same true ids. Its exponential is the perplexity (Jelinek, Mercer, Bahl and Baker, 1977).
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Iterable, Sequence

from pydantic import Field

from bench_core.contract.records.events import ScoreEvent
from bench_core.contract.records.record import Record

SCORE_TOKENS = 256  # of each text: long enough that most tokens have a context, short enough for a CPU
# Fewer rows than this do not carry a verdict on a share as low as the default bound.
ROWS_TO_JUDGE = 10


class QualityBounds(Record):
    """What a method must keep of the reference's quality to be ranked.

    Attributes:
        max_nll_increase: nats for each token. By as much may another method's NLL lie below the reference's before it
            is the reference that is doubted. The default is the distance between the smallest and the largest
            Llama 2 on WikiText-2 (perplexity 5.47 of 7B, 3.32 of 70B: ln(5.47 / 3.32) = 0.5): a method that loses more
            has lost more than a tenfold larger model gains.
        min_agreement: share of rows whose first token is the reference's. Not applied to random weights, nor to fewer
            than ``ROWS_TO_JUDGE`` rows. The default is far below what a 2-bit quantisation keeps: what it catches is
            an engine that answers to another prompt, or a damaged one that cannot be scored.
    """

    max_nll_increase: float = Field(0.5, gt=0, le=100)
    min_agreement: float = Field(0.1, ge=0, le=1)


def scored_texts(prompts: Sequence[Sequence[int]], count: int) -> list[tuple[int, tuple[int, ...]]]:
    """The texts that every engine scores: (index, token ids) of the first ``count`` prompts of two tokens or more,
    each cut behind its first ``SCORE_TOKENS`` tokens. Fewer where the workload has fewer."""
    fit = ((index, tuple(prompt[:SCORE_TOKENS])) for index, prompt in enumerate(prompts) if len(prompt) > 1)
    return [text for text, _ in zip(fit, range(count), strict=False)]


class Likelihood(Record):
    """What a ``ScoreEvent`` amounts to.

    Attributes:
        digest: of the scored token ids; two likelihoods are compared only where it is the same.
        scored_tokens: for each text, its tokens but the first.
        nll_nat: for each text, minus the sum of its tokens' log-probabilities.
        nll_nat_per_token: sum of ``nll_nat`` / sum of ``scored_tokens``; ``None`` where nothing was scored.
        perplexity: its exponential; ``None`` where that is beyond any number.
        cause: why nothing was scored.
    """

    digest: str
    scored_tokens: tuple[int, ...]
    nll_nat: tuple[float, ...]
    nll_nat_per_token: float | None
    perplexity: float | None
    cause: str = ""


def likelihood(event: ScoreEvent) -> Likelihood:
    """Computes it from the raw sums."""
    per_token = None
    if event.scored_tokens:
        per_token = -math.fsum(event.log_probability_nat) / sum(event.scored_tokens)
    return Likelihood(
        digest=event.digest,
        scored_tokens=event.scored_tokens,
        nll_nat=tuple(-value for value in event.log_probability_nat),
        nll_nat_per_token=per_token,
        perplexity=None if per_token is None or per_token > 700 else math.exp(per_token),
        cause=event.cause,
    )


class NllDifference(Record):
    """How much worse than the reference a method predicts the same texts.

    Attributes:
        nat_per_token: NLL minus the reference's; above 0 is worse.
        standard_error: of that, from the spread over texts; ``None`` for a single text.
    """

    nat_per_token: float
    standard_error: float | None


def nll_difference(ours: Likelihood, reference: Likelihood) -> NllDifference | None:
    """The paired difference over the same texts; ``None`` where one has no score or the texts differ.

    A ratio estimator (Cochran, Sampling Techniques, 3rd edition, 1977, section 6.4): sum of the texts' differences /
    sum of their tokens, with the standard error that follows from the texts' scatter about it.
    """
    tokens = ours.scored_tokens
    if not tokens or ours.digest != reference.digest or tokens != reference.scored_tokens:
        return None
    differences = [left - right for left, right in zip(ours.nll_nat, reference.nll_nat, strict=True)]
    total, texts = sum(tokens), len(tokens)
    mean = math.fsum(differences) / total
    if texts < 2:
        return NllDifference(nat_per_token=mean, standard_error=None)
    scatter = math.fsum((d - mean * n) ** 2 for d, n in zip(differences, tokens, strict=True))
    return NllDifference(nat_per_token=mean, standard_error=math.sqrt(scatter * texts / (texts - 1)) / total)


class Agreement(Record):
    """Outputs beside the reference's, row by row. Shares are of a row's output tokens (of the longer of the two rows,
    where they end at different places), so that 1 means equal.

    Attributes:
        rows: prompts that both answered.
        rows_identical: of these, with the same token ids from the first to the last.
        rows_same_first_token: of these, with the same first token: no choice before it could differ.
        mean_common_prefix, median_common_prefix: over rows, the share of tokens before the first difference.
        equal_positions: over all tokens, the share that equals the token at the same place. After a first difference
            it counts mere coincidences, above all of frequent tokens.
    """

    rows: int = Field(ge=1)
    rows_identical: int = Field(ge=0)
    rows_same_first_token: int = Field(ge=0)
    mean_common_prefix: float
    median_common_prefix: float
    equal_positions: float


def agreement(pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Agreement | None:
    """Compares (ours, reference) pairs of token ids; ``None`` for no pair."""
    prefixes: list[float] = []
    identical = first = equal = positions = 0
    for ours, reference in pairs:
        longer = max(len(ours), len(reference))
        same = [*map(operator.eq, ours, reference)]
        common = same.index(False) if False in same else len(same)
        whole = common == longer
        prefixes.append(common / longer if longer else 1.0)
        identical += whole
        first += common > 0 or whole
        equal += sum(same)
        positions += longer
    if not prefixes:
        return None
    return Agreement(
        rows=len(prefixes),
        rows_identical=identical,
        rows_same_first_token=first,
        mean_common_prefix=math.fsum(prefixes) / len(prefixes),
        median_common_prefix=statistics.median(prefixes),
        equal_positions=equal / positions if positions else 1.0,
    )


def doubt(reference: Likelihood, others: Iterable[tuple[str, Likelihood]], bounds: QualityBounds) -> str:
    """Why a method cannot judge others, in one line; empty where it can.

    Rounding and quantising only lose: a method that predicts the same texts far better than the unquantised model does
    is no better model, but a sign that the reference is damaged (weights that were missing and were filled at random).
    The bound is the one that a method may lie above the reference.

    Args:
        others: label and likelihood of the run's other methods.
    """
    below = [
        (difference.nat_per_token, label)
        for label, other in others
        if (difference := nll_difference(other, reference)) is not None
        and difference.nat_per_token < -bounds.max_nll_increase
    ]
    if not below:
        return ""
    least, label = min(below)
    return f"{label}'s NLL is {-least:.3f} nat/token below its own, {bounds.max_nll_increase:g} are allowed"


def shortfall(
    difference: NllDifference | None, agreed: Agreement | None, bounds: QualityBounds, *, random_weights: bool
) -> str:
    """Why a method falls past the bounds, in one line; empty where it does not, or where nothing can be said.

    Likelihood is judged with random weights too: their NLL hardly changes with rounding (all methods lie near the
    logarithm of the vocabulary's size), so one that is off computes something else.
    """
    if difference is not None and difference.nat_per_token > bounds.max_nll_increase:
        return (
            f"NLL is {difference.nat_per_token:.3f} nat/token above the reference's, "
            f"{bounds.max_nll_increase:g} are allowed"
        )
    if random_weights or agreed is None or agreed.rows < ROWS_TO_JUDGE:
        return ""
    if agreed.rows_same_first_token < bounds.min_agreement * agreed.rows:
        return (
            f"{agreed.rows_same_first_token} of {agreed.rows} rows begin with the reference's first token, "
            f"{bounds.min_agreement:.0%} must"
        )
    return ""
