"""The fastest method is found on the same prompts, whatever else each had time for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import VLLM, Method, Script, cell_path, measured, read_log, set_latencies, write_log, write_run

from bench_core.report.column import Sheet
from bench_core.report.document import document
from bench_core.report.explain.same_batches import fastest, shared_batches
from bench_core.runs.load import load_run

# Batches 2 and 3 of the slower engine cost it ten times as much: without them it would be the faster one.
STEADY = replace(VLLM, image="steady", variant="fp16", label="Steady", tpot_s=0.0052)
UNEVEN = replace(VLLM, image="uneven", variant="fp16", label="Uneven", tpot_s=0.005)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path, Script((STEADY, UNEVEN), batch_sizes=(4,), batches=4))
    cut(folder, 2)
    return folder


def cut(folder: Path, batches: int) -> None:
    """Leaves the steady engine's first measured batches only, and makes the later ones of the other slow."""
    stopped_after(folder, STEADY, batches)
    uneven = cell_path(folder, UNEVEN, 4)
    events = read_log(uneven)
    for event in measured(events)[2:]:
        event["latency_s"] *= 10
        event["arrivals"] = None
    write_log(uneven, events)


def stopped_after(run: Path, engine: Method, batches: int) -> None:
    path = cell_path(run, engine, 4)
    events = read_log(path)
    later = measured(events)[batches:]
    write_log(path, [event for event in events if event not in later])


def sheets(run: Path) -> list[Sheet]:
    return [sheet for sheet in document(load_run(run)).details if sheet.heading == "On the same batches"]


def test_the_fastest_is_the_one_that_is_fastest_on_the_same_prompts(run: Path) -> None:
    view = load_run(run)
    rows = view.of_batch_size(4)
    steady, uneven = (row.result.metrics.output_throughput_tok_s for row in rows if row.result)
    assert steady > uneven, "over all that each has measured, the other one is"
    assert fastest(view, rows) == {rows[1].planned.cell}
    shared = shared_batches(view, rows)
    assert shared is not None
    assert (shared.batches, shared.fewest, shared.most) == (2, 2, 4)
    for row, engine in zip(rows, (STEADY, UNEVEN), strict=True):
        latencies = [batch.latency_s for batch in row.pace[:2]]
        assert shared.throughput_tok_s[row.planned.cell] == pytest.approx(2 * 4 * 20 / sum(latencies))
        assert sum(latencies) / 2 == pytest.approx(engine.latency_s(4, 20), abs=0.002)


def test_tables_say_so(run: Path) -> None:
    (sheet,) = sheets(run)
    assert [[entry.text for entry in row[:4]] for row in sheet.rows] == [
        ["Steady", "4", "2", "2"],
        ["Uneven", "4", "4", "4"],
    ]
    steady, uneven = sheet.rows
    assert (steady[0].strong, uneven[0].strong) == (False, True)
    assert (steady[4].number or 0) / (steady[5].number or 1) * 100 == pytest.approx(steady[6].number)
    assert 90 < (steady[6].number or 0) < 100, "slower on the two batches in common"
    assert (steady[7].number or 0) > 200, "by what each has measured it is more than twice as fast"
    assert [uneven[k].text for k in (6, 7)] == ["100", "100"]
    (result,) = document(load_run(run)).results
    assert [row[3].strong for row in result.rows] == [False, True]
    assert any("Batches measured: 2 to 4" in note and "Bold goes by the 2" in note for note in result.notes)


SLOW = replace(VLLM, image="slow", variant="fp16", label="Slow", tpot_s=0.05)


def test_one_batch_of_a_slow_method_does_not_decide_among_the_fast(tmp_path: Path) -> None:
    """All three share the first batch, which costs one of the two fast ones twice as much as any other."""
    run = write_run(tmp_path, Script((STEADY, UNEVEN, SLOW), batch_sizes=(4,), batches=10))
    set_latencies(cell_path(run, STEADY, 4), [0.11, *[0.112, 0.113] * 4, 0.112])
    set_latencies(cell_path(run, UNEVEN, 4), [0.2, *[0.1, 0.101] * 4, 0.1])
    stopped_after(run, SLOW, 1)
    view = load_run(run)
    rows = view.of_batch_size(4)
    shared = shared_batches(view, rows)
    assert shared is not None
    assert shared.batches == 1
    assert fastest(view, rows) == {rows[1].planned.cell}
    result = document(view).results[0]
    assert any("Batches measured: 1 to 10" in note and "with an interval" in note for note in result.notes)


def test_a_method_with_few_batches_is_compared_on_those(tmp_path: Path) -> None:
    """Three of its own, cheap ones: 1 % slower there than the one that measured ten, faster by all of each."""
    run = write_run(tmp_path, Script((STEADY, UNEVEN), batch_sizes=(4,), batches=10))
    set_latencies(cell_path(run, STEADY, 4), [0.1, 0.1, 0.1, *[0.11] * 7])
    set_latencies(cell_path(run, UNEVEN, 4), [0.101] * 10)
    stopped_after(run, UNEVEN, 3)
    view = load_run(run)
    rows = view.of_batch_size(4)
    printed = [row.rate.throughput_tok_s for row in rows if row.rate]
    assert printed[1] > printed[0]
    assert fastest(view, rows) == {rows[0].planned.cell}
    set_latencies(cell_path(run, UNEVEN, 4), [0.099] * 3)
    view = load_run(run)
    assert fastest(view, view.of_batch_size(4)) == {rows[1].planned.cell}


def test_nothing_is_said_where_all_measured_the_same(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((STEADY, UNEVEN), batch_sizes=(4,), batches=4))
    assert not sheets(run)
    (result,) = document(load_run(run)).results
    assert not any("Batches measured" in note for note in result.notes)
    assert [row[3].strong for row in result.rows] == [False, True]


def test_a_method_that_is_not_ranked_does_not_narrow_the_comparison(tmp_path: Path) -> None:
    """One unranked cell with a single batch must not take the others' batches away."""
    run = write_run(tmp_path, Script((replace(STEADY, ranked=False), UNEVEN, VLLM), batch_sizes=(4,), batches=4))
    cut(run, 1)
    view = load_run(run)
    shared = shared_batches(view, view.of_batch_size(4))
    assert shared is not None
    assert (shared.batches, shared.differs) == (4, False)
