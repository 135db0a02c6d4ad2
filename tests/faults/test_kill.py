"""A driver killed at any moment loses no complete cell and counts none twice."""

from __future__ import annotations

from pathlib import Path

from kill_points import CELLS, DETERMINISTIC, POOL, Point, _judge, complete_cells, reference, soak, table

from bench_core.contract.records import layout

POINTS = 12  # `make soak-kill` takes 200


def test_killed_at_seeded_moments_and_resumed_a_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    points = soak(POINTS, 20261123, tmp_path)
    assert {point.number: point.faults for point in points if point.faults} == {}
    assert all(point.was_killed for point in points)


def test_a_pool_that_is_killed_and_resumed_measures_every_cell_once(tmp_path: Path) -> None:
    assert len(POOL.cells) == 24
    points = soak(4, 20261130, tmp_path, shape=POOL)
    assert {point.number: point.faults for point in points if point.faults} == {}
    assert all(point.was_killed for point in points)


def test_the_judge_of_the_soak_finds_what_it_looks_for(tmp_path: Path) -> None:
    """A soak that finds nothing says something only if it would have found it."""
    expected, _ = reference(tmp_path)
    run = tmp_path / "results" / "night"
    kept = complete_cells(run)
    assert set(kept) == set(CELLS)
    good = Point(0)
    _judge(good, run, kept, expected)
    assert good.faults == []
    other = Point(1)
    _judge(other, run, kept, [(*row[:-1], "another answer") for row in table(run)])
    assert other.faults == ["the table differs from that of the uninterrupted run"]
    lost = run / "cells" / CELLS[3]
    (lost / layout.OUTCOME_FILE).unlink()
    events = run / "cells" / CELLS[5] / layout.EVENTS_FILE
    events.write_bytes(events.read_bytes()[:-1000])
    (run / "cells" / CELLS[7] / ".spec.json.1.part").write_text("{")
    bad = Point(2)
    _judge(bad, run, kept, expected)
    text = "\n".join(bad.faults)
    assert f"{CELLS[3]} was complete and is lost" in text
    assert f"{CELLS[5]}: damaged" in text
    assert f"{CELLS[5]} was complete and is lost" in text
    assert ".spec.json.1.part" in text
    assert len(DETERMINISTIC) == 16
