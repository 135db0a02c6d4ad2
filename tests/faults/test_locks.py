"""Two drivers never write into one run, convert one model or use one GPU at the same time; a lock ends with its
process."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, Drive
from null_run import null_run

from bench_core.contract.errors import BadInput
from bench_core.system import locks
from bench_core.system.locks import Holder, Locks, system_lock_folder
from bench_core.system.processes import alive

RUN = null_run()
HOLD = """
import sys, time
from pathlib import Path
from bench_core.system.locks import Locks
locks = Locks()
getattr(locks, sys.argv[1])(*(Path(w) if "/" in w else w for w in sys.argv[2:]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_LOCK_FOLDER", str(tmp_path / "locks"))


@contextmanager
def other_driver(*call: str, script: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock."""
    process = subprocess.Popen([sys.executable, "-c", script, *call], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_in_use_is_refused_and_names_who_uses_it(drive: Drive, tmp_path: Path) -> None:
    assert drive(*RUN, "--batch-sizes", "1,2", "--run-id", "mine").code == 0
    (tmp_path / "results" / "mine" / "cells" / "null.scripted.b2" / "outcome.json").unlink()
    with other_driver("hold_run", str(tmp_path / "results" / "mine")) as process:
        for arguments in (("--resume", "mine"), (*RUN, "--batch-sizes", "1", "--run-id", "mine")):
            called = drive(*arguments)
            assert called.code == 2
        called = drive("--resume", "mine")
        assert f"run mine is in use by process {process.pid} on {platform.node()}" in called.err
        assert drive("--resume", "mine", "--dry-run").code == 0
    assert drive("--resume", "mine").code == 0


def test_the_lock_of_a_new_run_is_taken_before_anything_is_prepared(drive: Drive, tmp_path: Path) -> None:
    with other_driver("hold_run", str(tmp_path / "results" / "mine")):
        called = drive(*RUN, "--batch-sizes", "1", "--run-id", "mine")
    assert called.code == 2
    assert "in use by process" in called.err
    assert not (tmp_path / "models").exists()
    assert drive(*RUN, "--batch-sizes", "1", "--run-id", "mine").code == 0
    assert list((tmp_path / "results" / ".locks").iterdir()) == []


def test_a_gpu_in_use_is_refused_by_its_uuid() -> None:
    with other_driver("hold_gpu", "GPU-1", "theirs") as process:
        mine = Locks()
        mine.hold_gpu("GPU-2", "mine")
        with pytest.raises(BadInput, match=f"GPU GPU-1 is in use by process {process.pid} .*run theirs"):
            mine.hold_gpu("GPU-1", "mine")
        mine.close()
    mine.hold_gpu("GPU-1", "mine")
    mine.hold_gpu("GPU-1", "mine")  # its own is no obstacle
    mine.close()


def test_a_killed_holder_leaves_a_file_that_is_no_obstacle(tmp_path: Path) -> None:
    with other_driver("hold_gpu", "GPU-1", "theirs") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (system_lock_folder() / "GPU-1.lock").is_file()
        mine = Locks()
        started = time.monotonic()
        mine.hold_gpu("GPU-1", "mine")
        assert time.monotonic() - started < 5
        holder = Holder.read(system_lock_folder() / "GPU-1.lock")
        assert (holder.pid, holder.run) == (os.getpid(), "mine")
        mine.close()
    assert not (system_lock_folder() / "GPU-1.lock").exists()


INHERITED = """
import subprocess, sys
from pathlib import Path
from bench_core.system.locks import Locks
locks = Locks()
run = Path(sys.argv[1])
locks.hold_run(run)
fd = locks.run_descriptor(run)
subprocess.Popen(["sleep", sys.argv[2]], pass_fds=(fd,), stdout=subprocess.DEVNULL)
print("held", flush=True)
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_outlives_its_driver_keeps_the_run_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "results" / "mine"
    with other_driver(str(run), "2", script=INHERITED) as process:
        process.wait()
        assert not alive(process.pid)
        monkeypatch.setattr(locks, "SURVIVOR_WAIT_S", 0.2)
        with pytest.raises(BadInput, match=f"what process {process.pid} on .* has left running"):
            Locks().hold_run(run)
        monkeypatch.setattr(locks, "SURVIVOR_WAIT_S", 15.0)
        mine = Locks()
        mine.hold_run(run)
        mine.close()


def test_conversions_of_one_model_exclude_each_other(tmp_path: Path) -> None:
    model = tmp_path / "models" / "toy"
    twice = pytest.raises(BadInput, match="model toy is in use by process")
    with Locks().converting(model), twice, Locks().converting(model):
        pass
    with Locks().converting(model), Locks().converting(tmp_path / "models" / "other"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", json.dumps({"pid": 1}).encode()])
def test_a_lock_file_of_any_content_is_no_obstacle(tmp_path: Path, content: bytes) -> None:
    system_lock_folder().mkdir(parents=True)
    (system_lock_folder() / "GPU-1.lock").write_bytes(content)
    mine = Locks()
    mine.hold_gpu("GPU-1", "mine")
    mine.close()


def test_a_link_in_the_lock_folder_is_not_followed(tmp_path: Path) -> None:
    system_lock_folder().mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (system_lock_folder() / "GPU-1.lock").symlink_to(victim)
    with pytest.raises(BadInput, match="cannot be made"):
        Locks().hold_gpu("GPU-1", "mine")
    assert victim.read_text() == "precious"


def test_the_worker_ends_with_its_driver(tmp_path: Path) -> None:
    """SIGKILL to the driver alone: no worker, no engine lives on, though nobody could tell them."""
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")]
    slow = ("--option", "null.load_s=60", "--batch-sizes", "1", "--run-id", "mine")
    command = [sys.executable, "-m", "bench_core.drive", *RUN, *slow, *folders]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        workers = _wait_for(lambda: _children(driver.pid))
        engines = _wait_for(lambda: [child for worker in workers for child in _children(worker)])
    finally:
        driver.kill()
        driver.wait()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in (*workers, *engines)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in (*workers, *engines) if alive(pid)] == []


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in task.read_text().split()]
    return [child for child in found if b"bench_core" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _wait_for(look: Callable[[], list[int]]) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing was started")
