"""What neighbours cost: the same batches beside others and alone, and when that is worth a mark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench_core.contract.records.placement import Placement
from bench_core.contract.records.run import AloneCell
from bench_core.report.explain.facts import facts
from bench_core.report.explain.marks import mark_notes, remarks
from bench_core.report.fleet.sheets import fleet_sheets
from bench_core.report.fleet.words import cpu_words
from bench_core.runs.beside import Change, change_of, marked, neighbours_of, sampled, together
from bench_core.runs.load import load_run
from bench_core.runs.view import Paced, Row, RunView

PUBLISHED = Path(__file__).resolve().parents[2] / "results/published/2026-11-23-cpu-smollm2-b"


@pytest.fixture(scope="module")
def view() -> RunView:
    return load_run(PUBLISHED)


def _row(view: RunView, worker: str, alive_s: tuple[float, float], latencies_s: list[float]) -> Row:
    """A row of a real run, as if a device of a pool had measured it."""
    row = next(row for row in view.rows if row.spec is not None and row.result is not None and row.planned.ranked)
    assert row.spec is not None
    spec = row.spec.model_copy(update={"placement": Placement(worker=worker, workers=2)})
    pace = tuple(Paced((index, "d"), 10, latency_s) for index, latency_s in enumerate(latencies_s))
    return replace(row, spec=spec, alive_s=alive_s, pace=pace)


def _pool(view: RunView, beside_s: list[float], alone_s: list[float], neighbour: tuple[float, float]) -> RunView:
    """Two devices: a cell, its neighbour, and the cell again alone."""
    cell, other = _row(view, "a", (0.0, 10.0), beside_s), _row(view, "b", neighbour, alone_s)
    alone = _row(view, "a", (20.0, 30.0), alone_s)
    other = replace(other, planned=other.planned.model_copy(update={"repeat": 2, "cell": f"{cell.planned.cell}.r2"}))
    named = {**dict(alone.planned), "repeat": 1000, "cell": f"{cell.planned.cell}.r1000"}
    again = AloneCell(**named, beside=cell.planned.cell)
    visit = view.record.all_visits[0].model_copy(
        update={"alone": (again,), "workers": tuple(Placement(worker=name, workers=2, cpus=(1,)) for name in "ab")}
    )
    record = view.record.model_copy(update={"visits": (visit,)})
    rows = [cell, other]
    alone = replace(alone, planned=again)
    return replace(view, record=record, rows=tuple(marked(rows, sampled(record, rows, [alone]))), alone=(alone,))


ALONE_S = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05]


def test_each_batch_is_held_against_itself(view: RunView) -> None:
    """Batches differ by a third, and the change is known to a thousandth."""
    beside = _row(view, "a", (0.0, 1.0), [1.02 * s for s in ALONE_S])
    change = change_of(beside, _row(view, "a", (2.0, 3.0), ALONE_S))
    assert change is not None
    assert change.share == pytest.approx(1 / 1.02 - 1)
    assert change.half_width == pytest.approx(0.0, abs=1e-9)
    assert change.matters
    few = change_of(beside, _row(view, "a", (2.0, 3.0), ALONE_S[:4]))
    assert few is not None
    assert few.half_width is None
    assert not few.matters, "too few batches to tell"
    assert change_of(beside, _row(view, "a", (2.0, 3.0), [])) is None


def test_a_difference_matters_if_it_is_surely_there_and_not_small() -> None:
    assert Change(-0.03, 0.01).matters
    assert not Change(-0.03, 0.04).matters
    assert not Change(-0.005, 0.001).matters
    assert Change(-0.004, 0.006).words == "-0.4 ± 0.6 %"
    both = together([Change(-0.02, 0.03), Change(0.0, 0.04)])
    assert both.share == pytest.approx(-0.01)
    assert both.half_width == pytest.approx(0.025)


def test_neighbours_are_those_at_work_meanwhile(view: RunView) -> None:
    cell = _row(view, "a", (0.0, 10.0), ALONE_S)
    rows = [cell, _row(view, "b", (5.0, 50.0), ALONE_S), _row(view, "c", (-5.0, 2.0), ALONE_S)]
    rows += [_row(view, "a", (10.0, 20.0), ALONE_S)]
    assert neighbours_of(cell, rows) == pytest.approx(0.7)


def test_a_method_that_neighbours_slow_down_is_marked_and_the_head_says_so(view: RunView) -> None:
    pool = _pool(view, [1.05 * s for s in ALONE_S], ALONE_S, (0.0, 10.0))
    told = dict(facts(pool))
    assert "beside 1.0 others: -4.8 ± 0.0 % (1 cell)" in told["Side by side"]
    assert "neighbours on this host changed throughputs" in told["Warning"]
    assert all("beside" in remarks(row) for row in pool.rows)
    assert any(note.startswith("beside: other devices") for note in mark_notes(pool.rows))
    devices, sample = fleet_sheets(pool)
    assert [row[0].text for row in devices.rows] == ["a", "b"]
    assert (sample.rows[0][3].text, sample.rows[0][6].text, sample.rows[0][6].mark) == ("1.0", "-4.8 ± 0.0 %", "beside")


def test_without_neighbours_nothing_is_said_of_them(view: RunView) -> None:
    pool = _pool(view, [1.05 * s for s in ALONE_S], ALONE_S, (9.0, 40.0))
    told = dict(facts(pool))
    assert "no cell of the sample had neighbours for half of its time" in told["Side by side"]
    assert not any(row.beside_others for row in pool.rows)


def test_a_run_on_one_device_is_told_as_before(view: RunView) -> None:
    assert "Side by side" not in dict(facts(view))
    assert list(fleet_sheets(view)) == []


def test_cpus_are_written_as_the_kernel_does() -> None:
    assert cpu_words((0, 1, 2, 8, 10, 11)) == "0-2,8,10-11"
