"""A disk that takes no more: nothing half-written is taken for whole, and the run goes on when there is room.

The limit on a file's size (EFBIG) stands in for a full disk (ENOSPC): both come out of the same calls, and it needs no
file system of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Drive
from null_run import null_run

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import EXIT_MACHINE, Verdict
from bench_core.drive.plan.resume import Earlier

RUN = null_run(samples=48, max_new_tokens=8)
FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.0005")
ROOM_BYTES = 12_000  # run.json fits, the log of 48 batches does not


def test_a_full_disk_ends_the_run_and_a_resumed_one_is_whole(drive: Drive, tmp_path: Path) -> None:
    assert drive(*RUN, *FAST, "--batch-sizes", "48", "--run-id", "before").code == 0  # the model, outside the limit
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")]
    sizes = ("--batch-sizes", "48,1,2", "--run-id", "mine")
    done = subprocess.run(
        [sys.executable, "-m", "bench_core.drive", *RUN, *FAST, *sizes, *folders],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=400,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, ROOM_BYTES)),
    )  # fmt: skip
    assert done.returncode == EXIT_MACHINE, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    run = tmp_path / "results" / "mine"
    rows = Earlier.load(run).view.rows
    assert [row.planned.cell for row in rows if row.result is None], "the limit was too wide to say anything"
    for row in rows:
        assert row.complete == (row.result is not None)
    named = [
        Verdict.read(path)
        for path in run.glob(f"cells/*/{layout.OUTCOME_FILE}")
        if not (path.parent / "result.json").exists()
    ]
    assert not named, "a full disk is no outcome of a cell"
    called = drive("--resume", "mine")
    assert called.code == 0, called.err
    assert all(row.result is not None for row in Earlier.load(run).view.rows)
