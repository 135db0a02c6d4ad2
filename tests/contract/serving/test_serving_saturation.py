"""That an open loop offers more than its server takes: of servers whose capacity is known, and of what was seen."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from saturation_servers import SERVERS, is_told, times_told
from serving_queues import (
    START_S,
    Served,
    closed_loop,
    event,
    exponential,
    fixed,
    in_one_batch,
    narrow,
    open_loop,
    run,
    seeded,
)

from bench_core.contract.records.spec import CellSpec
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.log import ServeEvents
from bench_core.contract.serving.protocol import DRAIN_S, ServeFields
from bench_core.contract.serving.requests import CourseEvent, WindowEvent
from bench_core.contract.serving.window import Course, retraced

PUBLISHED = Path(__file__).parents[3] / "results" / "published"
SHORT = ServeFields(max_ramp_seconds=3.0, max_serve_seconds=7.0, serve_precision=1e-6)


@pytest.mark.parametrize("name", SERVERS)
def test_three_times_the_capacity_is_told_and_80_percent_is_not(name: str) -> None:
    """In ten times as long as a request alone takes."""
    trials = 4
    assert times_told(name, 3.0, 3.0, 7.0, trials) >= trials - (SERVERS[name][0] <= 1)
    assert times_told(name, 0.8, 3.0, 7.0, trials) == 0


def test_what_the_drain_tells_leaves_the_window_as_it_is() -> None:
    served = open_loop(seeded(3), 8, 3.0, 80.0, service=fixed)
    look = run(Course(Serve(load="rate", request_rate=24.0), SHORT, START_S), served, drained=True)
    window = look.window
    assert window is not None
    assert (window.reason, window.saturated) == ("max_seconds", True)
    assert window.end_s == pytest.approx(START_S + 10.0, abs=0.3)
    assert window.saturation_told_s is not None
    assert window.end_s < window.saturation_told_s <= window.end_s + DRAIN_S + 0.5


def test_a_drain_ends_with_the_windows_last_request_or_after_a_minute() -> None:
    options = SHORT.model_copy(update={"max_serve_seconds": 5.0})
    load = Serve(load="rate", request_rate=4.0, arrivals="constant")
    course = Course(load, options, START_S)
    served = [Served(k / 4, 0.0, 100.0 if k == 20 else 1.0) for k in range(400)]
    look = run(course, served, drained=True)
    assert look.window is not None
    assert not look.window.saturated
    now_s = START_S + served[look.ended].at_s
    assert now_s == pytest.approx(look.window.end_s + DRAIN_S, abs=2.0)


def test_a_closed_loop_is_never_saturated() -> None:
    course = Course(Serve(load="concurrency", concurrency=8), SHORT, START_S)
    look = run(course, closed_loop(seeded(1), 8, 60.0, narrow), drained=True)
    assert look.window is not None
    assert not look.window.saturated


def test_nothing_is_told_when_no_more_requests_come() -> None:
    """A burst that is worked off, behind the end of its schedule."""
    served = list(open_loop(seeded(5), 8, 3.0, 9.0, service=fixed))
    load = Serve(load="rate", request_rate=24.0)
    look = run(Course(load, SHORT, START_S, requests=len(served)), served, drained=True)
    assert look.window is not None
    assert look.window.reason == "schedule_used_up"
    assert not look.window.saturated


@pytest.mark.parametrize(("rho", "told"), [(0.8, False), (0.99, False), (1.1, True), (3.0, True)])
def test_regular_loads_are_told_at_a_tenth_too_much(rho: float, told: bool) -> None:
    served = open_loop(seeded(1), 8, rho, 120.0, gap=fixed, service=fixed)
    assert is_told(served, 8 * rho, 5.0, 15.0, arrivals="constant") is told


def test_a_server_that_answers_next_to_nothing_is_told() -> None:
    """Of 240 requests in its time it takes nine."""
    served = open_loop(seeded(2), 1, 20.0, 90.0, service=fixed)
    assert is_told(served, 20.0, 3.0, 6.0)


def test_requests_of_any_length_in_one_batch_are_no_overload_at_80_percent() -> None:
    """A long request meets more of those that come later: its latency must not seem to be their number's."""
    name = "a batch, 64/s, exponential requests"
    assert times_told(name, 0.8, 3.0, 7.0, 5, follows=False) > 0, "the rule of before is not put to the test"
    assert times_told(name, 0.8, 3.0, 7.0, 5) == 0


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("h200-llama-load/cells/llama-cpp-python.q4_k_m.r16", True),
        ("h200-llama-load/cells/llama-cpp-python.q4_k_m.r4", False),
        # Steps get longer quickly with the first requests, and slowly with those that follow.
        ("h200-llama-load/capacity/llama-cpp-python.q4_k_m/trial-02/cells/llama-cpp-python.q4_k_m.r4", False),
        ("h200-capacity/capacity/vllm.fp16/trial-01/cells/vllm.fp16.r40", False),
        ("h200-capacity/capacity/vllm.fp16/trial-05/cells/vllm.fp16.r43", False),
    ],
)
def test_what_was_seen_on_an_h200(where: str, told: bool) -> None:
    """The requests of published cells, looked at again up to the log's end."""
    folder = PUBLISHED / where
    spec = CellSpec.read(folder / "spec.json")
    with gzip.open(folder / "events.jsonl.gz") as lines:
        events = ServeEvents.of_lines(lines, where)
    assert spec.load is not None
    assert spec.serve is not None
    assert events.course is not None
    course = Course(spec.load, spec.serve.protocol, events.course.start_s)
    due = sorted(events.requests, key=lambda one: one.scheduled_s)
    ended = sorted((one for one in due if one.end != "unfinished"), key=lambda one: one.ended_s)
    now_s, until_s = events.course.start_s, ended[-1].ended_s
    look = course.look(now_s)
    while not look.over and now_s < until_s:
        now_s += 0.25
        while due and due[0].scheduled_s <= now_s:
            course.sent(due.pop(0).scheduled_s)
        while ended and ended[0].ended_s <= now_s:
            course.finished(ended.pop(0))
        look = course.look(now_s)
    assert look.window is not None
    assert look.window.saturated is told


def test_logs_of_before_are_judged_as_they_were_written() -> None:
    """Their looks end with the window, and what they tell follows from the number in flight alone."""
    load, options = Serve(load="rate", request_rate=51.2), ServeFields(max_ramp_seconds=10.0, max_serve_seconds=20.0)
    served = list(in_one_batch(seeded(1), 64, 0.8, 90.0, service=exponential))
    before = _retraced(load, options, served, follows=False)
    assert before is not None
    assert before.reason == "saturated"
    now = _retraced(load, options, served, follows=True)
    assert now is not None
    assert not now.saturated


def _retraced(load: Serve, options: ServeFields, served: list[Served], *, follows: bool) -> WindowEvent | None:
    requests = sorted((event(k, one, 1, START_S) for k, one in enumerate(served)), key=lambda one: one.ended_s)
    looks = [START_S + 0.25 * k for k in range(1, 300)]
    due = sorted(one.scheduled_s for one in requests)
    course = CourseEvent(
        follows=follows, start_s=START_S, t_s=tuple(looks),
        ended=tuple(sum(one.ended_s <= t_s for one in requests) for t_s in looks),
        due=tuple(sum(one <= t_s for one in due) for t_s in looks),
        order=tuple(one.index for one in sorted(requests, key=lambda one: one.scheduled_s)),
    )  # fmt: skip
    return retraced(course, requests, load, options)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("seconds", [5.0, 10.0, 30.0])
def test_80_percent_is_not_told_whatever_the_server(name: str, seconds: float) -> None:
    told = times_told(name, 0.8, seconds / 3, seconds * 2 / 3, 40)
    print(f"{name}, {seconds:g} s: {told} of 40")  # noqa: T201
    assert told == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seconds", "least"),
    [
        ("8 slots, equal requests", 10.0, 0.1),
        ("8 slots, equal requests", 30.0, 0.7),
        ("64 slots, uniform requests", 5.0, 0.4),
        ("64 slots, uniform requests", 10.0, 0.9),
        ("a batch, 8/s", 10.0, 0.9),
        ("a batch, 64/s", 5.0, 0.9),
    ],
)
def test_130_percent_is_told_with_enough_requests(name: str, seconds: float, least: float) -> None:
    told = times_told(name, 1.3, seconds / 3, seconds * 2 / 3, 20) / 20
    print(f"{name}, {seconds:g} s: {told:.0%}")  # noqa: T201
    assert told >= least
