"""The suite's own error is what is measured beyond the script, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellMetrics, summarise
from bench_core.contract.measures.own_error import Gap, Script, bounds, gaps, served_gaps
from bench_core.contract.records.events import Arrivals, BatchEvent, EndEvent, PhaseEvent, StartEvent, TelemetryEvent
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.record import Scalar
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.measures import summarise_serving
from bench_core.contract.serving.requests import RequestEvent, WindowEvent

SCRIPT = Script(ttft_s=0.02, tpot_s=0.005, load_bytes=1000)


def batch(
    index: int, late_us: int = 0, step_us: int = 5000, extra_s: float = 0.0, lengths: tuple[int, ...] = (5, 5)
) -> BatchEvent:
    """A batch whose first token is late by so much, and that ends so long after its last token."""
    offsets = tuple(tuple(20_000 + late_us + step_us * k for k in range(length)) for length in lengths)
    return BatchEvent(
        phase="measure", index=index, prompts=tuple(range(len(lengths))), prompts_digest="0" * 64,
        prompt_tokens=(3,) * len(lengths), started_s=10.0 + index,
        latency_s=max(row[-1] for row in offsets) / 1e6 + extra_s,
        outputs=tuple(tuple(range(3, 3 + length)) for length in lengths),
        arrivals=Arrivals(source="worker", shared=False, offsets_us=offsets),
    )  # fmt: skip


def metrics(batches: list[BatchEvent], before: int = 500, after: int = 1500) -> CellMetrics:
    """What the suite makes of them, with these readings of memory around the load."""
    events = CellEvents()
    events.add(StartEvent(t_s=0.0, wall_time_utc="", versions={}, host={}))
    events.add(TelemetryEvent(t_s=(0.5,), rss_bytes=(before,)))
    events.add(PhaseEvent(phase="load", started_s=1.0, duration_s=1.0))
    events.add(TelemetryEvent(t_s=(2.0,), rss_bytes=(after,)))
    for one in batches:
        events.add(one)
    events.add(EndEvent(t_s=99.0, outcome=Outcome.OK))
    return summarise("null.harness.b2", events).metrics


def found(batches: list[BatchEvent], after: int = 1500) -> dict[str, Gap]:
    return {gap.name: gap for gap in gaps(SCRIPT, metrics(batches, after=after), batches)}


def test_a_perfect_measurement_has_no_error() -> None:
    told = found([batch(0), batch(1), batch(2)])
    assert set(told) == {"ttft_s", "tpot_s", "output_throughput_tok_s", "memory_bytes"}
    for gap in told.values():
        assert gap.error == pytest.approx(0.0, abs=1e-12)
    # 2 rows of 5 tokens in 0.020 + 4 * 0.005 s
    assert told["output_throughput_tok_s"].scripted == pytest.approx(10 / 0.04)


def test_errors_are_those_put_in() -> None:
    """First tokens 1 ms late of 20: +5 %; steps of 5.05 ms: +1 %; 44.2 ms instead of 40: throughput 40/44.2 - 1."""
    batches = [batch(k, late_us=1000, step_us=5050, extra_s=0.003) for k in range(3)]
    told = found(batches, after=1520)
    assert told["ttft_s"].error == pytest.approx(0.05)
    assert told["tpot_s"].error == pytest.approx(0.01)
    assert told["output_throughput_tok_s"].error == pytest.approx(0.04 / 0.0442 - 1)
    assert told["memory_bytes"].error == pytest.approx(0.02)


def test_one_late_waking_shows_as_the_worst_batch_and_not_in_the_median() -> None:
    told = found([batch(0), batch(1, late_us=4000), batch(2)])
    assert told["ttft_s"].error == pytest.approx(0.0, abs=1e-12)
    assert told["ttft_s"].worst_error == pytest.approx(0.2)
    assert told["memory_bytes"].worst_error is None


def test_rows_of_different_lengths_are_compared_with_the_longest() -> None:
    """A natural length: the batch ends with its longest row, and all tokens count."""
    told = found([batch(0, lengths=(2, 5))])
    assert told["output_throughput_tok_s"].scripted == pytest.approx(7 / 0.04)
    assert told["output_throughput_tok_s"].error == pytest.approx(0.0, abs=1e-12)


def test_the_bound_is_the_largest_error_of_all_cells_whichever_its_sign() -> None:
    cells = [[Gap("ttft_s", 0.02, 0.0202, 0.0202)], [Gap("ttft_s", 0.02, 0.0196, 0.0196), Gap("tpot_s", 1.0, 1.0, 1.0)]]
    assert bounds(cells) == {"ttft_s": pytest.approx(0.02), "tpot_s": 0.0}


@pytest.mark.parametrize(
    "options",
    [{}, {"ttft_s": 0.02}, {"ttft_s": "x", "tpot_s": 1}, {"ttft_s": 0.02, "tpot_s": 0.005, "load_bytes": -1}],
)
def test_a_script_without_times_is_refused(options: dict[str, Scalar]) -> None:
    with pytest.raises(BadInput):
        Script.of(options)


def test_a_cell_without_token_times_has_no_error_to_tell() -> None:
    silent = batch(0).model_copy(update={"arrivals": None})
    with pytest.raises(BadInput, match="no token times"):
        gaps(SCRIPT, metrics([silent]), [silent])


# --- under load -------------------------------------------------------------------------------------------------------

TOKENS = 5  # of each request: 20 ms, then 4 x 5 ms
WINDOW = WindowEvent(begin_s=11.0025, end_s=21.0025, warmup_steady=True, reason="max_seconds")


def request(
    index: int, scheduled_s: float, late_s: float = 0.0, slow_s: float = 0.0, step_us: int = 5000
) -> RequestEvent:
    """One answered request: sent so late, its first token so much later than scripted."""
    sent_s = scheduled_s + late_s
    arrivals = tuple(20_000 + round(slow_s * 1e6) + step_us * k for k in range(TOKENS))
    return RequestEvent(
        index=index, prompt=0, prompt_digest="0" * 16, prompt_tokens=3, scheduled_s=scheduled_s, sent_s=sent_s,
        headers_s=sent_s, arrivals_us=arrivals, arrival_tokens=(1,) * TOKENS, ended_s=sent_s + arrivals[-1] / 1e6,
        output_tokens=TOKENS, asked_tokens=TOKENS, counted_by="ids", end="ok", status=200,
    )  # fmt: skip


def closed(streams: int, **what: Any) -> list[RequestEvent]:
    """Each stream sends the next request when one has ended, from 10 s to after the window."""
    found = [request(stream, 10.0, **what) for stream in range(streams)]
    latest = list(found)
    while latest[0].ended_s < WINDOW.end_s:
        latest = [request(len(found) + k, before.ended_s, **what) for k, before in enumerate(latest)]
        found += latest
    return found


def served(load: Serve, requests: list[RequestEvent]) -> dict[str, Gap]:
    metrics = summarise_serving(requests, WINDOW)
    return {gap.name: gap for gap in served_gaps(SCRIPT, load, metrics, requests, WINDOW)}


CLOSED = Serve(load="concurrency", concurrency=3)
OPEN = Serve(load="rate", request_rate=20)


def test_a_perfect_measurement_under_load_has_no_error() -> None:
    for load, requests in ((CLOSED, closed(3)), (OPEN, [request(k, 10.0 + k / 20) for k in range(240)])):
        told = served(load, requests)
        assert set(told) == {"ttft_s", "tpot_s", "output_throughput_tok_s", "lateness_s"}
        assert told["ttft_s"].difference == pytest.approx(0.0, abs=1e-6)
        assert told["tpot_s"].error == pytest.approx(0.0, abs=1e-6)
        assert told["output_throughput_tok_s"].error == pytest.approx(0.0, abs=1e-4)
        assert told["lateness_s"].measured == pytest.approx(0.0, abs=1e-6)


def test_the_ideal_rate_of_a_closed_loop_is_that_of_streams_without_a_gap() -> None:
    """3 streams of 5 tokens in 40 ms; the window holds 250 cycles, whole ones."""
    assert served(CLOSED, closed(3))["output_throughput_tok_s"].scripted == pytest.approx(3 * 5 / 0.04)


def test_errors_under_load_are_those_put_in() -> None:
    """Sent 1 ms late and answered 2 ms late: 3 ms from when it was to be sent; steps of 5.5 ms: +10 %. A request takes
    45 ms instead of 40, so the rate is 40/45 of the ideal one."""
    told = served(CLOSED, closed(3, late_s=0.001, slow_s=0.002, step_us=5500))
    assert told["ttft_s"].difference == pytest.approx(0.003, abs=1e-6)
    assert told["tpot_s"].error == pytest.approx(0.1)
    assert told["output_throughput_tok_s"].error == pytest.approx(40 / 45 - 1, abs=2e-3)
    assert told["lateness_s"].measured == pytest.approx(0.001, abs=1e-6)
    assert told["lateness_s"].error == float("inf")
    low, high = told["output_throughput_tok_s"].low, told["output_throughput_tok_s"].high
    assert low is not None
    assert high is not None
    assert low <= told["output_throughput_tok_s"].measured <= high


def test_a_late_request_of_an_open_loop_costs_no_more_than_its_tokens() -> None:
    """One request of the open loop, sent 3 s late, still has its tokens in the window: the rate is that of the script,
    and the lateness of the worst tells of it."""
    requests = [request(k, 10.0 + k / 20, late_s=3.0 if k == 100 else 0.0) for k in range(240)]
    told = served(OPEN, requests)
    assert told["output_throughput_tok_s"].error == pytest.approx(0.0, abs=1e-4)
    assert told["lateness_s"].worst == pytest.approx(3.0)
    assert told["ttft_s"].difference == pytest.approx(0.0, abs=1e-6)


def test_a_log_without_an_answer_has_no_error_to_tell() -> None:
    failed = [
        one.model_copy(update={"end": "timeout", "cause": "too long", "arrivals_us": (), "arrival_tokens": ()})
        for one in closed(3)
    ]
    with pytest.raises(BadInput, match="no answered request"):
        served(CLOSED, failed)
