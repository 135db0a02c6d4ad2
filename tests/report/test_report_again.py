"""Which cells a mark means, and how a cell that was measured again is told in a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import CT2, VLLM, Script, cell_path, write_run
from serving_runs import Engine, LoadScript, write_loaded

from bench_core.contract.records import layout
from bench_core.contract.records.run import AgainCell, RunRecord
from bench_core.drive.ask.again import with_again
from bench_core.drive.plan.resume import Earlier
from bench_core.report.write.files import write_report
from bench_core.system.files import write_text

CALM = Engine("calm", "fp16", "Calm fp16", ttft_s=0.001, tpot_s=0.001)
BUSY = Engine("busy", "fp16", "Busy fp16", ttft_s=0.001, tpot_s=0.001, busy=True)


def test_a_mark_means_the_cells_under_load_that_bear_it(tmp_path: Path) -> None:
    run = write_loaded(tmp_path, LoadScript(engines=(CALM, BUSY), loads=("c4",), window_s=6.0))
    found = with_again(Earlier.load(run), ["busy"]).again
    (cell,) = found
    assert (cell.cell, cell.why) == ("busy.fp16.c4", "busy")
    assert cell.output_throughput_tok_s is not None
    kept = with_again(Earlier.load(run), ["busy"]).complete_cells
    assert [planned.cell for planned in kept] == ["calm.fp16.c4"]
    assert with_again(Earlier.load(run), ["saturated"]).again == ()


@pytest.mark.parametrize(("word", "batches", "found"), [("few-batches", 3, 2), ("few-batches", 8, 0), ("vllm.*", 8, 1)])
def test_a_mark_means_the_closed_batches_that_bear_it(tmp_path: Path, word: str, batches: int, found: int) -> None:
    run = write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(4,), batches=batches))
    again = with_again(Earlier.load(run), [word]).again
    assert len(again) == found
    assert {one.why for one in again} <= {"few batches", "nothing was marked"}


def test_what_was_measured_again_stands_at_the_head_of_the_report(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(4,)))
    assert "Measured again" not in write_report(run).markdown.read_text()
    record = RunRecord.read(run / layout.RUN_FILE)
    again = (
        AgainCell(cell=cell_path(run, VLLM, 4).name, why="busy, unsteady", output_throughput_tok_s=8193.27),
        AgainCell(cell=cell_path(run, CT2, 4).name, why="timeout"),
    )
    *before, last = record.all_visits
    visits = (*before, last.model_copy(update={"again": again}))
    write_text(run / layout.RUN_FILE, record.model_copy(update={"visits": visits}).model_dump_json())
    paths = write_report(run)
    text = f"{VLLM.label} at batch size 4 (busy, unsteady; 8193 token/s before); {CT2.label} at batch size 4 (timeout)"
    assert f"- **Measured again**: {text}\n" in paths.markdown.read_text()
    assert text in paths.page.read_text()
