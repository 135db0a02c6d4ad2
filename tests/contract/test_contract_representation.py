"""Whether some batches represent all: against values worked out by hand, and against random samples."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from pydantic import ValidationError

from bench_core.contract.statistics.representation import (
    GROUPS,
    HARMLESS,
    MEANS_APART,
    RANKS_BEYOND,
    Likeness,
    WorkSpread,
    likeness,
    spread_of,
)


def like(measured: list[float], whole: list[float]) -> Likeness:
    return likeness(measured, "prompt_tokens", spread_of(whole), statistics.fmean(whole), len(whole))


HUNDRED = [float(k) for k in range(101, 201)]  # works 101 to 200


def test_the_spread_keeps_every_batch_of_few_and_means_of_equal_groups_of_many() -> None:
    assert spread_of([3, 1, 2]) == (1.0, 2.0, 3.0)
    many = [float(k) for k in range(6400)]
    assert spread_of(many) == tuple(k * 100 + 49.5 for k in range(GROUPS))
    odd = spread_of(range(1, 101))
    assert len(odd) == GROUPS
    assert statistics.fmean(odd) == pytest.approx(50.5, rel=1e-12)
    assert odd[0] == pytest.approx((1 + 0.5625 * 2) / 1.5625), "a part is 100 / 64 of a batch"
    assert set(spread_of([3] * 50 + [7] * 50)) == {3.0, 7.0}, "equal works stay equal"


def test_ranks_are_too_low_from_three_standard_deviations_on() -> None:
    """Eight of 64 batches; ranks 0 to 63 have the variance (64^2 - 1) / 12, their mean that of Wilcoxon's statistic."""
    whole = [1000.0 + k for k in range(64)]
    allowed = RANKS_BEYOND * math.sqrt((64**2 - 1) / 12 * (64 - 8) / (64 - 1) / 8)
    for middle in range(4, 60):
        ranks = [middle - 4 + k for k in range(4)] + [middle + 1 + k for k in range(4)]  # their mean is the middle
        far = abs(statistics.fmean(ranks) - 31.5) > allowed
        found = likeness([whole[r] for r in ranks], "prompt_tokens", spread_of(whole), 31.5, 64)
        if far:
            assert found.misfit is not None
            assert found.misfit.kind == "mean"


def test_the_first_of_a_sorted_workload_do_not_represent_it_and_are_named() -> None:
    misfit = like(HUNDRED[:8], HUNDRED).misfit
    assert misfit is not None
    assert (misfit.measured_batches, misfit.batches, misfit.work, misfit.kind) == (8, 100, "prompt_tokens", "mean")
    assert (misfit.measured_mean, misfit.workload_mean) == (104.5, 150.5)


def test_those_from_the_middle_and_from_both_ends_have_the_mean_and_not_the_spread() -> None:
    ends = [*HUNDRED[:4], *HUNDRED[-4:]]
    for measured in (HUNDRED[46:54], ends):
        misfit = like(measured, HUNDRED).misfit
        assert misfit is not None
        assert (misfit.kind, misfit.measured_mean) == ("spread", 150.5)


def test_alike_batches_know_nothing_of_a_few_that_are_much_longer() -> None:
    """One in ten is five times as long. No rank is unlikely: by chance alone 43 of 100 samples of eight have none."""
    whole = [100.0 + k % 5 for k in range(90)] + [500.0] * 10
    found = like(whole[:8], whole)
    assert found.misfit is None
    assert found.apart is not None
    assert (found.apart.kind, found.apart.measured_batches) == ("mean", 8)
    assert like([*whole[:7], 500.0], whole) == Likeness()


def test_by_their_own_spread_means_may_be_apart_by_so_many_standard_errors() -> None:
    whole = [99.0, 101.0] * 45 + [1000.0] * 10
    own = [99.0, 101.0] * 4
    error = statistics.stdev(own) / math.sqrt(8)
    for apart, fits in ((MEANS_APART - 0.1, True), (MEANS_APART + 0.1, False)):
        mean = 100.0 + apart * error
        found = likeness(own, "prompt_tokens", spread_of(whole), mean, 100)
        assert (found.apart is None) is fits


def test_all_of_a_workload_and_equal_works_represent_it() -> None:
    assert like(HUNDRED, HUNDRED) == Likeness()
    assert like([7.0] * 5, [7.0] * 1000) == Likeness()


def test_a_difference_too_small_to_matter_is_added_to_the_interval_instead() -> None:
    """Sorted, and the longest is 1 % longer than the shortest: the distance is that of the means."""
    whole = [1000.0 + k / 10 for k in range(100)]
    found = like(whole[:8], whole)
    assert (found.misfit, found.apart) == (None, None)
    assert found.allowance == pytest.approx((statistics.fmean(whole) - statistics.fmean(whole[:8])) / 1004.95, rel=0.01)
    assert 0.004 < found.allowance < 0.005 < HARMLESS


def test_prompts_cut_to_one_length_for_the_most_part_are_such_a_case() -> None:
    """Nineteen of twenty have the limit's length; eight of these alone know no spread at all."""
    whole = [1024.0] * 95 + [900.0] * 5
    found = like([1024.0] * 8, whole)
    assert (found.misfit, found.apart) == (None, None)
    assert found.allowance == pytest.approx(0.05 * 124 / statistics.fmean(whole), rel=0.3)


@pytest.mark.parametrize(("n", "most"), [(5, 0.06), (8, 0.05), (12, 0.03), (27, 0.02)])
def test_a_random_sample_is_seldom_taken_for_none(n: int, most: float) -> None:
    """Skewed works as of stories; 4000 samples."""
    drawn = random.Random(n)  # noqa: S311
    whole = [drawn.lognormvariate(5.2, 0.45) for _ in range(500)]
    withheld = sum(like(drawn.sample(whole, n), whole).misfit is not None for _ in range(4000))
    assert withheld / 4000 <= most


def test_a_spread_in_a_log_is_in_order_bounded_and_not_long() -> None:
    good = {"prompt_tokens": [1.0, 2.0], "longest_prompt_tokens": [1.0]}
    assert WorkSpread.model_validate(good).prompt_tokens == (1.0, 2.0)
    for bad in ([2.0, 1.0], [], [0.0], [1e300], [1.0] * (GROUPS + 1), [float("nan")]):
        with pytest.raises(ValidationError):
            WorkSpread.model_validate({**good, "prompt_tokens": bad})
