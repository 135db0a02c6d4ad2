"""A batch that an engine serves in waves is marked and ranked by nobody; a log that tells of waves is believed over a
result that does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conftest import Drive

from bench_core.contract.measures.cell import CellResult
from bench_core.contract.records import layout
from bench_core.report.decide.option import options_of
from bench_core.report.figures.scaling import throughput
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

RUN = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "24", "--batch-sizes", "2,4")
QUICK = ("--max-new-tokens", "12", "--max-batches", "5", "--no-harness-check", "--run-id", "mine")
SCRIPT = ("--option", "null.ttft_s=0.002", "--option", "null.tpot_s=0.0005")
WHOLE, SPLIT = "null.scripted.b2", "null.scripted.b4"


def test_an_engine_with_three_slots_is_marked_at_batch_size_four(drive: Drive, tmp_path: Path) -> None:
    called = drive(*RUN, *QUICK, *SCRIPT, "--option", "null.rows_at_once=3")
    assert called.code == 0, called.err
    folder = tmp_path / "results" / "mine"
    told = {name: CellResult.read(layout.cell_folder(folder, name) / layout.RESULT_FILE) for name in (WHOLE, SPLIT)}
    whole, split = (told[name].metrics.waves for name in (WHOLE, SPLIT))
    assert whole is not None
    assert split is not None
    assert (whole.in_waves, whole.batches) == (0, 5)
    assert (split.in_waves, split.batches, split.rows_late, split.rows) == (5, 5, 1, 4)

    view = load_run(folder)
    rows = {row.planned.cell: row for row in view.rows}
    words = "1 of 4 rows began when others had ended, in 5 of 5 batches"
    assert (rows[WHOLE].in_waves, rows[SPLIT].in_waves) == ("", words)
    assert (view.unranked(rows[WHOLE]), view.unranked(rows[SPLIT])) == ("", words)
    options = {option.cell: option for option in options_of(view)}
    assert "waves" in options[SPLIT].remarks
    assert "waves" not in options[WHOLE].remarks

    assert any("waves" in mark for mark in throughput(view).marks), "a gap in the figure, which says why"

    report = (folder / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "- **Warning**: 1 cell served its batches in waves, some rows after others" in report
    assert re.search(r" waves( \S)* \|", report), "beside the throughput, before other marks"
    assert "waves: the engine did not work on all prompts of a batch together, so that this is not ranked" in report
    assert f"null scripted: {words}" in report
    assert f"not ranked: {words}" in (folder / "table.csv").read_text(encoding="utf-8")
    assert "1 cell served its batches in waves" in " ".join(called.out.split())

    assert verify_run(folder).differences == ()
    path = layout.cell_folder(folder, SPLIT) / layout.RESULT_FILE
    result = json.loads(path.read_text(encoding="utf-8"))
    result["metrics"]["waves"].update(in_waves=0, rows_late=0)
    path.write_text(json.dumps(result), encoding="utf-8")
    found = [difference.what for difference in verify_run(folder).differences]
    assert any("waves.in_waves is 0, recomputed 5" in what for what in found), found


def test_a_whole_batch_is_not_marked(drive: Drive, tmp_path: Path) -> None:
    assert drive(*RUN, *QUICK, *SCRIPT).code == 0
    report = (tmp_path / "results" / "mine" / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "waves" not in report
