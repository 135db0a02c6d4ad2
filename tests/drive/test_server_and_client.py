"""A server and its client as processes: neither outlives the other, whichever ends first."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bench_core.contract.errors import MachineFailure
from bench_core.drive.launch.launcher import Ended, Folders, Launch
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.plan.catalogue import Catalogue


class _SlowServer(ProcessLauncher):
    """A client that this machine does not start, while the server is still being started."""

    ended: int | None = None

    def _run(self, launch: Launch, on_stdout: Any, command: list[str] | None = None, **more: Any) -> Ended:
        if command is not None:
            raise MachineFailure("no client can be started")
        time.sleep(0.3)
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as server:
            more["begun"](server)
            self.ended = server.wait()
        return Ended(self.ended, False, "", 0.0, 0.0)


def test_a_server_that_begins_after_its_client_has_gone_is_ended(tmp_path: Path) -> None:
    launcher = _SlowServer()
    launch = Launch(
        Catalogue().get("null"),
        "measure",
        ("--assignment", "x"),
        Folders(tmp_path, "none", data=tmp_path, run=tmp_path),
        client_processes=1,
    )
    raised: list[MachineFailure] = []

    def run() -> None:
        with pytest.raises(MachineFailure, match="no client") as caught:
            launcher.run(launch, lambda _line: None)
        raised.append(caught.value)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert raised, "it waits for a server that nobody has asked to end"
    assert launcher.ended == -15
