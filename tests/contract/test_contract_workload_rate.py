"""The estimate for a whole workload: against values that follow without it, and by simulation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import linear_regression, mean

import pytest
from contract_noise import Draw, autoregression, exponential, normal

from bench_core.contract.statistics.fit import Fit
from bench_core.contract.statistics.interval import throughput_interval
from bench_core.contract.statistics.stopping import Sample, StoppingRule, rate_of, stop_reason
from bench_core.contract.statistics.workload_rate import (
    MeanWork,
    WholeWork,
    Work,
    mean_work,
    whole_work,
    work_of,
    workload_rate,
)

TRIALS = 2000


# --- the fit ----------------------------------------------------------------------------------------------------------


def test_a_fit_on_one_column_is_the_straight_line() -> None:
    x, y = [1.0, 2.0, 4.0, 5.0, 9.0], [2.1, 2.9, 5.2, 5.8, 10.4]
    line = linear_regression(x, y)
    found = Fit([x], at=[7.0])
    assert mean(y) + found.shift(y) == pytest.approx(line.intercept + line.slope * 7.0)
    assert found.residuals(y) == pytest.approx([v - line.intercept - line.slope * u for u, v in zip(x, y, strict=True)])
    assert found.leverage == pytest.approx((7.0 - mean(x)) ** 2 / sum((u - mean(x)) ** 2 for u in x))


def test_a_fit_on_two_columns_finds_both_slopes() -> None:
    one, two = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    y = [7.0 + 2.0 * a - 0.5 * b for a, b in zip(one, two, strict=True)]
    found = Fit([one, two], at=[10.0, -3.0])
    assert found.residuals(y) == pytest.approx([0.0] * 6, abs=1e-12)
    assert mean(y) + found.shift(y) == pytest.approx(7.0 + 20.0 + 1.5)


def test_a_column_that_says_nothing_new_is_left_out() -> None:
    x = [1.0, 2.0, 3.0, 5.0]
    assert Fit([x, [2 * v + 1 for v in x], [4.0] * 4]).columns == 1
    assert Fit([[4.0] * 4]).columns == 0


def test_how_alike_a_fit_makes_neighbours_is_the_hat_matrix_beside_its_diagonal() -> None:
    """Each row of the hat matrix is what the fit makes of a series that is 1 in one place."""
    columns = [[3.0, 1.0, 4.0, 1.0, 5.0], [2.0, 7.0, 1.0, 8.0, 2.0]]
    found = Fit(columns)
    fitted = []
    for k in range(5):
        unit = [float(i == k) for i in range(5)]
        fitted.append([u - r for u, r in zip(unit, found.residuals(unit), strict=True)])
    assert found.neighbours == pytest.approx(sum(fitted[k][k + 1] for k in range(4)))
    assert Fit([[1.0] * 5]).neighbours == pytest.approx(4 / 5)


# --- the estimate -----------------------------------------------------------------------------------------------------

WORKS = [
    work_of(lengths) for lengths in ([10, 30], [20, 20], [10, 90], [40, 50], [60, 20], [10, 10], [80, 70], [30, 5])
]


def told(prompt_tokens: float, longest_prompt_tokens: float) -> WholeWork:
    """Of a workload of which nothing but the mean work is known, as in logs of before."""
    mean = MeanWork(prompt_tokens=prompt_tokens, longest_prompt_tokens=longest_prompt_tokens)
    return WholeWork(batches=1000, mean=mean)


WHOLE = told(70.0, 45.0)


def seconds(work: Work) -> float:
    return 1.0 + 0.01 * work.prompt_tokens + 0.02 * work.longest_prompt_tokens


def test_the_work_of_a_workload_is_the_mean_over_its_batches() -> None:
    assert mean_work([[10, 30], [20, 40], [5, 5]]) == MeanWork(prompt_tokens=110 / 3, longest_prompt_tokens=25.0)


def test_what_prompts_explain_wholly_is_known_for_all_of_them() -> None:
    found = workload_rate([100] * 8, [seconds(work) for work in WORKS], WORKS, WHOLE)
    assert found.batch_latency_s == pytest.approx(1.0 + 0.7 + 0.9)
    assert found.throughput_tok_s == pytest.approx(100 / 2.6)
    assert found.explained == pytest.approx(1.0)
    assert found.interval is not None
    assert found.interval.relative_half_width == pytest.approx(0.0, abs=1e-9)


def test_one_long_story_among_the_first_batches_does_not_speak_for_the_workload() -> None:
    """Seven batches alike and one five times as long: the plain ratio has it for an eighth of all work."""
    works = [Work(1000 + k, 300 + k) for k in range(7)] + [Work(5000, 1024)]
    latencies = [1.0 + work.prompt_tokens / 1000 for work in works]
    whole = told(1100.0, 320.0)
    found = workload_rate([100] * 8, latencies, works, whole)
    assert found.batch_latency_s == pytest.approx(2.1)
    plain = workload_rate([100] * 8, latencies, works, None)
    assert plain.batch_latency_s > 2.45
    assert plain.explained is None
    assert plain.interval == throughput_interval([100] * 8, latencies)
    assert plain.interval is not None
    assert found.interval is not None
    assert found.interval.relative_half_width < plain.interval.relative_half_width / 20


def test_latencies_that_prompts_do_not_explain_are_taken_as_they_are() -> None:
    latencies = [1.0, 1.3, 0.9, 1.2, 1.1, 0.8, 1.0, 1.25]
    found = workload_rate([100] * 8, latencies, WORKS, WHOLE)
    assert found.explained is None
    assert found.throughput_tok_s == pytest.approx(800 / sum(latencies))
    assert found.interval == throughput_interval([100] * 8, latencies)


def test_few_batches_are_fitted_to_the_better_variable_alone() -> None:
    longest = [1.0 + 0.02 * work.longest_prompt_tokens + 0.002 * (-1) ** k for k, work in enumerate(WORKS[:5])]
    found = workload_rate([100] * 5, longest, WORKS[:5], WHOLE)
    assert found.explained is not None
    assert found.explained > 0.99
    assert found.batch_latency_s == pytest.approx(1.9, rel=0.005)


@pytest.mark.parametrize("n", [7, 8])
def test_batches_shorter_than_the_workload_are_moved_to_it_with_what_is_not_known_of_the_slope(n: int) -> None:
    """By rank they may be a random sample, but all of them have less than the mean of a workload with a long tail.
    Their latencies hardly follow their prompts, so that a plain ratio would stand with an interval of its own."""
    lengths = [100 + 3 * (k % 30) for k in range(95)] + [700] * 5
    some = [151, 103, 157, 112, 145, 106, 139, 118][:n]
    latencies = [1.0 + 0.01 * (1, -1, -1, 1)[k % 4] + 0.0001 * length for k, length in enumerate(some)]
    whole = whole_work([[length] for length in lengths])
    found = workload_rate([100] * n, latencies, [work_of([length]) for length in some], whole)
    plain = workload_rate([100] * n, latencies, [work_of([length]) for length in some], None)
    assert found.misfit is None
    assert found.explained is not None
    assert found.interval is not None
    assert plain.interval is not None
    assert found.interval.relative_half_width > 1.5 * plain.interval.relative_half_width
    assert found.interval.low_tok_s <= 100 / (1.0 + 0.0001 * mean(lengths)) <= found.interval.high_tok_s


def test_where_a_line_would_have_to_reach_too_far_there_is_no_interval() -> None:
    """Equal prompts, of which one in ten of the others is five times as long: no slope is known at all."""
    whole = whole_work([[100]] * 90 + [[500]] * 10)
    found = workload_rate([100] * 8, [1.0 + 0.01 * (-1) ** k for k in range(8)], [Work(100, 100)] * 8, whole)
    assert found.misfit is not None
    assert (found.interval, found.explained) == (None, None)
    assert (found.misfit.measured_mean, found.misfit.workload_mean) == (100.0, 140.0)


def test_fewer_than_five_batches_have_no_interval() -> None:
    found = workload_rate([100] * 4, [seconds(work) for work in WORKS[:4]], WORKS[:4], WHOLE)
    assert (found.interval, found.explained) == (None, None)
    assert found.throughput_tok_s == pytest.approx(400 / sum(seconds(work) for work in WORKS[:4]))


def test_nothing_is_said_of_work_far_from_what_was_measured() -> None:
    latencies = [seconds(work) for work in WORKS]
    far = told(300.0, 45.0)
    assert workload_rate([100] * 8, latencies, WORKS, far).explained is None


def test_a_cell_that_generated_nothing_has_no_interval() -> None:
    found = workload_rate([0] * 8, [1.0] * 8, WORKS, WHOLE)
    assert (found.throughput_tok_s, found.interval) == (0.0, None)


def test_outputs_of_unequal_length_are_estimated_too() -> None:
    """Longer prompts, shorter answers: tokens and seconds are both moved to the workload's prompts."""
    tokens = [round(200 - work.prompt_tokens) for work in WORKS]
    latencies = [0.5 + count / 100 + work.prompt_tokens / 50 for count, work in zip(tokens, WORKS, strict=True)]
    found = workload_rate(tokens, latencies, WORKS, WHOLE)
    assert found.output_tokens_per_batch == pytest.approx(130.0)
    assert found.batch_latency_s == pytest.approx(0.5 + 1.3 + 1.4)
    assert found.throughput_tok_s == pytest.approx(130.0 / 3.2)


def test_a_whole_workload_is_what_was_measured() -> None:
    whole = told(mean(work.prompt_tokens for work in WORKS), mean(work.longest_prompt_tokens for work in WORKS))
    latencies = [seconds(work) + 0.05 * (-1) ** k for k, work in enumerate(WORKS)]
    found = workload_rate([100] * 8, latencies, WORKS, whole)
    assert found.explained is not None
    assert found.throughput_tok_s == pytest.approx(800 / sum(latencies))


# --- simulation -------------------------------------------------------------------------------------------------------
# Batches of stories of lognormal length in random order, an engine that reads all of them or pads to the longest, noise
# of the host. The rule is really applied, and the interval compared with what the whole workload takes without noise.


@dataclass(frozen=True)
class Engine:
    """Seconds of a batch of 1 s at least, of prompts of 200 tokens on average.

    Attributes:
        rows: the batch size.
        reading: seconds for the mean batch's prompt tokens.
        padding: seconds for 200 tokens of the longest prompt; ``curve`` for their square.
        noise: standard deviation, a share of the mean latency.
        correlation: of neighbours' noise.
        draw: what the noise is drawn from.
    """

    rows: int
    reading: float = 0.0
    padding: float = 0.0
    curve: float = 0.0
    noise: float = 0.01
    correlation: float = 0.0
    draw: Draw = normal

    def seconds(self, work: Work) -> float:
        longest = work.longest_prompt_tokens / 200
        return (
            1.0
            + self.reading * work.prompt_tokens / (200 * self.rows)
            + self.padding * longest
            + self.curve * longest**2
        )


@dataclass(frozen=True)
class Found:
    """Shares of the trials: ``covered`` and ``fitted`` of those whose interval is stated, ``withheld`` of all."""

    covered: float
    median_batches: int
    fitted: float
    withheld: float


MOST = 500  # more than any of these needs


def story(drawn: random.Random) -> int:
    """Tokens: median 190, one in a hundred above 600, cut at 1024; as TinyStories has them."""
    return min(round(drawn.lognormvariate(math.log(190), 0.45)), 1024)


def simulate(engine: Engine, batches: int, rule: StoppingRule, trials: int = TRIALS, seed: int = 3) -> Found:
    drawn = random.Random(seed)  # noqa: S311  # a simulation
    stories = [[story(drawn) for _ in range(engine.rows)] for _ in range(batches)]
    works, whole = [work_of(batch) for batch in stories], whole_work(stories)
    true_s = mean(engine.seconds(work) for work in works)
    covered = fitted = withheld = 0
    numbers = []
    for _ in range(trials):
        order = drawn.sample(works, min(batches, MOST))
        done = _measured(engine, order, true_s, lambda done: stop_reason(rule, done, batches, whole) is not None, drawn)
        found = rate_of(done, whole)
        numbers.append(len(done))
        if found.interval is None:
            assert found.misfit is not None
            withheld += 1
            continue
        covered += found.interval.low_tok_s <= 100 / true_s <= found.interval.high_tok_s
        fitted += found.explained is not None
    told = trials - withheld
    return Found(covered / told, sorted(numbers)[trials // 2], fitted / told, withheld / trials)


def _measured(
    engine: Engine, works: Sequence[Work], true_s: float, stops: Callable[[list[Sample]], bool], drawn: random.Random
) -> list[Sample]:
    noise = autoregression(engine.draw, engine.correlation, drawn)
    done, clock_s = list[Sample](), 0.0
    for work in works:
        latency_s = engine.seconds(work) + engine.noise * true_s * next(noise)
        done.append(Sample(100, latency_s, clock_s, work))
        clock_s += latency_s
        if stops(done):
            break
    return done


@pytest.mark.parametrize(
    ("engine", "batches"),
    [
        pytest.param(Engine(64, reading=0.3, padding=0.1, correlation=0.3), 94, id="64 rows, correlated"),
        pytest.param(Engine(16, reading=0.3, padding=0.3, correlation=0.3), 375, id="16 rows, correlated"),
        pytest.param(Engine(4, reading=0.1, padding=0.3, noise=0.02, correlation=0.3), 1500, id="4 rows, correlated"),
        pytest.param(Engine(4, reading=0.1, padding=0.3, draw=exponential), 1500, id="4 rows, skewed"),
        pytest.param(Engine(1, reading=0.3, correlation=0.3), 6000, id="1 row, long prompts cost much"),
        pytest.param(Engine(1, reading=0.03, noise=0.03, correlation=0.3), 6000, id="1 row, they cost little"),
    ],
)
@pytest.mark.slow
def test_the_interval_covers_what_the_whole_workload_takes_as_often_as_it_claims(engine: Engine, batches: int) -> None:
    found = simulate(engine, batches, StoppingRule(precision=0.01))
    assert 0.93 <= found.covered <= 0.98, found
    assert found.withheld <= 0.002, found


@pytest.mark.parametrize("n", [5, 8, 12])
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(Engine(64, reading=0.3, padding=0.1, noise=0.02), id="independent"),
        pytest.param(Engine(64, reading=0.3, padding=0.1, noise=0.02, correlation=0.5), id="correlated"),
        pytest.param(Engine(4, reading=0.1, padding=0.3, noise=0.05, correlation=0.3, draw=exponential), id="skewed"),
        pytest.param(Engine(4, reading=0.02, padding=0.05, noise=0.03, correlation=0.3), id="prompts explain half"),
        pytest.param(Engine(1, reading=0.1, noise=0.05, correlation=0.3), id="prompts explain little"),
    ],
)
@pytest.mark.slow
def test_where_time_or_a_limit_ends_a_cell_the_interval_is_rather_too_wide(engine: Engine, n: int) -> None:
    """Most of what these few could be misled by is a correlation that they cannot show: it is reckoned with."""
    found = simulate(engine, 94, StoppingRule(precision=1e-9, max_batches=n))
    assert found.median_batches == n
    assert 0.94 <= found.covered <= 0.999, found
    assert found.withheld <= 0.08, "of random samples"


@pytest.mark.parametrize("n", [5, 8, 12])
@pytest.mark.slow
def test_neighbours_very_much_alike_are_the_limit_of_few_batches(n: int) -> None:
    """Stated as it is: 92 to 95 % where a correlation of 0.7 cannot be seen yet."""
    found = simulate(Engine(1, noise=0.03, correlation=0.7), 94, StoppingRule(precision=1e-9, max_batches=n))
    assert 0.90 <= found.covered <= 0.97, found


@pytest.mark.parametrize(("correlation", "widest"), [(0.0, 0.07), (0.5, 0.10)])
@pytest.mark.slow
def test_eight_batches_say_something(correlation: float, widest: float) -> None:
    """Noise of 3 %; Student's interval for eight independent ones is 2.5 %. Median of 400."""
    drawn = random.Random(4)  # noqa: S311
    works, whole = [Work(50, 50)] * 8, told(50.0, 50.0)
    engine = Engine(1, noise=0.03, correlation=correlation)
    intervals = [rate_of(_measured(engine, works, 1.0, lambda done: False, drawn), whole).interval for _ in range(400)]
    widths = sorted(interval.relative_half_width for interval in intervals if interval is not None)
    assert 0.025 < widths[200] < widest


@pytest.mark.slow
def test_a_fit_needs_a_small_part_of_the_batches() -> None:
    """The same engine and noise, with and without a look at the prompts."""
    engine = Engine(64, reading=0.3, padding=0.1, noise=0.003)
    drawn = random.Random(5)  # noqa: S311
    stories = [[story(drawn) for _ in range(64)] for _ in range(400)]
    works, whole = [work_of(batch) for batch in stories], whole_work(stories)
    rule = StoppingRule(precision=0.01)
    needed = [
        len(_measured(engine, works, 1.0, lambda done: stop_reason(rule, done, 400, by) is not None, random.Random(6)))  # noqa: S311, B023
        for by in (whole, None)
    ]
    assert needed[0] <= 27
    assert needed[1] >= 3 * needed[0]


@pytest.mark.parametrize(("curve", "least"), [(0.001, 0.95), (0.01, 0.95), (0.05, 0.84)])
@pytest.mark.slow
def test_an_engine_whose_time_is_no_straight_line_is_covered_until_it_bends_strongly(
    curve: float, least: float
) -> None:
    """Attention of a 7B model makes the longest prompts 4 % dearer than a line says: 0.001. Ten times that does no
    harm; at fifty times, 87 % are covered."""
    found = simulate(Engine(64, reading=0.2, padding=0.1, curve=curve, noise=0.003), 94, StoppingRule(precision=0.01))
    assert least <= found.covered <= 0.999, found
