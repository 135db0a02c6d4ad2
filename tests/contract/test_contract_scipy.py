"""The statistics that a container decides by stay small and the suite's own; here they are held against SciPy's."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from bench_core.contract.statistics.fit import Fit
from bench_core.contract.statistics.interval import student_quantile
from bench_core.contract.statistics.median import median_interval
from bench_core.contract.statistics.trend import trend


@pytest.mark.parametrize(
    ("least", "most", "too_large"),
    [(1.0, 1.0, 1e-9), (1.01, 2.0, 0.17), (2.01, 3.0, 4e-4), (3.01, 5, 2e-5), (5, 300, 1e-7)],
)
def test_students_quantile(least: float, most: float, too_large: float) -> None:
    """It is never too small, and too large by no more than its description says."""
    for freedom in np.linspace(least, most, 60).round(2):
        beside = student_quantile(float(freedom)) / float(stats.t.ppf(0.975, freedom)) - 1
        assert -1e-7 < beside < too_large, freedom


@pytest.mark.parametrize("n", [2, 3, 5, 8, 10])
@pytest.mark.parametrize("seed", range(5))
def test_a_trends_probability_is_kendalls_and_its_slope_theils(n: int, seed: int) -> None:
    drawn = random.Random(seed)  # noqa: S311  # test data
    series = [1 + 0.02 * k + drawn.random() for k in range(n)]
    found = trend(series)
    assert found.p_value == pytest.approx(float(stats.kendalltau(range(n), series, method="exact").pvalue), abs=1e-12)
    slope = float(stats.theilslopes(series, range(n)).slope)
    assert found.relative_change == pytest.approx(slope * (n - 1) / float(np.median(series)), rel=1e-9)


@pytest.mark.parametrize("n", [5, 6, 7, 10, 25, 64, 200])
def test_a_medians_interval(n: int) -> None:
    drawn = random.Random(n)  # noqa: S311  # test data
    values = [drawn.gauss(0, 1) for _ in range(n)]
    theirs = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    found = median_interval(values)
    if n < 6:
        assert found is None
        assert np.isnan(theirs.low) or np.isnan(theirs.high)
    else:
        assert found == pytest.approx((float(theirs.low), float(theirs.high)))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_fit_is_that_of_least_squares(columns: int, seed: int) -> None:
    """Residuals, the value at a place, the variance that the slopes add there, the hat matrix beside its diagonal."""
    drawn = np.random.default_rng(seed)
    n = 12
    given = drawn.uniform(10, 400, (columns, n))
    values = drawn.uniform(1, 2, n) + 0.003 * given.sum(axis=0)
    at = drawn.uniform(10, 400, columns)
    design = np.column_stack([np.ones(n), *given])
    slopes, *_ = np.linalg.lstsq(design, values, rcond=None)
    fit = Fit([list(column) for column in given], list(at))
    assert fit.columns == columns
    assert fit.residuals(list(values)) == pytest.approx(list(values - design @ slopes), abs=1e-9)
    place = np.concatenate([[1.0], at])
    assert values.mean() + fit.shift(list(values)) == pytest.approx(float(place @ slopes), rel=1e-9)
    inverse = np.linalg.inv(design.T @ design)
    assert 1 / n + fit.leverage == pytest.approx(float(place @ inverse @ place), rel=1e-6)
    hat = design @ inverse @ design.T
    assert fit.neighbours == pytest.approx(float(np.trace(hat, offset=1)), rel=1e-6)


def test_one_columns_slope_is_linregress() -> None:
    lengths, seconds = [10.0, 30.0, 35.0, 80.0, 120.0], [1.1, 1.2, 1.28, 1.6, 1.93]
    line = stats.linregress(lengths, seconds)
    fit = Fit([lengths], [200.0])
    predicted = sum(seconds) / 5 + fit.shift(seconds)
    assert predicted == pytest.approx(float(line.intercept + 200.0 * line.slope), rel=1e-9)
