"""Hosts for load generators on this machine: processes as on other nodes, with clocks of their own where asked for."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench_core.client.nodes.gathering import Gathering
from bench_core.contract.serving.sidecar import CLIENT_SECRET

ROOT = Path(__file__).resolve().parents[2]


def time_namespace(ahead_s: int) -> list[str]:
    """Words that run a command with a CLOCK_MONOTONIC that is so many seconds ahead: a time namespace of the kernel."""
    if not ahead_s:
        return []
    own_rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own_rights, "--time", "--monotonic", str(ahead_s), "--"]


@dataclass
class Hosts:
    """A gathering that all have come to, and their processes by name."""

    gathering: Gathering
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)


@contextlib.contextmanager
def hosts(ahead_s: dict[str, int], first: Callable[[int], None] = lambda _port: None) -> Iterator[Hosts]:
    """Hosts by name, each with a clock that is ahead by so many seconds (0: this machine's own). ``first`` is given the
    port before any of them begins."""
    secret, port = secrets.token_bytes(32), free_port()
    variables = {**os.environ, "PYTHONPATH": str(ROOT), CLIENT_SECRET: secret.hex()}
    with Gathering(("127.0.0.1", port), len(ahead_s), secret) as gathering:
        found = Hosts(gathering)
        first(port)
        try:
            for name, ahead in ahead_s.items():
                words = ["--client", f"127.0.0.1:{port}", "--name", name, "--parent", str(os.getpid())]
                command = [*time_namespace(ahead), sys.executable, "-m", "bench_core.client.nodes.host", *words]
                found.processes[name] = subprocess.Popen(
                    command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True
                )
            gathering.gather(lambda: False)
            yield found
        finally:
            for process in found.processes.values():
                process.kill()
                process.communicate()


def free_port() -> int:
    """Of this machine's loopback, now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
