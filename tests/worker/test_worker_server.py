"""A server's process: what its image tells of it once it answers, and nothing where it tells nothing."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench_core.contract.records.outcome import Outcome
from bench_core.contract.serving.sidecar import ServerState
from bench_core.worker.serve.checked import checked
from bench_core.worker.serve.process import ServerProcess, facts_told

SERVER = """
import http.server
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", PORT), Ready).serve_forever()
"""
TELLS = "import json, os, sys; print(json.dumps({'pid': sys.argv[1], 'word': os.environ['WORD'], 'number': 3}))"


@contextmanager
def served(
    facts: Callable[[int], list[str]] = lambda _: [], check: Sequence[str] = ()
) -> Iterator[tuple[ServerProcess, ServerState]]:
    """A server, and its state when it answers, or has ended."""
    port = _free_port()
    server = ServerProcess(
        checked(check, [sys.executable, "-c", SERVER.replace("PORT", str(port))]), {"WORD": "of the server"},
        f"http://127.0.0.1:{port}/health", 60.0, None, (), facts,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while server.state.state == "loading" and time.monotonic() < deadline:
            time.sleep(0.02)
        yield server, server.state
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_facts_are_told_of_the_process_in_its_environment_before_it_is_ready() -> None:
    with served(lambda pid: [sys.executable, "-c", TELLS, str(pid)]) as (server, state):
        assert state.state == "ready"
        assert state.facts == {"pid": str(server.process.pid), "word": "of the server", "number": "3"}


def test_a_server_loads_as_long_as_it_takes_to_answer_and_not_to_tell() -> None:
    slow = "import time; time.sleep(1.5); print('{}')"
    before = time.monotonic()
    with served(lambda _: [sys.executable, "-c", slow]) as (_, state):
        assert state.state == "ready"
        assert state.facts == {}
        assert time.monotonic() - state.ready_s >= 1.5
        assert before < state.began_s < state.ready_s


def test_a_server_that_tells_nothing_is_asked_nothing() -> None:
    with served(lambda _: []) as (_, state):
        assert state.state == "ready"
        assert state.facts == {}


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("raise SystemExit('no such library')", "not told: no such library"),
        ("raise SystemExit(3)", "not told: code 3"),
        ("print('nonsense')", "not told: Expecting value"),
        ("print('[1]')", "not told: what it printed is no object"),
        ("import os; os.write(1, bytes([255]))", "not told: "),
    ],
)
def test_why_nothing_is_told_stands_in_its_place(script: str, why: str) -> None:
    told = facts_told([sys.executable, "-c", script], os.environ)
    assert list(told) == ["facts"]
    assert told["facts"].startswith(why)


def test_a_command_that_is_not_there_is_told() -> None:
    assert "No such file" in facts_told(["/nowhere/tells"], {})["facts"]


def test_what_is_told_is_bounded() -> None:
    many = "import json; print(json.dumps({str(k): 'x' * 5000 for k in range(500)}))"
    told = facts_told([sys.executable, "-c", many], os.environ)
    assert len(told) == 50
    assert max(map(len, told.values())) <= 1000


def test_a_server_whose_check_passes_is_the_process_that_was_started() -> None:
    check = [sys.executable, "-c", "import os; assert os.environ['WORD'] == 'of the server'; print('whole')"]
    with served(lambda pid: [sys.executable, "-c", TELLS, str(pid)], check) as (server, state):
        assert state.state == "ready"
        assert state.facts["pid"] == str(server.process.pid)
        command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert b"http.server" in command
        assert b"checked" not in command, "nothing stands between the supervisor and its server"
        assert "whole" in server.log.cell_text()


@pytest.mark.parametrize("ends", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_a_server_whose_check_fails_is_not_started_and_says_why(ends: str) -> None:
    script = f"print('the checkpoint lacks a.weight', flush=True); {ends}"
    with served(check=[sys.executable, "-c", script]) as (_, state):
        assert state.state == "dead"
        assert state.verdict is not None
        assert (state.verdict.outcome, state.verdict.phase) == (Outcome.LOAD_FAILED, "load")
        assert "the checkpoint lacks a.weight" in state.verdict.cause


def test_a_check_that_does_not_end_is_ended_with_the_server() -> None:
    server = ServerProcess(
        checked([sys.executable, "-c", "import time; time.sleep(600)"], ["never"]),
        {},
        "http://127.0.0.1:9/",
        1.0,
        None,
        (),
    )
    deadline = time.monotonic() + 30
    while server.state.state == "loading" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.state.verdict is not None
    assert server.state.verdict.outcome is Outcome.TIMEOUT
    server.stop()
