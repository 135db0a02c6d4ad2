"""A column is declared once: tables, their meaning, the page and the CSV follow from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from report_runs import VLLM, Script, fields, write_run

from bench_core.contract.records.events import Event
from bench_core.report.cell import Cell
from bench_core.report.column import Column, Entry, at, sheet
from bench_core.report.document import cell_columns, document
from bench_core.report.format import ABSENT, seconds
from bench_core.report.page.write import html
from bench_core.report.tables import times
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.markdown import markdown
from bench_core.runs.files import read_events
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run


@dataclass(frozen=True)
class Line:
    name: str
    time_s: float | None = None
    inner: Line | None = None


LINES = (Line("a", 1.5), Line("b"), Line("c", 2.0, Line("d", 3.0)))


def test_a_path_ends_where_something_is_missing() -> None:
    assert [at("inner.time_s")(line) for line in LINES] == [None, None, 3.0]
    with pytest.raises(AttributeError):
        at("inner.time")(LINES[2])


def test_a_table_is_its_columns_and_its_lines() -> None:
    columns: list[Column[Line]] = [
        Column("Name", "name", words=True, strong=lambda line: line.time_s == 2.0),
        Column("Time", "time_s", seconds, unit="s", mark=lambda line: "*" if line.inner else ""),
        Column("Inner", "inner.time_s", seconds, failed=lambda line: "none" if line.time_s is None else ""),
    ]
    made = sheet("Lines", columns, LINES, ["A note."])
    assert made.columns == (("Name", False), ("Time (s)", True), ("Inner", True))
    assert made.rows == (
        (Entry("a"), Entry("1.500", 1.5), Entry(ABSENT)),
        (Entry("b"), Entry(ABSENT), Entry("none", failed=True)),
        (Entry("c", strong=True), Entry("2.000", 2.0, mark="*"), Entry("3.000", 3.0)),
    )
    assert made.notes == ("A note.",)


def test_one_declaration_makes_a_metric_of_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = load_run(write_run(tmp_path, Script((VLLM,), batch_sizes=(1,), batches=8)))
    before = csv_table(view).splitlines()[0]
    shortest = Column[Cell](
        "Shortest batch",
        "metrics.batch_latency_s.min",
        seconds,
        unit="s",
        csv="shortest_s",
        meaning="of those measured",
    )
    monkeypatch.setattr(times, "TIMES", [*times.TIMES, shortest])
    words = document(view)
    (table,) = [found for found in words.details if found.heading == "Times"]
    assert view.rows[0].result
    value = view.rows[0].result.metrics.batch_latency_s.min
    assert fields(table)[0]["Shortest batch (s)"] == seconds(value)
    assert "- **Shortest batch (s)**: of those measured" in markdown(words)
    assert "<dt>Shortest batch (s)</dt><dd>of those measured</dd>" in html(view, words, runtime="")
    assert csv_table(view).splitlines()[0] == f"{before},shortest_s", "old columns keep their places"
    assert float(next(csv.DictReader(io.StringIO(csv_table(view))))["shortest_s"]) == value


def test_a_name_in_the_csv_is_of_one_value(tmp_path: Path) -> None:
    """Where two tables show one metric, both read the same."""
    view = load_run(write_run(tmp_path, Script((VLLM,), batch_sizes=(1, 8), batches=8)))
    for row in view.rows:
        found: dict[str, object] = {}
        for column in cell_columns(view):
            if column.csv:
                value = column.of(Cell(view, row))
                assert found.setdefault(column.csv, value) == value, column.csv


def test_verifying_parses_each_event_log_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, Script((VLLM,), batch_sizes=(1, 8), batches=8))
    read: list[Path] = []

    def counted(run_folder: Path, folder: Path, seen: Callable[[bytes], None] | None = None) -> Iterator[Event]:
        read.append(folder)
        return read_events(run_folder, folder, seen)

    monkeypatch.setattr("bench_core.runs.load.read_events", counted)
    monkeypatch.setattr("bench_core.verify.cells.read_events", counted)
    verify_run(run, published=False)
    assert sorted(folder.name for folder in read) == ["vllm.fp16.b1", "vllm.fp16.b8"]
