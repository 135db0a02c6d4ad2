"""Names that people, suites and datasets give: refused in one line or taken as a mere title, never as a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Drive

from bench_core.contract.records import layout

PLANTED = "bench-planted-by-a-name"
NAMES = {
    "climbs": f"../../../../../../../../tmp/{PLANTED}",
    "absolute": f"/tmp/{PLANTED}/x",  # noqa: S108
    "nul": "a\0b",
    "long": "a" * 300,
    "newline": "a\nb",
    "hidden": ".ssh",
    "flag": "--privileged",
}
PLACES = ("images", "variants", "model", "dataset", "tokenizer", "control", "artifacts", "options", "beside")
QUICK = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "2", "--batch-sizes", "1")
FAST = ("--max-new-tokens", "2", "--no-harness-check", "--option", "null.ttft_s=0.001", "--run-id", "mine")


def around(place: Path) -> set[str]:
    planted = Path("/tmp").glob(f"{PLANTED}*")  # noqa: S108
    return {str(path) for path in (*place.rglob("*"), *planted)}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("where", PLACES)
def test_a_name_in_a_suite_file_cannot_leave_its_folder(name: str, where: str, drive: Drive, tmp_path: Path) -> None:
    lists: dict[str, Any] = {
        "images": [name], "variants": [name], "artifacts": {name: name}, "options": {name: {name: name}},
    }  # fmt: skip
    suite = tmp_path / "suite.yaml"
    content = {"images": ["null"], "launcher": "process", "device": "cpu", where: lists.get(where, name)}
    suite.write_text(json.dumps(content), encoding="utf-8")
    before = around(tmp_path)
    called = drive("--suite", str(suite), "--run-id", "mine")
    assert called.code == 2, called.out
    assert called.err.startswith("error: ")
    assert "Traceback" not in called.err
    assert around(tmp_path) == before


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("option", ["--suite", "--resume", "--run-id", "--beside"])
def test_a_name_on_the_command_line_cannot_leave_its_folder(
    name: str, option: str, drive: Drive, tmp_path: Path
) -> None:
    before = around(tmp_path)
    called = drive(*QUICK, f"{option}={name}")
    assert called.code == 2, called.out
    assert "Traceback" not in called.err
    assert around(tmp_path) == before


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_the_title_of_a_suite_becomes_a_folder_beside_the_others(name: str, drive: Drive, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(json.dumps({"name": name}), encoding="utf-8")
    called = drive("--suite", str(suite), *QUICK, *FAST[:-2])
    assert called.code == 0, called.err
    places = (tmp_path / "results").iterdir()
    (run,) = (path for path in places if not path.name.startswith(".") and not path.is_symlink())
    assert layout.is_name(run.name)
    assert around(Path("/nowhere")) == set()


def test_names_of_datasets_and_columns_become_no_paths(drive: Drive, tmp_path: Path) -> None:
    """A dataset's file may be called anything; what is made of it lies in the folder of workloads."""
    dataset = tmp_path / "..evil;$(touch x) \x1b[2J.jsonl"
    dataset.write_text('{"../../id": "../../x", "text": "a story"}\n' * 2, encoding="utf-8")
    before = around(tmp_path)
    called = drive(*QUICK, *FAST, "--dataset", str(dataset))
    assert called.code == 0, called.err
    made = around(tmp_path) - before
    assert all(path.startswith(tuple(f"{tmp_path}/{home}" for home in ("results", "data", "models"))) for path in made)
    assert "\x1b[2J" not in called.out + called.err
