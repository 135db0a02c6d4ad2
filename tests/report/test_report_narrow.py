"""Tables on terminals of any width: nothing is cut, and no word that has room in a column is broken."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text
from serving_runs import LoadScript, write_loaded
from typer.testing import CliRunner

from bench_core.compare.cli import app as compare_app
from bench_core.report.cli import app as report_app
from bench_core.report.decide.option import options_of
from bench_core.report.format import within
from bench_core.report.write.narrow import fitted
from bench_core.runs.load import load_run

_WORDS = st.lists(st.text("abc09.-", min_size=1, max_size=14), min_size=1, max_size=4).map(" ".join)
_ROWS = st.integers(1, 6).flatmap(
    lambda columns: st.lists(st.lists(_WORDS, min_size=columns, max_size=columns), min_size=2, max_size=4)
)


def _printed(rows: list[list[str]], width: int) -> str:
    table = Table()
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(fitted(table, console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", range(60, 150, 3))
def test_an_interval_is_whole_at_any_width(width: int) -> None:
    """As of a cell under load, with a long name beside it."""
    head = [
        "Method",
        "Load",
        "Output (token/s)",
        "Requests (1/s)",
        "TTFT p50 (ms)",
        "TTFT p99 (ms)",
        "TPOT p50 (ms)",
        "Outcome",
    ]
    row = [
        "null scripted",
        "r10-constant",
        "160.0 (155.9\N{EN DASH}164.0)",
        "10.00",
        "20.20",
        "\N{EN DASH}",
        "4.996",
        "ok, warm-up not steady",
    ]
    text = _printed([head, row], width)
    assert "…" not in text
    assert "(155.9\N{EN DASH}164.0)" in text


@settings(deadline=None, max_examples=60)
@given(rows=_ROWS, width=st.integers(24, 120))
def test_every_word_is_there_and_no_line_is_wider(rows: list[list[str]], width: int) -> None:
    text = _printed(rows, width)
    assert "…" not in text
    for row in rows[1:]:
        for word in " ".join(row).split():
            assert word in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_answers_and_comparisons_cut_no_number_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """As they are on a terminal of that width."""
    monkeypatch.setattr("bench_core.report.cli._PLAIN_WIDTH", width)
    monkeypatch.setattr("bench_core.compare.cli._PLAIN_WIDTH", width)
    runs = [str(write_loaded(tmp_path / name, LoadScript(run_id=name))) for name in ("one", "two")]
    answer = CliRunner().invoke(report_app, [runs[0], "--choose", "concurrency=4"]).output
    (first, *_) = (option for option in options_of(load_run(Path(runs[0]))) if option.concurrency == 4)
    assert first.throughput_tok_s is not None
    number = within(first.throughput_tok_s.value, first.throughput_tok_s.low, first.throughput_tok_s.high)
    assert number.split()[0] in answer.split("concurrency 4", 2)[2]
    compared = CliRunner().invoke(compare_app, runs).output
    for text in (answer, compared):
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
    assert "INCONCLUSIVE" in compared or "PASS" in compared
