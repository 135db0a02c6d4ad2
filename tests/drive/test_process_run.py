"""The main job through the process launcher: prompts in, a table out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.contract.measures.cell import CellResult
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.run.visit import point_latest

# The first run of this file has the check of the suite itself, as a person's has.
PLAIN = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "8")
RUN = (*PLAIN, "--no-harness-check")


def test_a_run_leaves_every_file_of_the_layout_and_compares_a_scripted_engine_with_nothing(
    drive: Drive, tmp_path: Path
) -> None:
    called = drive(*PLAIN, "--batch-sizes", "1,4", "--run-id", "mine", "--option", "null.ttft_s=0.001")
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
    assert f"Report, for a browser: {run}/report.html" in called.out
    assert f"The same as text: {run}/report.md" in called.out
    assert "null scripted" in called.out
    assert (tmp_path / "results" / "latest").resolve() == run
    # `ranked: false` of image.yaml reaches the report: no row of it is bold.
    assert [cell.ranked for cell in record.cells] == [False, False]
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "| null scripted |" in report
    assert "**" not in report.split("## Batch size 1")[1].split("##")[0]


def test_the_last_run_is_where_latest_leads_unless_something_else_is_there(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert point_latest(tmp_path / name) == tmp_path / "latest"
        assert (tmp_path / "latest").resolve() == tmp_path / name
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    assert point_latest(tmp_path / "one") is None
    assert point_latest(tmp_path / "latest") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


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


@pytest.mark.parametrize("how", ["exit", "kill"])  # each way to die: tests/worker
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


def test_a_grid_is_measured_to_its_precision_and_repeated_in_random_order(drive: Drive, tmp_path: Path) -> None:
    """Two of the issue's rules through the whole suite: batches until it is precise, and every cell twice."""
    quick = ("--samples", "80", "--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.002")
    called = drive(
        *RUN, *quick, "--batch-sizes", "1,2", "--precision", "0.9", "--repeats", "2", "--order-seed", "3",
        "--run-id", "mine",
    )  # fmt: skip
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    record = RunRecord.read(run / layout.RUN_FILE)
    assert (record.repeats, record.visits[0].order_seed) == (2, 3)
    first, second = record.visits[0].cells[:2], record.visits[0].cells[2:]
    assert first == ("null.scripted.b1", "null.scripted.b2")
    assert second == ("null.scripted.b1.r2", "null.scripted.b2.r2")
    for cell in record.cells:
        metrics = CellResult.read(layout.cell_folder(run, cell.cell) / layout.RESULT_FILE).metrics
        assert metrics.steadiness.stop_reason == "precision"
        assert metrics.batches in (8, 12, 18, 27), "a busy machine may need another look"
        assert metrics.warmup_batches >= 5
        assert metrics.steadiness.workload_rate is not None
        assert metrics.steadiness.workload_rate.interval is not None
    assert "### Repeats" in (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    again = drive("--resume", "mine", "--dry-run")
    assert again.code == 0, again.err
    assert "resumes mine: 4 of 4 cells asked for are complete and kept" in again.out
    other = drive("--resume", "mine", "--dry-run", "--batch-sizes", "4", "--precision", "0.02")
    assert other.code == 2
    assert "precision is 0.02, was 0.9" in other.err


def test_exhaustive_measures_the_whole_workload(drive: Drive, tmp_path: Path) -> None:
    called = drive(*RUN, "--samples", "12", "--batch-sizes", "1", "--exhaustive", "--run-id", "mine")
    assert called.code == 0, called.err
    folder = layout.cell_folder(tmp_path / "results" / "mine", "null.scripted.b1")
    metrics = CellResult.read(folder / layout.RESULT_FILE).metrics
    assert (metrics.batches, metrics.steadiness.stop_reason) == (12, "exhaustive")


def test_a_suite_file_of_before_the_rules_goes_on_as_it_was_begun(drive: Drive, tmp_path: Path) -> None:
    """Its cells measured everything: so do those that are added, unless it is refused."""
    begun = (*RUN, "--batch-sizes", "4", "--exhaustive", "--max-warmup-batches", "1", "--run-id", "mine")
    assert drive(*begun).code == 0
    run = tmp_path / "results" / "mine"
    rules = {
        "precision",
        "exhaustive",
        "max_seconds",
        "max_warmup_batches",
        "max_warmup_seconds",
        "repeats",
        "order_seed",
    }
    suite = json.loads((run / layout.SUITE_FILE).read_text(encoding="utf-8"))
    kept = {key: value for key, value in suite.items() if key not in rules}
    (run / layout.SUITE_FILE).write_text(json.dumps(kept), encoding="utf-8")
    spec_file = layout.cell_folder(run, "null.scripted.b4") / layout.SPEC_FILE
    spec = json.loads(spec_file.read_text(encoding="utf-8"))
    spec["protocol"] = {key: value for key, value in spec["protocol"].items() if key not in rules}
    spec_file.write_text(json.dumps(spec), encoding="utf-8")
    called = drive("--resume", "mine", "--batch-sizes", "1")
    assert called.code == 0, called.err
    added = CellResult.read(layout.cell_folder(run, "null.scripted.b1") / layout.RESULT_FILE).metrics
    assert (added.batches, added.warmup_batches, added.steadiness.stop_reason) == (8, 1, "exhaustive")


def test_environments_for_gpus_are_built_where_there_is_none(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that builds need not be the one that measures; measuring there is refused."""
    monkeypatch.setattr("bench_core.drive.run.gpus.visible_gpus", list)
    asked = ("--images", "null", "--device", "cuda", "--launcher", "process")
    built = drive(*asked, "--build-only")
    assert built.code == 0, built.err
    assert "is ready" in built.err
    measured = drive(*asked, "--batch-sizes", "1")
    assert measured.code == 2
    assert "no GPU" in measured.err
