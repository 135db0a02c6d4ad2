"""Servers that close connections when they like, or answer before they were asked in full."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from null_server import ENTRY, all_of

from bench_core.client.ask import Address, Asker
from bench_core.client.generators import Generators
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.protocol import PAUSE_AFTER_FAILED_S

EVENT = b'data: {"choices":[{"text":"a","token_ids":[5]}]}\n\ndata: [DONE]\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)
OPEN = Serve(load="rate", request_rate=1)
ONE = Serve(load="concurrency", concurrency=1)


@contextlib.contextmanager
def served_by(serve: Callable[[socket.socket, int], None]) -> Iterator[Address]:
    """A server that has a function for each connection, which it numbers from 0."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(connection, number), daemon=True).start()
            number += 1

    def serve_one(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            serve(connection, number)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield Address("127.0.0.1", listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_connection_closed_while_idle_costs_no_request() -> None:
    """The server closes it at the moment at which the next request arrives; that one is sent again, once."""
    seen: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        seen.append(number)
        connection.sendall(ANSWER)
        connection.recv(65536)  # and closes without a word

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 1)
        with Generators(
            address, ENTRY, asks=[ask], load=OPEN, offsets_us=[0, 1_000_000], connections=1, timeout_s=20
        ) as generators:
            events, _ = all_of(generators)
    assert [(event.end, event.resent) for event in events] == [("ok", False), ("ok", True)]
    assert seen == [0, 1]


def test_a_connection_closed_while_busy_costs_one() -> None:
    """Of each of the two that a stream has in turns."""

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        threading.Event().wait(0.02)
        connection.sendall(ANSWER)
        connection.recv(65536)

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 1)
        with Generators(address, ENTRY, asks=[ask], load=ONE, total=5, timeout_s=20) as generators:
            events, _ = all_of(generators)
    assert [event.end for event in events] == ["ok", "ok", "broken", "broken", "ok"]
    assert not any(event.resent for event in events), "the server has read them"


def test_a_server_that_promises_to_keep_a_connection_and_closes_it_costs_no_request() -> None:
    """As llama-server after each answer that it streams; its end may come before, with or after the next request."""
    seen: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        seen.append(number)
        connection.sendall(ANSWER.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=5, max=100\r\n\r\n", 1))
        threading.Event().wait(0.0005)

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 1)
        load = Serve(load="concurrency", concurrency=8)
        with Generators(address, ENTRY, asks=[ask], load=load, total=200, timeout_s=20) as generators:
            events, _ = all_of(generators)
    assert [event.end for event in events] == ["ok"] * 200
    assert len(seen) == 200


def close(connection: socket.socket) -> None:
    connection.close()


def shut_down_and_close_later(connection: socket.socket) -> None:
    """As a thread that loses its processor between both calls of cpp-httplib."""
    connection.shutdown(socket.SHUT_RDWR)
    threading.Event().wait(0.05)
    connection.close()


@pytest.mark.parametrize("end", [close, shut_down_and_close_later])
@pytest.mark.parametrize("load", [OPEN, ONE], ids=["open", "closed"])
def test_a_request_that_the_server_has_not_read_is_sent_again(
    load: Serve, end: Callable[[socket.socket], None]
) -> None:
    """It is there when the server ends the connection, which is what a client cannot know before it sends."""

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        threading.Event().wait(0.02)  # longer than a kept connection is left alone
        connection.sendall(ANSWER)
        connection.recv(1, socket.MSG_PEEK)
        end(connection)

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 1)
        offsets_us = [0, 500_000] if load.open_loop else ()
        total = 2 if load.open_loop else 3  # each of a stream's two connections is kept, and is asked again in its turn
        with Generators(
            address, ENTRY, asks=[ask], load=load, offsets_us=offsets_us, total=total, connections=1, timeout_s=20
        ) as generators:
            events, _ = all_of(generators)
    assert [event.end for event in events] == ["ok"] * total
    assert [event.resent for event in events] == [False] * (total - 1) + [True]
    lost = events[-1]
    assert lost.sent_s is not None
    assert lost.scheduled_s < lost.sent_s < lost.ended_s


def test_a_request_is_sent_again_once() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        if number == 0:
            connection.recv(65536)
            connection.sendall(ANSWER)
        connection.recv(1, socket.MSG_PEEK)

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 1)
        with Generators(
            address, ENTRY, asks=[ask], load=OPEN, offsets_us=[0, 500_000, 1_000_000], connections=1, timeout_s=20
        ) as generators:
            events, _ = all_of(generators)
    assert [(event.end, event.resent) for event in events] == [("ok", False), ("broken", True), ("broken", False)]
    assert events[2].cause == "Connection reset by peer after 0 bytes of the response"


def event(text: str = "", ids: str = "", usage: str = "null") -> bytes:
    return b'data: {"choices":[{"text":"%b","token_ids":[%b]}],"usage":%b}\n\n' % tuple(
        word.encode() for word in (text, ids, usage)
    )


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (b"", "wrong_length"),
        (b"data: [DONE]\n\n", "wrong_length"),
        (event(), "wrong_length"),
        (event(usage='{"completion_tokens":0}'), "wrong_length"),
        (event("a", "5", usage='{"completion_tokens":1}'), "wrong_length"),
        (b'data: {"error":{"message":"no"}}\n\n', "garbage"),
        (event("a", "5, 6", usage='{"completion_tokens": 2}'), "ok"),
        (event("a", "5") + event("b", "6") + b"data: [DONE]\n\n", "ok"),
        (event("a", "5") + event("b", "6") + event(usage='{"completion_tokens":2}'), "ok"),
        (event("a", "5,6", usage='{"completion_tokens":3}'), "ok"),  # its ids count
    ],
)
@pytest.mark.parametrize("pieces", [1, 400])
def test_a_stream_goes_on_at_once_after_a_good_answer_alone(content: bytes, end: str, pieces: int) -> None:
    """Whatever else says 200 is followed by a pause, as a record of another end is."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    answer = head % len(content) + content

    def serve(connection: socket.socket, number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while connection.recv(65536):
            step = -(-len(answer) // pieces)
            for place in range(0, len(answer), step):
                connection.sendall(answer[place : place + step])

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 2)
        with Generators(address, ENTRY, asks=[ask], load=ONE, total=2, timeout_s=20) as generators:
            events, _ = all_of(generators)
    assert [event.end for event in events] == [end] * 2
    waited_s = events[1].scheduled_s - events[0].ended_s
    assert waited_s == pytest.approx(0 if end == "ok" else PAUSE_AFTER_FAILED_S, abs=1e-6)


def test_an_answer_to_half_a_request() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlong")
        connection.recv(1)
        threading.Event().wait(0.5)

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, range(2_000_000), 1)
        with Generators(address, ENTRY, asks=[ask], load=ONE, total=2, timeout_s=20) as generators:
            events, _ = all_of(generators)
    assert [(event.end, event.status, event.cause, event.sent_s) for event in events] == [
        ("status", 413, "HTTP 413: long", None)
    ] * 2


def test_connections_closed_after_each_answer() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(ANSWER.replace(b"Content-Length: %d\r\n" % len(EVENT), b""))

    with served_by(serve) as address:
        ask = Asker(ENTRY, address, forced=True).ask(0, [5], 1)
        with Generators(address, ENTRY, asks=[ask], load=ONE, total=5, timeout_s=20) as generators:
            events, _ = all_of(generators)
    assert [event.end for event in events] == ["ok"] * 5
