"""Ctrl-C once: the batch in hand is finished, the report written, the rest left for ``--resume``. Twice: at once."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT
from null_run import null_run
from waiting import wait_until

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.runs.load import load_run

RUN = null_run(samples=8)


def _started(root: Path, *arguments: str) -> subprocess.Popen[str]:
    folders = [f"--{name}={root / name}" for name in ("results", "data", "models")]
    command = [sys.executable, "-m", "bench_core.drive", *RUN, "--run-id", "mine", *arguments, *folders]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_batch_in_hand(tmp_path: Path, number: signal.Signals) -> None:
    cell = tmp_path / "results" / "mine" / "cells" / "null.scripted.b1"
    driver = _started(tmp_path, "--batch-sizes", "1,2", "--option", "null.ttft_s=0.4")
    wait_until(cell / layout.EVENTS_FILE, b'"measure"')
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    log = (cell / layout.EVENTS_FILE).read_bytes()
    assert log.endswith(b"\n")
    assert b'"type":"end"' in log.splitlines()[-1], "the engine itself has ended it, between two batches"
    rows = load_run(tmp_path / "results" / "mine").rows
    assert [row.status for row in rows] == ["stopped", "not run"]
    assert not any(row.complete for row in rows)
    assert "2 cells not measured yet. Go on with: python -m bench_core.drive --resume" in out
    assert "killed" not in out, "nothing failed"
    assert (tmp_path / "results" / "mine" / layout.REPORT_FILE).is_file()


def test_two_signals_end_a_batch_that_would_not_end(tmp_path: Path) -> None:
    cell = tmp_path / "results" / "mine" / "cells" / "null.scripted.b1"
    driver = _started(
        tmp_path, "--batch-sizes", "1", "--option", "null.fail_in=generate", "--option", "null.fail_how=hang"
    )
    wait_until(cell / layout.EVENTS_FILE, b'"prepare"')
    time.sleep(1.0)  # the batch begins, of which nothing is told before it ends
    driver.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert driver.poll() is None, "a hanging batch cannot be finished"
    started = time.monotonic()
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    assert time.monotonic() - started < 20
    verdict = Verdict.read(cell / layout.OUTCOME_FILE)
    assert verdict.outcome is Outcome.KILLED
    assert verdict.cause.startswith("interrupted: "), "it was this driver that ended the box"
    (row,) = load_run(tmp_path / "results" / "mine").rows
    assert (row.complete, row.status) == (False, "stopped")


def test_a_signal_before_anything_is_measured_ends_the_driver_at_once(tmp_path: Path) -> None:
    """It waits for another process that makes the same model, and is not waited for in turn."""
    _started(tmp_path, "--batch-sizes", "1").communicate(timeout=60)
    results, models = tmp_path / "results", tmp_path / "models"
    results.rename(tmp_path / "first")
    for folder in models.iterdir():
        if folder.name != ".locks":
            shutil.rmtree(folder)
    with ExitStack() as held:
        for path in (models / ".locks").iterdir():
            stream = held.enter_context(path.open("rb"))
            fcntl.flock(stream, fcntl.LOCK_EX)
        driver = _started(tmp_path, "--batch-sizes", "1")
        assert driver.stdout is not None
        while "waiting for another process" not in driver.stdout.readline():
            assert driver.poll() is None
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=20)
    assert driver.returncode == 130
    assert not (results / "mine").exists()
    assert list((results / ".locks").iterdir()) == []
