"""The rule by which changes pass and fail, against SciPy, on paper, and by simulation of what is known."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from bench_core.compare.change import (
    REACHES_0,
    Change,
    Spread,
    holm,
    paired,
    tail_of,
    unpaired,
    with_repeats,
    with_starts,
)
from bench_core.compare.quantities import DEFAULT_BOUND, QUANTITIES, bounds_of, chosen, share_of
from bench_core.compare.side import Known
from bench_core.compare.verdict import FINEST, MEMORY_SLACK_BYTES, Verdict, judge, judge_memory
from bench_core.contract.errors import BadInput
from bench_core.contract.statistics.interval import student_quantile

RATE, LATENCY, MEMORY = QUANTITIES["throughput"], QUANTITIES["ttft"], QUANTITIES["memory"]


@pytest.mark.parametrize("freedom", [3.0, 4.5, 9.0, 30.0, 1000.0])
@pytest.mark.parametrize("t", [-2.0, 0.0, 1.0, 2.5, 5.0, 8.0])
def test_the_tail_is_students(freedom: float, t: float) -> None:
    found = tail_of(t, student_quantile(freedom), freedom)
    expected = float(stats.t.sf(t, freedom))
    assert math.log(found) == pytest.approx(math.log(expected), abs=0.05 + 0.06 * abs(math.log(expected)))


def test_what_is_known_exactly_is_told_at_once() -> None:
    assert tail_of(0.001, 0.0, 3.0) == 0.0
    assert tail_of(-0.001, 0.0, 3.0) == 1.0


def test_holm_rejects_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], level=0.05) == [True, False, False, True]
    assert holm([0.013, 0.9, 0.9], level=0.025) == [False, False, False]
    assert holm([0.02], level=0.025) == [True]
    assert holm([]) == []


def test_an_interval_of_a_ratio_is_made_of_the_sides_that_face_there() -> None:
    old = Known(100.0, 90.0, 105.0, freedom=9.0)
    new = Known(200.0, 190.0, 230.0, freedom=9.0)
    change = unpaired([old], [new])
    assert change.log == pytest.approx(math.log(2))
    assert change.below == pytest.approx(math.hypot(math.log(200 / 190), math.log(105 / 100)))
    assert change.above == pytest.approx(math.hypot(math.log(230 / 200), math.log(100 / 90)))
    assert 9.0 <= change.freedom <= 18.0
    assert unpaired([old], [Known(1.0, absent="why")]).absent == "why"
    assert unpaired([old], [Known(10.0, -1.0, 21.0, 3.0)]).absent == REACHES_0
    assert unpaired([Known(10.0, 0.0, 20.0, 3.0)], [new]).absent == REACHES_0
    ends = paired(Known(1.1, 1.0, 1.2)).ends
    assert ends is not None
    assert list(ends) == pytest.approx([0.0, 0.2])


def test_repeats_widen_and_never_narrow() -> None:
    change = Change(0.0, 0.01, 0.01, 20.0)
    apart = Spread.of([1.0, 1.1, 1.2]) + Spread.of([1.0, 1.1, 1.2])
    wide = with_repeats(change, (3, 3), apart, apart)
    error = math.sqrt(apart.variance * 2 / 3)
    assert wide.below == pytest.approx(student_quantile(4) * error)
    assert wide.repeats
    assert with_repeats(change, (3, 3), Spread(0.0, 4), Spread(0.0, 4)).below == change.below
    assert with_repeats(change, (1, 1), Spread(), Spread()) == change
    # A cell that is noisier than its image's others counts as itself.
    assert with_repeats(change, (3, 3), apart, Spread(0.0, 8) + apart).below == pytest.approx(
        student_quantile(12) * error
    )
    known = with_starts(change, 0.02, (1, 1))
    assert known.above == pytest.approx(math.hypot(0.01, 1.959964 * 0.02 * math.sqrt(2)), rel=1e-5)


@pytest.mark.parametrize(
    ("quantity", "log", "half", "verdict"),
    [
        (RATE, math.log(0.95), 0.005, Verdict.FAIL),
        (RATE, math.log(0.95), 0.03, Verdict.INCONCLUSIVE),
        (RATE, math.log(0.99), 0.005, Verdict.PASS),
        (RATE, math.log(1.10), 0.05, Verdict.PASS),
        (LATENCY, math.log(1.05), 0.005, Verdict.FAIL),
        (LATENCY, math.log(0.95), 0.005, Verdict.PASS),
        (LATENCY, math.log(1.00), 0.05, Verdict.INCONCLUSIVE),
    ],
)
def test_the_interval_and_the_bound_decide(quantity: object, log: float, half: float, verdict: Verdict) -> None:
    assert quantity in (RATE, LATENCY)
    which = RATE if quantity is RATE else LATENCY
    assert judge([(which, Change(log, half, half, 50.0), DEFAULT_BOUND)])[0].verdict is verdict


def test_one_among_many_that_is_just_beyond_the_bound_may_be_chance() -> None:
    limit = LATENCY.limit(DEFAULT_BOUND)
    just = (LATENCY, Change(limit + 0.0105, 0.01, 0.01, 50.0), DEFAULT_BOUND)
    same = (LATENCY, Change(0.0, 0.01, 0.01, 50.0), DEFAULT_BOUND)
    assert judge([just])[0].verdict is Verdict.FAIL
    found = judge([just, *[same] * 99])[0]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "chance" in found.cause
    assert found.factor is not None
    assert found.factor > 1.0


def test_how_long_goes_by_the_square_of_the_width_and_has_an_end() -> None:
    limit = LATENCY.limit(DEFAULT_BOUND)
    near = judge([(LATENCY, Change(limit - 0.02, 0.04, 0.04, 50.0), DEFAULT_BOUND)])[0]
    assert near.factor == pytest.approx((0.04 / 0.02) ** 2)
    at = judge([(LATENCY, Change(limit, 0.04, 0.04, 50.0), DEFAULT_BOUND)])[0]
    assert at.factor == pytest.approx((0.04 / (FINEST * limit)) ** 2)


def test_what_has_no_interval_is_open_and_counts_for_nothing() -> None:
    found = judge([(RATE, Change(-1.0, absent="few"), DEFAULT_BOUND)])
    assert (found[0].verdict, found[0].cause) == (Verdict.INCONCLUSIVE, "few")


def test_memory_has_a_bound_and_a_slack() -> None:
    gib = 2.0**30
    assert judge_memory(gib, 1.04 * gib, MEMORY, 0.03).verdict is Verdict.FAIL
    assert judge_memory(gib, 1.02 * gib, MEMORY, 0.03).verdict is Verdict.PASS
    assert judge_memory(1e6, 1e6 + MEMORY_SLACK_BYTES, MEMORY, 0.03).verdict is Verdict.PASS
    assert judge_memory(gib, gib / 2, MEMORY, 0.03).verdict is Verdict.PASS


@pytest.mark.slow
def test_of_many_noisy_changes_at_the_bound_hardly_a_comparison_fails_by_chance() -> None:
    """The worst case: every true change lies at the bound. 100 changes, ten batches each; 2.5 % may fail."""
    rng = random.Random(4)  # noqa: S311
    limit, trials = LATENCY.limit(DEFAULT_BOUND), 1000
    failed = 0
    for _ in range(trials):
        changes = []
        for _ in range(100):
            values = [rng.gauss(limit, 0.05) for _ in range(10)]
            mean = math.fsum(values) / 10
            error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 90)
            half = student_quantile(9) * error
            changes.append((LATENCY, Change(mean, half, half, 9.0), DEFAULT_BOUND))
        failed += any(one.verdict is Verdict.FAIL for one in judge(changes))
    # The standard error of a share of 2.5 % in 1000 trials is half a per cent.
    assert failed / trials <= 0.025 + 2 * 0.005


def test_bounds_are_given_for_all_and_for_some() -> None:
    found = bounds_of("2%,memory=5%")
    assert [found["throughput"], found["memory"]] == pytest.approx([0.02, 0.05])
    assert bounds_of("memory=0.1")["ttft"] == DEFAULT_BOUND
    assert [one.name for one in chosen("tpot, throughput")] == ["throughput", "tpot"]
    assert len(chosen("")) == len(QUANTITIES)
    assert share_of("3%", "--x") == share_of("0.03", "--x")


@pytest.mark.parametrize("words", ["0%", "-1%", "95%", "nan", "much", "speed=3%", ""])
def test_a_bound_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(BadInput):
        bounds_of(words)
