"""What samples say, against the same worked out by hand; throttling in words; a search for the smallest budget."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.measures.min_memory import RELATIVE_INTERVAL, Trial, search_smallest
from bench_core.contract.measures.telemetry import (
    CLOCK_EVENT_REASONS,
    POWER_CAP_BIT,
    THROTTLING_BITS,
    UNKNOWN_REASON,
    TelemetrySummary,
    is_throttling,
    reason_words,
    summarise_telemetry,
)
from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.records.outcome import Outcome


def samples(times: list[float], **columns: Any) -> TelemetryEvent:
    return TelemetryEvent(
        t_s=tuple(times), rss_bytes=(1,) * len(times), **{name: tuple(values) for name, values in columns.items()}
    )


def summary(event: TelemetryEvent, begin_s: float, end_s: float, tokens: int = 100) -> TelemetrySummary:
    found = summarise_telemetry([event], begin_s, end_s, tokens)
    assert found is not None
    return found


TENTHS = [10 + k / 10 for k in range(21)]  # 10.0 to 12.0 s


def test_energy_is_counted_and_cross_checked_with_power() -> None:
    """400 W on the counter for two seconds, and a power reading that says 380: 5 % less, both are kept."""
    event = samples(TENTHS, power_w=[380.0] * 21, energy_mj=[7_000_000 + 40_000 * k for k in range(21)])
    found = summary(event, 10.0, 12.0)
    assert found.energy_joules == pytest.approx(800)
    assert found.integrated_joules == pytest.approx(760)
    assert found.energy_difference == pytest.approx(-0.05)
    assert found.joules_per_output_token == pytest.approx(8)
    assert found.power_w == pytest.approx(380)


def test_without_a_counter_the_integral_stands_alone() -> None:
    found = summary(samples(TENTHS, power_w=[100.0 + 10 * k for k in range(21)]), 10.0, 12.0)
    assert found.energy_joules is None
    assert found.integrated_joules == pytest.approx(400)
    assert found.energy_difference is None
    assert found.joules_per_output_token == pytest.approx(4)


@pytest.mark.parametrize(
    ("times", "end_s"),
    [([10.0, 10.4, 10.8], 10.8), (TENTHS[:11], 12.0)],  # too short; half of it without a sample
)
def test_energy_of_too_little_is_none(times: list[float], end_s: float) -> None:
    counted = [1000 * k for k in range(len(times))]
    found = summary(samples(times, power_w=[1.0] * len(times), energy_mj=counted), 10.0, end_s)
    assert (found.energy_joules, found.integrated_joules, found.joules_per_output_token) == (None, None, None)


def test_samples_outside_the_window_do_not_count() -> None:
    event = samples(
        [9.0, 10.0, 11.0, 12.0, 13.0],
        sm_clock_mhz=[300, 1900, 1900, 1900, 300],
        temperature_c=[90, 60, 64, 62, 91],
        utilisation_percent=[0, 100, 80, 100, 0],
        throttle_reasons=[0x40, 0, 0, 0, 0x40],
    )
    found = summary(event, 10.0, 12.0)
    assert (found.sm_clock_mhz, found.temperature_max_c) == (1900, 64)
    assert found.utilisation == pytest.approx(0.9)
    assert (found.throttled, found.throttling, found.is_throttled) == (0, (), False)


def test_throttling_is_weighted_by_time_and_worded() -> None:
    """Dense samples at the end of a batch weigh no more than the time that they stand for."""
    event = samples(
        [10.0, 11.0, 12.0, 13.0, 13.9, 13.95, 14.0],
        throttle_reasons=[0x1, 0x40, 0x40 | 0x2, 0x0, 0x0, 0x0, 0x0],
    )
    found = summary(event, 10.0, 14.0)
    assert found.throttled == pytest.approx(2 / 4)
    assert found.throttling == ("hardware thermal slowdown",)
    assert found.reasons["hardware thermal slowdown"] == pytest.approx(0.5)
    assert found.reasons["application clocks"] == pytest.approx(0.25)
    assert found.reasons["idle"] == pytest.approx(0.125)
    assert found.power_limited == 0
    assert found.is_throttled


def test_a_card_at_its_own_power_limit_is_told_and_not_marked() -> None:
    found = summary(samples([10.0, 11.0, 12.0], throttle_reasons=[0x4, 0x4, 0x0]), 10.0, 12.0)
    assert found.power_limited == pytest.approx(0.75)
    assert found.throttled == pytest.approx(0.75)
    assert (found.throttling, found.is_throttled) == ((), False)


def test_where_no_reason_is_told_nothing_is_said_of_the_power_limit() -> None:
    assert summary(samples([10.0, 11.0, 12.0], power_w=[1, 1, 1]), 10.0, 12.0).power_limited is None


@pytest.mark.parametrize(
    ("mask", "throttling"),
    [
        (0x0, False), (0x1, False), (0x2, False), (0x100, False), (0x103, False), (0x4, True), (0x8, True),
        (0x10, True), (0x20, True), (0x40, True), (0x80, True), (0x41, True), (0x44, True),
        (0x4000, True),
    ],
)  # fmt: skip
def test_what_counts_as_throttling(mask: int, throttling: bool) -> None:
    assert is_throttling(mask) is throttling


def test_every_reason_that_the_library_names_has_a_word() -> None:
    """A bit of a later driver is told as such, not dropped."""
    named = {
        value
        for name, value in vars(pynvml).items()
        if name.startswith(("nvmlClocksEventReason", "nvmlClocksThrottleReason")) and isinstance(value, int)
    }
    single = {value for value in named if value and value & (value - 1) == 0}
    assert len(single) >= 9
    assert single <= set(CLOCK_EVENT_REASONS)
    assert pynvml.nvmlClocksEventReasonSwPowerCap == POWER_CAP_BIT
    assert pynvml.nvmlClocksEventReasonSwPowerCap & THROTTLING_BITS
    assert not pynvml.nvmlClocksEventReasonGpuIdle & THROTTLING_BITS
    assert reason_words(0x44) == ("software power cap", "hardware thermal slowdown")
    assert reason_words(0x4001) == ("idle", UNKNOWN_REASON)


def test_gaps_in_sampling_are_seen_at_the_edges_too() -> None:
    found = summary(samples([10.3, 10.35, 10.4, 10.9]), 10.0, 11.5)
    assert found.longest_gap_s == pytest.approx(0.6)
    assert found.gaps == 3
    assert found.samples == 4
    silent = summary(samples([1.0]), 10.0, 11.5)
    assert (silent.samples, silent.longest_gap_s) == (0, 1.5)
    assert summarise_telemetry([], 0.0, 1.0, 1) is None


def test_package_energy_is_in_joules() -> None:
    event = samples(TENTHS, package_energy_uj=[5_000_000 * k for k in range(21)])
    assert summary(event, 10.0, 12.0).package_joules == pytest.approx(100)


# The search for the smallest budget.


def engine(needs: float, asked: list[float], how: Outcome = Outcome.OOM_KV) -> Any:
    """One that fails below what it needs."""

    def attempt(value: float, reference_tok_s: float | None) -> Trial:
        asked.append(value)
        assert (reference_tok_s is None) is (len(asked) == 1)
        good = value >= needs
        return Trial(
            value=value, number=len(asked), outcome=Outcome.OK if good else how, sustained=good,
            cause="" if good else "it says so", output_throughput_tok_s=100.0 if good else None,
        )  # fmt: skip

    return attempt


@given(st.floats(1e6, 8e10), st.booleans())
def test_the_smallest_budget_is_found_to_two_percent(needs: float, whole: bool) -> None:
    asked: list[float] = []
    found = search_smallest(1e5, 8e10, engine(needs, asked), whole=whole)
    assert found.problem == ""
    assert found.smallest is not None
    assert found.largest_failing is not None
    assert found.largest_failing < needs <= found.smallest
    assert found.smallest - found.largest_failing <= RELATIVE_INTERVAL * found.smallest
    assert len(asked) == len(set(asked)) <= 30
    assert not whole or all(value.is_integer() for value in asked)


@pytest.mark.parametrize("guess", [0.136206, 0.4, 0.777777])
@pytest.mark.parametrize("needs", [0.979, 0.965, 0.95, 0.944])
def test_a_share_of_the_gpu_a_little_below_the_guess_takes_five_launches(guess: float, needs: float) -> None:
    asked: list[float] = []
    found = search_smallest(0.05, 0.95, engine(guess * needs, asked), whole=False, guess=lambda _: guess)
    assert found.smallest is not None
    assert found.largest_failing is not None
    assert found.largest_failing < guess * needs <= found.smallest
    assert found.smallest - found.largest_failing <= RELATIVE_INTERVAL * found.smallest
    assert len(asked) <= 5


@given(st.floats(1e6, 7.9e10), st.floats(0.5, 2.0), st.booleans())
def test_a_guess_changes_how_long_the_search_is_and_not_what_it_finds(needs: float, off: float, whole: bool) -> None:
    asked: list[float] = []
    found = search_smallest(1e5, 8e10, engine(needs, asked), whole=whole, guess=lambda _: needs * off)
    assert found.smallest is not None
    assert found.largest_failing is not None
    assert found.largest_failing < needs <= found.smallest
    assert found.smallest - found.largest_failing <= RELATIVE_INTERVAL * found.smallest
    assert len(asked) == len(set(asked))
    assert not whole or all(value.is_integer() for value in asked)
    allowed = needs * off <= 8e10  # a guess beyond what is allowed is none
    if allowed and 0.981 < off < 1.02:
        assert len(asked) <= 4
    if allowed and 0.9 < off < 1.1:
        assert len(asked) <= 8


@pytest.mark.parametrize("guess", [None, -1.0, 0.05, 0.1, 0.9, 7.0])
def test_a_guess_outside_of_what_is_allowed_is_none(guess: float | None) -> None:
    asked: list[float] = []
    found = search_smallest(0.1, 0.9, engine(0.5, asked), whole=False, guess=lambda _: guess)
    assert found.guess is None
    assert asked[:3] == [0.9, 0.1, 0.5]


def test_a_guess_far_from_the_border_ends_at_what_is_allowed() -> None:
    asked: list[float] = []
    least = search_smallest(0.1, 0.9, engine(0.05, asked), whole=False, guess=lambda _: 0.11)
    assert (least.smallest, least.largest_failing, least.guess) == (0.1, None, 0.11)
    asked.clear()
    most = search_smallest(0.1, 0.9, engine(0.899, asked), whole=False, guess=lambda _: 0.88)
    assert most.smallest == 0.9
    tiny = search_smallest(1, 100, engine(3, []), whole=True, guess=lambda _: 3)
    assert (tiny.smallest, tiny.largest_failing) == (3, 2)


def test_a_budget_that_is_enough_at_its_least_needs_two_trials() -> None:
    asked: list[float] = []
    found = search_smallest(0.1, 0.9, engine(0.05, asked), whole=False)
    assert (found.smallest, found.largest_failing, asked) == (0.1, None, [0.9, 0.1])


def test_what_fails_with_everything_has_no_smallest_budget() -> None:
    found = search_smallest(0.1, 0.9, engine(2.0, []), whole=False)
    assert found.smallest is None
    assert found.problem == "not even the largest budget sustains it: oom_kv: it says so"


def test_a_failure_of_another_kind_says_nothing_of_memory() -> None:
    found = search_smallest(0.1, 0.9, engine(0.5, [], Outcome.CRASHED), whole=False)
    assert found.smallest is None
    assert found.problem == "a trial failed for another reason: crashed: it says so"
