"""What a serving cell measured: numbers by hand from a few requests."""

from __future__ import annotations

from typing import Any

import pytest
from serving_queues import Served, event, exponential, open_loop, seeded

from bench_core.contract.errors import BadInput
from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.serving.latencies import Gap, e2e_s, gaps, tpot_s, ttft_s, within
from bench_core.contract.serving.measures import (
    ServeMetrics,
    client_limited,
    kept,
    summarise_serving,
)
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.serving.requests import Counts, GeneratorEvent, RequestEvent, WindowEvent

WINDOW = WindowEvent(begin_s=100.0, end_s=110.0, warmup_steady=True, reason="precise")


def request(index: int = 0, at_s: float = 101.0, **changed: Any) -> RequestEvent:
    """Sent 1 ms late; tokens after 0.1 s, then two after 0.2 s more, then one after 0.1 s; 8 prompt tokens."""
    given: dict[str, Any] = {
        "index": index, "prompt": 0, "prompt_digest": "d", "prompt_tokens": 8, "scheduled_s": at_s,
        "sent_s": at_s + 0.001, "arrivals_us": (100_000, 300_000, 400_000), "arrival_tokens": (1, 2, 1),
        "ended_s": at_s + 0.5, "output_tokens": 4, "asked_tokens": 4, "end": "ok",
    }  # fmt: skip
    return RequestEvent(**{**given, **changed})


def failed(index: int, at_s: float, end: str, *, sent: bool = True) -> RequestEvent:
    return request(
        index, at_s, arrivals_us=(), arrival_tokens=(), output_tokens=0, end=end, sent_s=at_s if sent else None
    )


def test_latencies_of_one_request() -> None:
    one = request()
    assert ttft_s(one) == pytest.approx(0.101)
    assert ttft_s(one, from_sent=True) == pytest.approx(0.1)
    assert e2e_s(one) == pytest.approx(0.5)
    assert e2e_s(one, from_sent=True) == pytest.approx(0.499)
    assert tpot_s(one) == pytest.approx(0.1)
    assert gaps(one) == [Gap(101.0 + 0.001 + 0.3, 0.1, 2), Gap(101.0 + 0.001 + 0.4, 0.1, 1)]


def test_a_request_without_tokens_has_no_latencies() -> None:
    one = failed(0, 101.0, "refused", sent=False)
    assert [ttft_s(one), e2e_s(one), tpot_s(one), gaps(one)] == [None, None, None, []]
    assert tpot_s(request(arrivals_us=(1,), arrival_tokens=(1,), output_tokens=1)) is None


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        (Limits(ttft_s=0.1), False),
        (Limits(ttft_s=0.102), True),
        (Limits(tpot_s=0.09), False),
        (Limits(tpot_s=0.101, e2e_s=0.51), True),
        (Limits(e2e_s=0.4), False),
        (Limits(itl_s=0.05), False),
        (Limits(itl_s=0.101), True),
    ],
)
def test_limits(limits: Limits, good: bool) -> None:
    assert within(request(), limits) is good
    assert not within(request(end="timeout"), limits)


def test_a_single_token_keeps_limits_between_tokens() -> None:
    assert within(request(arrivals_us=(1,), arrival_tokens=(1,), output_tokens=1), Limits(tpot_s=0.01, itl_s=0.01))


def cell(*requests: RequestEvent, **more: Any) -> ServeMetrics:
    return summarise_serving(requests, WINDOW, **more)


def test_what_counts_in_a_window() -> None:
    """Two requests of the window; one before it, whose last tokens and completion fall into it; one after it."""
    found = cell(request(0, 99.7), request(1, 102.0), request(2, 109.8), request(3, 110.0))
    assert found.requests == Counts(scheduled=2, sent=2, ok=2, unfinished=0)
    # Arrivals within: of 0 the last two reads (100.001, 100.101), of 1 all, of 2 the first (109.901).
    assert found.output_throughput_tok_s.value == pytest.approx((3 + 4 + 1) / 10)
    assert found.prompt_throughput_tok_s.value == pytest.approx(8 * 2 / 10)
    assert found.request_throughput_per_s.value == pytest.approx(2 / 10)  # 0 and 1
    assert found.ttft_s is not None
    assert found.ttft_s.n == 2
    assert found.ttft_s.mean.value == pytest.approx(0.101)
    assert found.ttft_s.p50 is None
    assert found.itl_s is not None
    assert found.itl_s.n == 3 + 3
    # In flight within: 0 for 0.2 s, 1 for 0.499 s, 2 for 0.199 s.
    assert found.in_flight.mean == pytest.approx(0.0898)
    assert found.in_flight.max == 1
    assert found.lateness_s is not None
    assert found.lateness_s.max == pytest.approx(0.001)
    assert found.window_s == 10.0
    assert found.kept is None
    assert not found.saturated


def test_a_request_that_was_sent_twice_is_counted_and_has_its_whole_latency() -> None:
    lost = request(1, 101.0, sent_s=101.3, ended_s=101.8, resent=True)
    found = cell(request(0, 100.5), lost)
    assert found.requests == Counts(scheduled=2, sent=2, ok=2, unfinished=0, resent=1)
    assert found.ttft_s is not None
    assert found.ttft_from_sent_s is not None
    assert found.ttft_s.max == pytest.approx(found.ttft_from_sent_s.max + 0.3)


def test_a_failed_request_is_counted_and_never_a_latency() -> None:
    good = [request(k, 101.0 + 0.1 * k) for k in range(6)]
    found = cell(
        *good, failed(6, 102.0, "status"), failed(7, 102.5, "refused", sent=False), failed(8, 109.9, "unfinished"),
        limits=Limits(ttft_s=0.2),
    )  # fmt: skip
    assert found.requests == Counts(scheduled=9, sent=8, ok=6, failed={"refused": 1, "status": 1}, unfinished=1)
    assert found.share_failed == pytest.approx(2 / 8)
    assert found.ttft_s is not None
    assert found.ttft_s.n == 6
    assert found.kept is not None
    assert found.kept.attainment.value == pytest.approx(6 / 9)
    assert found.kept.goodput_per_s == pytest.approx(0.6)
    assert kept(good, WINDOW, Limits(ttft_s=0.01)).goodput_per_s == 0.0


def test_per_user_is_the_inverse_of_the_median_and_its_interval_turned() -> None:
    drawn = seeded(1)
    served = [Served(k * 0.1, 0.0, 1 + exponential(drawn)) for k in range(100)]
    found = cell(*(event(k, one, 5, 100.0) for k, one in enumerate(served)))
    assert found.tpot_s is not None
    assert found.tpot_s.p50 is not None
    assert found.per_user_tok_s is not None
    assert found.per_user_tok_s.value == pytest.approx(1 / found.tpot_s.p50.value)
    assert found.per_user_tok_s.low == pytest.approx(1 / (found.tpot_s.p50.high or 0))
    assert (found.per_user_tok_s.low or 9) < found.per_user_tok_s.value < (found.per_user_tok_s.high or 0)


def test_a_loaded_cell_has_all_its_numbers() -> None:
    served = [one for one in open_loop(seeded(2), 16, 0.6, 200.0) if one.at_s > 20]
    requests = [event(k, one) for k, one in enumerate(served)]
    window = WindowEvent(begin_s=30.0, end_s=190.0, warmup_steady=False, reason="saturated")
    found = summarise_serving(requests, window, limits=Limits(e2e_s=2.0))
    assert found.saturated
    assert not found.warmup_steady
    assert found.request_throughput_per_s.value == pytest.approx(9.6, rel=0.1)
    assert found.output_throughput_tok_s.value == pytest.approx(48.0, rel=0.1)
    assert found.in_flight.mean == pytest.approx(9.6, rel=0.15)
    assert found.e2e_s is not None
    assert found.e2e_s.p99 is not None
    assert found.e2e_s.p99.value > 4.0
    assert found.kept is not None
    assert found.kept.attainment.value == pytest.approx(1 - 2.718**-2, abs=0.05)
    assert ServeMetrics.parse(found.to_json(), "file") == found


def test_many_gaps_have_the_values_of_all() -> None:
    served = [Served(k * 0.005, 0.0, 1.0) for k in range(1500)]
    requests = [event(k, one, 100, 100.0) for k, one in enumerate(served)]
    found = summarise_serving(requests, WINDOW)
    assert found.itl_s is not None
    assert found.itl_s.n == 1500 * 99
    assert found.itl_s.mean.n == found.itl_s.n
    assert found.itl_s.mean.value == pytest.approx(0.95 / 99, rel=1e-3)
    assert found.itl_s.p99 is not None
    assert found.itl_s.p99.value == pytest.approx(0.95 / 99, rel=1e-3)


def generator(**changed: float) -> GeneratorEvent:
    given = {"started_s": 100.0, "ended_s": 110.0, "cpu_s": 1.0, "busy_s": 1.0, "longest_turn_s": 0.001, "tokens": 5}
    return GeneratorEvent(process=0, **{**given, **changed})


def test_a_client_that_was_the_bottleneck_is_told_in_words() -> None:
    assert client_limited([generator()], None, None) == ""
    assert "busy for 90%" in client_limited([generator(), generator(busy_s=9.0)], None, None)
    assert "3.0 ms" in client_limited([generator(longest_turn_s=0.003)], None, None)
    late = cell(*(request(k, 101.0 + 0.01 * k, sent_s=101.0 + 0.01 * k + 0.02) for k in range(20)))
    assert "20.0 ms late" in late.client_limited
    slow = {"arrivals_us": (2_000_000,), "arrival_tokens": (1,), "ended_s": 109.0}
    fine = cell(*(request(k, 101.0 + 0.01 * k, sent_s=101.0 + 0.01 * k + 0.02, **slow) for k in range(20)))
    assert fine.client_limited == ""  # 2 % of 2 s are 40 ms


def test_the_device_over_the_window() -> None:
    times = tuple(99.0 + 0.5 * k for k in range(26))
    telemetry = TelemetryEvent(
        t_s=times, rss_bytes=(1,) * 26, device_used_bytes=tuple(1000 + k for k in range(26)), power_w=(200.0,) * 26
    )
    found = cell(request(), telemetry=[telemetry])
    assert found.device_peak_bytes == 1022
    assert found.telemetry is not None
    assert found.telemetry.integrated_joules == pytest.approx(2000.0)
    assert found.telemetry.joules_per_output_token == pytest.approx(500.0)


def test_events_of_no_cell_are_refused() -> None:
    with pytest.raises(BadInput, match="twice"):
        cell(request(0), request(0, 102.0))
    with pytest.raises(BadInput, match="no request"):
        cell(request(0, 99.0))
    with pytest.raises(BadInput, match="no request"):
        kept([], WINDOW, Limits(ttft_s=1.0))
