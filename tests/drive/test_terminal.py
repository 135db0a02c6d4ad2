"""What a person at a terminal sees of a run, through a terminal: wide, narrow, stopped, with cells that fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from screen import CTRL_C, Screen

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Verdict

RUN = (
    *("--images", "null", "--device", "cpu", "--launcher", "process", "--yes", "--max-new-tokens", "16"),
    *("--exhaustive", "--max-warmup-batches", "1", "--run-id", "mine"),
)
NO_CHECK = (*RUN, "--no-harness-check")
# Labels of the frame, which must not be there any more when the driver has ended.
FRAME = re.compile(r"^(running|to come|now|made|stop|failed) ")


def left_of_the_frame(screen: Screen) -> list[str]:
    return [row for row in screen.rows if FRAME.match(row) or "so far, about" in row]


def test_a_wide_terminal_shows_what_is_done_what_runs_and_what_is_to_come(tmp_path: Path) -> None:
    screen = Screen(tmp_path, *RUN, "--samples", "40", "--batch-sizes", "1,4", columns=120)
    screen.until("null.scripted.b1: measure, batch")
    screen.until("TTFT p50")
    heading = r"mine: 0 of 2 cells ended; \d+ s so far, (about \d+ s|a few seconds) left \(rough\)"
    assert re.search(heading, screen.words), screen.words
    assert "to come null.scripted.b4" in screen.words
    screen.until("[1/2] null.scripted.b1")
    screen.until("(from measured times)")
    assert screen.end() == 0
    assert re.search(
        r"\[2/2\] null\.scripted\.b4 \d+\.?\d* ± \d+\.?\d* token/s, TTFT p50 2\d\.\d ms \(\d+ s\)", screen.words
    )
    assert any("the suite's own error: " in row and row.startswith("now ") for row in screen.seen), "a step in hand"
    assert left_of_the_frame(screen) == []
    assert not screen.cursor_is_hidden


def test_the_rate_so_far_is_in_the_end_the_rate_of_the_report(tmp_path: Path) -> None:
    screen = Screen(tmp_path, *NO_CHECK, "--samples", "30", "--batch-sizes", "1", columns=160)
    screen.until("[1/1] null.scripted.b1")
    told = re.search(r"\[1/1\] null\.scripted\.b1 (\d+\.\d+) ±", screen.words)
    assert screen.end() == 0
    assert told is not None
    result = layout.cell_folder(tmp_path / "results" / "mine", "null.scripted.b1") / layout.RESULT_FILE
    rate = json.loads(result.read_text(encoding="utf-8"))["metrics"]["steadiness"]["workload_rate"]
    assert float(told[1]) == pytest.approx(rate["throughput_tok_s"], rel=1e-3)


def test_a_narrow_terminal_folds_and_an_error_stays_to_be_seen(tmp_path: Path) -> None:
    fails = ("null.fail_in=generate", "null.fail_how=oom", "null.fail_after_batches=3", "null.ttft_s=1.5")
    options = [word for option in fails for word in ("--option", option)]
    screen = Screen(tmp_path, *NO_CHECK, "--samples", "64", "--batch-sizes", "1,32", *options, columns=50)
    screen.until("running null.scripted.b32")
    # Above the frame when it came, and in the frame as long as the run goes on; whole, though it is folded.
    assert screen.words.count("null.scripted.b1: oom_kv: ScriptedOutOfMemory: scripted: oom in generate") == 1
    assert "[1/2] null.scripted.b1 oom_kv: ScriptedOutOfMemory: scripted: oom in generate" in screen.words
    assert "1 of 2 cells ended, 1 failed" in screen.words
    assert screen.end() == 1
    assert left_of_the_frame(screen) == []
    assert "…" not in screen.words, "nothing is cut, in the table neither"
    for heading in ("Batch size: 1", "Throughput (token/s): ", "Outcome: oom_kv: ScriptedOutOfMemory"):
        assert heading in screen.words


@pytest.mark.parametrize("columns", [120, 50])
def test_ctrl_c_says_at_once_what_it_does_and_how_to_go_on(tmp_path: Path, columns: int) -> None:
    slow = ("--option", "null.ttft_s=1.5")
    screen = Screen(tmp_path, *NO_CHECK, "--samples", "40", "--batch-sizes", "1", *slow, columns=columns)
    screen.until("null.scripted.b1: measure, batch")
    screen.press(CTRL_C)
    screen.until("then the report is written.", seconds=1.2)
    screen.until("Go on later: python -m bench_core.drive --resume")
    assert screen.end() == 130
    assert "Stopping after the batch in hand" in screen.words
    assert left_of_the_frame(screen) == []
    assert not screen.cursor_is_hidden
    assert not any("^C" in row and row != "^C" for row in screen.rows), "the terminal's own echo stands in no line"
    # The terminal itself has wrapped this line, anywhere.
    said = "".join(screen.rows).split("Go on later: ")[1]
    assert said.replace(" ", "").startswith(f"python-mbench_core.drive--resume{tmp_path / 'results' / 'mine'}--data")
    verdict = Verdict.read(layout.cell_folder(tmp_path / "results" / "mine", "null.scripted.b1") / layout.OUTCOME_FILE)
    assert verdict.cause == "stopped on request after the batch in hand"


def test_ctrl_c_before_a_cell_and_ctrl_c_twice(tmp_path: Path) -> None:
    screen = Screen(tmp_path, *RUN, "--samples", "8", "--batch-sizes", "1", columns=100)
    screen.until("now the suite's own error")
    screen.press(CTRL_C)
    screen.until("Stopped; no cell was being measured.")
    assert screen.end() == 130
    assert "Go on later: python -m bench_core.drive --resume" in screen.words
    assert left_of_the_frame(screen) == []
    hangs = ("--option", "null.fail_in=generate", "--option", "null.fail_how=hang")
    screen = Screen(tmp_path / "b", *NO_CHECK, "--samples", "8", "--batch-sizes", "1", *hangs, columns=100)
    screen.until("null.scripted.b1: prepare")
    screen.press(CTRL_C)
    screen.until("Ctrl-C again ends it at once.")
    screen.press(CTRL_C)
    screen.until("Ending at once, in the middle of a batch.")
    assert screen.end() == 130
    assert not screen.cursor_is_hidden
    assert left_of_the_frame(screen) == []


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path: Path) -> None:
    screen = Screen(tmp_path, *NO_CHECK, "--samples", "8", "--batch-sizes", "1", columns=100, term="dumb")
    assert screen.end() == 0
    assert "[1/1] null.scripted.b1 ok" in screen.words
    assert not any("so far" in row for row in screen.seen)


def test_requests_to_a_server_are_told_with_their_window(tmp_path: Path) -> None:
    load = ("--concurrency", "4", "--max-serve-seconds", "8", "--samples", "20")
    screen = Screen(tmp_path, *NO_CHECK, *load, columns=120)
    screen.until("null.scripted.c4: measure, ")
    screen.until("token/s, TTFT p50")
    assert re.search(r"measure, \d s of at most 8 s; \d+ requests answered, .* token/s, TTFT p50 \d+", screen.words)
    assert screen.end() == 0
    assert re.search(r"\[1/1\] null\.scripted\.c4 \d+.* token/s, TTFT p50 \d+", screen.words)
