"""Where a run stands, in words: what is read of logs, what is left to do, what fits on a terminal of any size."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from conftest import Made
from null_calls import SERVED, UNCHECKED
from rich.console import Console

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import CellEnded, Progress
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import PlannedCell
from bench_core.contract.records.workload import Workload
from bench_core.drive.plan.builds import Build, BuildBegins
from bench_core.drive.run.progress import PlainDisplay
from bench_core.drive.show.board import Board
from bench_core.drive.show.display import FollowedDisplay, make_display
from bench_core.drive.show.frame import frame, heading, lines
from bench_core.drive.show.outline import Outline, Step
from bench_core.drive.show.so_far import BatchesSoFar, ServedSoFar, ended_words
from bench_core.drive.show.tail import LONGEST_LINE, Tail, read_beneath
from bench_core.drive.show.terminal import Terminal
from bench_core.prepare.staging import Waiting
from bench_core.runs.load import load_run

NO_PROMPTS = Workload(
    name="none",
    tokenizer="none",
    max_prompt_tokens=1,
    truncated=0,
    dropped_empty=0,
    duplicates=0,
    prompts=((1,),),
    digest=prompts_sha256([[1]]),
)


def planned(*cells: str) -> list[PlannedCell]:
    """Cells of ``image.variant.bN``."""
    parts = [(cell, *cell.split(".")) for cell in cells]
    return [
        PlannedCell(image=i, variant=v, scenario=Offline(batch_size=int(w[1:])), cell=cell, label=cell)
        for cell, i, v, w in parts
    ]


def progress(cell: str, phase: str, done: int = 0, of: int = 10) -> Progress:
    return Progress.model_validate({"cell": cell, "phase": phase, "done": done, "of": of})


# What is left


def board_of(tmp_path: Path, **cells: float) -> Board:
    named = {name.replace("_", "."): seconds for name, seconds in cells.items()}
    board = Board(Outline(tmp_path, "resume", cells=named), began_s=0.0)
    board.measures(tmp_path, NO_PROMPTS, planned(*named), 0.0)
    return board


def test_what_is_left_follows_from_what_cells_of_the_same_method_took(tmp_path: Path) -> None:
    board = board_of(tmp_path, a_x_b1=10.0, a_x_b4=20.0, c_y_b1=10.0)
    left = board.left(0.0)
    assert left is not None
    assert (left.seconds, left.measured) == (40.0, 0), "before anything is measured: the plan's estimate"
    board.progress(progress("a.x.b1", "load"), 0.0)
    board.ended(CellEnded(cell="a.x.b1", outcome=Outcome.OK), 3, 30.0)  # three times as long as was thought
    left = board.left(30.0)
    assert left is not None
    assert (left.seconds, left.measured) == (60.0 + 30.0, 1), "of the same method, and else of any"
    board.progress(progress("c.y.b1", "load"), 30.0)
    board.ended(CellEnded(cell="c.y.b1", outcome=Outcome.OK), 3, 35.0)
    left = board.left(35.0)
    assert left is not None
    assert left.seconds == 60.0, "another method's cell says nothing where its own has been measured"
    board.progress(progress("a.x.b4", "load"), 35.0)
    left = board.left(45.0)
    assert left is not None
    assert left.seconds == 50.0


def test_a_cell_that_failed_says_nothing_of_the_others_time(tmp_path: Path) -> None:
    board = board_of(tmp_path, a_x_b1=10.0, a_x_b4=20.0)
    board.progress(progress("a.x.b1", "load"), 0.0)
    board.ended(CellEnded(cell="a.x.b1", outcome=Outcome.OOM_LOAD, cause="no memory"), 2, 1.0)
    left = board.left(1.0)
    assert left is not None
    assert (left.seconds, left.measured) == (20.0, 0)
    assert [one.words for one in board.failed] == ["oom_load: no memory"]


def test_a_cell_is_never_expected_to_take_longer_than_to_its_last_batch(tmp_path: Path) -> None:
    board = board_of(tmp_path, a_x_b1=1000.0)
    board.progress(progress("a.x.b1", "load"), 0.0)
    board.progress(progress("a.x.b1", "measure", 8, 10), 16.0)
    left = board.left(16.0)
    assert left is not None
    assert left.seconds == 4.0


def test_several_gpus_share_what_is_left(tmp_path: Path) -> None:
    cells = {"a.x.b1": 10.0, "a.x.b4": 20.0, "c.y.b1": 10.0}
    board = Board(Outline(tmp_path, "resume", cells=cells, places=2), began_s=0.0)
    left = board.left(0.0)
    assert left is not None
    assert left.seconds == 20.0


def test_steps_are_told_with_size_and_time_and_what_nobody_knows_is_said(tmp_path: Path) -> None:
    steps = (Step("build base:cpu", 200_000_000, 60.0), Step("build new:cpu"), Step("convert int8", expected_s=30.0))
    board = Board(Outline(tmp_path, "resume", steps=steps, cells={"a.x.b1": 10.0}), began_s=0.0)
    board.begin_step("build base:cpu", 5.0)
    board.newest = "Step 3/9 : RUN pip"
    told = {line.label: line.words for line in lines(board, 15.0)}
    assert told["now"] == "build base:cpu, 200.0 MB: 10 s of about 60 s"
    assert told["to make"] == "build new:cpu; convert int8 (about 30 s)"
    assert told["to come"] == "a.x.b1"
    assert "about 2 min left, and what was never built (rough)" in heading(board, 15.0)
    board.begin_step("", 70.0)
    board.troubles.append("it failed")
    assert "build base:cpu in 65 s" in [line.words for line in lines(board, 70.0) if line.label == "made"]
    assert "it failed" in [line.words for line in lines(board, 70.0) if line.label == "trouble"]


# Logs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Made) -> Path:
    root = tmp_path_factory.mktemp("run")
    make_run(root, *UNCHECKED, "--samples", "24", "--batch-sizes", "2", "--run-id", "mine")
    return root / "results" / "mine"


def test_the_rate_so_far_is_that_of_the_result_when_the_log_is_read(run: Path) -> None:
    view = load_run(run)
    (row,) = view.rows
    so_far = BatchesSoFar(2, view.workload)
    tail = Tail(run, row.planned.cell)
    while taken := tail.lines(2000):  # in pieces that end within lines
        for line in taken:
            so_far.take(line)
    assert row.result is not None
    result = layout.cell_folder(run, row.planned.cell) / layout.RESULT_FILE
    number = ended_words(result.read_bytes(), served=False)
    rate, ttft = number.split(", ")
    assert so_far.words().startswith(f"{row.result.metrics.batches} batches, {rate} (± ")
    assert so_far.words().endswith(ttft)
    assert ended_words(b"{}", served=False) == "" == ended_words(result.read_bytes(), served=True)


def test_requests_so_far_are_near_to_what_the_result_says(tmp_path: Path, make_run: Made) -> None:
    make_run(tmp_path, *SERVED, "--run-id", "mine")
    folder = tmp_path / "results" / "mine"
    (row,) = load_run(folder).served
    so_far, log = ServedSoFar(), layout.cell_folder(folder, row.planned.cell) / layout.EVENTS_FILE
    events = log.read_bytes().splitlines()
    assert so_far.words() == ""
    window = next(event for event in map(json.loads, events) if event["type"] == "window")
    so_far.measuring_since(window["begin_s"])
    for line in events:
        so_far.take(line)
    assert row.result is not None
    metrics = row.result.metrics
    told = so_far.words()
    assert f"{metrics.requests.ok} " in told or "requests answered" in told
    assert metrics.ttft_s is not None
    assert metrics.ttft_s.p50 is not None
    assert float(told.split("TTFT p50 ")[1].split()[0]) == pytest.approx(metrics.ttft_s.p50.value * 1e3, rel=0.2)
    rate = float(told.split(" token/s")[0].split(", ")[-1].split()[0])
    assert rate == pytest.approx(metrics.output_throughput_tok_s.value, rel=0.2)


def test_a_log_of_anything_ends_no_view(run: Path) -> None:
    (row,) = load_run(run).rows
    log = layout.cell_folder(run, row.planned.cell) / layout.EVENTS_FILE
    drawn = random.Random(1)  # noqa: S311  # places in a file
    whole = log.read_bytes().splitlines()
    foreign = [b"", b"[" * 100_000, b"null", b'{"type": "batch"}', b'{"type": ["batch"]}', b"\xff\xfe"]
    measured = next(line for line in whole if b'"phase":"measure"' in line)
    event = json.loads(measured)
    for key in event:
        for value in (None, [], {}, "x", -1, 1e308, [[None]], {"offsets_us": [[None]], "shared": 1}):
            foreign.append(json.dumps({**event, key: value}).encode())
    for line in whole:
        cut = bytearray(line)
        for _ in range(5):
            cut[drawn.randrange(len(cut))] = drawn.randrange(256)
        foreign.append(bytes(cut))
    for so_far in (BatchesSoFar(2, None), ServedSoFar()):
        for line in foreign:
            so_far.take(line)
            so_far.words()


def test_a_tail_reads_what_has_come_and_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    cell = tmp_path / layout.CELLS_FOLDER / "a.x.b1"
    tail = Tail(tmp_path, "a.x.b1")
    assert tail.lines(1000) == [], "it is not there yet"
    cell.mkdir(parents=True)
    with (cell / layout.EVENTS_FILE).open("wb", buffering=0) as log:
        log.write(b"one\ntw")
        assert tail.lines(1000) == [b"one"]
        assert tail.lines(1000) == []
        log.write(b"o\nthree\n")
        assert tail.lines(3) == [b"two"], "no more than was asked for"
        assert tail.lines(1000) == [b"three"]
    tail.close()
    assert tail.lines(1000) == []


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "link above", "endless"])
def test_what_a_box_may_put_in_a_logs_place_is_not_read(tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / layout.EVENTS_FILE).write_text("a secret\n")
    cells = tmp_path / "run" / layout.CELLS_FOLDER
    log = cells / "a.x.b1" / layout.EVENTS_FILE
    cells.mkdir(parents=True)
    if what == "link above":
        log.parent.symlink_to(secret)
    else:
        log.parent.mkdir()
    if what == "link":
        log.symlink_to(secret / layout.EVENTS_FILE)
    elif what == "pipe":
        os.mkfifo(log)
    elif what == "folder":
        log.mkdir()
    elif what == "endless":
        with log.open("wb") as stream:
            stream.truncate(LONGEST_LINE + 4096)
    tail = Tail(tmp_path / "run", "a.x.b1")
    assert tail.lines(2 * LONGEST_LINE) == []
    if what == "endless":
        log.write_bytes(b"\n" * 10)
        assert tail.lines(1000) == [], "it is given up"
        return
    with pytest.raises(OSError, match=r".+"):
        read_beneath(tmp_path / "run", layout.CELLS_FOLDER, "a.x.b1", layout.EVENTS_FILE)


# Frames


def full_board(tmp_path: Path) -> Board:
    cells = {f"an-engine-with-a-long-name.a-variant-{k}.b{2**k}": 10.0 for k in range(12)}
    board = Board(Outline(tmp_path, "resume", cells=cells), began_s=0.0)
    board.measures(tmp_path, NO_PROMPTS, planned(*cells), 0.0)
    names = [*cells]
    for name in names[:3]:
        board.progress(progress(name, "load"), 0.0)
        cause = f"the cause of {name}, told at some length\x1b[2J"
        board.ended(CellEnded(cell=name, outcome=Outcome.OOM_KV, cause=cause), 12, 9.0)
    board.progress(progress(names[3], "measure", 3, 9), 9.0)
    return board


@pytest.mark.parametrize("width", [20, 43, 44, 50, 80, 120, 300])
def test_a_frame_folds_at_every_width_and_loses_nothing(tmp_path: Path, width: int) -> None:
    board = full_board(tmp_path)
    console = Console(width=width, height=200, color_system=None, force_terminal=True)
    drawn = ["".join(part.text for part in row).rstrip() for row in console.render_lines(frame(board, 20.0, console))]
    assert max(map(len, drawn)) <= width
    text = "".join("".join(drawn).split())
    for line in lines(board, 20.0):
        # Between columns a label stands in between; each word is there, whole.
        for word in line.words.split():
            assert word in text, (word, width)
    assert "\x1b" not in text


@pytest.mark.parametrize("height", [8, 12, 24, 60])
def test_a_low_terminal_has_the_heading_and_what_runs_first(tmp_path: Path, height: int) -> None:
    board = full_board(tmp_path)
    console = Console(width=100, height=height, color_system=None)
    drawn = ["".join(part.text for part in row) for row in console.render_lines(frame(board, 20.0, console))]
    shown = "\n".join(drawn[: height - 1])
    assert "3 of 12 cells ended, 3 failed" in " ".join(shown.split()), "it may fold behind a long path"
    assert "running   an-engine-with-a-long-name.a-variant-3.b8: measure, batch 3 of at most 9" in shown
    if height >= 12:
        assert len(drawn) < height, "nothing is left to be cut"


# Displays


def test_pipes_get_lines_and_a_view_that_fails_is_followed_by_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(make_display(False, Outline(tmp_path, "")), PlainDisplay)

    def fails(*_: object) -> None:
        raise ZeroDivisionError("no frame")

    monkeypatch.setattr(Terminal, "draw", fails)
    display = FollowedDisplay(Outline(tmp_path, ""), None)
    with display:
        display.detail(BuildBegins("building a:cpu", Build("a:cpu", "pins")))
        display.follower._thread.join(10)
        display.note("a note after that")
        display.progress(progress("a.x.b1", "measure", 1))
    told = capfd.readouterr().err
    assert "the view has failed, lines follow: ZeroDivisionError: no frame" in told
    assert "a note after that" in told


def test_plain_lines_say_at_once_that_a_process_waits_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay()
    for text in ("step 1", "step 2", Waiting("waiting for another process of yours that builds an image")):
        display.detail(text)
    assert capsys.readouterr().err.splitlines() == [
        "  step 1",
        "  waiting for another process of yours that builds an image",
    ]
