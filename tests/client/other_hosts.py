"""Hosts for load generators on this machine: processes as on other nodes, with clocks of their own where asked for."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench_core.client.nodes.gathering import Gathering
from bench_core.contract.serving.sidecar import CLIENT_SECRET

ROOT = Path(__file__).resolve().parents[2]


def time_namespace(ahead_s: int) -> list[str]:
    """Words that run a command with a CLOCK_MONOTONIC that is so many seconds ahead: a time namespace of the kernel."""
    return ["unshare", "--time", "--monotonic", str(ahead_s), "--"]


@dataclass
class Hosts:
    """A gathering that all have come to, and their processes by name."""

    gathering: Gathering
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)


def begun(port: int, name: str, secret: bytes, before: Sequence[str] = (), parent: int | None = None) -> list[str]:
    """The command line of a host."""
    words = ["--client", f"127.0.0.1:{port}", "--name", name, "--parent", str(parent or os.getpid())]
    return [*before, sys.executable, "-m", "bench_core.client.nodes.host", *words]


@contextlib.contextmanager
def hosts(ahead_s: dict[str, int], secret: bytes | None = None) -> Iterator[Hosts]:
    """Hosts by name, each with a clock that is ahead by so many seconds (0: this machine's own)."""
    secret = secret or secrets.token_bytes(32)
    port = free_port()
    with Gathering(("127.0.0.1", port), len(ahead_s), secret) as gathering:
        found = Hosts(gathering)
        try:
            for name, ahead in ahead_s.items():
                words = begun(port, name, secret, time_namespace(ahead) if ahead else ())
                variables = {**os.environ, "PYTHONPATH": str(ROOT), CLIENT_SECRET: secret.hex()}
                found.processes[name] = subprocess.Popen(
                    words, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True
                )
            gathering.gather(lambda: False)
            yield found
        finally:
            for process in found.processes.values():
                process.kill()
                process.communicate()


def free_port() -> int:
    """Of this machine's loopback, now."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
