"""Trend, interval and the two rules, against values worked out by hand or published."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.repeats import between_runs
from bench_core.contract.measures.token_times import batch_phase_times, row_decode_tok_s, row_prefill_tok_s
from bench_core.contract.records.events import BatchEvent, StopEvent, WarmupEndEvent
from bench_core.contract.statistics.interval import Interval, student_quantile, throughput_interval
from bench_core.contract.statistics.steadiness import latency_drift, steadiness
from bench_core.contract.statistics.stopping import (
    Sample,
    StoppingRule,
    WarmupRule,
    looks_until,
    rate_of,
    stop_reason,
    warmup_batch,
    warmup_end,
)
from bench_core.contract.statistics.trend import trend
from bench_core.contract.statistics.workload_rate import Work, WorkloadRate, whole_work, work_of


def batch(index: int, latency_s: float, tokens: int = 100, prompt_tokens: int = 50, **changes: Any) -> BatchEvent:
    given: dict[str, Any] = {
        "phase": "measure", "index": index, "prompts": (index,), "prompts_digest": "d",
        "prompt_tokens": (prompt_tokens,), "started_s": index * 100.0, "latency_s": latency_s,
        "outputs": ((7,) * tokens,),
    }  # fmt: skip
    return BatchEvent.model_validate({**given, **changes})


def samples(latencies: Sequence[float], tokens: int = 100) -> list[Sample]:
    """Batches one right after the other."""
    ends = list(itertools.accumulate(latencies))
    return [Sample(tokens, s, end - s, Work(50, 50)) for s, end in zip(latencies, ends, strict=True)]


# --- trend ------------------------------------------------------------------------------------------------------------


def test_the_p_values_of_short_series_are_those_of_all_orders_counted_one_by_one() -> None:
    for n in (3, 4, 5, 6):
        orders = [list(order) for order in itertools.permutations([float(k) for k in range(1, n + 1)])]
        scores = [abs(sum((b > a) - (b < a) for a, b in itertools.combinations(order, 2))) for order in orders]
        for order, score in zip(orders[:60], scores[:60], strict=True):
            beyond = sum(other >= score for other in scores) / len(scores)
            assert trend(order).p_value == pytest.approx(beyond)


def test_a_long_series_is_tested_by_the_normal_approximation() -> None:
    """30 values without order have S near 0; the formula of the variance is Kendall's n (n - 1) (2n + 5) / 18."""
    values = [float(v) for v in random.Random(3).sample(range(1, 31), 30)]  # noqa: S311
    s = sum((b > a) - (b < a) for a, b in itertools.combinations(values, 2))
    z = (abs(s) - 1) / math.sqrt(30 * 29 * 65 / 18)
    at_least = math.erfc(z / math.sqrt(2))  # a positive correlation makes it larger
    assert at_least <= trend(values).p_value + 1e-12


def test_slope_is_the_median_of_all_pairs_whatever_one_value_does() -> None:
    line = [10.0 + 0.5 * k for k in range(9)]
    line[4] = 1000.0
    found = trend(line)
    assert found.relative_change == pytest.approx(0.5 * 8 / statistics.median(line))
    assert found.n == 9


def test_equal_values_have_no_trend() -> None:
    assert trend([3.0] * 8) == trend([3.0] * 8).model_copy(update={"p_value": 1.0, "relative_change": 0.0})
    assert not trend([3.0] * 8).is_seen(0.5, 0.0)


def test_a_trend_counts_only_if_it_is_clear_and_large_enough() -> None:
    rising = trend([1.0, 1.001, 1.002, 1.003, 1.004])
    assert rising.p_value == pytest.approx(2 / 120)
    assert rising.is_seen(0.02, 0.003)
    assert not rising.is_seen(0.02, 0.01), "0.4 % matter to nobody"
    assert not rising.is_seen(0.01, 0.003), "by chance in one case of 60"


def test_long_series_cost_little_and_show_the_same_trend() -> None:
    found = trend([1.0 + k / 6000 for k in range(6000)])
    assert found.n == 6000
    assert found.p_value < 1e-3
    assert found.relative_change == pytest.approx(1.0 / 1.5, rel=0.05)


# --- interval ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (7, 2.36462),
        (10, 2.22814),
        (30, 2.04227),
        (120, 1.97993),
    ],
)
def test_students_quantiles_are_those_of_the_tables(freedom: float, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, rel=2e-4)


def test_quantiles_between_whole_numbers_lie_between_them() -> None:
    values = [student_quantile(1 + k / 10) for k in range(100)]
    assert all(earlier > later for earlier, later in itertools.pairwise(values))


def test_fewer_than_five_batches_and_no_tokens_have_no_interval() -> None:
    assert throughput_interval([100] * 4, [1.0, 1.1, 1.0, 0.9]) is None
    assert throughput_interval([0] * 5, [1.0] * 5) is None


def test_equal_batches_are_known_exactly() -> None:
    found = throughput_interval([100] * 5, [0.5] * 5)
    assert found is not None
    assert (found.low_tok_s, found.high_tok_s, found.relative_half_width) == (200.0, 200.0, 0.0)


def test_the_interval_is_never_narrower_than_students() -> None:
    """100 independent batches: about Student's own width, a little more for what is not known."""
    drawn = random.Random(5)  # noqa: S311
    latencies = [1 + 0.05 * drawn.gauss(0, 1) for _ in range(100)]
    found = throughput_interval([100] * 100, latencies)
    assert found is not None
    plain = 1.984 * statistics.stdev(latencies) / 10
    assert plain <= found.relative_half_width <= 1.35 * plain


def test_batches_like_their_neighbours_are_worth_fewer() -> None:
    """The same latencies, sorted into runs of ten alike."""
    drawn = random.Random(5)  # noqa: S311
    mixed = [1 + 0.05 * drawn.gauss(0, 1) for _ in range(100)]
    in_runs = [value for k in range(10) for value in sorted(mixed)[k * 10 : k * 10 + 10]]
    apart, alike = (throughput_interval([100] * 100, series) for series in (mixed, in_runs))
    assert apart is not None
    assert alike is not None
    assert alike.relative_half_width > 3 * apart.relative_half_width
    assert alike.correlation > 0.8 > apart.correlation


def test_tokens_that_go_with_latency_do_not_widen_the_interval_of_their_ratio() -> None:
    tokens = [50, 100, 150, 200, 250, 300]
    found = throughput_interval(tokens, [count / 100 for count in tokens])
    assert found is not None
    assert found.relative_half_width == pytest.approx(0.0, abs=1e-9)


# --- warm-up ----------------------------------------------------------------------------------------------------------


def warm(rule: WarmupRule, latencies: Sequence[float]) -> tuple[int, str]:
    """After how many batches the warm-up ends, and how."""
    for n in range(1, len(latencies) + 1):
        end = warmup_end(rule, samples(latencies[:n]))
        if end is not None:
            return n, end
    raise AssertionError("it does not end")


def test_without_a_limit_the_floor_is_all_there_is() -> None:
    assert warm(WarmupRule(at_least=3), [9.0, 5.0, 1.0, 1.0]) == (3, "not_tested")


def test_a_flat_engine_needs_five_batches_of_equal_prompts() -> None:
    flat = [1.0, 1.002, 0.999, 1.001, 1.0, 1.0]
    assert warm(WarmupRule(at_least=1, at_most=20), flat) == (5, "flat")
    assert warm(WarmupRule(at_least=3, at_most=20), [7.0, 3.0, *flat]) == (7, "flat")


def test_a_cold_engine_goes_on_until_it_is_warm() -> None:
    cooling = [2.0, 1.6, 1.4, 1.2, 1.1, 1.05, 1.0, 1.001, 0.999, 1.0, 1.001, 1.0]
    n, end = warm(WarmupRule(at_least=1, at_most=20), cooling)
    assert end == "flat"
    assert 7 < n < 12


def test_an_engine_that_never_settles_is_said_to_have_a_trend() -> None:
    assert warm(WarmupRule(at_least=1, at_most=8), [2.0 - 0.1 * k for k in range(12)]) == (8, "trend")


FROM_FLOOR = WarmupRule(at_least=1, at_most=20, max_s=15.0, max_s_from="floor")


def test_a_slow_first_batch_or_slow_batches_are_tested_all_the_same() -> None:
    """Kernels are compiled in the first batch: it alone takes longer than the whole limit. So do four slow ones."""
    assert warm(FROM_FLOOR, [18.0, 0.501, 0.5, 0.502, 0.5]) == (5, "flat")
    assert warm(FROM_FLOOR, [20.0] * 5) == (5, "flat")


def test_what_a_warm_up_costs_beyond_its_floor_is_the_limit_or_four_batches() -> None:
    cooling = [3.0 - 0.03 * k for k in range(20)]
    n, end = warm(FROM_FLOOR, cooling)
    assert (n, end) == (6, "trend"), "11.6 s for the five, then one more within 15 s of the floor's end"
    assert sum(cooling[1:n]) <= 15.0 < sum(cooling[1 : n + 1])
    assert warm(FROM_FLOOR, [40.0 - k for k in range(20)]) == (5, "trend"), "four batches, and no more"
    longer = FROM_FLOOR.model_copy(update={"at_least": 3})
    assert warm(longer, [50.0, 50.0, 50.0, *[2.0] * 4]) == (7, "flat"), "the floor is what was asked for"


def test_no_test_is_made_only_where_none_was_asked_for() -> None:
    for at_most in (None, 1, 4):
        rule = FROM_FLOOR.model_copy(update={"at_most": at_most})
        assert warm(rule, [0.5] * 5) == (1, "not_tested")
        assert not rule.has_room_for_the_test
    assert warm(FROM_FLOOR.model_copy(update={"at_most": 5}), [9.0] * 5) == (5, "flat")
    assert [FROM_FLOOR.model_copy(update={"at_most": n}).fewest for n in (None, 4, 5, 20)] == [1, 1, 5, 5]


def test_a_log_of_before_is_judged_by_the_rule_of_before() -> None:
    """Its rule names no beginning of the seconds: five batches of 20 s would take 100 s, so nothing of the test was
    run."""
    rule = WarmupRule.model_validate({"at_least": 1, "at_most": 20, "max_s": 15.0})
    assert warm(rule, [20.0] * 3) == (1, "not_tested")
    assert warm(rule, [3.5] * 6) == (1, "not_tested")
    assert warm(rule, [2.5] * 6) == (5, "flat")
    assert warm(rule, [4.0 - 0.2 * k for k in range(20)])[1] == "not_tested"
    assert warm(rule, [2.0 - 0.02 * k for k in range(20)]) == (7, "trend"), "tested, and out of time"


def test_warm_up_runs_the_floors_last_batch_again() -> None:
    rule = WarmupRule(at_least=2, at_most=9)
    assert [warmup_batch(rule, k, 5) for k in range(5)] == [4, 3, 3, 3, 3]
    assert [warmup_batch(WarmupRule(at_least=4), k, 3) for k in range(4)] == [2, 1, 0, 2]


# --- stopping ---------------------------------------------------------------------------------------------------------


def stop(rule: StoppingRule, latencies: Sequence[float], available: int) -> tuple[int, str]:
    for n in range(1, len(latencies) + 1):
        reason = stop_reason(rule, samples(latencies[:n]), available, None)
        if reason is not None:
            return n, reason
    raise AssertionError("it does not stop")


NOISY = [1.0 + 0.5 * (-1) ** k for k in range(400)]
PRECISE = StoppingRule(precision=0.01)


def test_looks_grow_apart() -> None:
    assert looks_until(100) == (5, 8, 12, 18, 27, 41, 62, 93)
    assert looks_until(4) == ()


def test_a_steady_engine_needs_two_looks() -> None:
    assert stop(PRECISE, [1.0, 1.001] * 10, 20) == (8, "precision")


def test_the_end_of_the_workload_is_the_end() -> None:
    assert stop(PRECISE, NOISY, 7) == (7, "workload")
    assert stop(PRECISE, [1.0] * 8, 1) == (1, "workload")
    assert stop(StoppingRule(), [1.0] * 50, 50) == (50, "exhaustive"), "whatever the precision"


def test_limits_stop_what_is_not_precise() -> None:
    assert stop(StoppingRule(precision=0.01, max_batches=3), NOISY, 400) == (3, "max_batches")
    assert stop(StoppingRule(max_batches=3), NOISY, 400) == (3, "max_batches")
    assert stop(StoppingRule(max_batches=3), NOISY, 3) == (3, "exhaustive")
    assert stop(StoppingRule(precision=0.01, max_s=9.5), NOISY, 400) == (9, "max_seconds"), "1.5 s and 0.5 s in turn"
    assert stop(StoppingRule(precision=0.01, max_s=0.1), NOISY, 400) == (1, "max_seconds")


def test_a_wider_precision_needs_fewer_batches() -> None:
    drawn = random.Random(2)  # noqa: S311
    noisy = [1.0 + 0.05 * drawn.gauss(0, 1) for _ in range(1000)]
    (few, _), (many, _) = (stop(StoppingRule(precision=p), noisy, 1000) for p in (0.05, 0.01))
    assert few < many / 4


# --- judged from events -----------------------------------------------------------------------------------------------


def judged(latencies: Sequence[float], **stopped: Any) -> Any:
    event = None
    if stopped:
        event = StopEvent.model_validate({"t_s": 0.0, "rule": PRECISE, "available_batches": 8, **stopped})
    return steadiness([], [batch(k, s) for k, s in enumerate(latencies)], None, event)


def test_batches_that_do_not_represent_the_workload_end_no_cell_by_precision() -> None:
    """Twenty batches of rising length; latency does not change, so that any interval would have no width."""
    lengths = [[100 * k] for k in range(1, 21)]
    whole, done = whole_work(lengths), [Sample(100, 1.0, float(k), work_of(n)) for k, n in enumerate(lengths)]
    assert [stop_reason(PRECISE, done[:n], 20, whole) for n in (8, 12, 18)] == [None, None, None]
    assert stop_reason(PRECISE, done, 20, whole) == "workload"
    assert rate_of(done, whole).interval is not None
    found = rate_of(done[:12], whole)
    assert (found.interval, found.throughput_tok_s) == (None, 100.0)
    assert found.misfit is not None
    before = whole.model_copy(update={"spread": None})
    assert stop_reason(PRECISE, done[:8], 20, before) == "precision", "a log of before is judged as it was"
    assert rate_of(done[:8], before).misfit is None


def test_a_steady_cell_says_how_it_was_stopped_and_how_well_it_is_known() -> None:
    found = judged([1.0, 1.001] * 4, reason="precision")
    assert (found.stop_reason, found.precision, found.unsteady) == ("precision", 0.01, False)
    assert found.throughput_interval.low_tok_s < 100 / 1.0005 < found.throughput_interval.high_tok_s


def test_a_log_without_rules_is_judged_as_far_as_it_goes() -> None:
    found = judged([1.0, 1.001] * 4)
    assert (found.stop_reason, found.precision, found.warmup) == (None, None, None)
    assert found.throughput_interval is not None
    assert judged([1.0, 1.001]).throughput_interval is None


@pytest.mark.parametrize(
    ("latencies", "stopped"),
    [
        ([1.0, 1.001] * 4, {"reason": "workload"}),  # precise before
        ([1.0, 1.001] * 3, {"reason": "precision"}),  # two batches were dropped
        ([1.0, 1.6] * 4, {"reason": "precision"}),  # changed
        ([1.0, 1.6] * 4, {"reason": "workload", "available_batches": 9}),
        ([1.0, 1.001] * 5, {"reason": "precision", "available_batches": 10}),  # batches were added
        ([1.0] * 3, {"reason": "max_seconds"}),
    ],
)
def test_a_reason_that_the_batches_do_not_bear_out_is_found(latencies: list[float], stopped: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="say otherwise"):
        judged(latencies, **stopped)


def test_a_warm_up_that_its_batches_do_not_bear_out_is_found() -> None:
    rule = WarmupRule(at_least=1, at_most=20)
    warmups = [batch(k, 1.0, phase="warmup") for k in range(5)]
    measured = [batch(k, 1.0) for k in range(5)]
    told = WarmupEndEvent(t_s=0.0, end="flat", rule=rule)
    assert steadiness(warmups, measured, told, None).warmup == "flat"
    for wrong in (warmups[:4], [*warmups, warmups[-1]], []):
        with pytest.raises(BadInput, match="say otherwise"):
            steadiness(wrong, measured, told, None)
    with pytest.raises(BadInput, match="say otherwise"):
        steadiness(warmups, measured, told.model_copy(update={"end": "trend"}), None)


def test_a_cell_says_whether_a_test_of_its_warm_up_was_asked_for() -> None:
    measured = [batch(k, 1.0) for k in range(5)]
    for rule, asked in ((WarmupRule(), False), (WarmupRule(at_most=20, max_s=1.0), True)):
        told = WarmupEndEvent(t_s=0.0, end="not_tested", rule=rule)
        assert steadiness([batch(0, 1.0, phase="warmup")], measured, told, None).warmup_asked is asked
    assert steadiness([], measured, None, None).warmup_asked is None


def test_a_warm_up_that_reached_its_limit_makes_the_cell_unsteady() -> None:
    rule = WarmupRule(at_least=1, at_most=5)
    warmups = [batch(k, 2.0 - 0.1 * k, phase="warmup") for k in range(5)]
    found = steadiness(
        warmups, [batch(k, 1.0) for k in range(5)], WarmupEndEvent(t_s=0.0, end="trend", rule=rule), None
    )
    assert found.unsteady
    assert not found.drifts


def test_a_drifting_cell_is_unsteady() -> None:
    found = judged([1.0 + 0.01 * k for k in range(30)])
    assert found.drifts
    assert found.unsteady
    assert found.drift.relative_change == pytest.approx(0.29 / 1.145, rel=0.01)


def test_longer_prompts_and_outputs_are_no_drift() -> None:
    """A workload sorted by length: latencies rise with the work, and nothing else."""
    drawn = random.Random(4)  # noqa: S311
    work = [(50 + 10 * k, 100 + 5 * ((7 * k) % 13)) for k in range(30)]
    noise = [0.002 * drawn.gauss(0, 1) for _ in work]
    plain = [
        batch(k, 0.1 + 0.001 * p + 0.01 * t + e, tokens=t, prompt_tokens=p)
        for k, ((p, t), e) in enumerate(zip(work, noise, strict=True))
    ]
    seen = latency_drift(plain)
    assert seen is not None
    assert not seen.is_seen(0.02, 0.01)
    heating = [b.model_copy(update={"latency_s": b.latency_s * (1 + 0.01 * k)}) for k, b in enumerate(plain)]
    seen = latency_drift([b.model_copy(update={"prompt_tokens": (50,)}) for b in heating])
    assert seen is not None
    assert seen.is_seen(0.02, 0.01)


def test_few_batches_of_rising_work_are_not_judged() -> None:
    rising = [batch(k, 1.0 + 0.1 * k, prompt_tokens=50 + 10 * k) for k in range(6)]
    assert latency_drift(rising) is None
    assert latency_drift([batch(k, 1.0 + 0.1 * k) for k in range(6)]) is not None
    assert latency_drift(rising[:4]) is None


# --- prefill and decode -----------------------------------------------------------------------------------------------


def stamped(rows: Sequence[Sequence[int]], prompt_tokens: Sequence[int]) -> BatchEvent:
    changes = {
        "prompts": tuple(range(len(rows))), "prompt_tokens": tuple(prompt_tokens),
        "outputs": tuple((7,) * len(row) for row in rows),
        "arrivals": {"source": "worker", "shared": False, "offsets_us": rows},
    }  # fmt: skip
    return BatchEvent.model_validate({**batch(0, 9.0).model_dump(), **changes})


def test_phases_of_a_batch_and_of_its_rows() -> None:
    """Rows of 30 and 10 prompt tokens: first tokens after 0.5 s and 1.5 s, then 2 tokens in 2 s and 1 in 1 s."""
    both = stamped([(500_000, 1_500_000, 2_500_000), (1_500_000, 2_500_000)], (30, 10))
    times = batch_phase_times(both)
    assert times is not None
    assert times.prefill_tok_s == pytest.approx(40 / 1.0)
    assert times.decode_tok_s == pytest.approx(3 / 1.5)
    assert row_prefill_tok_s(both) == pytest.approx([60.0, 10 / 1.5])
    assert row_decode_tok_s(both) == pytest.approx([1.0, 1.0])


def test_rates_are_null_and_not_nought_where_there_are_no_phases() -> None:
    untold = batch(0, 1.0)
    one_by_one = stamped([(100, 200, 300), (400, 500, 600)], (5, 5))
    for event in (untold, one_by_one):
        assert batch_phase_times(event) is None
        assert row_prefill_tok_s(event) == row_decode_tok_s(event) == []
    single = batch_phase_times(stamped([(100,), (100,)], (5, 5)))
    assert single is not None
    assert single.decode_tok_s is None
    assert single.prefill_tok_s == pytest.approx(1e5)


def test_a_row_that_ends_early_while_others_are_read_does_not_hide_the_phases() -> None:
    assert batch_phase_times(stamped([(100, 200), (300, 900), (350, 900)], (5, 5, 5))) is not None


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_protocol_of_before_the_rules_measures_all_and_tests_nothing() -> None:
    old = MeasureProtocol.model_validate_json('{"warmup_batches": 1, "latency_batches": 3, "max_batches": null}')
    assert old.stopping_rule == StoppingRule()
    assert not old.warmup_rule.has_room_for_the_test


def test_no_repeats_have_no_spread() -> None:
    assert between_runs([]) is None


def rates(*throughputs: float, half_width: float = 2.0) -> list[WorkloadRate]:
    return [
        WorkloadRate(
            throughput_tok_s=value,
            batch_latency_s=1.0,
            output_tokens_per_batch=value,
            interval=Interval(
                low_tok_s=value - half_width,
                high_tok_s=value + half_width,
                relative_half_width=half_width / value,
                correlation=0.0,
            ),
        )
        for value in throughputs
    ]


def test_a_repeat_agrees_that_lies_within_what_the_others_say() -> None:
    """The last one is 29.5 from the mean of the others, whose intervals and stdev allow for 2 + 13.2."""
    found = between_runs(rates(99.0, 101.0, 100.0, 102.0, 130.0))
    assert found is not None
    assert found.stdev_tok_s == pytest.approx(13.24, abs=0.01)
    assert found.agreeing == 4
    alike = between_runs(rates(99.0, 101.0, 100.0, 102.0, 103.0))
    assert alike is not None
    assert alike.agreeing == 5


def test_two_repeats_say_nothing_of_agreement() -> None:
    two = between_runs(rates(100.0, 101.0))
    assert two is not None
    assert two.agreeing is None


def test_a_repeat_without_an_interval_adds_no_width() -> None:
    """90, 100 and 110: stdev 10, the outer ones 15 from the mean of the others."""
    known = rates(90.0, 100.0, 110.0, half_width=10.0)
    with_intervals = between_runs(known)
    assert with_intervals is not None
    assert with_intervals.agreeing == 3
    without = between_runs([rate.model_copy(update={"interval": None}) for rate in known])
    assert without is not None
    assert (without.agreeing, without.within_relative_half_width) == (1, None)
