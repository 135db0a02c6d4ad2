"""Clusters whose nodes send requests, for the tests of a load that comes from other hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from ray_nodes import Nodes
from test_cluster import wait_for

from bench_core.contract.records import layout

AHEAD_S = 5000
NULL = (
    *("--images", "null", "--device", "cpu", "--launcher", "process", "--yes", "--samples", "16"),
    *("--max-new-tokens", "8", "--no-harness-check", "--control", "none", "--beside-sample", "0", "--run-id", "mine"),
    *("--option", "null.load_s=0", "--option", "null.ttft_s=0.05", "--option", "null.tpot_s=0.005"),
)
NAMED = ("--serve-address", "127.0.0.1")
SHORT = ("--max-ramp-seconds", "2", "--max-serve-seconds", "5")


class ClientNodes(Nodes):
    """With one that is in a time namespace of its own, where CLOCK_MONOTONIC is ahead."""

    _ahead: subprocess.Popen[bytes] | None = None

    def add_ahead(self, name: str, log: Path) -> None:
        """As on a machine of its own: ``ray start``."""
        own = {"BENCH_NODE_FOLDER": str(self.folder(name)), "BENCH_LOCK_FOLDER": str(self._root / f"{name}.locks")}
        own_rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        command = [
            *("unshare", *own_rights, "--time", "--monotonic", str(AHEAD_S), "--"),
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--address", self.gcs, "--node-name", name),
            *("--num-cpus", "2", "--object-store-memory", str(80 << 20), "--disable-usage-stats", "--block"),
        ]
        with log.open("wb") as stream:
            self._ahead = subprocess.Popen(
                command, env={**os.environ, **own}, stdout=stream, stderr=stream, start_new_session=True
            )

    def close(self) -> None:
        """All of them."""
        if self._ahead is not None:
            self._ahead.terminate()
            self._ahead.wait(90)
        super().close()


@contextmanager
def client_nodes(root: Path) -> Iterator[ClientNodes]:
    """One node that has the server and two that send, the second with another clock."""
    with pytest.MonkeyPatch.context() as patch:
        found = ClientNodes(root, patch)
        try:
            for name in ("a-server", "b-client"):
                found.add(name)
            found.add_ahead("c-ahead", root / "ahead.log")
            wait_for(lambda: b"Ray runtime started" in (root / "ahead.log").read_bytes())
            yield found
        finally:
            found.close()


def hosts_of_load() -> set[int]:
    """Processes of this clone, not of a container, that have load generators for a client elsewhere."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            ours = path.with_name("cwd").readlink() == ROOT
        except OSError:
            continue
        if ours and (b"bench_core.client.nodes.host" in words or b"bench_core.client.load.generator" in words):
            found.add(int(path.parent.name))
    return found


def requests_so_far(run: Path, cell: str) -> int:
    path = layout.cell_folder(run, cell) / layout.EVENTS_FILE
    return path.read_bytes().count(b'"type":"request"') if path.is_file() else 0
