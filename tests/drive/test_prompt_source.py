"""Which part of a dataset the prompts are stands in the plan, the run, each cell and the report."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Drive
from page_lines import page_lines

from bench_core.contract.records import layout
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask.request import Suite
from bench_core.prepare.prompts.columns import HINT
from bench_core.verify.run import verify_run

RUN = (
    "--images", "null", "--device", "cpu", "--launcher", "process", "--batch-sizes", "1", "--max-new-tokens", "4",
    "--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001", "--no-harness-check",
)  # fmt: skip
WORDS = "prompts are column 'conversations' (a known name), of each conversation the first turn of the user"


def _chats(folder: Path) -> Path:
    path = folder / "chats [v1].json"
    rows = [{"id": f"a{n}", "conversations": [{"from": "human", "value": f"Tell me of fox {n}."}]} for n in range(8)]
    path.write_text(json.dumps(rows))
    return path


def test_plan_run_cells_and_report_name_the_column(drive: Drive, tmp_path: Path) -> None:
    chats = _chats(tmp_path)
    planned = drive(*RUN, "--dataset", str(chats), "--dry-run")
    assert planned.code == 0, planned.err
    assert WORDS in " ".join(planned.out.split())
    called = drive(*RUN, "--dataset", str(chats), "--run-id", "mine")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    record = RunRecord.read(run / layout.RUN_FILE)
    assert record.workload.name == chats.name
    assert record.workload.prompt_source is not None
    assert (record.workload.prompt_source.column, record.workload.prompt_source.chosen) == (
        "conversations",
        "known_name",
    )
    spec = CellSpec.read(layout.cell_folder(run, "null.scripted.b1") / layout.SPEC_FILE)
    assert spec.workload == record.workload
    assert WORDS in " ".join((run / layout.REPORT_FILE).read_text(encoding="utf-8").split())
    assert WORDS in (run / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")


def test_a_run_of_before_the_column_was_recorded_is_read_and_resumed(drive: Drive, tmp_path: Path) -> None:
    chats = _chats(tmp_path)
    assert drive(*RUN, "--dataset", str(chats), "--run-id", "mine").code == 0
    run = tmp_path / "results" / "mine"
    cell = layout.cell_folder(run, "null.scripted.b1")
    for path in (run / layout.RUN_FILE, cell / layout.SPEC_FILE):
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["workload"]["prompt_source"]
        path.write_text(json.dumps(content), encoding="utf-8")
    workload = json.loads(gzip.decompress((run / layout.WORKLOAD_FILE).read_bytes()))
    del workload["prompt_source"]
    (run / layout.WORKLOAD_FILE).write_bytes(Workload.parse(json.dumps(workload), "old").packed())
    called = drive("--resume", "mine", "--images", "null", "--batch-sizes", "2", "--dataset", str(chats))
    assert called.code == 0, called.err
    record = RunRecord.read(run / layout.RUN_FILE)
    assert {planned.cell for planned in record.cells} == {"null.scripted.b1", "null.scripted.b2"}
    assert not verify_run(run).differences


def test_the_plan_says_that_the_hub_is_not_asked_yet(drive: Drive) -> None:
    planned = drive(*RUN, "--dataset", "owner/chats", "--dry-run")
    assert planned.code == 0, planned.err
    assert "a column that is found and named when the dataset is fetched from the hub" in " ".join(planned.out.split())
    named = drive(*RUN, "--dataset", "owner/chats", "--text-column", "ask", "--dry-run")
    assert "prompts are column 'ask' when the dataset is fetched" in " ".join(named.out.split())


def test_a_dataset_that_is_not_plain_is_refused_before_anything_is_made(drive: Drive, tmp_path: Path) -> None:
    line = page_lines("Refused rows")[0]
    (tmp_path / "rows.jsonl").write_text("".join(f"{row}\n" for row in line.code("rows")))
    called = drive(*RUN, "--dataset", str(tmp_path / "rows.jsonl"))
    assert called.code == 2
    assert line.cells["what is said"] in called.err
    assert line.cells["hint"] in called.err
    assert not (tmp_path / "results").exists()


def test_the_hint_names_options_that_exist() -> None:
    assert re.findall(r"--\w[\w-]+|BENCH_\w+|text_column", HINT) == [
        "--text-column",
        "text_column",
        "BENCH_TEXT_COLUMN",
    ]
    for room in ("drive", "prepare"):
        command = [sys.executable, "-m", f"bench_core.{room}", "--help"]
        assert "--text-column" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "text_column" in Suite.model_fields
    assert "--text-column=${BENCH_TEXT_COLUMN}" in (ROOT / "compose.yaml").read_text(encoding="utf-8")
