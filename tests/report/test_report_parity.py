"""The table of parity: the suite beside the engine called directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from report_runs import (
    CT2,
    VLLM,
    Method,
    Script,
    cell_path,
    fields,
    measured,
    read_log,
    set_latencies,
    write_log,
    write_run,
)

from bench_core.report.document import document
from bench_core.report.write.files import write_report
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

BATCHES = 8
SCRIPT = Script((VLLM, CT2), batch_sizes=(1,), batches=BATCHES)


def call_directly(run: Path, method: Method, ratios: Sequence[float], *, pairs: bool, rounds: int = 1) -> None:
    """Gives the last batches of a cell to the engine, each so much slower than the suite beside it (1: the same); in
    rounds after the first the host holds up both, the suite for longer."""
    path = cell_path(run, method, 1)
    set_latencies(path, [0.1] * BATCHES)
    events = read_log(path)
    last = max(k for k, event in enumerate(events) if event["type"] == "batch")
    at_s = events[last]["started_s"] + 0.2
    added: list[dict[str, Any]] = []
    given = list(zip(measured(events)[-len(ratios) :], ratios, strict=True)) * rounds
    for index, (event, ratio) in enumerate(given):
        held_up = index >= len(ratios)
        if pairs:
            suite_s = 0.2 if held_up else 0.1
            added.append({**event, "phase": "paired", "index": index, "started_s": at_s, "latency_s": suite_s})
        slower = {"started_s": at_s + 0.25, "latency_s": 0.15 * ratio if held_up else 0.1 * ratio, "arrivals": None}
        added.append({**event, "phase": "direct", "index": index, **slower})
        at_s += 0.5
    for event in events[last + 1 :]:
        if event["type"] in ("phase", "end"):
            event["started_s" if event["type"] == "phase" else "t_s"] = at_s + 1
    write_log(path, [*events[: last + 1], *added, *events[last + 1 :]])


def rows(run: Path) -> list[dict[str, str]]:
    return next(fields(sheet) for sheet in document(load_run(run)).details if sheet.heading == "Parity")


def test_the_median_of_pairs_stands_with_what_is_known_of_it(tmp_path: Path) -> None:
    """One pair of seven was held up for 40 %: the ratio says 1.06, the median 1.01 and that it may be 1.00 or 1.40."""
    run = write_run(tmp_path, SCRIPT)
    call_directly(run, VLLM, [1.0, 1.01, 1.0, 1.02, 1.01, 1.02, 1.4], pairs=True)
    call_directly(run, CT2, [0.98, 1.0, 1.02], pairs=True)
    vllm, ct2 = rows(run)
    assert (vllm["Suite / direct"], vllm["Median of batches"]) == ("1.066", "1.010 (1.000 to 1.400)")
    assert (vllm["Batches"], vllm["Rows with equal tokens"]) == ("7", "7 of 7")
    assert ct2["Median of batches"] == "1.000", "three pairs carry no interval"


def test_of_rounds_the_median_takes_the_fastest_of_either_side(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    call_directly(run, VLLM, [1.0, 1.0, 1.01, 1.01, 1.02, 1.02], pairs=True, rounds=3)
    call_directly(run, CT2, [1.0], pairs=True)
    vllm, ct2 = rows(run)
    assert vllm["Suite / direct"] == "0.808", "the host is in it: 0.1 + 2 x 0.2 s beside 0.1 + 2 x 0.15 s, 1 % slower"
    assert vllm["Median of batches"] == "1.010 (1.000 to 1.020)"
    assert (vllm["Batches"], vllm["Rounds"], vllm["Rows with equal tokens"]) == ("6", "3", "18 of 18")
    assert (ct2["Batches"], ct2["Rounds"]) == ("1", "1")


def test_without_pairs_there_is_no_median(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    call_directly(run, VLLM, [1.1] * 6, pairs=False)
    (row,) = rows(run)
    assert row["Suite / direct"] == "1.100"
    assert "Median of batches" not in row
    call_directly(run, CT2, [1.0] * 6, pairs=True)
    assert [row["Median of batches"] for row in rows(run)] == ["\N{EN DASH}", "1.000 (1.000 to 1.000)"]


def test_nothing_of_it_is_among_the_cell_s_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(SCRIPT, methods=(VLLM,)))
    set_latencies(cell_path(run, VLLM, 1), [0.1] * BATCHES)
    before = [entry.text for entry in document(load_run(run)).results[0].rows[0]]
    call_directly(run, VLLM, [3.0] * 6, pairs=True)
    write_report(run)
    assert [entry.text for entry in document(load_run(run)).results[0].rows[0]] == before
    told = [one.line for one in verify_run(run, published=False).differences]
    assert not [line for line in told if "throughput" in line], told
