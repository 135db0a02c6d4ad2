"""Formulas of quality: each number is worked out on paper or by another route."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from pydantic import ValidationError

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents
from bench_core.contract.measures.quality import (
    ROWS_TO_JUDGE,
    SCORE_TOKENS,
    Agreement,
    Likelihood,
    NllDifference,
    QualityBounds,
    agreement,
    likelihood,
    nll_difference,
    scored_texts,
    shortfall,
)
from bench_core.contract.records.events import ScoreEvent, parse_event


def _event(tokens: tuple[int, ...] = (3, 1), sums: tuple[float, ...] = (-6.0, -2.0), cause: str = "") -> ScoreEvent:
    return ScoreEvent(
        started_s=1.0, duration_s=0.1, texts=(0, 2), digest="d", scored_tokens=tokens, log_probability_nat=sums,
        cause=cause,
    )  # fmt: skip


def _likelihood(tokens: tuple[int, ...], nll: tuple[float, ...], digest: str = "d") -> Likelihood:
    return Likelihood(digest=digest, scored_tokens=tokens, nll_nat=nll, nll_nat_per_token=None, perplexity=None)


def test_texts_are_the_first_prompts_that_have_something_to_score_cut_to_a_length() -> None:
    """A prompt of one token has no probability; the count is of texts, not of prompts looked at."""
    long = list(range(SCORE_TOKENS + 40))
    chosen = scored_texts([[5], long, [1, 2], [], [3, 4], [6, 7]], 3)
    assert chosen == [(1, tuple(long[:SCORE_TOKENS])), (2, (1, 2)), (4, (3, 4))]
    assert scored_texts([[1, 2]], 9) == [(0, (1, 2))]
    assert scored_texts([[1, 2]], 0) == []


def test_nll_weighs_tokens_not_texts() -> None:
    """8 nats over 4 tokens: 2 a token, perplexity e^2; the mean of the texts' means, also 2, is told apart below."""
    found = likelihood(_event())
    assert found.nll_nat_per_token == 2.0
    assert found.perplexity == pytest.approx(math.exp(2.0))
    assert likelihood(_event((3, 1), (-3.0, -2.0))).nll_nat_per_token == 1.25  # not (1 + 2) / 2


def test_a_perplexity_beyond_all_numbers_is_absent_and_its_logarithm_is_not() -> None:
    found = likelihood(_event((1, 1), (-1500.0, -1500.0)))
    assert (found.nll_nat_per_token, found.perplexity) == (1500.0, None)


def test_a_score_is_whole_or_says_why_not() -> None:
    none = likelihood(_event((), (), "no such call"))
    assert (none.nll_nat_per_token, none.perplexity, none.cause) == (None, None, "no such call")
    for wrong in (((3,), (-6.0,), ""), ((3, 1), (-6.0,), ""), ((3, 1), (-6.0, -2.0), "why"), ((3, 0), (-6.0, 0.0), "")):
        with pytest.raises(ValidationError):
            _event(*wrong)
    with pytest.raises(ValidationError):
        _event((3, 1), (float("-inf"), -2.0))


def test_a_log_with_two_scores_is_damaged() -> None:
    events = CellEvents()
    events.add(parse_event(_event().model_dump_json(), "line"))
    with pytest.raises(BadInput, match="twice"):
        events.add(_event())


def test_the_difference_is_paired_and_its_error_is_that_of_a_ratio() -> None:
    """Three texts of equal length: the ratio estimator is then the mean, its error stdev / sqrt(n)."""
    ours, reference = _likelihood((10, 10, 10), (21.0, 33.0, 45.0)), _likelihood((10, 10, 10), (20.0, 30.0, 40.0))
    found = nll_difference(ours, reference)
    per_text = [0.1, 0.3, 0.5]
    assert found is not None
    assert found.nat_per_token == pytest.approx(0.3)
    assert found.standard_error == pytest.approx(statistics.stdev(per_text) / math.sqrt(3))


def test_the_error_covers_the_truth_as_often_as_it_should() -> None:
    """2000 trials of 30 texts of unequal length: plus and minus 1.96 errors cover the true difference in 92 to 97 %
    (a little under 95 %: 30 texts, and their error is estimated too)."""
    drawn = random.Random(7)  # noqa: S311  # a simulation
    covered = 0
    for _ in range(2000):
        tokens = tuple(drawn.randrange(20, 256) for _ in range(30))
        excess = tuple(0.05 * n + math.sqrt(n) * drawn.gauss(0.0, 0.3) for n in tokens)
        found = nll_difference(_likelihood(tokens, excess), _likelihood(tokens, (0.0,) * 30))
        assert found is not None
        assert found.standard_error is not None
        covered += abs(found.nat_per_token - 0.05) <= 1.96 * found.standard_error
    assert 0.92 <= covered / 2000 <= 0.97


def test_nothing_is_compared_over_other_texts() -> None:
    ours = _likelihood((10, 10), (21.0, 33.0))
    assert nll_difference(ours, _likelihood((10, 10), (20.0, 30.0), digest="e")) is None
    assert nll_difference(ours, _likelihood((), ())) is None
    assert nll_difference(_likelihood((), ()), ours) is None
    single = nll_difference(_likelihood((4,), (8.0,)), _likelihood((4,), (4.0,)))
    assert single == NllDifference(nat_per_token=1.0, standard_error=None)


def test_agreement_counts_rows_prefixes_and_places() -> None:
    """Four rows of four tokens: equal; different from the third on with the last equal again; from the first on with
    the second equal; from the first on throughout."""
    found = agreement(
        [
            ([1, 2, 3, 4], [1, 2, 3, 4]),
            ([1, 2, 9, 4], [1, 2, 3, 4]),
            ([9, 2, 9, 9], [1, 2, 3, 4]),
            ([5, 6, 7, 8], [1, 2, 3, 4]),
        ]
    )
    assert found == Agreement(
        rows=4, rows_identical=1, rows_same_first_token=2, mean_common_prefix=(1 + 0.5) / 4,
        median_common_prefix=0.25, equal_positions=(4 + 3 + 1) / 16,
    )  # fmt: skip


def test_a_row_that_ends_early_is_not_identical() -> None:
    """Two of four tokens, all of them equal: half a common prefix, whichever of the two ended."""
    for pair in (([1, 2], [1, 2, 3, 4]), ([1, 2, 3, 4], [1, 2])):
        found = agreement([pair])
        assert found is not None
        assert (found.rows_identical, found.mean_common_prefix, found.equal_positions) == (0, 0.5, 0.5)
    assert agreement([]) is None


def _agreed(rows: int, same_first: int) -> Agreement:
    return Agreement(
        rows=rows, rows_identical=0, rows_same_first_token=same_first, mean_common_prefix=0.0,
        median_common_prefix=0.0, equal_positions=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("random_weights", [False, True])
def test_a_likelihood_past_its_bound_is_a_shortfall_and_one_at_it_is_not(random_weights: bool) -> None:
    bounds = QualityBounds()
    for nat, fails in ((0.5, False), (0.501, True), (-3.0, False)):
        difference = NllDifference(nat_per_token=nat, standard_error=0.1)
        assert bool(shortfall(difference, None, bounds, random_weights=random_weights)) is fails
    wide = QualityBounds(max_nll_increase=2)
    assert not shortfall(NllDifference(nat_per_token=1.9, standard_error=None), None, wide, random_weights=False)


def test_agreement_excludes_only_trained_weights_and_only_with_rows_enough() -> None:
    bounds = QualityBounds()
    assert "0 of 10" in shortfall(None, _agreed(ROWS_TO_JUDGE, 0), bounds, random_weights=False)
    assert not shortfall(None, _agreed(ROWS_TO_JUDGE, 1), bounds, random_weights=False)
    assert not shortfall(None, _agreed(ROWS_TO_JUDGE - 1, 0), bounds, random_weights=False)
    assert not shortfall(None, _agreed(1000, 0), bounds, random_weights=True)
    assert not shortfall(None, _agreed(1000, 0), QualityBounds(min_agreement=0), random_weights=False)
    assert not shortfall(None, None, bounds, random_weights=False)
