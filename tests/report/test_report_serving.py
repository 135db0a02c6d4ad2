"""Cells under load in the report: tables, terminal, CSV, figures and the head, of a run written by a script."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import fields
from rich.console import Console
from serving_runs import FAST, SCRIPTED, SLOW, Engine, LoadScript, write_loaded

from bench_core.contract.records import layout
from bench_core.contract.serving.capacity import Capacity, LoadTrial, search_capacity
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.serving.requests import Counts
from bench_core.contract.statistics.correlated import Estimate
from bench_core.report.column import Sheet
from bench_core.report.decide.ties import tied
from bench_core.report.document import document
from bench_core.report.explain.serving_facts import serving_facts
from bench_core.report.explain.under_load import failed_words
from bench_core.report.figures.places import Spot, label_sides
from bench_core.report.format import ABSENT, within
from bench_core.report.tables.serving.glance import first_lines
from bench_core.report.write.console import console_tables
from bench_core.report.write.files import differences, write_report
from bench_core.report.write.markdown import markdown
from bench_core.report.write.serving_table import serving_table
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView
from bench_core.verify.run import verify_run
from bench_core.verify.searches import search_differences

FLAKY = Engine("flaky", "fp16", "Flaky fp16", fails=25)
DEAD = Engine("dead", "fp16", "Dead fp16", dies=True)
BUSY = Engine("busy", "fp16", "Busy fp16", ttft_s=0.001, tpot_s=0.001, busy=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six engines at two load points; the slow one does not keep up with the second."""
    script = LoadScript(engines=(FAST, SLOW, FLAKY, DEAD, BUSY, SCRIPTED), loads=("r30", "c4"), window_s=6.0)
    return write_loaded(tmp_path_factory.mktemp("run"), replace(script, engines=_slower(script.engines)))


def _slower(engines: tuple[Engine, ...]) -> tuple[Engine, ...]:
    return tuple(replace(engine, slots=4) if engine is SLOW else engine for engine in engines)


@pytest.fixture(scope="module")
def view(run: Path) -> RunView:
    return load_run(run)


def sheet_of(view: RunView, heading: str) -> Sheet:
    words = document(view)
    return next(sheet for sheet in (*words.glance, *words.results, *words.details) if sheet.heading == heading)


def rows_of(view: RunView, heading: str) -> dict[str, dict[str, str]]:
    return {row["Method"]: row for row in fields(sheet_of(view, heading))}


def test_there_is_a_table_for_each_load_point_concurrencies_first(view: RunView) -> None:
    headings = [sheet.heading for sheet in document(view).results]
    assert headings == ["Under load: concurrency 4", "Under load: 30 requests/s"]
    assert "Batch size" not in markdown(document(view)), "nothing is said of closed batches where there are none"


def test_a_row_has_the_numbers_that_follow_from_the_script(view: RunView) -> None:
    row = rows_of(view, "Under load: concurrency 4")["vLLM fp16"]
    output = re.match(r"([\d.]+) ± ([\d.]+)$", row["Output (token/s)"])
    assert output is not None
    assert 430 < float(output[1]) < 490, "4 streams, 10 tokens each 88 ms"
    assert 30 < float(row["TTFT p50 (ms)"]) < 33
    assert 6.0 < float(row["TPOT p50 (ms)"]) < 6.6
    assert row["Failed"] == "none"
    assert row["Within limits (%)"].startswith("100.0 (")
    assert row["Outcome"] == "ok"


def test_failed_requests_are_told_by_kind_and_a_failed_cell_by_its_outcome(view: RunView) -> None:
    rows = rows_of(view, "Under load: concurrency 4")
    assert re.fullmatch(r"(\d+) of \d+: \1 HTTP error", rows["Flaky fp16"]["Failed"])
    assert rows["Dead fp16"]["Output (token/s)"] == rows["Dead fp16"]["Outcome"] == "oom_load"
    assert rows["Dead fp16"]["TTFT p50 (ms)"] == ABSENT
    failures = [(failure.method, failure.scenario) for failure in document(view).failures]
    assert ("Dead fp16", "concurrency 4") in failures
    assert ("Dead fp16", "30 requests/s") in failures
    assert "**Dead fp16**, 30 requests/s: oom_load: CUDA out of memory" in markdown(document(view))


def test_a_percentile_that_the_sample_does_not_carry_is_absent_and_a_note_says_why(view: RunView) -> None:
    sheet = sheet_of(view, "Under load: concurrency 4")
    row = next(row for row in fields(sheet) if row["Method"] == "Flaky fp16")
    assert row["TTFT p99 (ms)"] == ABSENT
    assert any(
        "p99 from 500. Answered requests of the window:" in note and "Flaky fp16: " in note for note in sheet.notes
    )


def test_saturated_is_a_plain_word_and_never_first(view: RunView) -> None:
    sheet = sheet_of(view, "Under load: 30 requests/s")
    row = next(row for row in fields(sheet) if row["Method"] == "Transformers fp16")
    assert row["Outcome"] == "saturated"
    assert any(note.startswith("saturated: more requests were sent than the server took") for note in sheet.notes)
    strong = {row[0].text for row in sheet.rows if any(entry.strong for entry in row)}
    assert strong == {"vLLM fp16"}


def test_scripted_and_disturbed_rows_are_marked_with_the_reason_and_not_ranked(view: RunView) -> None:
    sheet = sheet_of(view, "Under load: concurrency 4")
    marks = {row[0].text: row[0].mark for row in sheet.rows}
    assert marks["Busy fp16"] == marks["null scripted"] == "‡"
    assert marks["vLLM fp16"] == ""
    assert any("not ranked: Busy fp16: others took" in note for note in sheet.notes)
    assert any("not ranked: null scripted: a scripted engine" in note for note in sheet.notes)
    glance = rows_of(view, "At a glance, under load")
    assert glance["Busy fp16"]["Most output token/s"] == ABSENT
    assert glance["null scripted"]["Most output token/s"] == ABSENT


def test_at_a_glance_says_the_most_of_each_method(view: RunView) -> None:
    rows = rows_of(view, "At a glance, under load")
    assert rows["vLLM fp16"]["Most requests/s within the limits"].endswith("at concurrency 4")
    assert rows["Flaky fp16"]["Most requests/s within the limits"] == ABSENT, "4 % of its requests fail"
    assert rows["Flaky fp16"]["Most output token/s"] != ABSENT


def test_the_terminal_shows_load_points_and_no_empty_table_of_batches(view: RunView) -> None:
    console = Console(file=io.StringIO(), width=140)
    tables = list(console_tables(view))
    assert len(tables) == 1
    console.print(tables[0])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "under load" in text
    assert "saturated" in text
    assert "HTTP error" in text
    lines = first_lines(view)
    assert lines[0].startswith("Fastest at concurrency 4: vLLM fp16: 4")
    assert re.match(r"Fastest first token at 30 requests/s: vLLM fp16: 3\d\.\d+ ms \(median\); stat", lines[1])


def test_the_csv_has_a_line_for_each_cell_with_both_ends_of_intervals(view: RunView) -> None:
    lines = {line["cell"]: line for line in csv.DictReader(io.StringIO(serving_table(view)))}
    assert len(lines) == 12
    line = lines["vllm.fp16.c4"]
    value, low, high = (float(line[f"output_throughput{end}_tok_s"]) for end in ("", "_low", "_high"))
    assert low < value < high
    assert float(line["ttft_p50_s"]) == pytest.approx(0.0315, abs=0.001)
    assert (line["concurrency"], line["request_rate_per_s"]) == ("4", "")
    dead = lines["dead.fp16.c4"]
    assert (dead["outcome"], dead["cause"], dead["ttft_p50_s"]) == ("oom_load", "CUDA out of memory", "")
    assert lines["busy.fp16.c4"]["cause"].startswith("not ranked: others took")
    assert re.fullmatch(r"status \d+", lines["flaky.fp16.c4"]["requests_failed"])


def test_the_head_says_what_was_sent_how_and_from_where(view: RunView) -> None:
    told = dict(document(view).facts)
    assert told["Load points"] == "concurrency 4 (closed loop); 30 requests/s (open loop, Poisson arrivals)"
    assert re.fullmatch(r"arrivals by seed 1; digests: r30 \w{12}, c4 \w{12}", told["Schedules"])
    assert told["Prompts sent"] == "as token ids to /v1/completions"
    assert told["CPUs under load"] == "server 0-7, client 8-9"
    assert told["Prefix cache"] == "off"
    assert told["Latency limits"] == "TTFT at most 0.2 s, TPOT at most 0.03 s"
    assert told["Cells"].startswith("10 of 12 measured")
    assert "Warm-up" not in told


@pytest.mark.slow
def test_the_report_is_written_with_its_figures_and_checked(run: Path) -> None:
    paths = write_report(run)
    assert [path.name for path in paths.tables] == [layout.SERVING_TABLE_FILE]
    assert not (run / layout.TABLE_FILE).exists()
    assert {path.stem for path in paths.figures} == {"frontier", "ttft"}
    svg = next(path for path in paths.figures if path.name == "frontier.svg").read_text(encoding="utf-8")
    assert "Output tokens per second per GPU" in svg
    assert "load: c4; method: vLLM fp16" in svg
    assert "null scripted" not in svg
    assert '"point":"c4"' in paths.page.read_text(encoding="utf-8"), "the page draws from its data"
    assert differences(run) == []
    paths.tables[0].write_text("cell\n", encoding="utf-8")
    assert len(differences(run)) == 1


def test_found_capacities_stand_in_tables_of_their_own(run: Path) -> None:
    share = Estimate(value=0.995, low=0.98, high=0.999, n=400)
    found = Capacity(
        image="vllm", variant="fp16", varied="request_rate", limits=Limits(ttft_s=0.2), conditions={}, limit=64,
        highest=16, lowest_failing=32,
        trials=(
            LoadTrial(load=16, number=1, attainment=share),
            LoadTrial(load=32, number=2, attainment=None, saturated=True),
        ),
    )  # fmt: skip
    home = run / layout.CAPACITY_FOLDER
    home.mkdir()
    (home / "vllm.fp16.json").write_text(found.to_json(), encoding="utf-8")
    try:
        view = load_run(run)
        answer = rows_of(view, "Highest load within limits")["vLLM fp16"]
        assert answer["Highest load that keeps the limits"] == "16 requests/s"
        assert answer["Lowest that does not"] == "32 requests/s"
        says = [row["Says"] for row in fields(sheet_of(view, "Trials of the highest load"))]
        assert says == ["keeps them, close", "saturated"]
        (missing,) = search_differences(run, view)
        assert "one is missing" in missing.what, "between 16 and 32 nothing was tried"
        trials = (
            LoadTrial(load=16, number=1, attainment=share),
            LoadTrial(load=17, number=2, attainment=None, saturated=True),
        )
        told = found.model_copy(update={"varied": "concurrency", "limit": 17, "trials": trials})
        (other,) = search_differences(run, replace(view, capacities=(told,)))
        assert "lowest_failing is 32.0, from its trials follows 17.0" in other.what
        failed = LoadTrial(load=1, number=1, attainment=share.model_copy(update={"value": 0.1, "low": 0, "high": 0.2}))
        sought = search_capacity("request_rate", 1, 64, lambda _: failed, window_s=20.0)
        told = found.model_copy(
            update={name: getattr(sought, name) for name in ("trials", "highest", "lowest_failing", "problem")}
        )
        none = replace(view, capacities=(told.model_copy(update={"window_s": 20.0}),))
        assert list(search_differences(run, none)) == []
        answer = rows_of(none, "Highest load within limits")["vLLM fp16"]
        assert answer["Highest load that keeps the limits"] == "none that was tried"
        assert answer["Lowest that does not"] == "1 requests/s"
        assert answer["Problem"].startswith("no rate within the limits: the least tried was 1 requests/s")
        (other,) = search_differences(run, replace(view, capacities=(told.model_copy(update={"window_s": 200.0}),)))
        assert "one is missing" in other.what, "windows have requests enough for half of it"
    finally:
        (home / "vllm.fp16.json").unlink()
        home.rmdir()


def test_a_cell_whose_server_tells_no_number_of_tokens_says_that_equal_work_was_not_checked(tmp_path: Path) -> None:
    """Its answers may be short, or several tokens may lie in an event: nobody knows, so that it is not ranked."""
    silent = Engine("silent", "fp16", "Silent fp16", untold=7)
    run = write_loaded(tmp_path, LoadScript(engines=(FAST, silent), loads=("c4",), window_s=6.0))
    assert verify_run(run, published=False).differences == ()
    view = load_run(run)
    rows = {row.label: row for row in view.served}
    told = rows["Silent fp16"].result
    assert told is not None
    assert told.metrics.requests.by_events == told.metrics.requests.ok > 0
    assert told.metrics.requests.failed == {}
    assert rows["Silent fp16"].unranked.startswith("equal work was not checked: in ")
    assert rows["Silent fp16"].breaches == ()
    assert rows["vLLM fp16"].unranked == ""
    facts = dict(serving_facts(view))
    assert "output tokens (not of 1 cell whose server does not tell them)" in facts["Requests"]
    notes = sheet_of(view, "Under load: concurrency 4").notes
    assert any("not ranked: Silent fp16: equal work was not checked" in note for note in notes)


# --- bits -------------------------------------------------------------------------------------------------------------


def test_an_interval_is_written_by_its_half_or_by_its_ends() -> None:
    assert within(100.0, 99.0, 101.0) == "100.0 ± 1.0"
    assert within(100.0, 99.0, 104.0) == "100.0 (99.00\N{EN DASH}104.0)"
    assert within(0.02, None, None, 1e3) == "20.00"


def test_failures_in_words() -> None:
    assert failed_words(Counts(scheduled=9, sent=9, ok=9, unfinished=0)) == "none"
    counts = Counts(scheduled=9, sent=8, ok=5, failed={"refused": 1, "timeout": 2}, unfinished=1)
    assert failed_words(counts) == "3 of 9: 1 no connection, 2 timed out; 1 of 9 unfinished"
    assert failed_words(Counts(scheduled=9, sent=9, ok=9, unfinished=0, resent=2)) == "none; 2 of 9 sent twice"


def test_tied_are_numbers_whose_facing_sides_reach_each_other() -> None:
    one = Estimate(value=10.0, low=9.0, high=10.1, n=99)
    assert tied(one, Estimate(value=9.2, low=9.1, high=9.3, n=99))
    assert not tied(one, Estimate(value=11.0, low=10.9, high=11.1, n=99)), "its long side points away"
    assert not tied(one, Estimate(value=9.9, n=99)), "one without an interval says nothing"


def test_no_word_of_a_figure_covers_another_word_or_a_point() -> None:
    spots = [Spot(100 + 3 * k, 100, "r20") for k in range(4)]
    sides = label_sides(spots, [], 500, 300)
    assert sides[0] is not None
    given = [side.name for side in sides if side is not None]
    assert len(set(given)) == len(given)
    assert label_sides([Spot(490, 100, "r20")], [], 500, 300)[0] is not None
    (side,) = label_sides([Spot(100, 100, "c4")], [(Spot(100, 100, ""), Spot(300, 100, ""))], 500, 300)
    assert side is not None
    assert side.name == "above", "beside the line, not on it"
