"""What a report says first: who is fastest, and of whom that cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from report_runs import (
    CT2,
    VLLM,
    Method,
    Script,
    cell_path,
    fields,
    measured_repeatedly,
    set_latencies,
    visit_again,
    write_run,
)

from bench_core.contract.measures.repeats import between_runs
from bench_core.report.document import document
from bench_core.report.page.fields import unbroken
from bench_core.report.tables.glance import fastest_lines
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run

OTHER = Method("other", "fp16", "Other fp16")
THREE = Script((VLLM, CT2, OTHER), batch_sizes=(1,), batches=8)


def _at(run: Path, method: Method, latencies_s: Sequence[float]) -> None:
    set_latencies(cell_path(run, method, 1), latencies_s)


def _row(run: Path) -> dict[str, str]:
    (sheet,) = document(load_run(run)).glance
    (row,) = fields(sheet)
    return row


def test_the_fastest_stands_with_those_that_cannot_be_told_from_it(tmp_path: Path) -> None:
    """160 token/s known to some 4 %, 157 known as well, and 100."""
    run = write_run(tmp_path, THREE)
    _at(run, VLLM, [0.120, 0.130, 0.122, 0.128] * 2)
    _at(run, CT2, [0.127, 0.128, 0.1275, 0.129] * 2)
    _at(run, OTHER, [0.2, 0.201, 0.199, 0.2] * 2)
    row = _row(run)
    assert row["Fastest (token/s)"].startswith("vLLM fp16: 160.0 ± ")
    assert row["Statistically tied with it"] == "CTranslate2 int8_float16"
    (line,) = fastest_lines(load_run(run))
    assert line.startswith("Fastest at batch size 1: vLLM fp16: 160.0 ± ")
    assert line.endswith(" token/s; statistically tied with it: CTranslate2 int8_float16")


def test_one_that_is_clearly_faster_stands_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, THREE)
    for method, latency_s in ((VLLM, 0.1), (CT2, 0.125), (OTHER, 0.2)):
        _at(run, method, [latency_s, latency_s * 1.001] * 4)
    assert _row(run)["Statistically tied with it"] == "none"


def test_of_too_few_batches_nothing_is_told_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(THREE, batches=4))
    row = _row(run)
    assert row["Statistically tied with it"] == "few batches"
    assert "±" not in row["Fastest (token/s)"]


def test_a_fastest_with_a_very_wide_interval_is_uneven(tmp_path: Path) -> None:
    """Sixteen batches are not few; nothing is told apart from it, and why is said."""
    run = write_run(tmp_path, replace(THREE, batches=16))
    for method in (VLLM, CT2, OTHER):
        _at(run, method, [0.01] * 15 + [9.0])
    row = _row(run)
    assert row["Statistically tied with it"] == "uneven"
    assert " ± " in row["Fastest (token/s)"]


def test_of_repeats_the_means_are_compared_by_their_spread(tmp_path: Path) -> None:
    """One is ahead the first time, the other over all three; neither clearly, though each run knows itself well."""
    script = Script((VLLM, CT2), batch_sizes=(1,), batches=8)
    run = write_run(tmp_path, script)
    for faster in (0.8, 0.9):  # repeats 2 and 3
        visit_again(run, script, VLLM, 1, faster=faster)
    for faster in (1.7, 1.9):  # 4 and 5
        visit_again(run, script, CT2, 1, faster=faster)
    assert _row(run)["Fastest (token/s)"].startswith("vLLM fp16: 158.7 ± ")
    measured_repeatedly(run, 5)
    row = _row(run)
    assert row["Fastest (token/s)"].startswith("CTranslate2 int8_float16: ")
    assert row["Statistically tied with it"] == "vLLM fp16"
    view = load_run(run)
    summed = between_runs([row.rate for row in view.rows if row.planned.image == "ctranslate2" and row.rate])
    assert summed is not None
    assert row["Fastest (token/s)"].endswith(f"{summed.mean_tok_s:.1f} ± {summed.half_width_tok_s:.1f}")
    assert "the mean of up to 5 repeats" in markdown(document(view)).split("## Batch size 1")[0]


def test_least_memory_and_time_to_a_first_token_need_not_be_the_fastests(tmp_path: Path) -> None:
    small = replace(OTHER, weights_bytes=2 << 30, tpot_s=0.05)
    soon = replace(CT2, ttft_s=0.001, tpot_s=0.04)
    row = _row(write_run(tmp_path, Script((VLLM, soon, small), batch_sizes=(1,), batches=8)))
    assert row["Fastest (token/s)"].startswith("vLLM fp16")
    assert row["Fastest first token"].startswith("CTranslate2 int8_float16: 0.00")
    assert row["Least memory"].startswith("Other fp16: 2.")
    assert row["Least energy"] == "\N{EN DASH}", "no counter in these logs"


def test_one_method_has_no_rivals(tmp_path: Path) -> None:
    view = load_run(write_run(tmp_path, Script((VLLM,), batch_sizes=(1, 4))))
    assert document(view).glance == ()
    assert "At a glance" not in markdown(document(view))


def test_on_the_page_no_line_breaks_inside_a_quantity() -> None:
    text = unbroken("llama.cpp 4-bit (Q4_K_M): 260.0 ± 28.5, vLLM 16-bit: 0.01337 s, 3 steps, 9.18 GiB, 1.4 J/token")
    assert text.replace("\N{NO-BREAK SPACE}", "_") == (
        "llama.cpp 4-bit (Q4_K_M): 260.0_±_28.5, vLLM 16-bit: 0.01337_s, 3 steps, 9.18_GiB, 1.4_J/token"
    )
