"""Load generators against the scripted server, in processes of their own. Bounds hold on a busy machine."""

from __future__ import annotations

import itertools
import math
import os
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from null_server import ENTRY, NullServer, all_of, asks_of, null_server

from bench_core.client.ask import Address, Asker
from bench_core.client.generators import Generators
from bench_core.contract.errors import BadInput, MachineFailure
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.measures import client_limited
from bench_core.contract.serving.protocol import PAUSE_AFTER_FAILED_S
from bench_core.contract.serving.requests import RequestEvent
from bench_core.system.processes import alive

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--ttft-s", "0.01", "--tpot-s", "0.002")


def closed(concurrency: int) -> Serve:
    return Serve(load="concurrency", concurrency=concurrency)


OPEN = Serve(load="rate", request_rate=100)


def in_flight_at_once(events: list[RequestEvent]) -> int:
    changes = sorted(
        itertools.chain(*[[(event.sent_s or 0.0, 1), (event.ended_s, -1)] for event in events]),
    )
    return max(itertools.accumulate(change for _, change in changes))


def test_times_of_a_closed_loop_are_those_of_the_script() -> None:
    with null_server("--ttft-s", "0.05", "--tpot-s", "0.01") as server:
        asks = asks_of(server, 3, 10)
        with Generators(server.address, ENTRY, asks=asks, load=closed(2), total=8) as generators:
            events, facts = all_of(generators)
            assert sorted(generators.started) == list(range(8))
    assert [event.end for event in events] == ["ok"] * 8
    assert [event.index for event in events] == list(range(8))
    assert [event.prompt for event in events] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert all(event.prompt_digest == asks[event.prompt].prompt_digest for event in events)
    assert {(event.output_tokens, event.counted_by, event.usage_prompt_tokens) for event in events} == {(10, "ids", 20)}
    for event in events:
        assert event.sent_s is not None
        assert event.headers_s is not None
        assert event.first_token_s is not None
        assert event.last_token_s is not None
        assert event.scheduled_s <= event.sent_s <= event.headers_s <= event.first_token_s + 1e-5
        # Never before the script sends it, but for the moment between the server's read and the client's stamp.
        assert event.first_token_s - event.sent_s > 0.045
        assert event.last_token_s - event.first_token_s > 0.05
    fast = min(event.first_token_s - event.sent_s for event in events if event.first_token_s and event.sent_s)
    assert fast < 0.15
    assert statistics.median([(e.last_token_s or 0) - (e.first_token_s or 0) for e in events]) < 0.5
    assert in_flight_at_once(events) == 2
    (fact,) = facts
    assert fact.tokens == 80
    assert 0 < fact.cpu_s < fact.ended_s - fact.started_s
    assert 0 < fact.longest_turn_s <= fact.busy_s


def test_a_stream_goes_on_when_its_request_has_ended() -> None:
    with (
        null_server(*FAST) as server,
        Generators(server.address, ENTRY, asks=asks_of(server, 1, 3), load=closed(1), total=5) as one,
    ):
        events, _ = all_of(one)
    for before, after in itertools.pairwise(events):
        assert after.scheduled_s == pytest.approx(before.ended_s, abs=0.02)
        assert after.scheduled_s >= before.ended_s


def connections_to(server: NullServer, **more: object) -> int:
    """Connections that a server saw, by a listener in between that counts."""
    seen = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, target: socket.socket) -> None:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            nonlocal seen
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                seen += 1
                far = socket.create_connection((server.address.host, server.address.port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        address = Address("127.0.0.1", listener.getsockname()[1])
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 3)
        with Generators(address, ENTRY, asks=[ask], load=closed(3), total=30) as generators:
            events, _ = all_of(generators)
        assert all(event.ok for event in events)
        listener.shutdown(socket.SHUT_RDWR)
    return seen


def test_connections_are_used_again() -> None:
    """Two for each stream, in turns."""
    with null_server(*FAST) as server:
        assert 3 <= connections_to(server) <= 6


def test_an_open_loop_sends_at_its_times_whatever_is_in_flight() -> None:
    offsets = [20_000 * number for number in range(25)]
    with (
        null_server("--ttft-s", "0.3", "--tpot-s", "0.01") as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 4, 2), load=OPEN, offsets_us=offsets, connections=2
        ) as generators,
    ):
        t0 = generators.start(math.nextafter(round(time.monotonic() + 0.2, 9), math.inf))
        events: list[RequestEvent] = []
        while not generators.done:
            events += generators.poll(0.5)
        events += generators.finish().requests
    events.sort(key=lambda event: event.index)
    assert [event.end for event in events] == ["ok"] * 25
    assert events[0].scheduled_s == t0, "a window that begins with the load has its first request"
    for event, offset in zip(events, offsets, strict=True):
        assert event.scheduled_s == pytest.approx(t0 + offset / 1e6, abs=1e-5)
        assert event.sent_s is not None
        assert event.sent_s >= event.scheduled_s
    assert statistics.median(event.sent_s - event.scheduled_s for event in events if event.sent_s) < 0.02
    assert in_flight_at_once(events) > 5


def test_processes_share_one_schedule() -> None:
    offsets = [7_000 * number for number in range(40)]
    with (
        null_server(*FAST) as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 40, 3), load=OPEN, offsets_us=offsets, processes=3
        ) as generators,
    ):
        events, facts = all_of(generators)
    assert [event.index for event in events] == list(range(40))
    assert all(event.ok and event.process == event.index % 3 and event.prompt == event.index for event in events)
    assert [fact.process for fact in facts] == [0, 1, 2]
    assert sum(fact.tokens for fact in facts) == 120


def test_processes_share_the_streams_of_a_closed_loop() -> None:
    with (
        null_server(*FAST) as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 2, 3), order=[1, 0, 1], load=closed(5), total=31, processes=2
        ) as generators,
    ):
        events, _ = all_of(generators)
    assert [event.index for event in events] == list(range(31))
    assert [event.prompt for event in events[:6]] == [1, 0, 1, 1, 0, 1]
    assert all(event.ok for event in events)
    assert in_flight_at_once(events) == 5


def test_a_generator_stays_on_its_cpu() -> None:
    cpu = min(os.sched_getaffinity(0))
    with (
        null_server(*FAST) as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 1, 2), load=closed(1), total=1, cpus=[cpu]
        ) as generators,
    ):
        events, (fact,) = all_of(generators)
    assert events[0].ok
    assert fact.cpus == (cpu,)


@pytest.mark.parametrize(
    ("how", "end", "cause"),
    [
        ("status500", "status", "HTTP 500: scripted failure"),
        ("close", "broken", "the connection was closed after"),
        ("garbage", "garbage", "a chunk of size"),
        ("short", "wrong_length", "3 tokens of 6"),
        ("hang", "timeout", "no complete response after 0.5 s"),
        ("error", "garbage", "the server says: scripted failure"),
        ("refuse", "refused", "no connection: Connection refused"),  # what was reset is sent again, and meets nobody
    ],
)
def test_failures_are_named_and_the_load_goes_on(how: str, end: str, cause: str) -> None:
    with (
        null_server(*FAST, "--fail-every", "4", "--fail-how", how) as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 1, 6), load=closed(2), total=12, timeout_s=0.5
        ) as generators,
    ):
        events, _ = all_of(generators)
    assert len(events) == 12
    ends = Counter[str](event.end for event in events)
    assert ends[end] >= 2
    assert ends["ok"] >= 4
    # A request on a new connection is not sent again where that is reset; a slow machine may time out.
    assert set(ends) <= {end, "ok", "timeout"} | ({"broken"} if how == "refuse" else set())
    assert any(event.cause.startswith(cause) for event in events if event.end == end)
    for event in events:
        assert event.ok or event.cause
        assert "\n" not in event.cause
    if how == "status500":
        assert {event.status for event in events} == {200, 500}


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = Address("127.0.0.1", gone.getsockname()[1])
    ask = Asker(ENTRY, address, forced=True).ask(0, [5], 3)
    begin = time.monotonic()
    with Generators(address, ENTRY, asks=[ask], load=closed(1), total=3) as generators:
        events, _ = all_of(generators)
    assert [event.end for event in events] == ["refused"] * 3
    assert {event.cause for event in events} == {"no connection: Connection refused"}
    assert {event.sent_s for event in events} == {None}
    assert time.monotonic() - begin > 0.5  # a pause between them


@pytest.mark.parametrize(
    ("how", "end"), [("status500", "status"), ("garbage", "garbage"), ("short", "wrong_length"), ("error", "garbage")]
)
def test_a_stream_pauses_after_an_answer_that_is_none(how: str, end: str) -> None:
    """A server that fails at once is not asked again faster than its answers are written down."""
    with (
        null_server(*FAST, "--fail-every", "1", "--fail-how", how) as server,
        Generators(server.address, ENTRY, asks=asks_of(server, 1, 6), load=closed(1), total=3) as generators,
    ):
        events, _ = all_of(generators)
    assert [event.end for event in events] == [end] * 3
    pauses_s = [later.scheduled_s - one.ended_s for one, later in pairwise(events)]
    assert pauses_s == pytest.approx([PAUSE_AFTER_FAILED_S] * 2)


@pytest.mark.alone  # its longest turn is judged
def test_a_load_that_is_far_too_much_is_still_told_to_end() -> None:
    """All requests are due at once: sockets and words are looked at while they are sent."""
    many = 200_000
    with (
        null_server(*FAST) as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 1, 6), load=Serve(load="rate", request_rate=1e6),
            offsets_us=range(many),
        ) as generators,
    ):  # fmt: skip
        generators.start()
        events = generators.poll(2)  # 10,000 a second are the most that were seen
        generators.abort()
        begun_s = time.monotonic()
        finished = generators.finish()
    assert time.monotonic() - begun_s < 30
    assert 0 < len(events) + len(finished.requests) < many / 2
    assert finished.generators[0].longest_turn_s < 1


def test_connections_that_the_client_cannot_open_are_no_failure_of_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its limit of descriptors is low, so that most requests find none left; the others are answered."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
    begin = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom bench_core.client.load.generator import main\nmain()\n"
    )
    (tmp_path / "few_connections.py").write_text(limit + begin, encoding="utf-8")
    monkeypatch.setattr("bench_core.client.process._MODULE", "few_connections")
    monkeypatch.setattr("bench_core.client.process._ROOT", tmp_path)
    with (
        null_server(*FAST) as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 1, 6), load=Serve(load="rate", request_rate=1e6),
            offsets_us=[0] * 100, connections=1,
        ) as generators,
    ):  # fmt: skip
        events, told = all_of(generators)
    assert {event.end for event in events} == {"ok", "refused"}
    refused = [event for event in events if event.end == "refused"]
    assert {event.cause for event in refused} == {"the client has no connection left: Too many open files"}
    assert f"{len(refused)} of 100 requests found no connection left at the client" in client_limited(
        told, None, None, requests=events
    )


def test_a_server_that_dies() -> None:
    with (
        null_server(*FAST, "--die-after-requests", "5", "--die-how", "kill") as server,
        Generators(server.address, ENTRY, asks=asks_of(server, 1, 6), load=closed(2), total=9) as generators,
    ):
        events, _ = all_of(generators)
        assert server.process.wait(10) == -signal.SIGKILL
    ends = Counter(event.end for event in events)
    assert ends["ok"] >= 4
    assert ends["broken"] >= 1
    assert ends["refused"] >= 1
    assert sum(ends.values()) == 9


def test_told_to_stop_it_sends_nothing_more_and_waits_for_what_is_in_flight() -> None:
    with (
        null_server("--ttft-s", "0.2", "--tpot-s", "0.01") as server,
        Generators(server.address, ENTRY, asks=asks_of(server, 1, 3), load=closed(2), total=10**6) as generators,
    ):
        generators.start()
        events = [*generators.poll(20), *generators.poll(0.05)]
        generators.stop_issuing()
        told = time.monotonic()
        while not generators.done:
            events += generators.poll(0.5)
        events += generators.finish().requests
    assert len(events) >= 2
    assert {event.end for event in events} == {"ok"}
    assert sorted(event.index for event in events) == sorted(generators.started)
    # One pipe's delay at most.
    assert all(event.scheduled_s < told + 0.5 for event in events)


def test_told_to_abort_it_ends_at_once() -> None:
    with (
        null_server("--ttft-s", "0.01", "--tpot-s", "60") as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 1, 9), load=closed(4), total=100, processes=2
        ) as generators,
    ):
        generators.start()
        assert generators.poll(0.3) == []
        assert len(generators.started) == 4
        generators.abort()
        finished = generators.finish()
    assert [event.end for event in finished.requests] == ["unfinished"] * 4
    assert [event.output_tokens for event in finished.requests] == [1] * 4
    assert [fact.tokens for fact in finished.generators] == [2, 2]


def test_a_load_may_be_aborted_before_it_starts() -> None:
    with (
        null_server(*FAST) as server,
        Generators(server.address, ENTRY, asks=asks_of(server, 1, 9), load=closed(1)) as generators,
    ):
        generators.abort()
        finished = generators.finish()
    assert finished.requests == []
    assert len(finished.generators) == 1


def test_generators_end_with_what_holds_them() -> None:
    with null_server("--ttft-s", "60") as server:
        generators = Generators(server.address, ENTRY, asks=asks_of(server, 1, 9), load=closed(1), processes=2)
        pids = [one.process.pid for one in generators._processes]
        assert all(alive(pid) for pid in pids)
        generators.start()
        generators.close()
        generators.close()
        assert not any(alive(pid) for pid in pids)


def test_a_generator_that_dies_is_told() -> None:
    with (
        null_server("--ttft-s", "60") as server,
        Generators(server.address, ENTRY, asks=asks_of(server, 1, 9), load=closed(1)) as generators,
    ):
        generators.start()
        os.kill(generators._processes[0].process.pid, signal.SIGKILL)
        with pytest.raises(MachineFailure, match="load generator 0 has died: signal 9"):
            generators.poll(20)


def test_what_others_had_told_is_handed_on_before_a_death_is() -> None:
    with (
        null_server(*FAST) as server,
        Generators(
            server.address, ENTRY, asks=asks_of(server, 1, 3), load=closed(2), total=1 << 40, processes=2
        ) as generators,
    ):
        generators.start()
        time.sleep(0.5)
        dead = generators._processes[0].process
        dead.kill()
        dead.wait()
        assert {event.process for event in generators.poll(20)} == {0, 1}
        time.sleep(0.5)  # the next look finds one pipe at its end, and more in the other
        assert {event.process for event in generators.poll(20)} == {1}
        for _ in range(2):
            with pytest.raises(MachineFailure, match="load generator 0 has died: signal 9"):
                generators.poll(20)


def test_what_contradicts_itself_is_refused() -> None:
    with null_server(*FAST) as server:
        asks = asks_of(server, 1, 2)
        for wrong in ({"load": OPEN}, {"load": closed(1), "offsets_us": [1]}, {"load": closed(1), "order": []}):
            with pytest.raises(ValueError, match="a load has requests"):
                Generators(server.address, ENTRY, asks=asks, **wrong)
        with pytest.raises(ValueError, match="has no time"):
            Generators(server.address, ENTRY, asks=asks, load=OPEN, offsets_us=[1], total=2)
        with pytest.raises(BadInput):
            Generators(Address("no.such.host.invalid", 80), ENTRY, asks=asks, load=closed(1))


def test_large_requests_arrive_whole() -> None:
    """Larger than what a socket takes at once."""
    with null_server(*FAST) as server:
        ask = Asker(ENTRY, server.address, forced=True).ask(0, range(400_000), 2)
        assert len(ask.data) > 2_000_000
        with Generators(server.address, ENTRY, asks=[ask], load=closed(2), total=4) as generators:
            events, _ = all_of(generators)
    assert [(event.end, event.usage_prompt_tokens) for event in events] == [("ok", 400_000)] * 4
