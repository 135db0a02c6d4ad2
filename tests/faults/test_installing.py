"""Whatever ends the driver while pip works: no pip stays behind in an environment's folder, or keeps others out."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.plan.catalogue import Catalogue

# The driver with environments of its own.
DRIVER = """\
import sys
from pathlib import Path
from bench_core.drive.launch.processes.environments import Environments
Environments.__init__.__defaults__ = (Path(sys.argv.pop(1)),)
from bench_core.drive.ask.cli import main
main()
"""


@pytest.fixture
def silent_index() -> Iterator[str]:
    """A package index that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def _pips(folder: Path) -> list[int]:
    """Processes that were started from an environment below this folder, or to make one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(bytes(folder)) for word in words) and b"pip" in words:
                found.append(int(entry.name))
    return found


def _installing(folder: Path, index: str) -> subprocess.Popen[str]:
    """A driver that builds alone, whose pip waits for the index."""
    command = [
        sys.executable,
        "-c",
        DRIVER,
        str(folder),
        "--images",
        "null",
        "--device",
        "cpu",
        "--launcher",
        "process",
    ]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    variables |= {"PIP_INDEX_URL": index, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    driver = subprocess.Popen(
        [*command, "--build-only"], cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until = time.monotonic() + 120
    while not _pips(folder):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    return driver


def _lock_is_free(folder: Path) -> bool:
    (path,) = (folder / ".locks").iterdir()
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_asked_to_end_while_it_builds_takes_pip_along(
    tmp_path: Path, silent_index: str, number: signal.Signals
) -> None:
    driver = _installing(tmp_path / "envs", silent_index)
    driver.send_signal(number)
    driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert _pips(tmp_path / "envs") == []
    environments, image = Environments(tmp_path / "envs"), Catalogue().get("null")
    assert environments.path(image, "measure", "cpu").is_dir(), "half of it is there"
    assert not environments.is_ready(image, "measure", "cpu")
    assert _lock_is_free(tmp_path / "envs")


def test_the_pip_of_a_killed_driver_keeps_the_environment_until_it_ends(tmp_path: Path, silent_index: str) -> None:
    driver = _installing(tmp_path / "envs", silent_index)
    driver.kill()
    driver.communicate(timeout=30)
    (pip,) = _pips(tmp_path / "envs")
    try:
        assert not _lock_is_free(tmp_path / "envs"), "another driver would write into the same folder"
    finally:
        os.killpg(pip, signal.SIGKILL)
    wait_until_free = time.monotonic() + 20
    while not _lock_is_free(tmp_path / "envs"):
        assert time.monotonic() < wait_until_free
        time.sleep(0.1)
