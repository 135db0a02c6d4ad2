"""The main job through the process launcher: prompts in, a table out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.contract import layout
from bench_core.contract.metrics import CellResult
from bench_core.contract.outcome import Verdict
from bench_core.contract.run import RunRecord
from bench_core.contract.spec import CellSpec

RUN = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "8")


def test_a_run_leaves_every_file_of_the_layout(drive: Drive, tmp_path: Path) -> None:
    called = drive(*RUN, "--batch-sizes", "1,4", "--run-id", "mine")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    record = RunRecord.read(run / layout.RUN_FILE)
    assert [cell.cell for cell in record.cells] == ["null.scripted.b1", "null.scripted.b4"]
    assert record.launcher == "process"
    for cell in record.cells:
        folder = layout.cell_folder(run, cell.cell)
        assert sorted(path.name for path in folder.iterdir()) == sorted(layout.CELL_FILES)
        assert CellSpec.read(folder / layout.SPEC_FILE).cell_id == cell.cell
        assert CellResult.read(folder / layout.RESULT_FILE).metrics.rows == 8
        assert Verdict.read(folder / layout.OUTCOME_FILE).outcome.value == "ok"
    assert (run / layout.REPORT_FILE).is_file()
    assert "report.md" in called.out
    assert "null scripted" in called.out


def test_a_failing_batch_size_is_a_row_and_the_others_go_on(drive: Drive, tmp_path: Path) -> None:
    script = ("--option", "null.fail_in=generate", "--option", "null.fail_how=oom")
    called = drive(
        *RUN, "--batch-sizes", "1,4,8", "--run-id", "mine", *script, "--option", "null.fail_from_batch_size=4"
    )
    assert called.code == 1
    report = (tmp_path / "results" / "mine" / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert report.count("oom_kv") >= 2
    verdicts = [
        Verdict.read(layout.cell_folder(tmp_path / "results" / "mine", f"null.scripted.b{size}") / "outcome.json")
        for size in (1, 4, 8)
    ]
    assert [v.outcome.value for v in verdicts] == ["ok", "oom_kv", "oom_kv"]


@pytest.mark.parametrize("how", ["abort", "kill", "exit"])
def test_an_engine_that_dies_while_loading_is_told_for_every_cell(drive: Drive, tmp_path: Path, how: str) -> None:
    script = ("--option", "null.fail_in=load", "--option", f"null.fail_how={how}")
    called = drive(*RUN, "--batch-sizes", "1,4", "--run-id", "mine", *script, "--json")
    assert called.code == 1
    last = json.loads(called.out.splitlines()[-1])
    outcome = "killed" if how == "kill" else "crashed"
    assert {verdict["outcome"] for verdict in last["verdicts"].values()} == {outcome}
    assert len(last["verdicts"]) == 2


def test_the_contract_suite_runs_through_the_driver(drive: Drive, tmp_path: Path) -> None:
    called = drive(*RUN, "--batch-sizes", "1", "--self-check")
    assert called.code == 0, called.out
    assert called.out.count("passed") >= 12
    assert not (tmp_path / "results").exists()


def test_a_scripted_engine_stands_in_tables_but_is_compared_with_nothing(drive: Drive, tmp_path: Path) -> None:
    """`ranked: false` of image.yaml reaches the report: no row of it is bold."""
    called = drive(*RUN, "--batch-sizes", "1", "--run-id", "mine", "--option", "null.ttft_s=0.001")
    assert called.code == 0
    record = RunRecord.read(tmp_path / "results" / "mine" / layout.RUN_FILE)
    assert [cell.ranked for cell in record.cells] == [False]
    report = (tmp_path / "results" / "mine" / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "| null scripted |" in report
    assert "**" not in report.split("## Batch size 1")[1].split("##")[0]
