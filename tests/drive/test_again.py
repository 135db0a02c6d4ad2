"""Complete cells that somebody asks to measure again: chosen by a word, kept, and told with what they had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Drive, Made

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.drive.run.collect import write_record
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

BASE = ("--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "4", "--no-harness-check")
FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001", "--on-busy", "ignore")
B1, B4 = "null.scripted.b1", "null.scripted.b4"


@pytest.fixture(scope="module")
def made(make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results, data and models of a whole run, ``mine``, of batch sizes 1 and 4."""
    root = tmp_path_factory.mktemp("made")
    make_run(root, "--images", "null", *BASE, *FAST, "--batch-sizes", "1,4", "--run-id", "mine")
    return root


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    """A copy of that run, with its data and models, where ``drive`` looks."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path / "results" / "mine"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("word", [B4, "null.*.b4", "*4"])
def test_a_cell_that_is_named_is_measured_again_and_what_it_had_is_kept_and_told(
    drive: Drive, mine: Path, word: str
) -> None:
    one, four = _tree(mine / "cells" / B1), _tree(mine / "cells" / B4)
    rate = next(row.rate for row in load_run(mine).rows if row.planned.cell == B4)
    assert rate is not None
    called = drive("--resume", "mine", "--again", word)
    assert called.code == 0, called.err
    assert "1 of 2 cells asked for are complete and kept\nmeasured again: null.scripted.b4 (" in called.out
    assert _tree(mine / "cells" / B1) == one
    assert _tree(mine / "set-aside" / f"{B4}.1") == four
    assert _tree(mine / "cells" / B4) != four
    visits = RunRecord.read(mine / layout.RUN_FILE).visits
    assert [visit.cells for visit in visits] == [(B1, B4), (B4,)]
    assert [again.cell for visit in visits for again in visit.again] == [B4]
    assert visits[1].again[0].output_throughput_tok_s == rate.throughput_tok_s
    report = (mine / layout.REPORT_FILE).read_text(encoding="utf-8")
    (told,) = [line for line in report.splitlines() if line.startswith("- **Measured again**")]
    assert told.startswith("- **Measured again**: null scripted at batch size 4 (")
    assert told.endswith(" token/s before)")
    assert verify_run(mine).differences == ()


@pytest.mark.parametrize("word", ["timeout", "failed", "oom_kv,timeout"])
def test_a_cell_that_failed_is_measured_again_by_its_outcome(drive: Drive, mine: Path, word: str) -> None:
    folder = mine / "cells" / B4
    (folder / layout.RESULT_FILE).unlink()
    write_record(folder / layout.OUTCOME_FILE, Verdict(outcome=Outcome.TIMEOUT, cause="made so", judged_by="worker"))
    assert "2 of 2 cells asked for are complete" in drive("--resume", "mine", "--dry-run").out
    assert drive("--resume", "mine", "--again", word).code == 0
    assert [row.status for row in load_run(mine).rows] == ["ok", "ok"]
    assert "null scripted at batch size 4 (timeout)" in (mine / layout.REPORT_FILE).read_text(encoding="utf-8")


def test_what_no_cell_bears_measures_none_again(drive: Drive, mine: Path) -> None:
    before = _tree(mine / "cells")
    called = drive("--resume", "mine", "--again", "oom_load,throttled")
    assert called.code == 0, called.err
    assert "2 of 2 cells asked for are complete and kept" in called.out
    assert _tree(mine / "cells") == before
    assert not (mine / "set-aside").exists()


def test_a_dry_run_says_which_and_touches_nothing(drive: Drive, mine: Path) -> None:
    before = _tree(mine)
    called = drive("--resume", "mine", "--again", B1, "--dry-run", "--json")
    words = json.loads(called.out.splitlines()[0])["words"]
    assert words[1].startswith("measured again: null.scripted.b1 (")
    assert _tree(mine) == before


def test_cells_taken_up_and_not_reached_are_measured_by_the_next_resume(drive: Drive, mine: Path) -> None:
    """As a driver leaves them that is killed behind the beginning of its visit."""
    assert drive("--resume", "mine", "--again", "*").code == 0
    shutil.rmtree(mine / "cells" / B4)
    assert "1 of 2 cells asked for are complete and kept" in drive("--resume", "mine", "--dry-run").out
    assert drive("--resume", "mine").code == 0
    assert [row.status for row in load_run(mine).rows] == ["ok", "ok"]
    report = (mine / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "null scripted at batch size 1 (" in report, "who measured twice cannot hide it by another visit"


@pytest.mark.parametrize(
    ("arguments", "cause", "hint"),
    [
        (
            ("--resume", "mine", "--again", "bussy"),
            "'bussy' is no mark, no outcome and no cell of mine",
            "busy",
        ),
        (("--resume", "mine", "--again", "null.scripted.b2"), "no cell of mine", B4),
        (("--images", "null", "--again", "busy"), "--again measures cells of a run again", "--resume"),
    ],
)
def test_a_word_that_means_nothing_is_refused(
    drive: Drive, mine: Path, arguments: tuple[str, ...], cause: str, hint: str
) -> None:
    before = _tree(mine)
    called = drive(*arguments)
    assert called.code == 2
    assert cause in called.err
    assert hint in called.err.split("hint: ")[1]
    assert _tree(mine) == before
