"""The scripted server: what it is to be believed when others are measured with it."""

from __future__ import annotations

import http.client
import json
import signal
import statistics
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from null_server import ENTRY, NullServer, all_of, asks_of, null_server

from bench_core.client.generators import Generators
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.requests import RequestEvent


def measured(server: NullServer, concurrency: int, total: int, tokens: int, entry: ServerEntry = ENTRY) -> list[Any]:
    load = Serve(load="concurrency", concurrency=concurrency)
    with Generators(server.address, entry, asks=asks_of(server, 1, tokens), load=load, total=total) as generators:
        events, _ = all_of(generators)
    assert [event.end for event in events] == ["ok"] * total, [event.cause for event in events]
    return events


def asked(server: NullServer, path: str, body: object = None) -> tuple[int, str]:
    url = f"http://{server.address.header}{path}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_answers_as_servers_of_its_kind_do() -> None:
    with null_server("--ttft-s", "0", "--tpot-s", "0", "--vocabulary", "8") as server:
        assert asked(server, "/health") == (200, '{"ready": true}')
        status, text = asked(server, "/v1/completions", {"prompt": [1, 2], "max_tokens": 7, "stream": True})
        assert status == 200
        *events, done, _ = text.split("\n\n")
        assert done == "data: [DONE]"
        values = [json.loads(event.removeprefix("data: ")) for event in events]
        assert [value["choices"][0]["token_ids"] for value in values[:-1]] == [[5], [6], [7], [3], [4], [5], [6]]
        assert values[0]["choices"][0]["text"] == " t5"
        assert values[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 7}
        assert asked(server, "/v1/completions", {"prompt": [1]})[0] == 400
        assert asked(server, "/nowhere")[0] == 404


def test_its_readiness_is_scripted() -> None:
    with null_server("--never-ready") as server:
        assert asked(server, "/health")[0] == 503
        assert asked(server, "/v1/completions", {"prompt": [1], "max_tokens": 1})[0] == 503
    begin = time.monotonic()
    with null_server("--load-s", "0.3", "--ready-after-s", "0.5") as server:
        assert time.monotonic() - begin > 0.3
        states: list[int] = []
        while not states or (states[-1] != 200 and time.monotonic() - begin < 20):
            states.append(asked(server, "/health")[0])
            time.sleep(0.02)
        assert states[-1] == 200


@pytest.mark.parametrize(
    ("words", "fields", "counted_by", "tokens_of_reads"),
    [
        (("--tokens-per-event", "3"), (), "ids", {3, 1}),
        (("--empty-first-event",), (), "ids", {1}),
        (("--no-ids",), (), "usage", {1}),
        (("--no-ids", "--tokens-per-event", "5"), (), "usage", {5}),
        (("--no-ids", "--usage", "last", "--empty-first-event"), (), "usage", {1}),
        (("--no-ids", "--usage", "none"), (), "events", {1}),
        (("--usage", "none"), ("token_ids",), "events", {1}),
    ],
)
def test_its_ways_of_telling_tokens(
    words: tuple[str, ...], fields: tuple[str, ...], counted_by: str, tokens_of_reads: set[int]
) -> None:
    with null_server("--ttft-s", "0.02", "--tpot-s", "0.01", *words) as server:
        events = measured(server, 1, 2, 10, ENTRY.model_copy(update=dict.fromkeys(fields)))
    for event in events:
        assert (event.output_tokens, event.counted_by) == (10, counted_by)
        # Several events may come in one read where the machine is busy.
        assert min(event.arrival_tokens) >= min(tokens_of_reads)
        assert event.arrivals_us[0] > 15_000


def test_slots_are_a_queue() -> None:
    """Service of 50 ms, two at once, six at the same moment: the last waits for two others."""
    with null_server("--ttft-s", "0.05", "--tpot-s", "0.001", "--slots", "2") as server:
        events = measured(server, 6, 6, 1)
    times = sorted(event.first_token_s - event.sent_s for event in events)
    for place, waves in enumerate((1, 1, 2, 2, 3, 3)):
        assert times[place] > 0.045 * waves
    assert [event.index for event in sorted(events, key=lambda event: event.first_token_s)][:2] == [0, 1]


def test_drawn_times_have_the_scripted_mean() -> None:
    words = ("--ttft-s", "0.02", "--tpot-s", "0.001", "--service", "exponential", "--seed", "7")
    with null_server(*words) as server:
        events: list[RequestEvent] = measured(server, 40, 200, 2)
    times = [event.ended_s - (event.sent_s or 0.0) for event in events]
    # 200 draws of mean 21 ms: the mean's standard error is 1.5 ms; a busy machine adds to it.
    assert 0.015 < statistics.fmean(times) < 0.2
    assert min(times) < 0.01
    assert max(times) > 0.06


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [("exit", 3, "scripted exit\n"), ("kill", -signal.SIGKILL, ""), ("oom", 1, "scripted: out of memory\n")],
)
def test_it_dies_as_scripted(how: str, code: int, words: str) -> None:
    with null_server("--ttft-s", "0", "--die-after-requests", "1", "--die-how", how) as server:
        assert asked(server, "/v1/completions", {"prompt": [1], "max_tokens": 1})[0] == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            asked(server, "/v1/completions", {"prompt": [1], "max_tokens": 1})
        assert server.process.wait(20) == code
        assert server.process.stderr is not None
        assert server.process.stderr.read() == words
