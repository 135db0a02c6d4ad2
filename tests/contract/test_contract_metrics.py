"""Every published number, against the same number worked out by hand from a script of events."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellMetrics, CellResult, summarise
from bench_core.contract.records.events import (
    Arrivals,
    BatchEvent,
    BatchPhase,
    EndEvent,
    EngineEvent,
    Event,
    PhaseEvent,
    StartEvent,
    TelemetryEvent,
)
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.statistics.distribution import Distribution, percentile

START = StartEvent(t_s=0.0, wall_time_utc="2026-01-01T00:00:00.000+00:00", versions={"python": "3.12"}, host={})
LOAD = PhaseEvent(phase="load", started_s=1.0, duration_s=2.0)
PREPARE = PhaseEvent(phase="prepare", started_s=3.5, duration_s=0.5)
END = EndEvent(t_s=20.0, outcome=Outcome.OK)


def batch(
    phase: BatchPhase,
    index: int,
    started_s: float,
    latency_s: float,
    lengths: Sequence[int],
    *,
    prompt_tokens: Sequence[int] | None = None,
    offsets_us: Sequence[Sequence[int]] | None = None,
    shared: bool = False,
    source: str = "worker",
) -> BatchEvent:
    arrivals = None
    if offsets_us is not None:
        arrivals = Arrivals.model_validate({"source": source, "shared": shared, "offsets_us": offsets_us})
    return BatchEvent(
        phase=phase,
        index=index,
        prompts=tuple(range(len(lengths))),
        prompts_digest="d",
        prompt_tokens=tuple(prompt_tokens or [1] * len(lengths)),
        started_s=started_s,
        latency_s=latency_s,
        outputs=tuple((7,) * length for length in lengths),
        arrivals=arrivals,
    )


WARM = batch("warmup", 0, 5.0, 1.0, (9, 9), offsets_us=[(1,) * 9], shared=True)
# Two rows of 3 and 2 tokens in 2 s, stamped apart; two rows of 2 tokens in 4 s, stamped together.
FIRST = batch(
    "measure", 0, 10.0, 2.0, (3, 2),
    prompt_tokens=(4, 6), offsets_us=[(500_000, 1_000_000, 2_000_000), (600_000, 1_600_000)],
)  # fmt: skip
SECOND = batch("measure", 1, 13.0, 4.0, (2, 2), prompt_tokens=(5, 5), offsets_us=[(1_000_000, 3_000_000)], shared=True)
SCRIPT: tuple[Event, ...] = (START, LOAD, PREPARE, WARM, FIRST, SECOND, END)


def filed(events: Sequence[Event]) -> CellEvents:
    found = CellEvents()
    for event in events:
        found.add(event)
    return found


def metrics(*events: Event) -> CellMetrics:
    return summarise("c", filed(events or SCRIPT)).metrics


def metrics_with(*further: Event) -> CellMetrics:
    """Of the script with further events before its end."""
    return metrics(*SCRIPT[:-1], *further, END)


def test_counts_and_throughput() -> None:
    found = metrics()
    assert (found.batches, found.rows, found.warmup_batches) == (2, 4, 1)
    assert found.prompt_tokens == 4 + 6 + 5 + 5
    assert found.output_tokens == 3 + 2 + 2 + 2
    assert found.output_tokens_per_batch == 4.5
    assert found.output_throughput_tok_s == pytest.approx(9 / 6.0)  # 9 tokens in 2 s + 4 s; not the mean of 2.5 and 1
    assert found.measured_s == pytest.approx(17.0 - 10.0)
    assert found.batches_s == pytest.approx(1.0 + 2.0 + 4.0)
    assert (found.load_s, found.prepare_s, found.start_s) == (2.0, 0.5, None)
    assert metrics_with(PhaseEvent(phase="start", started_s=0.1, duration_s=0.7)).start_s == 0.7


def test_batch_latency() -> None:
    latency = metrics().batch_latency_s
    assert (latency.n, latency.mean, latency.median, latency.min, latency.max) == (2, 3.0, 3.0, 2.0, 4.0)
    assert latency.stdev == pytest.approx(math.sqrt(2.0))
    assert latency.p90 is None


def values(distribution: Distribution | None) -> tuple[int, float, float, float]:
    assert distribution is not None
    return distribution.n, distribution.mean, distribution.min, distribution.max


def test_time_to_first_token_is_per_row_and_from_the_batchs_start() -> None:
    assert values(metrics().ttft_s) == pytest.approx((4, (0.5 + 0.6 + 1.0 + 1.0) / 4, 0.5, 1.0))


def test_time_per_output_token_is_per_row_and_without_the_first_token() -> None:
    # Row by row: 1.5 s for two tokens, 1.0 s for one, 2.0 s for one, twice.
    assert values(metrics().tpot_s) == pytest.approx((4, (0.75 + 1.0 + 2.0 + 2.0) / 4, 0.75, 2.0))


def test_inter_token_latency_is_every_gap() -> None:
    assert values(metrics().itl_s) == pytest.approx((5, (0.5 + 1.0 + 1.0 + 2.0 + 2.0) / 5, 0.5, 2.0))


def test_warm_up_counts_in_no_number_but_its_own() -> None:
    slow = batch("warmup", 0, 5.0, 4.9, (500, 500), offsets_us=[(10**6,) * 500], shared=True)
    found = metrics(START, LOAD, PREPARE, slow, FIRST, SECOND, END)
    assert found == metrics().model_copy(update={"batches_s": found.batches_s})
    assert found.batches_s == pytest.approx(4.9 + 2.0 + 4.0)


def test_a_row_of_one_token_has_a_first_token_but_no_time_per_token() -> None:
    one = batch("measure", 0, 10.0, 1.0, (1, 3), offsets_us=[(100_000,), (100_000, 200_000, 300_000)])
    found = metrics(START, one, END)
    assert values(found.ttft_s)[0] == 2
    assert values(found.tpot_s) == pytest.approx((1, 0.1, 0.1, 0.1))
    assert values(found.itl_s)[0] == 2
    alone = metrics(START, batch("measure", 0, 0.0, 1.0, (1,), offsets_us=[(5,)]), END)
    assert alone.tpot_s is None
    assert alone.itl_s is None


def test_without_stamps_there_are_no_token_times_and_throughput_stays() -> None:
    found = metrics(START, batch("measure", 0, 10.0, 2.0, (3, 2)), END)
    assert (found.ttft_s, found.tpot_s, found.itl_s, found.token_times_source) == (None, None, None, None)
    assert found.output_throughput_tok_s == 2.5
    assert found.load_s is None


def test_token_times_of_separate_batches_are_marked_and_leave_throughput_alone() -> None:
    measured = batch("measure", 0, 10.0, 2.0, (3, 2))
    slow = batch("latency", 0, 15.0, 50.0, (2, 2), offsets_us=[(300_000, 800_000)], shared=True)
    found = metrics(START, measured, slow, END)
    assert found.token_times_source == "worker, separate batches"
    assert values(found.ttft_s) == pytest.approx((2, 0.3, 0.3, 0.3))
    assert values(found.tpot_s) == pytest.approx((2, 0.5, 0.5, 0.5))
    assert found.output_throughput_tok_s == 2.5
    assert found.batches == 1
    assert found.measured_s == pytest.approx(2.0)


def test_the_source_of_the_stamps_is_told() -> None:
    assert metrics().token_times_source == "worker"
    engines = batch("measure", 0, 10.0, 2.0, (1,), offsets_us=[(5,)], source="engine")
    assert metrics(START, engines, END).token_times_source == "engine"
    separate = batch("latency", 0, 20.0, 2.0, (1,), offsets_us=[(5,)], source="engine")
    plain = batch("measure", 0, 10.0, 2.0, (1,))
    assert metrics(START, plain, separate, END).token_times_source == "engine, separate batches"


def telemetry(*samples: tuple[float, int | None], column: str = "rss_bytes") -> TelemetryEvent:
    columns: dict[str, Any] = {"rss_bytes": [1] * len(samples), column: [value for _, value in samples]}
    return TelemetryEvent.model_validate({"t_s": [t for t, _ in samples], **columns})


# Load runs from 1 to 3, prepare from 3.5 to 4, warm-up from 5, the measured batches from 10 to 17.
MEMORY = (
    telemetry((0.5, 100), (0.9, 110), (1.5, 500), (2.5, 900), (3.0, 800)),
    telemetry((3.6, 850), (4.1, 1000), (4.5, 5000), (5.5, 3000)),
    telemetry((10.5, 1200), (12.0, None), (12.5, 1300), (15.0, 1400), (17.2, 1500), (18.0, 9999)),
)


def test_memory_at_the_moments_that_count() -> None:
    memory = metrics_with(*MEMORY).host_memory
    assert memory is not None
    assert memory.baseline_bytes == 110  # the last before load
    assert memory.load_peak_bytes == 900
    assert memory.after_load_bytes == 800
    assert memory.after_prepare_bytes == 1000
    assert memory.peak_bytes == 3000  # warm-up counts; what comes before it (5000) and after the end (9999) does not
    # By trapezoids from 10.5 s to 17.2 s: 2 s of 1250, 2.5 s of 1350, 2.2 s of 1450.
    assert memory.mean_bytes == pytest.approx((2.0 * 1250 + 2.5 * 1350 + 2.2 * 1450) / 6.7)


def test_the_mean_of_memory_does_not_depend_on_where_samples_are_dense() -> None:
    sparse = metrics_with(telemetry((10.0, 100), (17.0, 800))).host_memory
    dense = metrics_with(telemetry((10.0, 100), (10.1, 110), (10.2, 120), (10.3, 130), (17.0, 800))).host_memory
    assert sparse is not None
    assert dense is not None
    assert dense.mean_bytes == pytest.approx(sparse.mean_bytes) == pytest.approx(450.0)


def test_a_sample_long_after_a_moment_says_nothing_of_it() -> None:
    memory = metrics_with(telemetry((0.5, 100), (5.1, 700), (11.0, 800), (19.1, 9999))).host_memory
    assert memory is not None
    assert (memory.baseline_bytes, memory.load_peak_bytes) == (100, None)
    assert (memory.after_load_bytes, memory.after_prepare_bytes) == (None, 700)
    assert (memory.peak_bytes, memory.mean_bytes) == (800, 800.0)


def test_device_memory_has_the_same_moments_and_is_absent_without_a_gpu() -> None:
    columns = [
        TelemetryEvent(t_s=event.t_s, rss_bytes=(1,) * len(event.t_s), device_used_bytes=event.rss_bytes)
        for event in MEMORY
    ]
    assert metrics_with(*columns).device_memory == metrics_with(*MEMORY).host_memory
    assert metrics_with(*MEMORY).device_memory is None
    assert metrics().host_memory is None


def test_samples_out_of_order_change_nothing() -> None:
    assert metrics_with(*reversed(MEMORY)) == metrics_with(*MEMORY)


def test_energy_is_the_counters_difference_scaled_to_the_window() -> None:
    samples = (9.9, 0), (10.1, 1000), (13.0, None), (14.0, 9000), (16.6, 13000), (17.2, 99000)
    # 12 J between 10.1 s and 16.6 s, and the window is 7 s long.
    found = metrics_with(telemetry(*samples, column="energy_mj")).device_energy_joules
    assert found == pytest.approx(12.0 * 7.0 / 6.5)


@pytest.mark.parametrize(
    "counter",
    [
        telemetry((9.0, 0), (18.0, 5000), column="energy_mj"),
        telemetry((11.0, 4000), column="energy_mj"),
        telemetry((11.0, None), (12.0, None), column="energy_mj"),
        telemetry((10.1, 0), (16.3, 5000), column="energy_mj"),
        telemetry((10.1, 9000), (16.9, 5000), column="energy_mj"),
    ],
)
def test_energy_is_absent_where_the_counter_does_not_span_the_window_or_fell(counter: TelemetryEvent) -> None:
    assert metrics_with(counter).device_energy_joules is None


def test_energy_of_less_than_a_second_is_no_number() -> None:
    short = batch("measure", 0, 10.0, 0.9, (1,))
    counter = telemetry((10.1, 0), (10.8, 500), column="energy_mj")
    assert metrics(START, short, counter, END).device_energy_joules is None


def test_the_engines_own_pool_is_the_last_that_it_told() -> None:
    told = (
        EngineEvent(t_s=1.0, memory={"reserved_bytes": 10, "used_bytes": 1}),
        EngineEvent(t_s=2.0, memory={"reserved_bytes": 20, "used_bytes": 5}),
        EngineEvent(t_s=3.0, facts={"a": "1"}),
    )
    found = metrics_with(*told)
    assert (found.reserved_bytes, found.used_bytes) == (20, 5)
    assert (metrics().reserved_bytes, metrics().used_bytes) == (None, None)


def test_later_facts_replace_earlier_ones() -> None:
    told = (EngineEvent(t_s=1.0, facts={"a": "1", "b": "1"}), EngineEvent(t_s=2.0, facts={"b": "2"}))
    result = summarise("c", filed([*SCRIPT[:-1], *told, END]))
    assert result.engine_facts == {"a": "1", "b": "2"}
    assert result.versions == {"python": "3.12"}
    assert CellResult.parse(result.to_json(), "result.json") == result


BAD_END = EndEvent(t_s=1.0, outcome=Outcome.GENERATE_FAILED, phase="measure", cause="x")


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        (SCRIPT[1:], "has no start"),
        (SCRIPT[:-1], "does not end well"),
        ((*SCRIPT[:-1], BAD_END), "does not end well"),
        ((START, LOAD, PREPARE, WARM, END), "has no measured batch"),
        ((START, WARM, SECOND, END), "measure batches are missing or out of order"),
        ((START, WARM, SECOND, FIRST, END), "measure batches are missing or out of order"),
        ((START, WARM, FIRST, FIRST, SECOND, END), "measure batches are missing or out of order"),
        ((START, WARM, WARM, FIRST, END), "warmup batches are missing or out of order"),
        ((START, FIRST, batch("latency", 1, 20.0, 1.0, (1,)), END), "latency batches are missing or out of order"),
    ],
)
def test_a_log_that_is_not_a_complete_cells_gives_no_result(events: tuple[Event, ...], cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        summarise("image.v.b2", filed(events))
    assert caught.value.cause.startswith("image.v.b2: ")
    assert cause in caught.value.cause


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ((START, START), "starts twice"),
        ((START, LOAD, LOAD), "the phase load twice"),
        ((START, END, FIRST), "goes on after its end, with batch"),
        ((START, END, END), "goes on after its end, with end"),
    ],
)
def test_two_cells_in_one_log_are_refused(events: tuple[Event, ...], cause: str) -> None:
    with pytest.raises(BadInput, match=cause):
        filed(events)


def test_token_times_of_two_clocks_in_one_cell_are_refused() -> None:
    other = batch("measure", 1, 13.0, 4.0, (1,), offsets_us=[(5,)], source="engine")
    with pytest.raises(BadInput, match="two clocks"):
        metrics(START, FIRST, other, END)


# Distributions.


@pytest.mark.parametrize(("q", "least"), [(0.90, 50), (0.95, 100), (0.99, 500)])
def test_a_percentile_is_given_only_if_five_values_lie_beyond_it(q: float, least: int) -> None:
    assert percentile([1.0] * (least - 1), q) is None
    assert percentile([1.0] * least, q) == 1.0


def test_percentiles_agree_with_the_standard_librarys() -> None:
    drawn = random.Random(7)  # noqa: S311  # a sample, not a secret
    sample = [drawn.lognormvariate(0, 1) for _ in range(777)]
    found = Distribution.of(sample)
    cuts = statistics.quantiles(sample, n=100, method="inclusive")
    assert found is not None
    assert (found.p90, found.p95, found.p99) == pytest.approx((cuts[89], cuts[94], cuts[98]))


def test_a_percentile_lies_between_its_neighbours() -> None:
    assert percentile([float(value) for value in range(100)], 0.9) == pytest.approx(89.1)
    assert percentile([float(value) for value in range(101)], 0.9) == pytest.approx(90.0)


def test_one_value_has_no_deviation_and_none_has_no_distribution() -> None:
    single = Distribution.of([2.5])
    assert single is not None
    assert (single.n, single.mean, single.median, single.min, single.max, single.stdev) == (1, 2.5, 2.5, 2.5, 2.5, None)
    assert Distribution.of([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=120), st.randoms())
def test_the_order_of_a_sample_does_not_matter_and_its_numbers_are_ordered(
    sample: list[float], shuffler: random.Random
) -> None:
    shuffled = list(sample)
    shuffler.shuffle(shuffled)
    found = Distribution.of(sample)
    assert found == Distribution.of(shuffled)
    assert found is not None
    ascending = [v for v in (found.min, found.median, found.p90, found.p95, found.p99, found.max) if v is not None]
    assert all(low <= high or math.isclose(low, high) for low, high in itertools.pairwise(ascending))


def test_parity_compares_the_same_batches_and_nothing_else_changes() -> None:
    """The suite's 4 tokens in 4 s beside the engine's own 4 tokens in 3.8 s."""
    second = SECOND.model_copy(update={"prompts_digest": "second"})
    direct = batch("direct", 0, 18.0, 3.8, (2, 2)).model_copy(
        update={"prompts_digest": "second", "outputs": ((7, 7), (7, 8))}
    )
    with_direct = summarise("c", filed((START, LOAD, PREPARE, WARM, FIRST, second, direct, END))).metrics
    without = summarise("c", filed((START, LOAD, PREPARE, WARM, FIRST, second, END))).metrics
    assert with_direct.parity is not None
    assert with_direct.parity.ratio == pytest.approx(3.8 / 4.0)
    assert with_direct.parity.output_throughput_tok_s == pytest.approx(1.0)
    assert with_direct.parity.direct_output_throughput_tok_s == pytest.approx(4 / 3.8)
    assert (with_direct.parity.batches, with_direct.parity.rows) == (1, 2)
    assert with_direct.parity.rows_with_equal_tokens == 1
    changed = {"parity": None, "batches_s": without.batches_s}
    assert with_direct.model_copy(update=changed) == without


def test_parity_takes_of_each_batch_the_fastest_of_either_side() -> None:
    """The host holds up a call of either side in each round; undisturbed, both take 2 s for the first batch, and the
    suite 2.2 s beside the engine's 2 s for the second."""
    first, second = (b.model_copy(update={"prompts_digest": n}) for b, n in ((FIRST, "first"), (SECOND, "second")))
    calls: list[Event] = []
    rounds = (((3.0, 2.0), (2.2, 3.5)), ((2.0, 4.0), (2.3, 2.0)))
    for number, (suite_s, direct_s) in enumerate(pair for both in rounds for pair in both):
        for phase, latency_s in (("paired", suite_s), ("direct", direct_s)):
            called = batch("direct", number, 20.0 + 5 * len(calls), latency_s, (2, 2))
            name = ("first", "second")[number % 2]
            calls.append(called.model_copy(update={"phase": phase, "prompts_digest": name}))
    end = END.model_copy(update={"t_s": 90.0})
    parity = summarise("c", filed((START, LOAD, PREPARE, WARM, first, second, *calls, end))).metrics.parity
    assert parity is not None
    assert (parity.batches, parity.rounds, parity.rows) == (2, 2, 8)
    assert parity.ratio == pytest.approx(11.5 / 9.5), "of all calls"
    assert parity.median_ratio == pytest.approx(statistics.median([1.0, 2.0 / 2.2]))
    assert (parity.median_low, parity.median_high) == (None, None), "of two batches nothing is known"
    with pytest.raises(BadInput, match="equally often"):
        summarise("c", filed((START, LOAD, PREPARE, WARM, first, second, *calls[:-2], end)))


def test_parity_takes_the_suite_s_batch_right_beside_the_direct_one_where_there_is_one() -> None:
    """Beside the engine's own 3 s, 2 s and 3 s the suite takes 3 s, 8 s (the host was held up) and 3 s."""

    def named(phase: BatchPhase, index: int, at_s: float, latency_s: float) -> BatchEvent:
        return batch(phase, index, at_s, latency_s, (2, 2)).model_copy(update={"prompts_digest": str(index)})

    def given(batches: int) -> list[Event]:
        events: list[Event] = []
        for index in range(batches):
            suite_s, direct_s = ((3.0, 3.0), (8.0, 2.0), (3.0, 3.0))[index % 3]
            at_s = 40.0 + 20 * index
            events += [named("paired", index, at_s, suite_s), named("direct", index, at_s + 10, direct_s)]
        return events

    end = END.model_copy(update={"t_s": 200.0})
    began: list[Event] = [START, LOAD, PREPARE, WARM, *(named("measure", k, 10.0 + 4 * k, 4.0) for k in range(6))]
    metrics = summarise("c", filed([*began, *given(3), end])).metrics
    assert metrics.parity is not None
    assert (metrics.parity.batches, metrics.parity.rounds) == (3, 1)
    assert metrics.parity.output_throughput_tok_s == pytest.approx(12 / 14)
    assert metrics.parity.ratio == pytest.approx(8 / 14)
    assert metrics.parity.median_ratio == pytest.approx(1.0), "one batch that was held up does not decide"
    assert (metrics.parity.median_low, metrics.parity.median_high) == (None, None), "three pairs say too little"
    more = summarise("c", filed([*began, *given(6), end])).metrics.parity
    assert more is not None
    assert (more.median_low, more.median_high) == pytest.approx((0.25, 1.0)), "of six pairs the extremes"
    assert metrics.batches == 6, "they are not measured ones"
    other = filed(
        (*began, *given(2)[:3], named("direct", 1, 70.0, 2.0).model_copy(update={"prompts_digest": "2"}), end)
    )
    with pytest.raises(BadInput, match="whose pair is another one"):
        summarise("c", other)


def test_a_direct_batch_that_was_never_measured_is_damage() -> None:
    stray = batch("direct", 0, 18.0, 1.0, (2, 2)).model_copy(update={"prompts_digest": "stray"})
    with pytest.raises(BadInput, match="was not measured"):
        summarise("c", filed((START, LOAD, PREPARE, WARM, FIRST, SECOND, stray, END)))
