"""The suite's own error is what is measured beyond the script, and nothing else."""

from __future__ import annotations

import pytest

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellMetrics, summarise
from bench_core.contract.measures.harness_error import Gap, Script, bounds, gaps
from bench_core.contract.records.events import Arrivals, BatchEvent, EndEvent, PhaseEvent, StartEvent, TelemetryEvent
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.record import Scalar

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
