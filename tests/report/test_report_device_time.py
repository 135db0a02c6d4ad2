"""What a run cost on its device, and what the study's protocol would have cost there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import VLLM, Script, write_run

from bench_core.report.document import document
from bench_core.report.explain.device_time import STUDY_PROMPTS, device_time, study_protocol_s
from bench_core.runs.load import load_run


def test_the_studys_protocol_is_a_load_a_discarded_batch_and_6000_prompts(tmp_path: Path) -> None:
    script = Script((VLLM,), batch_sizes=(4, 64))
    for row in load_run(write_run(tmp_path, script)).rows:
        assert row.result is not None
        metrics = row.result.metrics
        own = (metrics.start_s or 0) + (metrics.load_s or 0) + (metrics.prepare_s or 0)
        batches = {4: 1 + 1500, 64: 1 + 94}[row.planned.batch_size]  # 93.75 of 64: the last one is not full
        latency = VLLM.latency_s(row.planned.batch_size, script.new_tokens)
        assert row.rate is not None
        assert study_protocol_s(metrics, row.rate.batch_latency_s, row.planned.batch_size) == pytest.approx(
            own + batches * latency
        )


def test_a_load_shared_by_two_cells_is_spent_once_and_the_studys_protocol_loads_twice(tmp_path: Path) -> None:
    view = load_run(write_run(tmp_path, Script((VLLM,), batch_sizes=(1, 4))))
    (sheet,) = [sheet for sheet in document(view).details if sheet.heading == "Device time"]
    one, both = sheet.rows
    titles = [title for title, _ in sheet.columns]
    spent = dict(zip(titles, (entry.number for entry in one), strict=True))
    found = [row.result.metrics for row in view.rows if row.result]
    load_s = (found[0].start_s or 0) + (found[0].load_s or 0)
    assert load_s > 0
    assert spent["Cells"] == 2
    assert spent["Loading (s)"] == pytest.approx(load_s)
    assert spent["Preparing and batches (s)"] == pytest.approx(sum((m.prepare_s or 0) + m.batches_s for m in found))
    means = [row.rate.batch_latency_s for row in view.rows if row.rate]
    study_s = study_protocol_s(found[0], means[0], 1) + study_protocol_s(found[1], means[1], 4)
    assert spent["Study's protocol (h)"] == pytest.approx(study_s)
    assert [entry.text for entry in both[1:]] == [entry.text for entry in one[1:]], "one method is all there is"
    assert spent["Times as long"] == pytest.approx(study_s / (spent["In all (s)"] or 0))


def test_the_head_of_the_report_says_it_in_one_line(tmp_path: Path) -> None:
    view = load_run(write_run(tmp_path, Script((VLLM,), batch_sizes=(1, 4))))
    (words,) = [text for name, text in document(view).facts if name == "Device time"]
    assert words == device_time(view)
    assert f"{STUDY_PROMPTS} prompts a cell" in words
    assert "for 2 cells" in words


def test_where_nothing_was_measured_nothing_is_said(tmp_path: Path) -> None:
    view = load_run(write_run(tmp_path, Script((replace(VLLM, unreached=(1, 4)),), batch_sizes=(1, 4))))
    assert device_time(view) is None
    assert not [sheet for sheet in document(view).details if sheet.heading == "Device time"]
