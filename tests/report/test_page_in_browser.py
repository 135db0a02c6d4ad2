"""The page in a real browser: what it draws, loads, says and does. Needs chromium (.ci/browser.sh)."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from make_large_run import make_large_run
from playwright.sync_api import Browser, Page, expect, sync_playwright
from report_runs import CT2, VLLM, Script, write_run
from serving_runs import FAST, LoadScript, write_loaded
from test_report_choose import CASES, _rounded
from test_report_written import EVIL, MIXED
from typer.testing import CliRunner

from bench_core.contract.records.outcome import Outcome
from bench_core.report.cli import app
from bench_core.report.decide.choose import Wanted, choose
from bench_core.report.decide.cost import Prices, cost_per_million, energy_cost_per_million
from bench_core.report.decide.option import options_of, points_of
from bench_core.report.decide.under_limits import limit_sentences
from bench_core.report.decide.verdict import verdict
from bench_core.report.format import significant, within
from bench_core.report.together.write import write_together
from bench_core.report.write.files import write_report
from bench_core.runs.load import load_run

pytestmark = pytest.mark.slow  # `make test-quick` needs no browser

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
PATIENCE_MS = 60_000  # a machine that does other things meanwhile


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "the page is tested in a browser: .ci/browser.sh installs it"
    with sync_playwright() as started:
        # Without its own sandbox it also starts for root, in a container; the page is ours.
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Opened:
    """A page, with everything that went wrong on it."""

    def __init__(
        self, browser: Browser, path: Path, *, width: int = 1400, height: int = 900, scheme: Any = "light"
    ) -> None:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#chart-fastest svg, #chart-fastest .note")

    def all_drawn(self) -> None:
        """Scrolls past every figure, so that each is drawn."""
        for place in self.page.locator("figure.chart").all():
            place.scroll_into_view_if_needed()
            place.locator(".plot svg, .plot .note").first.wait_for()

    def methods(self) -> list[str]:
        """The first column of the table of all cells."""
        return [text.strip() for text in self.page.locator("#cell-table tbody td.method").all_inner_texts()]


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of closed batches, some of which failed."""
    return write_report(write_run(tmp_path_factory.mktemp("batches"), MIXED)).page


@pytest.fixture(scope="module")
def under_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_loaded(tmp_path_factory.mktemp("load"))).page


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published study: 83 cells of twenty methods."""
    return write_report(PUBLISHED / "h100-llama2-7b", tmp_path_factory.mktemp("study")).page


@pytest.mark.parametrize("which", ["batches", "under_load", "study"])
def test_every_figure_is_drawn_without_an_error_and_without_the_network(
    browser: Browser, which: str, request: pytest.FixtureRequest
) -> None:
    opened = Opened(browser, request.getfixturevalue(which))
    opened.all_drawn()
    assert opened.errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)
    assert opened.page.locator("figure.chart .plot svg").count() >= 4
    assert not opened.page.get_by_text("could not be drawn").count()


def test_the_study_s_page_is_small_and_answers_on_the_first_screen(browser: Browser, study: Path) -> None:
    """Verdict, fastest first and the chooser are seen without scrolling; the main figures within three screens."""
    assert study.stat().st_size < 3_000_000
    page = Opened(browser, study).page
    for place in ("#verdict .verdict", "#chart-fastest .plot", "#answer"):
        box = page.locator(place).bounding_box()
        assert box
        assert box["y"] < 900, place
    for place in ("#chart-throughput", "#chart-memory"):
        box = page.locator(place).bounding_box()
        assert box
        assert box["y"] + box["height"] < 3 * 900, place


@pytest.mark.parametrize("which", ["batches", "under_load", "study"])
def test_a_phone_scrolls_in_one_direction(browser: Browser, which: str, request: pytest.FixtureRequest) -> None:
    opened = Opened(browser, request.getfixturevalue(which), width=390, height=800)
    opened.all_drawn()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_table_is_sorted_with_the_best_first(browser: Browser, study: Path) -> None:
    """Throughput falls; a click on it turns the order; a time begins with the shortest."""
    page = Opened(browser, study).page
    head = page.locator("#cell-table th", has_text="Throughput")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert numbers(page, 2) == sorted(numbers(page, 2), reverse=True)
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert numbers(page, 2) == sorted(numbers(page, 2))
    page.locator("#cell-table th", has_text="TTFT (s)").locator("button").click()
    assert numbers(page, 3) == sorted(numbers(page, 3))


def numbers(page: Page, column: int) -> list[float]:
    """A column of the table, as far as its lines have numbers and are ranked."""
    texts = page.evaluate(
        "column => [...document.querySelectorAll('#cell-table tbody tr')]"
        ".filter(row => !row.textContent.includes('not ranked') && !row.textContent.includes('scripted'))"
        ".map(row => row.cells[column].textContent)",
        column,
    )
    return [float(text.split(" ")[0]) for text in texts if re.match(r"[\d.]", text)]


def test_tables_below_are_sorted_too(browser: Browser, batches: Path) -> None:
    page = Opened(browser, batches).page
    table = page.locator("#tables details", has_text="Batch size 1").first
    table.locator("summary").click()
    head = table.locator("th", has_text="Throughput")
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")


def test_filters_leave_what_they_name(browser: Browser, study: Path) -> None:
    opened = Opened(browser, study)
    everything = len(opened.methods())
    opened.page.select_option("#filter-engine", "vllm")
    chosen = opened.methods()
    assert chosen
    assert len(chosen) < everything
    assert all("vLLM" in method for method in chosen)
    opened.page.select_option("#filter-point", "b16")
    assert len(opened.methods()) == len(set(opened.methods())) == len(chosen) // 4
    opened.page.select_option("#filter-engine", "")
    opened.page.select_option("#filter-point", "")
    opened.page.select_option("#filter-outcome", "oom_kv")
    expect(opened.page.locator("#cell-table .badge.failed").first).to_have_text("out of memory")
    opened.page.select_option("#filter-outcome", "")
    opened.page.fill("#filter-text", "gptq")
    assert opened.methods()
    assert all("gptq" in method.lower() for method in opened.methods())


def test_a_method_that_is_chosen_is_highlighted_everywhere(browser: Browser, study: Path) -> None:
    """In the legend, in the figures (others fade), and in the table; once more, and all is as before."""
    opened = Opened(browser, study)
    opened.all_drawn()
    everything = len(opened.methods())
    opened.page.locator("#legend button", has_text="vLLM 16-bit").click()
    expect(opened.page.locator("#legend button[aria-pressed=true]")).to_have_text("vLLM 16-bit")
    assert set(opened.methods()) == {"vLLM 16-bit"}
    for chart in ("fastest", "throughput", "memory"):
        opened.page.wait_for_function(
            "chart => [...document.querySelectorAll(`#chart-${chart} svg .role-mark path[opacity], "
            "#chart-${chart} svg .role-mark path`)].some(path => Number(path.getAttribute('opacity') ?? 1) < 0.3)",
            arg=chart,
        )
    opened.page.locator("#legend button", has_text="Highlight none").click()
    assert len(opened.methods()) == everything


def test_a_click_on_a_bar_chooses_its_method(browser: Browser, batches: Path) -> None:
    page = Opened(browser, batches).page
    page.locator("#chart-fastest svg .mark-rect path").first.click()
    expect(page.locator("#legend button[aria-pressed=true]")).to_have_count(1)


def test_another_batch_size_changes_figures_and_answer(browser: Browser, study: Path) -> None:
    page = Opened(browser, study).page
    page.get_by_role("radio", name="batch size 64").click()
    expect(page.locator("#answer strong")).to_contain_text("batch size 64")
    expect(page.locator("#chart-fastest figcaption")).to_contain_text("batch size 64")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#answer strong")).to_contain_text("batch size 16")


POINTS = {"b": "batch", "c": "concurrency", "r": "rate"}


@pytest.mark.parametrize("which", ["batches", "h100-llama2-7b", "2026-11-23-cpu-quality", "h200-serving"])
def test_the_answer_s_sentences_follow_the_chosen_point_as_the_terminal_says_them(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """The page's are those of the report's rule and those of ``--choose``; before the program runs, the report's."""
    run = write_run(tmp_path / "run", MIXED) if which == "batches" else PUBLISHED / which
    view = load_run(run)
    found, written = verdict(view), write_report(run, tmp_path / "out").page
    html = written.read_text(encoding="utf-8").split('<ul class="verdict"')[1].split("</ul>")[0]
    assert html.count("<li>") == len(found.sentences)
    page = Opened(browser, written).page
    said = page.locator("ul.verdict li")
    chosen = page.locator("#points button[aria-checked=true]")
    words = points_of(options_of(view))
    monkeypatch.setattr("bench_core.report.cli.load_run", lambda *_, **__: view)  # read once, and not for each point
    for word, sentences in found.at.items():
        if len(words) > 1:
            page.get_by_role("radio", name=words[word], exact=True).click()
            expect(chosen).to_have_text(words[word])
        assert [plain(text) for text in said.all_inner_texts()] == [plain(text) for text in sentences]
        if word[0] in POINTS:
            asked = f"{POINTS[word[0]]}={word[1:].replace('_', '.')}"
            terminal = plain(CliRunner().invoke(app, [str(run), "--choose", asked]).output)
            for sentence in sentences:
                # Latency limits that a run was measured with are no part of a choice.
                assert plain(sentence) in terminal or sentence in limit_sentences(view)


def plain(text: str) -> str:
    """Without the places at which a line breaks, or does not."""
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def test_choosing_another_batch_size_says_another_answer(browser: Browser, study: Path) -> None:
    page = Opened(browser, study).page
    said = page.locator("ul.verdict li").first
    expect(said).to_contain_text("At batch size 1, llama.cpp 4-bit (Q4_K_M) is the fastest")
    before = page.get_by_role("radio", name="batch size 64").bounding_box()
    page.get_by_role("radio", name="batch size 64").click()
    expect(said).to_contain_text("At batch size 64, vLLM GPTQ 4-bit is the fastest")
    assert page.get_by_role("radio", name="batch size 64").bounding_box() == before, "the switch stays where it is"


def test_a_cell_says_how_it_is_measured_again(browser: Browser, batches: Path, study: Path) -> None:
    page = Opened(browser, study).page
    page.locator("#cell-table button.open").first.click()
    panel = page.locator("#cell")
    expect(panel.locator("pre")).to_contain_text("python -m bench_core.drive --images vllm --variants vllm.")
    panel.locator(".series svg").first.wait_for()
    sign = panel.locator("h3 svg").bounding_box()
    assert sign is not None
    assert sign["width"] < 20, "a sign beside the title, not a picture above it"
    panel.get_by_role("button", name="Copy").click()
    expect(panel.get_by_role("button", name="Copied")).to_be_visible()


def test_load_points_of_one_kind_are_one_line_whatever_their_digits(browser: Browser, tmp_path: Path) -> None:
    """Rates with and without a fraction; constant arrivals are a kind of their own."""
    loads = ("c1", "c4", "r7_5", "r15", "r20", "r7_5-constant", "r20-constant")
    run = write_loaded(tmp_path, LoadScript(engines=(FAST,), loads=loads))
    page = Opened(browser, write_report(run).page).page
    figure = page.locator("#chart-frontier")
    figure.scroll_into_view_if_needed()
    figure.locator("svg").wait_for()
    assert figure.locator("svg g.mark-line path").count() == 3
    expect(figure.locator("svg g.mark-text").filter(has_text="r7.5")).to_have_count(1)


def test_a_band_does_not_reach_over_a_point_without_an_interval(browser: Browser, tmp_path: Path) -> None:
    """Of vLLM's time to first token: intervals at 8 and 16 requests/s, none at 24, one at 32 alone."""
    run = PUBLISHED / "h200-serving"
    intervals = {
        o.request_rate: o.ttft_s.low is not None for o in options_of(load_run(run)) if o.request_rate and o.ttft_s
    }
    assert intervals == {4: False, 8: True, 16: True, 24: False, 32: True}
    figure = Opened(browser, write_report(run, tmp_path).page).page.locator("#chart-ttft")
    figure.scroll_into_view_if_needed()
    figure.locator("svg").wait_for()
    bands = [path.bounding_box() for path in figure.locator("g.mark-area path").all()]
    points = [box for point in figure.locator("g.mark-symbol.role-mark path").all() if (box := point.bounding_box())]
    assert len(points) == len(intervals)
    missing = sorted(points, key=lambda box: box["x"])[3]
    assert not any(band and band["x"] < missing["x"] and band["x"] + band["width"] > missing["x"] for band in bands)
    assert figure.locator("g.mark-rule.role-mark line").count() == 1


def test_dark_is_dark_and_the_button_turns_it(browser: Browser, batches: Path) -> None:
    """Page and figures: the words of a figure are light where the page is dark."""
    page = Opened(browser, batches, scheme="dark").page
    assert brightness(page, "document.body", "backgroundColor") < 60
    assert brightness(page, "document.querySelector('#chart-fastest svg text')", "fill") > 180
    page.locator("#theme").click()
    assert brightness(page, "document.body", "backgroundColor") > 200
    assert brightness(page, "document.querySelector('#chart-fastest svg text')", "fill") < 90


def brightness(page: Page, element: str, style: str) -> float:
    """The mean of a colour's three parts, 0 to 255."""
    text = page.evaluate(f"getComputedStyle({element}).{style}")
    parts = [float(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]
    return sum(parts) / 3


def test_everything_is_reached_by_the_keyboard_in_order(browser: Browser, batches: Path) -> None:
    """From the link that skips the head, through choice and limits, to the table's heads; no trap, no way back."""
    page = Opened(browser, batches).page
    order = []
    for _ in range(200):
        page.keyboard.press("Tab")
        place = page.evaluate(
            "(() => { const on = document.activeElement; if (on === document.body) return null;"
            " const place = [...document.querySelectorAll('*')].indexOf(on);"
            " return [place, on.textContent.slice(0, 40), on.name ?? '']; })()"
        )
        if place is None:
            break
        order.append(place)
    places = [place for place, _, _ in order]
    assert places == sorted(places)
    assert len(places) == len(set(places))
    assert order[0][1] == "Skip to the answer"
    assert {"memory_gib", "ttft_s"} <= {name for _, _, name in order}
    assert any("Throughput" in text for _, text, _ in order)


def test_a_badge_explains_itself_to_the_keyboard(browser: Browser, batches: Path) -> None:
    page = Opened(browser, batches).page
    badge = page.locator("#cell-table .badge").first
    badge.focus()
    expect(page.locator("#tip")).to_be_visible()
    assert page.locator("#tip").inner_text() == badge.get_attribute("data-tip")
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_hostile_text_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    """Of a model, a method and a cause: no dialog, no element of theirs, and the words can be read."""
    bad = replace(VLLM, label=EVIL, dies={4: (Outcome.CRASHED, EVIL)}, facts={EVIL: EVIL}, versions={EVIL: EVIL})
    model = MIXED.model.model_copy(update={"name": EVIL, "architecture": EVIL, "dtype": EVIL})
    opened = Opened(browser, write_report(write_run(tmp_path, replace(MIXED, methods=(bad, CT2), model=model))).page)
    opened.all_drawn()
    opened.page.locator("#cell-table button.open").first.click()
    opened.page.locator("#legend button").first.click()
    opened.page.locator("#chart-fastest svg .mark-rect path").first.hover()
    assert opened.errors == []
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("script").count() == 3
    assert EVIL in opened.methods()


def as_page_has_it(found: dict[str, Any]) -> dict[str, Any]:
    """A cell of the file of cases as the page's data have it: intervals as lists, what is absent left out."""
    plain = {
        name: [value["value"], value["low"], value["high"]] if isinstance(value, dict) else value
        for name, value in found.items()
    }
    return {name: value for name, value in plain.items() if value not in (None, "", [])}


def test_the_page_chooses_as_the_terminal_does(browser: Browser, batches: Path) -> None:
    """Every case that the rule in Python is held to, at the point of its answer."""
    page = Opened(browser, batches).page
    asked = [case for case in CASES["cases"] if case["expected"] is not None]
    assert len(asked) > 40
    for case in asked:
        expected = case["expected"]
        cells = [as_page_has_it(one) for one in CASES["options"][case["options"]] if one["point"] == expected["point"]]
        wanted = {name: limit for name, limit in case["wanted"].items() if name != "point"}
        answer = page.evaluate(
            "([cells, wanted]) => { const {by, fits, out} = choose(cells, wanted); return {by,"
            " ranked: fits.map(({cell, tied, close}) => [cell.cell, tied, close]),"
            " ruled_out: out.map(({cell, reasons}) =>"
            " [cell.cell, reasons.map((r) => [r.key, r.value ?? null, r.limit ?? null, r.close ?? false])])}; }",
            [cells, wanted],
        )
        assert _rounded(answer) == _rounded({name: expected[name] for name in answer}), case["name"]


def test_limits_in_the_form_rule_methods_out(browser: Browser, study: Path) -> None:
    """The same words as in the terminal: what is needed, and what the limit is; a limit that is no number is marked."""
    page = Opened(browser, study).page
    page.get_by_role("radio", name="batch size 16").click()
    page.fill("[name=memory_gib]", "24")
    expect(page.locator("#answer details")).to_contain_text("GiB, the limit is 24 GiB")
    expect(page.locator("#answer summary")).to_have_text("Ruled out: 8, of which 2 might fit with less memory reserved")
    expect(page.locator("#answer details")).to_contain_text("it did not use 57.53 GiB of that")
    expect(page.locator("#answer .note")).to_contain_text("16 prompts in one call, all started together")
    first = page.locator("#answer ol li").first.inner_text()
    view = load_run(PUBLISHED / "h100-llama2-7b")
    found = choose(options_of(view), Wanted(point="b16", memory=24 * 2**30))
    assert found.ranked[0].option.method in first
    assert page.locator("#answer ol li").count() == len(found.ranked)
    page.fill("[name=memory_gib]", "much")
    expect(page.locator("[name=memory_gib]")).to_have_attribute("aria-invalid", "true")
    page.locator("#answer ol button.open").first.click()
    expect(page.locator("#cell h3")).to_contain_text(", batch size 16")
    page.fill("[name=memory_gib]", "")
    page.fill("[name=gpu_hour_price]", "2.5")
    expect(page.locator("#answer ol li").first).to_contain_text("a million output tokens cost ")


def test_costs_are_those_of_the_report(browser: Browser, study: Path) -> None:
    """By the hour with the throughput's interval turned round, and by the energy; each apart, in the report's words."""
    page = Opened(browser, study).page
    priced = Prices(gpu_hour=2.5, kwh=0.3)
    page.fill("[name=gpu_hour_price]", "2.5")
    page.fill("[name=kwh_price]", "0.3")
    options = options_of(load_run(PUBLISHED / "h100-llama2-7b"))
    (lead,) = (one for one in options if one.cell == "vllm.gptq.b64")
    told, energy = (
        cost_per_million(priced, lead.throughput_tok_s),
        energy_cost_per_million(priced, lead.joules_per_token),
    )
    assert told is not None
    assert told.low is not None
    assert energy is not None
    expected = within(told.value, told.low, told.high)
    page.get_by_role("radio", name="batch size 64").click()
    words = page.locator("#answer ol li").first.inner_text()
    assert f"a million output tokens cost {expected}, energy for a million output tokens costs " in words
    assert words.strip().endswith(significant(energy))
    row = page.locator("#cell-table tbody tr").first
    assert expected in row.inner_text()
    assert significant(energy) in row.inner_text()


def test_the_page_writes_numbers_as_the_tables_do(browser: Browser, batches: Path) -> None:
    """To the last digit, with and without intervals, of one length and of two."""
    page = Opened(browser, batches).page
    drawn = random.Random(7)  # noqa: S311
    cases: list[tuple[float, float | None, float | None]] = [
        (0.0, None, None),
        (9.9999, None, None),
        (9.9999e-5, None, None),
    ]
    for _ in range(2000):
        value = drawn.uniform(1, 10) * 10.0 ** drawn.randint(-7, 6)
        below, above = (value * drawn.choice((1e-6, 1e-3, 0.02, 0.3)) * drawn.uniform(0.9, 1.1) for _ in range(2))
        cases += [(value, None, None), (value, value - below, value + above), (value, value - below, value + below)]
    made = page.evaluate(
        "cases => cases.map(([value, low, high]) => within(value, low, high))", [list(c) for c in cases]
    )
    assert made == [within(*case) for case in cases]


def test_a_cell_s_throughput_is_in_the_report_s_words(browser: Browser, study: Path) -> None:
    """In the table, in the answer and beside the bars; also where two roundings would give another digit."""
    page = Opened(browser, study).page
    options = {one.cell: one for one in options_of(load_run(PUBLISHED / "h100-llama2-7b"))}
    told = page.evaluate("data.cells.filter((cell) => cell.says).map((cell) => [cell.cell, cell.says])")
    assert len(told) > 70
    for cell, says in told:
        rate = options[cell].throughput_tok_s
        assert rate is not None
        assert says == within(rate.value, rate.low, rate.high)
    page.get_by_role("radio", name="batch size 64").click()
    lead = options["vllm.gptq.b64"].throughput_tok_s
    assert lead is not None
    for place in ("#cell-table tbody tr", "#answer ol li", "ul.verdict li"):
        expect(page.locator(place).first).to_contain_text(within(lead.value, lead.low, lead.high))
    expect(page.locator("#chart-fastest svg")).to_contain_text(f"{significant(lead.value)} token/s")


def test_how_a_cell_failed_is_seen_where_its_number_would_be(browser: Browser, study: Path) -> None:
    """On a phone the last columns are out of sight."""
    opened = Opened(browser, study, width=390, height=800)
    opened.page.select_option("#filter-outcome", "oom_kv")
    badge = opened.page.locator("#cell-table tbody tr").first.locator(".badge.failed")
    expect(badge).to_have_count(1)
    expect(badge).to_have_text("out of memory")
    badge.scroll_into_view_if_needed()
    box = badge.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 390
    assert opened.page.locator("#cells .scroll").evaluate("place => place.scrollLeft") == 0


@pytest.mark.parametrize("which", ["batches", "under_load", "study"])
def test_throughput_is_seen_beside_the_method_on_a_phone(
    browser: Browser, which: str, request: pytest.FixtureRequest
) -> None:
    page = Opened(browser, request.getfixturevalue(which), width=390, height=800).page
    head = page.locator("#cell-table th", has_text="Throughput").bounding_box()
    assert head is not None
    assert head["x"] + head["width"] <= 390


def test_a_method_without_any_number_is_drawn_below_all_others(browser: Browser, tmp_path: Path) -> None:
    """Not on another method's point: it has no last number at whose height its crosses could stand."""
    dead = replace(CT2, dies=dict.fromkeys((1, 4), (Outcome.OOM_LOAD, "no memory")))
    opened = Opened(browser, write_report(write_run(tmp_path, Script((VLLM, dead), batch_sizes=(1, 4)))).page)
    opened.all_drawn()
    rows = opened.page.evaluate(
        "charts.find((chart) => chart.id === 'throughput').rows(state).map((row) => [row.failed ?? false, row.value])"
    )
    assert len(rows) == 4
    assert max(value for failed, value in rows if failed) < min(value for failed, value in rows if not failed)
    expect(opened.page.locator("#chart-throughput figcaption")).to_contain_text("at the foot: no number at all")
    expect(opened.page.locator("#chart-throughput figcaption")).not_to_contain_text("last one")


@pytest.mark.parametrize("width", [390, 703, 1400])
def test_a_bar_s_name_and_number_are_whole(browser: Browser, tmp_path: Path, width: int) -> None:
    """Of runs side by side names end in what tells them apart, and are long."""
    long = replace(VLLM, label="vLLM in a precision whose name is long, with what it holds")
    script = Script((long, CT2), batch_sizes=(1, 4))
    folders = [write_run(tmp_path, replace(script, run_id=name)) for name in ("older", "newer")]
    opened = Opened(browser, write_together(folders, tmp_path / "page.html"), width=width)
    opened.all_drawn()
    plot = opened.page.locator("#chart-fastest svg")
    texts = plot.locator("text").all_text_contents()
    assert not [text for text in texts if "\N{HORIZONTAL ELLIPSIS}" in text]
    assert sum(text.endswith(" \N{MIDDLE DOT} newer") for text in texts) == 2
    frame = plot.bounding_box()
    assert frame is not None
    for word in plot.locator("text", has_text=re.compile("token/s$")).all():
        box = word.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1


def test_the_words_of_memory_s_parts_fit_a_phone(browser: Browser, study: Path) -> None:
    opened = Opened(browser, study, width=390, height=800)
    opened.all_drawn()
    plot = opened.page.locator("#chart-anatomy .plot").bounding_box()
    assert plot is not None
    words = opened.page.locator("#chart-anatomy svg .role-legend-label text")
    assert sorted(words.all_text_contents()) == sorted(
        ["weights", "KV cache", "activations", "CUDA graphs", "context", "unexplained"]
    )
    for word in words.all():
        box = word.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= plot["x"] + plot["width"]


def test_a_page_of_several_runs_shows_one_ranking_at_a_time(browser: Browser, tmp_path: Path) -> None:
    """Two runs that share a ranking, one of another length and one under load: no figure, table or answer has cells
    of two rankings."""
    script = Script((VLLM, CT2), batch_sizes=(1, 4))
    faster = replace(VLLM, ttft_s=VLLM.ttft_s / 2, tpot_s=VLLM.tpot_s / 2)
    folders = [
        write_run(tmp_path, replace(script, run_id="old")),
        write_run(tmp_path, replace(script, run_id="new", methods=(faster, CT2))),
        write_run(tmp_path, replace(script, run_id="long", new_tokens=40)),
        write_loaded(tmp_path),
    ]
    opened = Opened(browser, write_together(folders, tmp_path / "page.html"))
    page, parts = opened.page, opened.page.locator("#parts button")
    assert [text.split(" on ")[0] for text in parts.all_inner_texts()] == ["old, new", "long", "loaded"]
    assert len(opened.methods()) == 8
    assert {name.rsplit(" · ", 1)[1] for name in opened.methods()} == {"old", "new"}
    expect(page.locator("#answer li").first).to_contain_text("vLLM fp16 · new")
    opened.all_drawn()
    parts.nth(1).click()
    expect(page.locator("#cell-table tbody tr")).to_have_count(4)
    assert not [name for name in opened.methods() if " · " in name]
    assert page.locator("#legend button[data-method]").count() == 2
    opened.all_drawn()
    bars = page.locator("#chart-fastest svg .mark-rect path, #chart-fastest svg .mark-rect rect")
    assert bars.count() == 2
    parts.nth(1).press("ArrowRight")
    expect(page.locator("#points button").first).to_have_text("concurrency 4")
    assert page.locator("#points button").count() == 2
    expect(page.locator("#parts button").nth(2)).to_be_focused()
    opened.all_drawn()
    assert page.locator("#chart-throughput").count() == 0, "a figure of closed batches"
    assert opened.errors == []
    assert opened.requests == [opened.page.url]


def test_a_field_that_is_its_badge_says_it_once(study: Path) -> None:
    """Where there is no interval the field says why, and so does its badge."""
    page = study.read_text(encoding="utf-8")
    assert re.search(r'<td class="[^"]*"> <span class="badge"[^>]*>not representative</span></td>', page)
    assert not re.search(r">not representative <span", page)
    assert "&lt;span" not in page.split('<script type="application/json"')[0]


def test_the_scripted_engine_is_ranked_nowhere(browser: Browser, tmp_path: Path) -> None:
    scripted = replace(VLLM, image="null", variant="scripted", label="null scripted", ranked=False, tpot_s=1e-6)
    run = write_run(tmp_path, Script((VLLM, CT2, scripted), batch_sizes=(1, 4)))
    assert any(not row.planned.ranked for row in load_run(run).rows)
    opened = Opened(browser, write_report(run).page)
    assert "null" not in opened.page.locator("#chart-fastest").inner_text()
    assert "null" not in opened.page.locator("#answer ol").inner_text()
    assert "null scripted" not in opened.methods()[0]


def test_of_many_methods_figures_show_the_best_and_say_so(browser: Browser, tmp_path: Path) -> None:
    """Five more than are drawn: they stand in the tables, and one that is picked is drawn as well."""
    make_large_run(tmp_path / "run", 45 * 4, 3, seed=1)
    opened = Opened(browser, write_report(tmp_path / "run").page)
    opened.all_drawn()
    page = opened.page
    named, bars = page.locator("#legend button[data-method]"), page.locator("#chart-fastest svg .mark-rect path")
    expect(bars).to_have_count(40)
    expect(named).to_have_count(40)
    expect(page.locator("#legend")).to_contain_text("5 more methods: in the tables")
    expect(page.locator("#chart-fastest figcaption")).to_contain_text(
        "40 of 45 methods: the first; the tables have all"
    )
    expect(page.locator("#chart-throughput figcaption")).to_contain_text(
        "40 of 45 methods: the best at some batch size"
    )
    expect(page.locator("#answer")).to_contain_text("5 more fit; the tables have all.")
    expect(page.locator("#shown")).to_contain_text("180 of 180 cells")
    page.locator("#chart-fastest").scroll_into_view_if_needed()  # what is not seen is drawn later
    page.evaluate(
        "pick([...state.at(state.point)].sort((a, b) => a.throughput_tok_s[0] - b.throughput_tok_s[0])[0].method)"
    )
    expect(bars).to_have_count(41)
    expect(named).to_have_count(41)
    expect(page.locator("#legend button[aria-pressed=true]")).to_have_count(1)
    assert opened.errors == []
