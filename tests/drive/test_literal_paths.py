"""A folder whose name reads like a pattern is that folder, for the driver and for engines that use ``glob``."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.contract.records import layout
from bench_core.drive.launch.launcher import Folders, Launch
from bench_core.drive.launch.processes.launcher import places
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.prepare.models.weights import SINGLE_FILE
from bench_core.verify.run import verify_run

NAMES = ["models [v1]", "what?", "all*"]
RUN = (
    "--images", "null", "--device", "cpu", "--launcher", "process", "--batch-sizes", "1", "--max-new-tokens", "4",
    "--samples", "8", "--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001", "--no-harness-check",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_that_globs_its_model_finds_that_models_weights(name: str, tmp_path: Path) -> None:
    for folder in (name, "models v", "models 1", "whatx", "allx"):
        weights = tmp_path / folder / "toy" / layout.HF_ARTIFACT / SINGLE_FILE
        weights.parent.mkdir(parents=True)
        weights.write_text(folder)
    (tmp_path / "home").mkdir()
    launch = Launch(Catalogue().get("null"), "measure", (), Folders(tmp_path / name / "toy", layout.HF_ARTIFACT))
    given = places(launch, tmp_path / "home")
    models = Path(given[given.index("--models") + 1])
    found = glob.glob(f"{models / 'toy' / layout.HF_ARTIFACT}/*.safetensors")
    assert [Path(path).read_text() for path in found] == [name]


def test_a_folder_without_such_letters_is_given_as_it_is(tmp_path: Path) -> None:
    launch = Launch(Catalogue().get("null"), "measure", (), Folders(tmp_path / "toy", layout.HF_ARTIFACT))
    assert str(tmp_path.resolve()) in places(launch, tmp_path / "home")


@pytest.mark.parametrize("name", ["set [v1]", "a*b"])
def test_a_whole_run_in_such_folders(name: str, drive: Drive, tmp_path: Path) -> None:
    home = tmp_path / name
    home.mkdir()
    (home / "rows.jsonl").write_text("".join(f'{{"text": "Story {n} of a fox."}}\n' for n in range(8)))
    folders = [f"--{part}={home / part}" for part in ("results", "data", "models")]
    data = ("--dataset", str(home / "rows.jsonl"), *folders)
    called = drive(*RUN, *data, "--run-id", "mine", own_folders=False)
    assert called.code == 0, called.err
    assert not verify_run(home / "results" / "mine").differences
    again = drive("--resume", "mine", "--images", "null", "--batch-sizes", "2", *data, own_folders=False)
    assert again.code == 0, again.err
