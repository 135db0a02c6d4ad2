"""Whose line is whose: colours, shapes and dashes of the figures; and how far its points may be believed: bars."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from make_large_run import make_large_run
from report_runs import VLLM, Script, measured_repeatedly, visit_again, write_run

from bench_core.contract.records.run import EngineVersion
from bench_core.report.decide.verdict import verdict
from bench_core.report.document import document
from bench_core.report.figures.colours import SPARE, _known, engine_colours, looks
from bench_core.report.figures.draw import MOST_METHODS, Point, draw
from bench_core.report.figures.scaling import _intervals, throughput
from bench_core.report.figures.svg import linear, mark, plain_number, text
from bench_core.report.page.data import page_data
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView
from bench_core.verify.report import _marks


def engines(*methods_of: int) -> dict[str, str]:
    """So many methods of each engine, their lines mixed."""
    pairs = [(f"method {k}.{j}", f"engine {k}") for k, many in enumerate(methods_of) for j in range(many)]
    return dict(sorted(pairs, key=lambda pair: pair[0][::-1]))


@pytest.mark.parametrize("methods_of", [(1,), (3, 3, 3), (9,), (4, 2, 5, 1, 1, 2, 2, 2, 1), (20, 20), (1,) * 60])
def test_no_two_methods_look_alike(methods_of: tuple[int, ...]) -> None:
    found = looks(engines(*methods_of))
    assert len(found) == sum(methods_of)
    assert len(set(found.values())) == len(found)


def test_an_engine_has_one_colour_and_engines_differ() -> None:
    names = engines(4, 2, 5, 1, 1)
    found = looks(names)
    for engine in set(names.values()):
        assert len({found[method][0] for method in names if names[method] == engine}) == 1
    assert len({colour for colour, _, _ in found.values()}) == 5


def test_a_colour_is_the_same_whoever_stands_beside() -> None:
    alone = engine_colours(["vllm"])["vllm"]
    assert engine_colours(["null", "exllama", "vllm", "mine"])["vllm"] == alone


def test_more_engines_than_colours_share_them() -> None:
    assert set(engine_colours(f"engine {k}" for k in range(40)).values()) == set(SPARE)


@pytest.mark.parametrize("colour", sorted({*SPARE, *_known().values()}))
@pytest.mark.parametrize("background", ["#ffffff", "#1b1f24"])
def test_every_colour_is_seen_on_white_and_on_black(colour: str, background: str) -> None:
    """Contrast of WCAG 2.2, 1.4.11: 3 to 1 for what a figure consists of."""
    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def bars_and_words(view: RunView) -> tuple[int, str]:
    """How many bars the figure has, and its words."""
    root = ET.fromstring(throughput(view).drawn().svg)  # noqa: S314
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
    said = " ".join(re.findall(r'aria-label="(batch_size[^"]*)"', throughput(view).drawn().svg))
    for word, expected in (("low", min(rates)), ("high", max(rates)), ("value", sum(rates) / 3)):
        found = re.search(rf"\b{word}: ([\d.]+)", said)
        assert found is not None
        assert float(found[1]) == pytest.approx(expected)


def test_versions_of_an_engine_have_its_colour_and_shapes_of_their_own(tmp_path: Path) -> None:
    methods = [replace(VLLM, image=f"vllm-v{n}_0", label=f"vLLM {n}.0 16-bit") for n in (1, 2)]
    view = load_run(write_run(tmp_path, Script(methods=tuple(methods))))
    made = {f"vllm-v{n}_0": EngineVersion(image="vllm", version=f"{n}.0") for n in (1, 2)}
    view = replace(view, record=view.record.model_copy(update={"engine_versions": made}))
    data = page_data(view, verdict(view).at)
    colour = _known()["vllm"]
    assert data["engines"] == [{"image": name, "colour": colour} for name in made]
    assert len({(method["shape"], *method["dash"]) for method in data["methods"]}) == 2
    commands = [cell["command"] for cell in data["cells"]]
    assert all("--engine-version vllm=" in command for command in commands)
    assert "--engine-version vllm=1.0 --images vllm-v1_0 --variants vllm-v1_0.fp16" in commands[0]
    svg = throughput(view).drawn().svg
    drawn = {known for known in (*_known().values(), *SPARE) if known in svg.lower()}
    assert drawn == {colour}


def points(methods: int, missing: int = 0) -> list[Point]:
    """At batch size 1 the last method is the fastest, at 2 the first; and methods without any number."""
    good = [
        Point("engine", f"method {k:03d}", size, 100.0 + (k if size == 1 else methods - k), "", None, None)
        for k in range(methods)
        for size in (1, 2)
    ]
    return good + [Point("engine", f"failed {k}", 1, None, "oom_kv", None, None) for k in range(missing)]


@pytest.mark.parametrize("most", [True, False])
def test_of_many_methods_those_are_drawn_that_are_best_at_some_batch_size(most: bool) -> None:
    drawing = draw(points(MOST_METHODS + 10, missing=3), title="t", subtitle=["s"], unit="u", most=most)
    shown = {int(found[1]) for mark in drawing.marks if (found := re.search(r"method (\d+)$", mark))}
    assert len(shown) == MOST_METHODS
    assert {0, MOST_METHODS + 9} <= shown, "the best of each batch size"
    assert shown.isdisjoint(range(MOST_METHODS // 2, MOST_METHODS // 2 + 10)), "those in the middle are at no size"
    drawn = drawing.drawn().svg
    assert list(_marks("t", drawn, drawing)) == []
    assert f"{MOST_METHODS} of {MOST_METHODS + 13} methods: the best at some batch size; the tables have all" in drawn
    assert "not shown: 3 cells without a number, of other methods" in drawn


def test_of_few_methods_all_are_drawn_and_nothing_is_said() -> None:
    drawing = draw(points(MOST_METHODS - 1, missing=1), title="t", subtitle=["s"], unit="u", most=True)
    assert len(drawing.lines) == MOST_METHODS - 1
    assert any("oom_kv" in mark for mark in drawing.marks)
    assert drawing.subtitle == ("s",)


def test_a_report_of_many_methods_says_which_its_figures_show_and_has_all_in_its_tables(tmp_path: Path) -> None:
    make_large_run(tmp_path / "many", (MOST_METHODS + 1) * 4, 3, seed=1)
    view = load_run(tmp_path / "many")
    words = document(view)
    said = f"({MOST_METHODS} of {MOST_METHODS + 1}, the best at some batch size; the tables have all)"
    assert all(said in alt for group in words.figures for _, alt in group.figures)
    assert all(len(sheet.rows) == MOST_METHODS + 1 for sheet in words.results)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.05, "0.05"), (1.0, "1"), (12500.0, "12,500"), (0.1 + 0.2, "0.3"), (2e-5, "0.00002"), (-5.0, "-5")],
)
def test_ticks_are_plain_numbers(value: float, text: str) -> None:
    assert plain_number(value) == text


@pytest.mark.parametrize(
    ("high", "ticks"), [(5.2, (0, 1, 2, 3, 4, 5, 6)), (1300, (0, 200, 400, 600, 800, 1000, 1200, 1400))]
)
def test_a_linear_axis_has_about_six_round_ticks_and_ends_with_one(high: float, ticks: tuple[float, ...]) -> None:
    axis = linear(100.0, high, whole=True)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.at(axis.high) == 100.0
    assert axis.at(0.0) == 0.0
    assert len(linear(100.0, high).ticks) == len(ticks) - 1


def test_words_of_a_drawing_cannot_break_out_of_it() -> None:
    name = "</text><script>\"&'"
    root = ET.fromstring(mark("text", name, "text mark", text(0, 0, name)))  # noqa: S314
    assert root.attrib["aria-label"] == name
    assert [element.tag for element in root.iter()] == ["text", "text"]
    assert root[0].text == name
