"""A drawing's marks are known without drawing it: what the drawing program writes is what was told beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import CT2, VLLM, Script, write_run
from serving_runs import write_loaded
from test_report_written import MIXED

from bench_core.contract.serving.log import ServeEvents
from bench_core.report.figures.draw import MOST_PIXELS, Drawing, label_number
from bench_core.report.figures.every import drawings
from bench_core.report.figures.svg import Plot, empty
from bench_core.runs.forks import spread
from bench_core.runs.load import Watched, load_run
from bench_core.verify.differences import Difference
from bench_core.verify.logs import LogChecks
from bench_core.verify.report import _marks

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
LINE = re.compile(r'<path [^>]*aria-roledescription="line mark"[^>]*/>')
ODD = 'a "method" <b> & more'


def test_a_drawing_bears_the_marks_that_were_told(tmp_path: Path) -> None:
    runs = (write_run(tmp_path / "batches", MIXED), write_loaded(tmp_path / "loaded"))
    every = {name: drawing for run in runs for name, drawing in drawings(load_run(run)).items()}
    assert {"throughput", "memory", "frontier", "ttft"} <= set(every)
    for name, drawing in every.items():
        assert drawing.marks, name
        svg = drawing.drawn().svg
        assert list(_marks(name, svg, drawing)) == []
        for marks in (drawing.marks[:-1], (*drawing.marks, drawing.marks[0])):
            assert "marks" in _only(_marks(name, svg, replace(drawing, marks=marks)))


def test_a_line_that_is_missing_or_stands_twice_is_found(tmp_path: Path) -> None:
    runs = (write_run(tmp_path / "batches", MIXED), write_loaded(tmp_path / "loaded"))
    every = {name: drawing for run in runs for name, drawing in drawings(load_run(run)).items()}
    for name, drawing in every.items():
        svg = drawing.drawn().svg
        lines = LINE.findall(svg)
        assert len(lines) == len(drawing.lines) > 0, name
        for line in lines:
            assert "lines" in _only(_marks(name, svg.replace(line, ""), drawing))
            assert "lines" in _only(_marks(name, svg.replace(line, line + line), drawing))
        if len(lines) > 1:
            assert "lines" in _only(_marks(name, svg.replace(lines[1], lines[0]), drawing)), "one in place of another"


def _only(found: Iterable[Difference]) -> str:
    (one,) = found
    return one.what


def test_a_method_of_any_name_has_its_marks(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((replace(CT2, label=ODD), VLLM)))
    for name, drawing in drawings(load_run(run)).items():
        assert any(ODD in mark for mark in drawing.marks)
        assert any(ODD in line for line in drawing.lines)
        assert list(_marks(name, drawing.drawn().svg, drawing)) == []


def test_a_line_that_begins_without_a_number_has_its_marks(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((replace(CT2, unreached=(1,)), VLLM)))
    for name, drawing in drawings(load_run(run)).items():
        svg = drawing.drawn().svg
        assert "value: null" in svg
        assert list(_marks(name, svg, drawing)) == []
        assert "lines" in _only(_marks(name, svg.replace("value: null", "value: 3"), drawing))


@pytest.mark.parametrize("run", ["h100-llama2-7b", "h200-serving", "h200-failures-memory"])
def test_published_drawings_bear_them_too(run: str) -> None:
    for name, drawing in drawings(load_run(PUBLISHED / run)).items():
        present = (PUBLISHED / run / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert list(_marks(name, present, drawing)) == []


def test_a_vast_drawing_has_a_png_of_bounded_size() -> None:
    png = Drawing("vast", (), lambda: [empty(400, "x"), Plot(400, 60_000, ())]).drawn().png
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert 0.9 * MOST_PIXELS < width * height < 1.1 * MOST_PIXELS


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1000.0, "1000"),
        (89.49391817074281, "89.4939181707"),
        (0.0000012345, "0.0000012345"),
        (0.00000012345, "1.2345e-7"),
        (123456789012.6, "123456789013"),
        (1.5e12, "1.5e+12"),
        (0.5, "0.5"),
    ],
)
def test_numbers_are_written_as_javascript_does(value: float, text: str) -> None:
    assert label_number(value) == text


def test_processes_give_what_one_gives() -> None:
    offset = 3
    assert spread(lambda item: item + offset, list(range(40)), 2) == [item + offset for item in range(40)]


@pytest.mark.parametrize("run", ["h100-llama2-7b", "h200-serving"])
def test_a_run_read_by_processes_is_the_run(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.runs.forks._FEWEST_ITEMS", 2)
    alone, forked = Watched(LogChecks), Watched(LogChecks)
    one, two = load_run(PUBLISHED / run, alone), load_run(PUBLISHED / run, forked, processes=2)
    assert one == two
    assert {cell: (log.sha256, log.facts) for cell, log in alone.of.items()} == {
        cell: (log.sha256, log.facts) for cell, log in forked.of.items()
    }
    assert set(alone.of) == {row.planned.cell for row in (*one.rows, *one.own_error) if row.measured}


def test_events_under_load_come_to_the_caller_however_many_processes_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.runs.forks._FEWEST_ITEMS", 2)
    served: dict[str, ServeEvents] = {}
    view = load_run(PUBLISHED / "h200-serving", processes=2, served_events=served.__setitem__)
    assert set(served) == {row.planned.cell for row in view.served if row.measured} != set()
