"""An engine's process that is made of its supervisor: what it has of its parent, and how it ends."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from worker_material import FAST, Place

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.outcome import EXIT_MACHINE
from bench_core.contract.records.run import GpuInfo
from bench_core.worker import cli, resolve
from bench_core.worker.supervise import child, supervisor
from bench_core.worker.supervise.forked import Forked, can_fork


class Life:
    """A child that has run, and what it printed."""

    def __init__(self, run: Callable[[], int], keep: tuple[int, ...] = ()) -> None:
        read, write = os.pipe()
        self.process = Forked(run, write, keep)
        os.close(write)
        self.code = self.process.wait(timeout=30)
        with os.fdopen(read, "rb") as stream:
            self.said = stream.read().decode()


def test_it_has_its_own_descriptors_and_no_others(tmp_path: Path) -> None:
    mine = (tmp_path / "lock").open("wb")
    kept, other = os.pipe()

    def run() -> int:
        held = sorted(int(name) for name in os.listdir("/proc/self/fd"))
        names = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in held if os.path.exists(f"/proc/self/fd/{fd}")}
        sys.stdout.write(json.dumps(names))
        return 0

    life = Life(run, (kept,))
    names = {int(fd): name for fd, name in json.loads(life.said).items()}
    assert names[0] == os.devnull
    assert names[1] == names[2]
    assert set(names) <= {0, 1, 2, kept}, "the last one was the listing's own"
    assert str(tmp_path) not in life.said, "no file of the parent's stays locked by it"
    for descriptor in (kept, other):
        os.close(descriptor)
    mine.close()


def test_it_is_in_a_session_of_its_own_without_its_parents_signals() -> None:
    def run() -> int:
        alone, handled = os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        sys.stdout.write(f"{alone} {handled}")
        return 0

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        life = Life(run)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert life.said == "True False"


def _ended(how: str) -> int:
    if how == "message":
        raise SystemExit("the supervisor has gone")
    if how == "number":
        raise SystemExit(7)
    if how == "raise":
        raise RuntimeError("it broke")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return 5


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("return", 5, ""),
        ("number", 7, ""),
        ("message", 1, "the supervisor has gone"),
        ("raise", 1, "RuntimeError: it broke"),
        ("kill", -signal.SIGKILL, ""),
    ],
)
def test_it_ends_as_a_process_does(how: str, code: int, said: str) -> None:
    life = Life(lambda: _ended(how))
    assert life.code == code
    assert said in life.said


def test_what_an_engine_leaves_for_the_end_is_done_and_what_its_parent_left_is_not() -> None:
    def theirs() -> None:
        os.write(1, b"parent")

    def run() -> int:
        atexit.register(lambda: os.write(1, b"registered "))
        threading.Timer(0.05, lambda: os.write(1, b"thread ")).start()
        return 0

    atexit.register(theirs)
    try:
        life = Life(run)
    finally:
        atexit.unregister(theirs)
    assert life.said == "thread registered "


def test_it_can_be_waited_for_in_vain_and_ended() -> None:
    read, write = os.pipe()

    def sleeps() -> int:
        time.sleep(60)
        return 0

    process = Forked(sleeps, write, ())
    try:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
        process.kill()
        assert process.wait(timeout=30) == -signal.SIGKILL
        process.send_signal(signal.SIGTERM)  # it has been waited for: nobody else is hit
    finally:
        os.close(read)
        os.close(write)


def test_a_process_with_threads_is_not_forked() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert not can_fork()
    finally:
        stop.set()
        thread.join()


def test_the_first_engine_of_a_launch_is_forked_and_the_one_after_a_crash_is_not(tmp_path: Path) -> None:
    """By then its threads and NVML have been in the supervisor."""
    program = (
        "import json, sys\n"
        "from bench_core.worker import cli\n"
        "from bench_core.worker.supervise import child\n"
        "kinds = []\n"
        "def noted(start):\n"
        "    return lambda *given: (kinds.append(start.__name__), start(*given))[1]\n"
        "child._forked, child._anew = noted(child._forked), noted(child._anew)\n"
        "cli.main(sys.argv[1:])\n"
        "print(json.dumps(kinds), file=sys.stderr)\n"
    )
    place = Place.prepared(tmp_path)
    dies = ("--option", "fail_in=generate", "--option", "fail_how=kill", "--option", "fail_from_batch_size=4")
    words = place.arguments(*FAST, *dies, "--batch-size", "4,1", "--max-batches", "2", "--run-id", "r")
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert json.loads(done.stderr.splitlines()[-1]) == ["_forked", "_anew"], done.stderr
    assert place.cell("r", "null.scripted.b4").verdict.outcome.value == "killed"
    assert place.cell("r", "null.scripted.b1").verdict.outcome.value == "ok"


def test_an_engine_is_ended_where_its_gpu_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place.prepared(tmp_path)
    begun: list[child.EngineHandle] = []

    class Noted(child.EngineHandle):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            begun.append(self)

    def deaf(_uuids: object) -> None:
        raise MachineFailure("GPU-0 does not answer through NVML")

    card = GpuInfo(uuid="GPU-0", name="N", memory_bytes=1 << 30, driver_version="1")
    monkeypatch.setattr(resolve, "given_gpus", lambda: [card])
    monkeypatch.setattr(supervisor, "EngineHandle", Noted)
    monkeypatch.setattr(supervisor, "reader_of", deaf)
    assert cli.main(place.arguments("--device", "cuda", *FAST, "--run-id", "r")) == EXIT_MACHINE
    assert "GPU-0 does not answer" in capsys.readouterr().err
    (engine,) = begun
    assert engine.process.poll() is not None, "nothing of it is left"
