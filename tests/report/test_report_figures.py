"""Whose line is whose: colours, shapes and dashes of the figures; and how far its points may be believed: bars."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from report_runs import VLLM, Script, measured_repeatedly, visit_again, write_run

from bench_core.report.figures.draw import COLOURS, line_styles
from bench_core.report.figures.scaling import _intervals, throughput
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView


def engines(*methods_of: int) -> dict[str, str]:
    """So many methods of each engine, their lines mixed."""
    pairs = [(f"method {k}.{j}", f"engine {k}") for k, many in enumerate(methods_of) for j in range(many)]
    return dict(sorted(pairs, key=lambda pair: pair[0][::-1]))


@pytest.mark.parametrize("methods_of", [(1,), (3, 3, 3), (9,), (4, 2, 5, 1, 1, 2, 2, 2, 1), (20, 20), (1,) * 60])
def test_no_two_methods_look_alike(methods_of: tuple[int, ...]) -> None:
    found = line_styles(engines(*methods_of))
    assert len(found) == sum(methods_of)
    assert len(set(found.values())) == len(found)


def test_a_few_methods_have_a_colour_each() -> None:
    found = line_styles(engines(4, 4, 1))
    assert len({colour for colour, _, _ in found.values()}) == 9


def test_of_many_methods_an_engine_has_a_colour() -> None:
    names = engines(4, 2, 5, 1, 1, 2, 2, 2, 1)
    found = line_styles(names)
    for engine in set(names.values()):
        assert len({found[method][0] for method in names if names[method] == engine}) == 1
    assert len({colour for colour, _, _ in found.values()}) == len(COLOURS)


def test_more_engines_than_colours_share_them() -> None:
    found = line_styles(engines(*(1,) * 12))
    assert {colour for colour, _, _ in found.values()} == set(COLOURS)


def bars_and_words(view: RunView) -> tuple[int, str]:
    """How many bars the figure has, and its words."""
    root = ET.fromstring(throughput(view).svg)  # noqa: S314
    svg = "{http://www.w3.org/2000/svg}"
    groups = [group for group in root.iter(f"{svg}g") if "mark-rule role-mark" in group.attrib.get("class", "")]
    bars = [line for group in groups for line in group.iter(f"{svg}line") if line.attrib.get("y2", "0") != "0"]
    return len(bars), " ".join("".join(element.itertext()) for element in root.iter(f"{svg}text"))


def test_bars_are_intervals_where_nothing_is_repeated(tmp_path: Path) -> None:
    """Those that stand beside the throughput in the table; a cell without one has no bar."""
    view = load_run(write_run(tmp_path / "told", Script((VLLM,), batch_sizes=(1, 2), batches=8)))
    spans = _intervals(view)
    assert len(spans) == 2
    for row in view.rows:
        assert row.rate is not None
        low, high = spans[row.planned.cell]
        assert low < row.rate.throughput_tok_s < high
    bars, words = bars_and_words(view)
    assert bars == 2
    assert "bars: 95 % intervals" in words
    few = load_run(write_run(tmp_path / "few", Script((VLLM,), batch_sizes=(1, 2), batches=4)))
    bars, words = bars_and_words(few)
    assert bars == 0
    assert "bars:" not in words


def test_bars_are_the_range_of_repeats(tmp_path: Path) -> None:
    one = Script((VLLM,), batch_sizes=(1,))
    run = write_run(tmp_path, one)
    visit_again(run, one, VLLM, 1, faster=1.1)
    visit_again(run, one, VLLM, 1, faster=0.9)
    measured_repeatedly(run, 3)
    view = load_run(run)
    rates = [row.rate.throughput_tok_s for row in view.rows if row.rate]
    assert len(rates) == 3
    bars, words = bars_and_words(view)
    assert bars == 1
    assert "mean of 3 repeats; bars: lowest to highest" in words
    said = " ".join(re.findall(r'aria-label="(batch_size[^"]*)"', throughput(view).svg))
    for word, expected in (("low", min(rates)), ("high", max(rates)), ("value", sum(rates) / 3)):
        found = re.search(rf"\b{word}: ([\d.]+)", said)
        assert found is not None
        assert float(found[1]) == pytest.approx(expected)
