"""The scripted server as a process of its own, and how it is asked and read."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench_core.client.ask import Address, Ask, Asker
from bench_core.client.generators import Generators
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.serving.requests import GeneratorEvent, RequestEvent

SERVE = Path(__file__).resolve().parents[2] / "images" / "null" / "serve.py"

ENTRY = ServerEntry(
    command=("{python}", "{image}/serve.py", "--host", "{host}", "--port", "{port}"),
    ready="/health",
    path="/v1/completions",
    prompt="ids",
    length_fields=("max_tokens",),
    body={"stream": True},
    token_ids="choices.0.token_ids",  # noqa: S106  # a path, no password
    text="choices.0.text",
    usage="usage.completion_tokens",
    usage_prompt="usage.prompt_tokens",
    error="error.message",
)


@dataclass
class NullServer:
    """A running one."""

    address: Address
    process: subprocess.Popen[str]


@contextlib.contextmanager
def null_server(*words: str) -> Iterator[NullServer]:
    """Starts one on a free port of loopback, and ends it."""
    process = subprocess.Popen(
        [sys.executable, str(SERVE), "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        yield NullServer(Address("127.0.0.1", port), process)
    finally:
        process.kill()
        process.communicate()


def asks_of(server: NullServer, count: int, tokens: int, prompt_tokens: int = 20, forced: bool = True) -> list[Ask]:
    """Distinct requests."""
    asker = Asker(ENTRY, server.address, forced=forced)
    return [asker.ask(number, range(5 + number, 5 + number + prompt_tokens), tokens) for number in range(count)]


def all_of(generators: Generators) -> tuple[list[RequestEvent], list[GeneratorEvent]]:
    """Starts, waits until all has ended, and sorts by index."""
    generators.start()
    events: list[RequestEvent] = []
    while not generators.done:
        events += generators.poll(0.5)
    finished = generators.finish()
    return sorted([*events, *finished.requests], key=lambda event: event.index), finished.generators
