"""Simulation: what a stopped measurement says of its own certainty is true as often as it claims, in whatever order the
workload's prompts come.

Batches are drawn from known distributions, the stopping rule is really applied (no fixed number of batches), and the
interval that it stops with is compared with the throughput that the distribution has. 2000 trials each, seeded: the
standard error of a coverage of 95 % is 0.5 %.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest
from contract_noise import Draw, autoregression, exponential, lognormal, normal
from workload_orders import orders

from bench_core.contract.records.workload import shuffled_order
from bench_core.contract.statistics.steadiness import DRIFT_SIGNIFICANCE
from bench_core.contract.statistics.stopping import TREND_TOLERANCE, Sample, StoppingRule, rate_of, stop_reason
from bench_core.contract.statistics.trend import trend
from bench_core.contract.statistics.workload_rate import MeanWork, WholeWork, Work, whole_work, work_of

pytestmark = pytest.mark.slow
TRIALS = 2000
WORKLOAD = 1000
TOKENS = 100  # of a batch whose latency is 1 s on average: 100 tokens/s are the truth
RULE = StoppingRule(precision=0.01)
ALIKE = Work(50, 50)
WHOLE = WholeWork(batches=WORKLOAD, mean=MeanWork(prompt_tokens=50.0, longest_prompt_tokens=50.0))


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


# --- ordered, grouped and cyclic workloads ----------------------------------------------------------------------------
# 300 batches of four stories, in the dataset's own order or shuffled; engines that read all of a prompt, that pad, and
# that hardly look at it; noise of 1 %, correlated 0.3. What is stated must hold, and what is withheld is counted, since
# withholding always would be no answer.

ROWS, BATCHES, ORDERED_TRIALS = 4, 300, 200
_STORIES = [min(round(random.Random(k).lognormvariate(5.2, 0.45)), 1024) for k in range(ROWS * BATCHES)]  # noqa: S311
IN_ORDER = orders(_STORIES, ROWS)
MEAN_TOKENS = sum(_STORIES) / BATCHES


def _reads(work: Work) -> float:
    return 1.0 + 0.3 * work.prompt_tokens / MEAN_TOKENS


def _pads(work: Work) -> float:
    return 1.0 + 0.3 * work.longest_prompt_tokens * ROWS / MEAN_TOKENS


def _hardly_looks(work: Work) -> float:
    return 1.0 + 0.03 * work.prompt_tokens / MEAN_TOKENS


ENGINES = {"reads": _reads, "pads": _pads, "hardly looks": _hardly_looks}


@dataclass(frozen=True)
class Stated:
    """Of the trials: the share with an interval, and of these the share that cover; batches, median."""

    stated: float
    covered: float
    median_batches: int


@cache
def _works(name: str, seed: int | None) -> tuple[list[Work], WholeWork]:
    places = range(len(_STORIES)) if seed is None else shuffled_order(len(_STORIES), seed)
    lengths = [IN_ORDER[name][place] for place in places]
    batches = [lengths[start : start + ROWS] for start in range(0, ROWS * BATCHES, ROWS)]
    return [work_of(batch) for batch in batches], whole_work(batches)


def in_order(name: str, engine: str, *, shuffled: bool, max_batches: int | None = None) -> Stated:
    drawn = random.Random(9)  # noqa: S311
    rule = StoppingRule(precision=0.01, max_batches=max_batches)
    stated = covered = 0
    numbers = []
    for trial in range(ORDERED_TRIALS):
        works, whole = _works(name, trial if shuffled else None)
        seconds = [ENGINES[engine](work) for work in works]
        true_s = sum(seconds) / BATCHES
        noise = autoregression(normal, 0.3, drawn)
        done: list[Sample] = []
        while stop_reason(rule, done, BATCHES, whole) is None:
            latency_s = seconds[len(done)] + 0.01 * true_s * next(noise)
            done.append(Sample(TOKENS, latency_s, float(len(done)), works[len(done)]))
        found = rate_of(done, whole)
        numbers.append(len(done))
        assert (found.interval is None) == (found.misfit is not None)
        assert found.interval is not None or len(done) == max_batches, "only a limit ends a cell without an interval"
        if found.interval is not None:
            stated += 1
            covered += found.interval.low_tok_s <= TOKENS / true_s <= found.interval.high_tok_s
    share = covered / stated if stated else 1.0
    return Stated(stated / ORDERED_TRIALS, share, sorted(numbers)[ORDERED_TRIALS // 2])


# Which orders never state an interval from their first eight batches, and which always do.
MISLEADING = ("sorted", "reversed", "grouped", "cyclic, long", "from the middle", "from both ends", "drifting")
EVEN = ("alternating", "cyclic, short")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", IN_ORDER)
def test_in_the_datasets_order_a_stated_interval_covers_and_precision_waits_for_what_represents(
    name: str, engine: str
) -> None:
    """Standard error of 200 trials: 1.5 %. An order that misleads costs nearly all of the workload."""
    found = in_order(name, engine, shuffled=False)
    assert found.stated == 1.0
    assert found.covered >= 0.90, found
    if name in ("sorted", "reversed", "grouped", "from the middle", "from both ends"):
        assert found.median_batches > 0.9 * BATCHES, found
    if name in EVEN:
        assert found.median_batches <= 62, found


@pytest.mark.parametrize("max_batches", [5, 8, 12])
@pytest.mark.parametrize("name", IN_ORDER)
def test_where_a_limit_ends_a_cell_an_order_that_misleads_states_nothing(name: str, max_batches: int) -> None:
    found = in_order(name, "reads", shuffled=False, max_batches=max_batches)
    if name in MISLEADING:
        assert found.stated == 0.0, found
    elif name in EVEN and max_batches >= 8:
        assert found.stated == 1.0, found
    assert found.covered >= 0.90, found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("max_batches", "withheld"), [(None, 0.0), (8, 0.06), (12, 0.04)])
@pytest.mark.parametrize("name", ["sorted", "grouped", "cyclic, long"])
def test_shuffled_every_order_is_covered_and_hardly_ever_withheld(
    name: str, max_batches: int | None, withheld: float, engine: str
) -> None:
    found = in_order(name, engine, shuffled=True, max_batches=max_batches)
    assert found.covered >= 0.92, found
    assert found.stated >= 1.0 - withheld, found
    assert found.median_batches <= 62, found
