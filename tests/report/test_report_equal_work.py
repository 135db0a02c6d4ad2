"""A cell that did not do equal work keeps its row, and is compared with nothing."""

from __future__ import annotations

import re
from pathlib import Path

from report_runs import CT2, VLLM, Method, Script, cell_path, measured, read_log, write_log, write_run

from bench_core.report.document import document
from bench_core.report.figures import scaling as figures
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run

OTHER = Method("other", "fp16", "Other fp16", tpot_s=0.02)


def _run(tmp_path: Path) -> Path:
    """vLLM is the fastest, but its second measured batch at 4 got other prompts than the other two cells."""
    run = write_run(tmp_path, Script((VLLM, CT2, OTHER), batch_sizes=(1, 4), device="cpu"))
    cell = cell_path(run, VLLM, 4)
    events = read_log(cell)
    measured(events)[1]["prompts_digest"] = "0" * 64
    write_log(cell, events)
    return run


def test_it_is_neither_bold_nor_in_the_figures_and_the_reason_stands_below_its_table(tmp_path: Path) -> None:
    view = load_run(_run(tmp_path))
    text = markdown(document(view))
    at_1, at_4 = (text.split(f"## Batch size {size}\n")[1].split("\n## ")[0] for size in (1, 4))
    assert "‡" not in at_1
    assert "| vLLM fp16 ‡ |" in at_4
    assert "‡ not ranked: vLLM fp16 did not do equal work: measure batch 1: other prompts than in the other" in at_4
    bold = [line for line in at_4.splitlines() if "**" in line]
    assert len(bold) == 1
    assert bold[0].startswith("| CTranslate2 int8_float16 |"), "the fastest of those that did equal work"
    assert "1 cell not ranked for it" in text
    svg = figures.throughput(view).drawn().svg
    drawn = set(re.findall(r'aria-label="batch_size: (\d+); value: [0-9.]+; method: vLLM fp16"', svg))
    assert drawn == {"1"}, "no point at batch size 4"
    assert figures.UNEQUAL in svg


def test_its_numbers_stay_in_the_table_s_raw_form_with_the_reason(tmp_path: Path) -> None:
    view = load_run(_run(tmp_path))
    line = next(line for line in csv_table(view).splitlines() if line.startswith("vllm.fp16.b4"))
    assert "not ranked: measure batch 1: other prompts" in line
    assert ",ok," in line


def test_a_run_of_equal_work_says_nothing_of_it_where_it_keeps_no_prompts(tmp_path: Path) -> None:
    """What cannot be checked against the prompts themselves is not claimed."""
    text = markdown(document(load_run(write_run(tmp_path, Script((VLLM, CT2))))))
    assert "‡" not in text
    assert "Equal work" not in text
