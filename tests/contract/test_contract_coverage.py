"""Simulation: what a stopped measurement says of its own certainty is true as often as it claims.

Batches are drawn from known distributions, the stopping rule is really applied (no fixed number of batches), and the
interval that it stops with is compared with the throughput that the distribution has. 2000 trials each, seeded: the
standard error of a coverage of 95 % is 0.5 %.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from contract_noise import Draw, autoregression, exponential, lognormal, normal

from bench_core.contract.steadiness import DRIFT_SIGNIFICANCE
from bench_core.contract.stopping import TREND_TOLERANCE, Sample, StoppingRule, rate_of, stop_reason
from bench_core.contract.trend import trend
from bench_core.contract.workload_rate import MeanWork, Work

TRIALS = 2000
WORKLOAD = 1000
TOKENS = 100  # of a batch whose latency is 1 s on average: 100 tokens/s are the truth
RULE = StoppingRule(precision=0.01)
ALIKE, WHOLE = Work(50, 50), MeanWork(prompt_tokens=50.0, longest_prompt_tokens=50.0)


@dataclass(frozen=True)
class Series:
    """Latencies with mean 1 s before any drift.

    Attributes:
        noise: standard deviation / mean.
        correlation: of neighbours; a first-order autoregression.
        drift: rise from the first to the last batch of the workload, a share of the first.
    """

    draw: Draw
    noise: float
    correlation: float = 0.0
    drift: float = 0.0
    batches: int = WORKLOAD

    def measure(self, drawn: random.Random) -> tuple[list[Sample], str]:
        """Batches until the rule stops, and why it did."""
        noise = autoregression(self.draw, self.correlation, drawn)
        done: list[Sample] = []
        clock_s = 0.0
        reason = None
        while reason is None:
            latency_s = (1.0 + self.noise * next(noise)) * (1.0 + self.drift * len(done) / self.batches)
            done.append(Sample(TOKENS, latency_s, clock_s, ALIKE))
            clock_s += latency_s
            reason = stop_reason(RULE, done, self.batches, WHOLE)
        return done, reason


@dataclass(frozen=True)
class Found:
    """Shares of the trials."""

    covered: float
    drifting: float
    precise: float
    median_batches: int


def simulate(series: Series, seed: int = 1) -> Found:
    drawn = random.Random(seed)  # noqa: S311  # a simulation
    covered = drifting = 0
    numbers, reasons = [], Counter[str]()
    for _ in range(TRIALS):
        done, reason = series.measure(drawn)
        latencies = [batch.latency_s for batch in done]
        interval = rate_of(done, WHOLE).interval
        assert interval is not None
        assert reason != "precision" or interval.relative_half_width <= 0.01
        covered += interval.low_tok_s <= TOKENS <= interval.high_tok_s
        drifting += trend(latencies).is_seen(DRIFT_SIGNIFICANCE, TREND_TOLERANCE)
        numbers.append(len(done))
        reasons[reason] += 1
    return Found(covered / TRIALS, drifting / TRIALS, reasons["precision"] / TRIALS, sorted(numbers)[TRIALS // 2])


@pytest.mark.parametrize(
    "series",
    [
        pytest.param(Series(normal, 0.03), id="independent, normal"),
        pytest.param(Series(lognormal, 0.03), id="independent, lognormal"),
        pytest.param(Series(exponential, 0.03), id="independent, exponential"),
        pytest.param(Series(normal, 0.03, 0.3), id="correlated 0.3"),
        pytest.param(Series(normal, 0.03, 0.5), id="correlated 0.5"),
        pytest.param(Series(normal, 0.01, 0.5), id="correlated 0.5, little noise"),
        pytest.param(Series(lognormal, 0.01), id="lognormal, little noise"),
        pytest.param(Series(exponential, 0.01), id="exponential, little noise"),
        pytest.param(Series(lognormal, 0.03, 0.3), id="lognormal and correlated 0.3"),
        pytest.param(Series(exponential, 0.03, 0.5), id="exponential and correlated 0.5"),
    ],
)
def test_the_interval_of_a_stopped_measurement_covers_the_truth_as_often_as_it_claims(series: Series) -> None:
    found = simulate(series)
    assert 0.93 <= found.covered <= 0.97, found
    assert found.drifting <= 0.05, "false alarms of drift"
    assert found.precise >= 0.95, "the rule stopped for its precision, not for want of batches"


@pytest.mark.parametrize("noise", [0.001, 0.003, 0.01])
def test_where_few_batches_do_the_interval_is_wider_than_it_need_be_never_narrower(noise: float) -> None:
    """8 to 27 batches cannot tell how correlated they are: what they might be is reckoned with."""
    found = simulate(Series(normal, noise))
    assert 0.95 <= found.covered <= 0.995, found
    assert found.median_batches <= 27
    assert found.drifting <= 0.03, "false alarms of drift"


def test_skew_and_correlation_at_once_with_little_noise_are_the_limit_of_the_method() -> None:
    """Stated as it is: 92 to 93 % instead of 95 %, at the least favourable noise."""
    found = simulate(Series(lognormal, 0.015, 0.5))
    assert 0.91 <= found.covered <= 0.95, found


@pytest.mark.parametrize(
    ("series", "flagged"),
    [
        pytest.param(Series(normal, 0.002, drift=0.2, batches=100), 0.99, id="20 % of drift, little noise"),
        pytest.param(Series(normal, 0.02, drift=0.3, batches=100), 0.97, id="30 % of drift, noise of 2 %"),
        pytest.param(Series(normal, 0.02, 0.5, drift=0.3, batches=100), 0.97, id="30 % of drift, correlated 0.5"),
        pytest.param(Series(exponential, 0.02, drift=-0.3, batches=100), 0.97, id="quicker and quicker, skewed"),
    ],
)
def test_drift_is_flagged_instead_of_averaged(series: Series, flagged: float) -> None:
    """The mean of a drifting series is no state that lasts. (One of 1 % or less while it was measured is none.)"""
    assert simulate(series).drifting >= flagged
