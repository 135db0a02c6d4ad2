"""Speculative decoding in a report: its cells are marked with words on the text, and not ranked on random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import MODEL, VLLM, Method, Script, cell_path, fields, read_log, write_log, write_run
from serving_runs import FAST, LoadScript, write_loaded

from bench_core.contract.measures.roofline import roofline
from bench_core.contract.models.model import ModelInfo
from bench_core.report.decide.option import options_of
from bench_core.report.document import document
from bench_core.report.explain.marks import NOT_RANKED_MARK, SPECULATIVE_MARK
from bench_core.report.explain.under_load import compared
from bench_core.report.tables.results import result_sheet
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run
from bench_core.runs.view import Row, RunView

GUESSING = replace(VLLM, variant="fp16-ngram", label="vLLM n-gram", tpot_s=VLLM.tpot_s / 2, speculative=True)
TRAINED = MODEL.model_copy(update={"synthetic": False})


def view_of(folder: Path, model: ModelInfo, methods: tuple[Method, ...] = (VLLM, GUESSING)) -> RunView:
    return load_run(write_run(folder, Script(methods, batch_sizes=(1,), model=model)))


def guessing(view: RunView) -> Row:
    return next(row for row in view.rows if row.planned.variant == GUESSING.variant)


def test_on_random_weights_it_is_shown_and_not_ranked(tmp_path: Path) -> None:
    view = view_of(tmp_path, MODEL)
    assert "random" in view.unranked(guessing(view))
    assert [row.planned.variant for row in view.ranked(view.rows)] == [VLLM.variant], "although it is twice as fast"
    sheet = result_sheet(view, 1)
    line = next(line for line in sheet.rows if line[0].text == GUESSING.label)
    assert any(NOT_RANKED_MARK in entry.mark for entry in line)
    assert any(SPECULATIVE_MARK in entry.mark for entry in line)
    assert not any(entry.strong for entry in line)
    text = markdown(document(view))
    assert f"not ranked: {GUESSING.label}: speculative decoding on random weights" in text
    assert "its speed depends on how many guesses are right, and that on the text" in " ".join(text.split())


def test_on_trained_weights_it_is_ranked_and_marked(tmp_path: Path) -> None:
    view = view_of(tmp_path, TRAINED)
    assert view.unranked(guessing(view)) == ""
    sheet = result_sheet(view, 1)
    (line,) = (line for line in fields(sheet) if line["Method"] == GUESSING.label)
    (entries,) = (line for line in sheet.rows if line[0].text == GUESSING.label)
    assert line
    assert any(entry.strong for entry in entries)
    assert any(SPECULATIVE_MARK in entry.mark for entry in entries)
    assert not any(NOT_RANKED_MARK in note for note in sheet.notes)
    (option,) = (option for option in options_of(view) if option.variant == GUESSING.variant)
    assert "speculative" in option.remarks


def test_a_run_without_it_says_nothing_of_it(tmp_path: Path) -> None:
    assert "speculative" not in markdown(document(view_of(tmp_path, TRAINED, (VLLM,))))


def test_how_many_tokens_a_step_gave_is_told(tmp_path: Path) -> None:
    """Of 20 tokens the first comes alone, then seven steps give two each, and five give one."""
    folder = write_run(tmp_path, Script((VLLM, GUESSING), batch_sizes=(1,), model=TRAINED))
    cell = cell_path(folder, GUESSING, 1)
    events = read_log(cell)
    for event in events:
        if event["type"] == "batch":
            (offsets,) = event["arrivals"]["offsets_us"]
            places = [0, *(1 + step for step in range(7) for _ in range(2)), *range(8, 13)]
            event["arrivals"]["offsets_us"] = [[offsets[place] for place in places]]
    write_log(cell, events)
    view = load_run(folder)
    row = guessing(view)
    assert row.result is not None
    assert row.result.metrics.tokens_per_step == pytest.approx(20 / 13)
    plain = next(row for row in view.rows if row.planned.variant == VLLM.variant)
    assert plain.result is not None
    assert plain.result.metrics.tokens_per_step is None
    assert f"Tokens of a row in a step: {GUESSING.label} 1.54 at batch size 1." in markdown(document(view))


def test_it_has_no_roofline(tmp_path: Path) -> None:
    """The weights are read once for several tokens of a row."""
    placed = {}
    for row in view_of(tmp_path, TRAINED).rows:
        assert row.spec is not None
        assert row.result is not None
        placed[row.planned.variant] = roofline(row.spec, {}, row.result.metrics, None)
    assert placed[VLLM.variant] is not None
    assert placed[GUESSING.variant] is None


def test_under_load_as_well(tmp_path: Path) -> None:
    guess = replace(FAST, variant="fp16-ngram", label="vLLM n-gram", tpot_s=FAST.tpot_s / 2, speculative=True)
    view = load_run(write_loaded(tmp_path, LoadScript(engines=(FAST, guess), loads=("c4",))))
    assert [row.planned.variant for row in compared(view.served)] == [FAST.variant]
    text = markdown(document(view))
    assert "not ranked: vLLM n-gram: it guesses tokens" in text
    assert "ok, speculative" in text
