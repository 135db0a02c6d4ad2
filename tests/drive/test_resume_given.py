"""What is given with ``--resume`` is done, compared or refused. What a run keeps is not asked for again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Drive

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.resume import Earlier

RUN = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "4", "--max-new-tokens", "2")
FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001", "--no-harness-check", "--run-id", "mine")
OTHERS = (ROOT / "docs" / "study.yaml").read_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a dataset and of others' figures that are not there any more, with its data and models."""
    root = tmp_path_factory.mktemp("made")
    texts = root / "stories.jsonl"
    texts.write_text("".join(json.dumps({"text": f"Story {n} of a fox."}) + "\n" for n in range(6)), encoding="utf-8")
    others = root / "others.yaml"
    others.write_bytes(OTHERS)
    folders = [f"--{name}={root / name}" for name in ("results", "data", "models")]
    command = [sys.executable, "-m", "bench_core.drive", *RUN, *FAST, "--batch-sizes", "1,2", *folders]
    command += ["--dataset", str(texts), "--beside", str(others)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts.unlink()
    others.unlink()
    return root


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    """A copy of that run where ``drive`` looks, without the workload that was prepared for it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(tmp_path / "data")
    return tmp_path / "results" / "mine"


def test_a_run_needs_neither_its_dataset_nor_others_figures_again(drive: Drive, mine: Path) -> None:
    before = Workload.parse(_unpacked(mine), "workload")
    called = drive("--resume", "mine", "--batch-sizes", "4")
    assert called.code == 0, called.err
    assert "kept by the run" in called.err
    assert len(Earlier.load(mine).complete) == 3
    assert (mine / layout.BESIDE_FILE).read_bytes() == OTHERS
    assert Workload.parse(_unpacked(mine), "workload") == before
    assert "the study" in (mine / layout.REPORT_FILE).read_text(encoding="utf-8").lower()


def _unpacked(run: Path) -> bytes:
    return subprocess.run(["gzip", "-dc", str(run / layout.WORKLOAD_FILE)], capture_output=True, check=True).stdout


def test_prompts_that_are_named_anew_are_read_and_compared(drive: Drive, mine: Path) -> None:
    assert mine.is_dir()
    called = drive("--resume", "mine", "--batch-sizes", "4", "--dataset", "embedded")
    assert called.code == 2
    assert "workload digest is" in called.err


def test_repeats_are_added_to_the_whole_run_and_stay_asked_for(drive: Drive, mine: Path) -> None:
    called = drive("--resume", "mine", "--repeats", "3", "--order-seed", "7")
    assert called.code == 0, called.err
    record = RunRecord.read(mine / layout.RUN_FILE)
    assert record.repeats == 3
    assert sorted((cell.batch_size, cell.repeat) for cell in record.cells) == [
        (b, r) for b in (1, 2) for r in (1, 2, 3)
    ]
    assert len(Earlier.load(mine).complete) == 6
    assert record.visits[-1].order_seed == 7
    assert len(record.visits[-1].cells) == 4, "the first repeat is kept"
    assert Earlier.load(mine).suite().repeats == 3
    again = drive("--resume", "mine", "--dry-run")
    assert "6 of 6 cells asked for are complete" in again.out
    fewer = drive("--resume", "mine", "--repeats", "2")
    assert fewer.code == 2
    assert "--repeats 2, but mine has 3" in fewer.err
    assert drive("--resume", "mine", "--repeats", "3").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--direct-batches", "1"), "--direct-batches would change nothing"),
        (("--direct-batches", "1", "--direct-rounds", "2"), "--direct-batches, --direct-rounds would change nothing"),
        (("--score-texts", "2"), "--score-texts would change nothing"),
        (("--control", "null.scripted.b1"), "--control would change nothing"),
        (("--artifact", "gptq-int4-g128=somebody/something"), "--artifact would change nothing"),
        (("--device-rates",), "--device-rates would change nothing"),
        (("--option", "null.tpot_s=0.002"), "option null.scripted.tpot_s is 0.002, was 0.001"),
    ],
)
def test_what_would_show_in_new_cells_alone_is_refused_where_there_are_none(
    drive: Drive, mine: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = sorted(path.name for path in mine.rglob("*"))
    called = drive("--resume", "mine", *arguments)
    assert called.code == 2, called.out
    assert said in called.err
    assert sorted(path.name for path in mine.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments", [("--direct-batches", "0"), ("--score-texts", "8"), ("--option", "null.tpot_s=1e-3")]
)
def test_what_was_asked_for_before_may_be_said_again(drive: Drive, mine: Path, arguments: tuple[str, ...]) -> None:
    assert mine.is_dir()
    called = drive("--resume", "mine", *arguments)
    assert called.code == 0, called.err


def test_others_figures_are_put_beside_a_run_that_is_complete(drive: Drive, mine: Path, tmp_path: Path) -> None:
    (mine / layout.BESIDE_FILE).unlink()
    suite = mine / layout.SUITE_FILE
    suite.write_text(Suite.read(suite).model_copy(update={"beside": None}).to_json(), encoding="utf-8")
    other = tmp_path / "again.yaml"
    other.write_bytes(OTHERS)
    assert drive("--resume", "mine", "--beside", str(other)).code == 0
    assert (mine / layout.BESIDE_FILE).read_bytes() == OTHERS


# --- paths in a suite file --------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a suite's files, seen from a working folder elsewhere."""
    home = tmp_path / "home"
    for name in ("model", "tokenizer", "texts"):
        (home / name).mkdir(parents=True)
    (home / "figures.yaml").write_bytes(OTHERS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "only-here").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return home


def _suite(home: Path, text: str) -> Suite:
    (home / "suite.yaml").write_text(text, encoding="utf-8")
    return Suite.load(Path(os.path.relpath(home / "suite.yaml")))


def test_paths_in_a_suite_count_from_its_own_folder(home: Path) -> None:
    text = (
        "model: model\ntokenizer: tokenizer\ndataset: ./texts\nbeside: figures.yaml\nartifacts: {x: model, y: a/b@c}\n"
    )
    suite = _suite(home, text)
    assert suite.model == str(home / "model")
    assert suite.tokenizer == home / "tokenizer"
    assert suite.dataset == str(home / "texts")
    assert suite.beside == home / "figures.yaml"
    assert suite.artifacts == {"x": str(home / "model"), "y": "a/b@c"}


@pytest.mark.parametrize("word", ["synthetic/tiny", "meta-llama/Llama-2-7b-hf", "name"])
def test_names_that_are_no_paths_stay(home: Path, word: str) -> None:
    suite = _suite(home, f"model: {word}\ndataset: embedded\n")
    assert (suite.model, suite.dataset) == (word, "embedded")


@pytest.mark.parametrize("key", ["model", "dataset", "tokenizer", "beside"])
def test_a_path_that_is_there_from_the_working_folder_alone_is_refused_with_the_right_one(home: Path, key: str) -> None:
    with pytest.raises(BadInput) as caught:
        _suite(home, f"{key}: only-here\n")
    assert f"{key}: 'only-here' is there from the working folder" in caught.value.cause
    assert caught.value.hint == "write ../elsewhere/only-here"


def test_the_suites_of_this_repository_find_their_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for path in sorted((ROOT / "suites").glob("*.yaml")):
        suite = Suite.load(path)
        assert suite.beside is None or suite.beside.is_file()
