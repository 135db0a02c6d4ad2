"""An engine that hangs is stopped in the phase where it hangs; what it had told is kept; other cells are measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Drive
from null_run import null_run

from bench_core.contract.asked.protocol import Timeouts
from bench_core.contract.records import layout
from bench_core.contract.records.events import BatchEvent, parse_events
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.drive.launch.launcher import Ended
from bench_core.drive.launch.silence import Silence
from bench_core.drive.run.collect import judge
from bench_core.worker.supervise import limits
from bench_core.worker.supervise.limits import Watchdog

RUN = null_run()
FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001", "--run-id", "mine")
HANG = ("--option", "null.fail_how=hang")


def _verdict(tmp_path: Path, cell: str) -> Verdict:
    return Verdict.read(tmp_path / "results" / "mine" / "cells" / cell / layout.OUTCOME_FILE)


def test_a_hanging_load_is_the_verdict_on_all_cells(drive: Drive, tmp_path: Path) -> None:
    called = drive(*RUN, *FAST, *HANG, "--batch-sizes", "1,2", "--option", "null.fail_in=load", "--load-timeout-s", "2")
    assert called.code == 1
    for cell in ("null.scripted.b1", "null.scripted.b2"):
        verdict = _verdict(tmp_path, cell)
        assert (verdict.outcome, verdict.phase) == (Outcome.TIMEOUT, "load")
        assert verdict.cause == "no end of the load phase's step within 2 s (--load-timeout-s)"
        assert verdict.evidence["stopped_by"] == "SIGKILL"


def test_a_hanging_batch_keeps_its_last_events_and_spares_the_others(drive: Drive, tmp_path: Path) -> None:
    hang = ("--option", "null.fail_in=generate", "--option", "null.fail_from_batch_size=2")
    after = ("--option", "null.fail_after_batches=7", "--batch-timeout-s", "1")  # b1: 5 batches, b2: the 2nd measured
    called = drive(*RUN, *FAST, *HANG, *hang, *after, "--batch-sizes", "1,2")
    assert called.code == 1
    assert _verdict(tmp_path, "null.scripted.b1").outcome is Outcome.OK
    verdict = _verdict(tmp_path, "null.scripted.b2")
    assert (verdict.outcome, verdict.phase) == (Outcome.TIMEOUT, "measure")
    assert verdict.evidence["batches_done"] == "2"
    log = tmp_path / "results" / "mine" / "cells" / "null.scripted.b2" / layout.EVENTS_FILE
    with log.open("rb") as stream:
        batches = [event for event in parse_events(stream, "log") if isinstance(event, BatchEvent)]
    assert [(batch.phase, batch.index) for batch in batches] == [("warmup", 0), ("measure", 0)]
    assert "timeout" in (tmp_path / "results" / "mine" / layout.REPORT_FILE).read_text(encoding="utf-8")


def test_a_slow_batch_ends_by_itself_when_asked_and_the_next_cell_is_measured(drive: Drive, tmp_path: Path) -> None:
    """The first is over its limit at batch size 4 alone; what comes after it is not blamed for it."""
    slow = ("--option", "null.ttft_s=0", "--option", "null.tpot_s=0", "--option", "null.tpot_per_row_s=0.16")
    called = drive(*RUN, *slow, "--run-id", "mine", "--batch-sizes", "2,4", "--batch-timeout-s", "1.3")
    assert called.code == 1
    assert _verdict(tmp_path, "null.scripted.b2").outcome is Outcome.OK
    verdict = _verdict(tmp_path, "null.scripted.b4")
    assert (verdict.outcome, verdict.phase) == (Outcome.TIMEOUT, "warmup")
    assert verdict.evidence["stopped_by"] == "SIGTERM"


def test_a_cell_has_a_limit_of_its_own(drive: Drive, tmp_path: Path) -> None:
    called = drive(
        *RUN, "--run-id", "mine", "--batch-sizes", "1", "--option", "null.ttft_s=0.5", "--cell-timeout-s=1.2"
    )
    assert called.code == 1
    verdict = _verdict(tmp_path, "null.scripted.b1")
    assert (verdict.outcome, verdict.phase) == (Outcome.TIMEOUT, "measure")
    assert verdict.cause == "the cell did not end within 1.2 s (--cell-timeout-s)"


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_is_a_number_above_nothing(drive: Drive, limit: str) -> None:
    assert drive(*RUN, *FAST, "--batch-sizes", "1", f"--batch-timeout-s={limit}").code == 2


IGNORES = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(1, b'up\\n'); time.sleep(60)"
)
FORKS = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); os.write(1, b'up\\n'); time.sleep(60)"  # noqa: E501


def _process(code: str, lines: int = 1) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline() == "up\n"
    return process


def test_a_process_that_ignores_the_request_is_killed_with_its_children() -> None:
    process = _process(FORKS, lines=2)
    watchdog = Watchdog(process.pid, Timeouts(batch_timeout_s=0.1), grace_s=0.2)
    watchdog.arm("measure")
    assert process.wait(10) == -signal.SIGKILL
    assert process.stdout is not None
    assert process.stdout.read() == "", "the pipe closes only when the child has gone as well"
    watchdog.end()
    assert watchdog.killed
    assert watchdog.expired is not None
    assert watchdog.expired.name == "batch"


def test_time_that_the_supervisor_takes_is_not_the_engines() -> None:
    process = _process(IGNORES)
    watchdog = Watchdog(process.pid, Timeouts(load_timeout_s=0.3))
    for _ in range(4):
        watchdog.arm("load")
        time.sleep(0.15)
        watchdog.disarm()
        time.sleep(0.3)
    watchdog.end()
    assert watchdog.expired is None
    assert process.poll() is None
    process.kill()
    process.wait()


def test_an_engine_that_hangs_when_all_is_told_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_CLOSE_S", 0.1)
    process = _process(IGNORES)
    watchdog = Watchdog(process.pid, Timeouts(), grace_s=0.1)
    watchdog.arm("close")
    assert process.wait(10) == -signal.SIGKILL
    watchdog.end()


class _Box:
    def __init__(self) -> None:
        self.told: list[str] = []

    def say(self, word: str) -> Callable[[], None]:
        return lambda: self.told.append(word)


def test_a_silent_box_is_asked_and_then_ended_and_a_talking_one_left_alone() -> None:
    box = _Box()
    with Silence(0.2, box.say("TERM"), box.say("KILL"), grace_s=0.2) as silence:
        time.sleep(0.8)
    assert (box.told, silence.too_long) == (["TERM", "KILL"], True)
    box = _Box()
    with Silence(0.4, box.say("TERM"), box.say("KILL")) as silence:
        for _ in range(8):
            time.sleep(0.1)
            silence.heard()
    assert (box.told, silence.too_long) == ([], False)
    with Silence(None, box.say("TERM"), box.say("KILL")):
        time.sleep(0.1)
    assert box.told == []


def test_a_silent_box_is_a_timeout_of_its_cell(tmp_path: Path) -> None:
    (tmp_path / "cells" / "null.scripted.b1").mkdir(parents=True)
    ended = Ended(137, False, "", 0.0, 1.0, silent=True)
    verdicts = judge(tmp_path, ["null.scripted.b1", "null.scripted.b2"], ended)
    assert {cell: verdict.outcome for cell, verdict in verdicts.items()} == {"null.scripted.b1": Outcome.TIMEOUT}
    assert os.path.exists(tmp_path / "cells" / "null.scripted.b1" / layout.OUTCOME_FILE)
