"""Intervals of series: by hand where that can be done, and as they must behave whatever the values."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_queues import exponential, seeded

from bench_core.contract.statistics.correlated import (
    BLOCKS,
    Estimate,
    batch_means,
    effective,
    percentile_interval,
    rate_interval,
    share_interval,
    spread,
    wilson,
)
from bench_core.contract.statistics.interval import student_quantile

SERIES = st.lists(st.floats(0.001, 1000), min_size=10, max_size=300)


def alternating(n: int) -> list[float]:
    """Neighbours that are as unlike as can be: no correlation is to be reckoned with but the light guard."""
    return [1.0 if k % 2 else 3.0 for k in range(n)]


def test_a_mean_by_hand() -> None:
    """Ten values 3, 1, 3, 1 ...: variance 10/9; neighbours unlike, so that no correlation is left after the guard."""
    found = batch_means(alternating(10))
    assert found is not None
    half = student_quantile(9.0) * math.sqrt(10 / 9 / 10)
    assert found.value == 2.0
    assert found.low == pytest.approx(2.0 - half)
    assert found.high == pytest.approx(2.0 + half)
    assert found.n_effective == pytest.approx(9.0)
    assert found.relative_half_width == pytest.approx(half / 2)


def test_a_correlated_series_has_few_effective_values() -> None:
    """A first-order autoregression of 0.9 has (1 - 0.9) / (1 + 0.9) of its number: 1053 of 20 000."""
    drawn, state, values = seeded(1), 0.0, []
    for _ in range(20_000):
        state = 0.9 * state + drawn.gauss(0.0, 1.0)
        values.append(100.0 + state)
    found = batch_means(values)
    assert found is not None
    assert found.n_effective == pytest.approx(1053, rel=0.5)


def test_blocks_are_fewer_where_neighbours_are_alike() -> None:
    drawn, state, slow = seeded(1), 0.0, []
    for _ in range(2000):
        state = 0.99 * state + drawn.gauss(0.0, 1.0)
        slow.append(100.0 + state)
    assert spread([drawn.gauss(0.0, 1.0) for _ in range(2000)]).blocks == BLOCKS[0]
    assert spread(slow).blocks < BLOCKS[0]


def test_a_ramp_has_no_interval_and_says_why() -> None:
    found = batch_means([float(k) for k in range(200)])
    assert found is not None
    assert found.low is None
    assert "too short" in found.absent
    assert found.relative_half_width == math.inf


def test_few_values_have_no_interval_and_none_have_no_mean() -> None:
    assert batch_means([]) is None
    assert share_interval([]) is None
    assert percentile_interval([1.0] * 9, 0.5) is None
    for found in (batch_means([1.0, 2.0]), share_interval([True, False])):
        assert found is not None
        assert found.value in (1.5, 0.5)
        assert found.low is None
        assert found.absent == "fewer than 10 values"


def test_equal_values_are_known_exactly() -> None:
    values = [2.0] * 100
    for found in (batch_means(values), percentile_interval(values, 0.9)):
        assert found is not None
        assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)
        assert found.relative_half_width == 0.0


def test_a_skewed_series_reaches_further_upwards() -> None:
    found = spread([10.0 if k % 32 == 16 else 1.0 for k in range(64)])
    assert found.above > found.below > 0
    assert found.skew > 0


def test_throughput_of_an_even_stream_is_exact() -> None:
    """Two tokens every 0.1 s for 96 s; the last one at the window's end is not in it."""
    times = [100 + k * 0.1 + 0.05 for k in range(960)]
    found = rate_interval([0.0, *times, 196.0], [500, *[2] * 960, 500], 100.0, 196.0)
    assert found.value == pytest.approx(20.0)
    assert found.n == 960
    assert found.low == pytest.approx(20.0)
    assert found.high == pytest.approx(20.0)


def test_throughput_of_a_poisson_stream() -> None:
    """2000 expected in 100 s: a relative standard error of 1 / root(2000)."""
    drawn, at_s, times = seeded(3), 0.0, []
    while at_s < 100.0:
        at_s += exponential(drawn) / 20
        times.append(at_s)
    found = rate_interval(times, [1.0] * len(times), 0.0, 100.0)
    assert found.relative_half_width == pytest.approx(1.96 / math.sqrt(2000), rel=0.3)
    few = rate_interval(times[:5], [1.0] * 5, 0.0, 100.0)
    assert few.value == 0.05
    assert few.low is None


def test_a_percentile_lies_where_it_should() -> None:
    drawn = seeded(4)
    values = [exponential(drawn) for _ in range(2000)]
    ordered = sorted(values)
    for q in (0.5, 0.9, 0.95):
        found = percentile_interval(values, q)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < -math.log(1 - q) < found.high
        assert found.low in ordered
        assert found.high in ordered
        below = sum(value < found.low for value in values) / 2000
        assert q - below == pytest.approx(1.96 * math.sqrt(q * (1 - q) / 2000), rel=0.5)


def test_a_percentile_that_the_sample_does_not_carry_is_absent() -> None:
    drawn = seeded(4)
    values = [exponential(drawn) for _ in range(400)]
    assert percentile_interval(values, 0.99) is None
    clustered = [value for value in values[:40] for _ in range(25)]
    found = percentile_interval(clustered, 0.99)
    assert found is not None
    assert found.low is None
    assert found.absent
    tied = percentile_interval([1.0] + [2.0] * 99, 0.5)
    assert tied is not None
    assert "equal" in tied.absent


def test_wilson_by_hand() -> None:
    """9 of 10 with 1.96: the textbook's 0.596 to 0.982."""
    low, high = wilson(0.9, 10.0, 1.959964)
    assert low == pytest.approx(0.5958, abs=5e-4)
    assert high == pytest.approx(0.9821, abs=5e-4)
    low, high = wilson(1.0, 10.0, 1.959964)
    assert low == pytest.approx(10 / (10 + 1.959964**2))
    assert high == 1.0


def test_a_share_without_a_failure_is_as_sure_as_latencies_are_independent() -> None:
    good = [True] * 400
    alone = share_interval(good)
    drawn = seeded(5)
    clusters = [value for _ in range(20) for value in [exponential(drawn)] * 20]
    known = share_interval(good, clusters)
    assert alone is not None
    assert known is not None
    assert alone.low is not None
    assert known.low is not None
    assert alone.value == alone.high == known.high == 1.0
    assert alone.low == pytest.approx(0.99, abs=0.002)
    assert known.low < 0.95


@given(SERIES)
def test_an_interval_holds_its_value_and_scales_with_it(values: list[float]) -> None:
    found = batch_means(values)
    assert found is not None
    assert found.value == pytest.approx(statistics.fmean(values))
    assert 1 <= effective(values, spread(values)) <= len(values)
    _holds(found)
    doubled = batch_means([2 * value for value in values])
    assert doubled is not None
    assert (doubled.low is None) == (found.low is None)
    if found.low is not None and doubled.low is not None:
        assert doubled.low == pytest.approx(2 * found.low, rel=1e-6, abs=1e-9)


@given(SERIES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_and_a_share_hold_their_value(values: list[float], q: float) -> None:
    _holds(percentile_interval(values, q))
    _holds(share_interval([value > 10 for value in values], values))


def _holds(found: Estimate | None) -> None:
    if found is None:
        return
    assert (found.low is None) == (found.high is None) == bool(found.absent)
    if found.low is not None and found.high is not None:
        assert found.low <= found.value <= found.high
