"""What a report says of how cells were measured, from runs whose batches are written by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from report_runs import (
    SEQUENTIAL,
    VLLM,
    Script,
    cell_path,
    fields,
    measured,
    measured_repeatedly,
    read_log,
    set_latencies,
    visit_again,
    write_log,
    write_run,
)

from bench_core.contract.measures.repeats import between_runs
from bench_core.contract.records import layout
from bench_core.contract.records.events import StopEvent, WarmupEndEvent
from bench_core.contract.statistics.representation import Misfit
from bench_core.contract.statistics.stopping import StoppingRule, WarmupEnd, WarmupRule
from bench_core.contract.statistics.workload_rate import WorkloadRate, whole_work
from bench_core.report.column import Sheet
from bench_core.report.document import document
from bench_core.report.format import rate_within
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run

ONE = Script((VLLM,), batch_sizes=(1,), batches=8)


def _sheet(run: Path, heading: str) -> Sheet:
    (found,) = [sheet for sheet in document(load_run(run)).details if sheet.heading == heading]
    return found


def _fields(run: Path, heading: str) -> list[dict[str, str]]:
    return fields(_sheet(run, heading))


def _main(run: Path) -> list[str]:
    """Throughput fields of the first table, with their marks."""
    sheet = document(load_run(run)).results[0]
    return [f"{row[3].text} {row[3].mark}".strip() for row in sheet.rows]


def _rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    write_log(folder, change(read_log(folder)))


def _with_rules(reason: str, precision: float | None, end: str = "not_tested") -> Any:
    """Adds what a worker tells since there are rules; the scripted warm-up is one batch."""
    rule = StoppingRule.model_validate({"precision": precision})
    told = [
        WarmupEndEvent.model_validate({"t_s": 1.0, "end": end, "rule": WarmupRule()}),
        StopEvent.model_validate({"t_s": 2.0, "reason": reason, "rule": rule, "available_batches": 8}),
    ]
    lines = [json.loads(event.model_dump_json()) for event in told]
    return lambda events: [*events[:-1], *lines, events[-1]]


def _allow(folder: Path, precision: float | None) -> None:
    spec = json.loads((folder / layout.SPEC_FILE).read_text(encoding="utf-8"))
    spec["protocol"]["precision"] = precision
    (folder / layout.SPEC_FILE).write_text(json.dumps(spec), encoding="utf-8")


def test_a_throughput_stands_with_its_interval_and_its_reason(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    folder = cell_path(run, VLLM, 1)
    set_latencies(folder, [0.126] * 8)
    _rewrite(folder, _with_rules("precision", 0.01))
    _allow(folder, 0.01)
    assert _main(run) == ["158.7 ± 0.0"]
    (row,) = _fields(run, "How it was measured")
    assert (row["Stopped by"], row["Asked for (± %)"], row["Batches"]) == ("precision", "1.0", "8")
    assert row["Warm-up"] == "1, no test asked for"
    assert row["Steadiness"] == "no trend seen"
    (line,) = csv.DictReader(io.StringIO(csv_table(load_run(run))))
    assert (line["stop_reason"], line["precision"], line["unsteady"]) == ("precision", "0.01", "False")
    assert float(line["throughput_low_tok_s"]) == float(line["throughput_high_tok_s"])


def test_where_prompts_explain_the_batches_the_table_speaks_of_the_whole_workload(tmp_path: Path) -> None:
    """Eight short prompts were measured; those of the workload have 150 tokens on average, and so 0.25 s."""
    run = write_run(tmp_path, ONE)
    folder = cell_path(run, VLLM, 1)
    lengths = [100, 140, 120, 130, 110, 105, 135, 125]

    def change(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for event, length in zip(measured(events), lengths, strict=True):
            event["prompt_tokens"] = [length]
            event["latency_s"] = 0.1 + length / 1000
        whole = {"prompt_tokens": 150.0, "longest_prompt_tokens": 150.0}
        stop = StopEvent.model_validate(
            {"t_s": 2.0, "reason": "exhaustive", "rule": StoppingRule(), "available_batches": 8, "mean_work": whole}
        )
        return [*events[:-1], json.loads(stop.model_dump_json()), events[-1]]

    _rewrite(folder, change)
    sheet = document(load_run(run)).results[0]
    assert [entry.number for entry in sheet.rows[0][1:4]] == pytest.approx([0.25, 20.0, 80.0])
    (row,) = _fields(run, "How it was measured")
    assert row["Prompts explain (%)"] == "100"
    (line,) = csv.DictReader(io.StringIO(csv_table(load_run(run))))
    assert float(line["workload_throughput_tok_s"]) == pytest.approx(80.0)
    assert float(line["output_throughput_tok_s"]) == pytest.approx(8 * 20 / sum(0.1 + n / 1000 for n in lengths))
    assert float(line["explained_by_prompts"]) == pytest.approx(1.0)


def _first_of_a_sorted_workload(lengths: Sequence[int], available: int) -> Any:
    """The measured batches are the first of so many, whose prompts grow by ten tokens a batch."""

    def change(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for event, length in zip(measured(events), lengths, strict=True):
            event["prompt_tokens"] = [length]
        whole = whole_work([[100 + 10 * k] for k in range(available)])
        stop = StopEvent(
            t_s=2.0, reason="max_batches", rule=StoppingRule(precision=0.01, max_batches=8),
            available_batches=available, mean_work=whole.mean, work_spread=whole.spread,
        )  # fmt: skip
        return [*events[:-1], json.loads(stop.model_dump_json()), events[-1]]

    return change


def test_an_interval_of_batches_that_do_not_represent_the_workload_is_withheld_and_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    folder = cell_path(run, VLLM, 1)
    set_latencies(folder, [0.126] * 8)
    _rewrite(folder, _first_of_a_sorted_workload([100 + 10 * k for k in range(8)], 100))
    _allow(folder, 0.01)
    assert _main(run) == ["158.7 ◊"], "the number of the measured batches, without an interval"
    (row,) = _fields(run, "How it was measured")
    assert row["Interval (± %)"] == "not representative"
    words = "the first 8 of 100 batches have 135 prompt tokens on average, all of them 595"
    text = markdown(document(load_run(run)))
    assert f"at batch size 1, {words}" in text
    assert "◊ not representative: no interval is given" in text
    (line,) = csv.DictReader(io.StringIO(csv_table(load_run(run))))
    assert line["not_representative"] == words
    assert line["throughput_low_tok_s"] == ""


def test_the_same_batches_stand_with_an_interval_where_they_represent_their_workload(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    folder = cell_path(run, VLLM, 1)
    _rewrite(folder, _first_of_a_sorted_workload([100 + 10 * k for k in (50, 3, 88, 61, 20, 97, 35, 70)], 100))
    _allow(folder, 0.01)
    (throughput,) = _main(run)
    assert "±" in throughput
    assert "◊" not in throughput


def test_repeats_that_agree_on_batches_of_no_use_have_no_interval_of_their_mean() -> None:
    def rate_of_repeat(tok_s: float, misfit: Misfit | None) -> WorkloadRate:
        return WorkloadRate(
            throughput_tok_s=tok_s, batch_latency_s=1.0, output_tokens_per_batch=1.0, interval=None, misfit=misfit
        )

    found = Misfit(
        measured_batches=8, batches=100, work="prompt_tokens", kind="mean", measured_mean=1.0, workload_mean=2.0
    )
    good = between_runs([rate_of_repeat(tok_s, None) for tok_s in (100.0, 101.0, 102.0)])
    bad = between_runs([rate_of_repeat(100.0, None), rate_of_repeat(101.0, found), rate_of_repeat(102.0, found)])
    assert good is not None
    assert bad is not None
    assert (good.represents, bad.represents) == (True, False)
    assert good.half_width_tok_s is not None
    assert bad.half_width_tok_s is None


@pytest.mark.parametrize(
    ("rule", "end", "words"),
    [
        (WarmupRule(), "not_tested", "1, no test asked for"),
        (WarmupRule(at_most=20, max_s=0.1), "not_tested", "1, no time for a test"),
    ],
)
def test_a_warm_up_without_a_test_says_whose_wish_it_was(
    tmp_path: Path, rule: WarmupRule, end: WarmupEnd, words: str
) -> None:
    run = write_run(tmp_path, ONE)
    told = json.loads(WarmupEndEvent(t_s=1.0, end=end, rule=rule).model_dump_json())
    del told["rule"]["max_s_from"]  # as in logs of before
    _rewrite(cell_path(run, VLLM, 1), lambda events: [*events[:-1], told, events[-1]])
    (row,) = _fields(run, "How it was measured")
    assert row["Warm-up"] == words


def test_a_log_that_was_stopped_by_another_rule_than_the_cells_is_damaged(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    folder = cell_path(run, VLLM, 1)
    set_latencies(folder, [0.126] * 8)
    _rewrite(folder, _with_rules("precision", 0.01))
    _allow(folder, 0.002)
    (row,) = load_run(run).rows
    assert row.damage is not None
    assert "0.002 in spec.json" in row.damage.what


def test_a_reason_that_does_not_follow_from_the_batches_is_damage(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    _rewrite(cell_path(run, VLLM, 1), _with_rules("max_batches", None))
    (row,) = load_run(run).rows
    assert row.damage is not None
    assert "say otherwise" in row.damage.what


def test_a_drifting_cell_is_marked_everywhere(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    set_latencies(cell_path(run, VLLM, 1), [0.126 + 0.003 * k for k in range(8)])
    (throughput,) = _main(run)
    assert throughput.endswith(" ¶")
    (row,) = _fields(run, "How it was measured")
    assert float(row["Interval (± %)"]) > 15, "as wide as the drift is long"
    assert row["Steadiness"] == "unsteady: drift"
    text = markdown(document(load_run(run)))
    assert "¶ unsteady: latencies rose or fell" in text


def test_few_batches_have_no_interval_and_say_so(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(ONE, batches=4))
    assert _main(run) == ["158.7 ‖"]
    (row,) = _fields(run, "How it was measured")
    assert row["Interval (± %)"] == "few batches"
    assert row["Stopped by"] == "not told", "a log of before there were rules"
    assert "‖ few batches: fewer than five" in markdown(document(load_run(run)))


@pytest.mark.parametrize("batches", [5, 64])
def test_batches_that_differ_much_are_uneven_and_not_few(tmp_path: Path, batches: int) -> None:
    """Their interval is shown, however wide, and nobody is told to have had few batches."""
    run = write_run(tmp_path, replace(ONE, batches=batches))
    set_latencies(cell_path(run, VLLM, 1), ([0.05] * (batches - 2) + [0.6, 3.0 * batches])[:batches])
    (throughput,) = _main(run)
    assert throughput.endswith(" ≀")
    (row,) = _fields(run, "How it was measured")
    width = row["Interval (± %)"]
    assert float(width) > 50
    rate_text, _, half_width = throughput.removesuffix(" ≀").partition(" ± ")
    assert float(half_width) / float(rate_text) * 100 == pytest.approx(float(width), rel=0.1), "the width stands there"
    text = markdown(document(load_run(run)))
    assert "≀ uneven: the measured batches differ so much" in text
    assert "wider than ± 50%" in text
    assert "few batches" not in text.replace("with fewer than five batches", "")


def test_prefill_and_decode_follow_from_token_times(tmp_path: Path) -> None:
    """50 prompt tokens in 0.012 s, then one token each 0.006 s; an engine without phases is not told."""
    run = write_run(tmp_path, Script((VLLM, SEQUENTIAL), batch_sizes=(1,)))
    times = _fields(run, "Times")
    assert [row["Prefill (token/s)"] for row in times] == ["4167", "not told"]
    assert [row["Decode (token/s)"] for row in times] == ["166.7", "not told"]


def test_repeats_are_summed_up_beside_their_own_intervals(tmp_path: Path) -> None:
    """158.7 tokens/s three times, 1, 1.1 and 1.2 times as fast, of a grid that was to be measured three times."""
    run = write_run(tmp_path, ONE)
    visit_again(run, ONE, VLLM, 1, faster=1.1)
    visit_again(run, ONE, VLLM, 1, faster=1.2)
    measured_repeatedly(run, 3)
    (row,) = _fields(run, "Repeats")
    results = [r.result for r in load_run(run).rows]
    rates = [result.metrics.output_throughput_tok_s for result in results if result]
    assert row["Repeats"] == "3 of 3"
    assert row["Mean (token/s)"] == f"{sum(rates) / 3:.1f} ± {4.3027 * stdev(rates) / 3**0.5:.1f}", (
        "Student's, 2 degrees"
    )
    assert row["Range (token/s)"] == f"{min(rates):.1f} to {max(rates):.1f}"
    assert row["Stdev (%)"] == "9.1"
    assert float(row["Interval within (± %)"]) > 0
    assert row["Agreeing"] == "1 of 3", "the middle one: the others are 24 token/s from theirs, and 16 apart"
    text = markdown(document(load_run(run)))
    assert "The first of 3 repeats" in text
    assert "### Control cell" not in text, "they are the grid's, not a control's"


def test_a_repeat_beyond_the_grids_is_a_control(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    visit_again(run, ONE, VLLM, 1, faster=1.1)
    text = markdown(document(load_run(run)))
    assert "### Control cell" in text
    assert "### Repeats" not in text


def test_a_rate_and_its_width_have_the_same_decimals() -> None:
    assert rate_within(165.93, 0.61) == "165.9 ± 0.6"
    assert rate_within(5512.4, 11.2) == "5512 ± 11"
    assert rate_within(191.04, 0.004) == "191.0 ± 0.004"
    assert rate_within(26.591, 0.0) == "26.59 ± 0.00"
    assert rate_within(26.591, None) == "26.59"
