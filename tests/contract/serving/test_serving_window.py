"""When a cell's load stands still, when it is measured well enough, and when it is too much: of simulated queues."""

from __future__ import annotations

import random
import time

import pytest
from serving_queues import (
    START_S,
    Draw,
    Served,
    closed_loop,
    event,
    exponential,
    fixed,
    narrow,
    open_loop,
    run,
    seeded,
    uniform,
)

from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.measures import summarise_serving
from bench_core.contract.serving.protocol import ServeFields
from bench_core.contract.serving.saturation import LOOK_GROWTH, grows, in_flight
from bench_core.contract.serving.window import Course

CLOSED = Serve(load="concurrency", concurrency=8)
TRACE = Serve(load="trace")
OPEN = Serve(load="rate", request_rate=12.8)


def test_a_closed_loop_of_equal_requests_is_soon_steady_and_precise() -> None:
    """After a first answer of each stream and five in the second half; then at least five seconds and two looks."""
    look = run(Course(CLOSED, ServeFields(), START_S), closed_loop(seeded(1), 8, 500.0, narrow), tokens=20)
    assert look.window is not None
    assert look.window.warmup_steady
    assert look.window.reason == "precise"
    assert look.window.begin_s >= START_S + 1.0
    assert 5.0 <= look.window.end_s - look.window.begin_s <= 119.0
    assert look.throughput is not None
    assert look.throughput.value == pytest.approx(160.0, rel=0.05)
    assert look.throughput.relative_half_width <= 0.02
    assert look.ttft_s is not None
    assert look.ttft_s.value == pytest.approx(0.05, rel=1e-3)


def test_warmup_waits_for_every_stream() -> None:
    course = Course(CLOSED, ServeFields(), START_S)
    slow = Served(0.0, 0.0, 30.0)
    for _ in range(8):
        course.sent(START_S)
    for index in range(1, 7):
        course.finished(event(index, Served(0.0, 0.0, 1.0), 5, START_S))
    for k in range(100):
        assert course.look(START_S + 1 + k * 0.25).phase == "warming"
    course.finished(event(0, slow, 5, START_S))
    assert course.look(START_S + 59.9).phase == "warming"
    ended = course.look(START_S + 60.0)
    assert ended.phase == "measuring"
    assert course.stop(START_S + 61.0).window is not None


def test_a_warmup_that_gets_faster_all_the_time_ends_at_its_limit() -> None:
    served: list[Served] = []
    at_s = 0.0
    while at_s < 400.0:
        latency_s = 0.5 + 2.0 * 0.97 ** len(served)
        served.append(Served(at_s, 0.0, latency_s))
        at_s += latency_s
    load = Serve(load="concurrency", concurrency=1)
    options = ServeFields(max_ramp_seconds=30.0, max_serve_seconds=60.0)
    look = run(Course(load, options, START_S), served)
    assert look.window is not None
    assert not look.window.warmup_steady
    assert look.window.begin_s == pytest.approx(START_S + 30.0, abs=0.3)


def test_a_window_ends_at_its_limits() -> None:
    noisy = ServeFields(serve_precision=0.0001, max_serve_seconds=20.0)
    look = run(Course(CLOSED, noisy, START_S), closed_loop(seeded(1), 8, 500.0, exponential))
    assert look.window is not None
    assert look.window.reason == "max_seconds"
    assert look.window.end_s - look.window.begin_s == pytest.approx(20.0, abs=0.3)
    few = run(Course(CLOSED, noisy, START_S, max_requests=40), closed_loop(seeded(1), 8, 500.0, exponential))
    assert few.window is not None
    assert few.window.reason == "max_requests"
    assert few.ended >= 40


@pytest.mark.parametrize("times", [(0.0,), (0.0,) * 8, (0.0, 0.1, 9.7)])
def test_a_trace_is_measured_until_its_last_request_has_ended(times: tuple[float, ...]) -> None:
    """Of requests that all come at once too: all their tokens were there within the window."""
    served = [Served(at_s, 0.0, 1.0) for at_s in times]
    look = run(Course(TRACE, ServeFields(), START_S, requests=len(served)), served)
    assert look.window is not None
    assert look.window.reason == "schedule_used_up"
    assert look.window.begin_s == START_S
    assert look.window.end_s == pytest.approx(START_S + times[-1] + 1.0, abs=1e-3)
    metrics = summarise_serving([event(k, one, 5, START_S) for k, one in enumerate(served)], look.window)
    assert metrics.output_throughput_tok_s.value * metrics.window_s == pytest.approx(5 * len(served))
    assert metrics.requests.ok == len(served)
    before = run(Course(TRACE, ServeFields(), START_S, requests=len(served), drains=False), served).window
    assert before is not None
    assert before.end_s <= START_S + times[-1] + 0.25, "logs of before are judged as they were written"


def test_a_trace_that_hangs_ends_at_the_longest_time() -> None:
    course = Course(TRACE, ServeFields(max_serve_seconds=3), START_S, requests=1)
    course.sent(START_S)
    assert course.look(START_S + 2.9).window is None
    window = course.look(START_S + 3.1).window
    assert window is not None
    assert window.reason == "max_seconds"


def test_a_schedule_that_is_used_up_ends_the_window() -> None:
    served = list(open_loop(seeded(2), 16, 0.5, 40.0))
    look = run(Course(OPEN, ServeFields(), START_S, requests=len(served)), served)
    assert look.window is not None
    assert look.window.reason == "schedule_used_up"
    assert look.window.end_s == pytest.approx(START_S + served[-1].at_s, abs=0.3)
    short = served[:30]
    look = run(Course(OPEN, ServeFields(), START_S, requests=30), short)
    assert look.window is not None
    assert look.window.begin_s < look.window.end_s


def test_an_overloaded_open_loop_is_told_and_others_are_not() -> None:
    more = Serve(load="rate", request_rate=20.8)
    over = run(Course(more, ServeFields(), START_S), open_loop(seeded(3), 16, 1.3, 300.0))
    assert over.window is not None
    assert over.window.reason == "saturated"
    under = run(Course(OPEN, ServeFields(), START_S), open_loop(seeded(3), 16, 0.8, 300.0))
    assert under.window is not None
    assert under.window.reason == "max_seconds"


def test_looks_are_cheap() -> None:
    """20 000 requests of 100 tokens: what a look does is bounded by pieces of time and by requests."""
    course = Course(Serve(load="concurrency", concurrency=64), ServeFields(), START_S)
    for index, one in enumerate(closed_loop(seeded(4), 200, 100.0, uniform)):
        done = event(index, one, 100, START_S)
        course.sent(done.scheduled_s)
        course.finished(done)
    began = time.process_time()
    for k in range(20):
        course.look(START_S + 100.0 + k)
    assert (time.process_time() - began) / 20 < 0.25


def test_in_flight_counts_up_to_and_with_a_moment() -> None:
    assert in_flight([1.0, 2.0, 3.0], [2.5], 0.5) == 0
    assert in_flight([1.0, 2.0, 3.0], [2.5], 2.0) == 2
    assert in_flight([1.0, 2.0, 3.0], [2.5], 3.0) == 2


def told_s(drawn: random.Random, servers: int, rho: float, until_s: float, gap: Draw, service: Draw) -> float | None:
    """When saturation is told, looking as a course does."""
    served = list(open_loop(drawn, servers, rho, until_s, gap=gap, service=service))
    begun = [one.at_s for one in served]
    ended = sorted(one.ended_s for one in served)
    latency_s = sorted(one.wait_s + one.service_s for one in served[:20])[10]
    now_s = 1.0
    while now_s < until_s:
        if grows(begun, ended, 0.0, now_s, latency_s):
            return now_s
        now_s *= LOOK_GROWTH
    return None


def share_told(rho: float, trials: int, gap: Draw = exponential, service: Draw = exponential) -> tuple[float, float]:
    """Of trials of three minutes with 16 servers; and by when 95 % of those told are."""
    drawn = seeded(6)
    found = [told_s(drawn, 16, rho, 180.0, gap, service) for _ in range(trials)]
    times = sorted(one for one in found if one is not None)
    return len(times) / trials, times[int(len(times) * 0.95)] if times else 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "service"), [(exponential, exponential), (exponential, uniform), (fixed, exponential)])
def test_an_overload_of_30_percent_is_told_in_every_trial(gap: Draw, service: Draw) -> None:
    share, by_s = share_told(1.3, 60, gap, service)
    print(f"130 %: {share:.1%}, 95 % of these by {by_s:.0f} s")  # noqa: T201
    assert share == 1.0
    assert by_s <= 90.0


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "most"), [(0.8, 0.005), (0.9, 0.01)])
@pytest.mark.parametrize(("gap", "service"), [(exponential, exponential), (exponential, uniform), (fixed, fixed)])
def test_below_capacity_it_is_hardly_ever_told(rho: float, most: float, gap: Draw, service: Draw) -> None:
    share, _ = share_told(rho, 200, gap, service)
    print(f"{rho:.0%}: {share:.2%}")  # noqa: T201
    assert share <= most


@pytest.mark.slow
def test_an_overload_of_10_percent_is_told_in_time_where_the_load_is_regular() -> None:
    irregular, by_s = share_told(1.1, 60)
    print(f"110 %, irregular: {irregular:.1%}, 95 % of these by {by_s:.0f} s")  # noqa: T201
    assert irregular >= 0.4
    regular, by_s = share_told(1.1, 10, fixed, fixed)
    assert regular == 1.0
    assert by_s <= 40.0


@pytest.mark.slow
def test_throughput_that_was_stopped_for_being_precise_is_as_sure_as_it_claims() -> None:
    """The stopping rule is really applied; 8 streams of 20 tokens/s are 160 tokens/s."""
    drawn = seeded(9)
    trials, precise, held = 80, 0, 0
    for _ in range(trials):
        look = run(Course(CLOSED, ServeFields(), START_S), closed_loop(drawn, 8, 200.0, narrow), tokens=20)
        assert look.window is not None
        precise += look.window.reason == "precise"
        if look.throughput is not None and look.throughput.low is not None and look.throughput.high is not None:
            held += look.throughput.low <= 160.0 <= look.throughput.high
    print(f"stopped: {precise} precise, {held} held of {trials}")  # noqa: T201
    assert precise >= 0.9 * trials
    assert held >= 0.9 * trials
