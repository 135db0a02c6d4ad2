"""A scripted server: answers as an OpenAI-style server does, at times that are known, without a model.

``python serve.py --host 127.0.0.1 --port 8000 --ttft-s 0.02 --tpot-s 0.005``. One process, one thread, standard library
alone. Each event has an absolute deadline: a late one makes none of those after it late. The request's service begins
when it has been read, or, where all slots are taken, at the deadline of the last token of the request that frees one.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import gc
import heapq
import json
import os
import random
import re
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

SECOND = 1_000_000_000
# A virtual machine wakes so much too late, at times; what is left until the deadline is spent looking.
SPIN_NS = 120_000
REFUSES_FOR_NS = SECOND // 2
MOST_KNOWN = 4096
FIRST_ID = 3
FAILURES = ("status500", "close", "garbage", "short", "hang", "refuse", "error")
ALWAYS_IN, OUT = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,12})\r\n", re.IGNORECASE)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def arguments() -> argparse.Namespace:
    """The script."""
    parser = argparse.ArgumentParser(description="A scripted server without a model.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0: any; it is printed")
    parser.add_argument("--ttft-s", type=float, default=0.02, help="from a request's service to its first token")
    parser.add_argument("--tpot-s", type=float, default=0.005, help="from one token to the next")
    parser.add_argument("--slots", type=int, default=0, help="requests served at once, others wait; 0: any number")
    parser.add_argument("--service", choices=("fixed", "exponential"), default="fixed",
                        help="exponential: a request's whole time is drawn, with the scripted one as mean")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of drawn times")
    parser.add_argument("--tokens-per-event", type=int, default=1)
    parser.add_argument("--empty-first-event", action="store_true", help="an event without a token, at once")
    parser.add_argument("--usage", choices=("own", "last", "none"), default="own",
                        help="the usage record: in its own event, in the last token's, or nowhere")  # fmt: skip
    parser.add_argument("--no-ids", action="store_true", help="events tell text alone")
    parser.add_argument("--tell-times", action="store_true",
                        help="usage.first_token_us: when the first token was sent, CLOCK_MONOTONIC")  # fmt: skip
    parser.add_argument("--vocabulary", type=int, default=256, help=f"ids come from {FIRST_ID} up to this")
    parser.add_argument("--fail-every", type=int, default=0, metavar="N", help="each N-th request fails; 0: none")
    parser.add_argument("--fail-how", default="status500",
                        choices=(*FAILURES, "each"), help="each: one after the other")  # fmt: skip
    parser.add_argument("--client-goes", choices=("ends", "goes_on"), default="ends",
                        help="a request whose client has gone ends, or is served like others")  # fmt: skip
    parser.add_argument("--die-after-requests", type=int, default=0, metavar="N", help="dies at the next; 0: never")
    parser.add_argument("--die-how", choices=("exit", "kill", "oom"), default="exit")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--ready-after-s", type=float, default=0.0, help="listens, and answers 503 until then")
    parser.add_argument("--load-s", type=float, default=0.0, help="does not listen until then")
    return parser.parse_args()


def chunk(content: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def event(value: dict[str, Any]) -> bytes:
    """One event of a stream, in a chunk of its own."""
    return chunk(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")


class Words:
    """The bytes of events, each made once: the ids of a stream count up from its first, and around."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._ids = not options.no_ids
        self._among = max(options.vocabulary - FIRST_ID, 1)
        self._made: dict[tuple[int, int], bytes] = {}

    def tokens(self, first: int, count: int, usage: dict[str, int] | None = None) -> bytes:
        """An event with ``count`` tokens, the first of which is the ``first``-th of the vocabulary, taken around."""
        key = (first % self._among, count)
        made = self._made.get(key) if usage is None else None
        if made is None:
            ids = [FIRST_ID + (key[0] + more) % self._among for more in range(count)]
            made = event(self._value("".join(f" t{one}" for one in ids), ids, usage))
            if usage is None:
                self._made[key] = made
        return made

    def empty(self) -> bytes:
        """An event without a token."""
        return event(self._value("", [], None))

    def end(self, usage: dict[str, int], own: bool) -> bytes:
        """What comes after the last token; with the usage record, where that has an event of its own."""
        key = (-usage["prompt_tokens"], usage["completion_tokens"])
        made = self._made.get(key)
        if made is None:
            value = {"id": "cmpl-0", "object": "text_completion", "choices": [], "usage": usage}
            made = (event(value) if own else b"") + chunk(b"data: [DONE]\n\n") + LAST_CHUNK
            if len(usage) == len(key):  # times are of one request alone
                self._made[key] = made
        return made

    def _value(self, text: str, ids: list[int], usage: dict[str, int] | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
        if self._ids and ids:
            choice["token_ids"] = ids
        value: dict[str, Any] = {"id": "cmpl-0", "object": "text_completion", "choices": [choice]}
        return {**value, "usage": usage} if usage is not None else value


@dataclass(slots=True, eq=False)
class Connection:
    """One connection: what came of the next request, what is still to be sent, and the request that is answered."""

    sock: socket.socket
    came: bytearray = field(default_factory=bytearray)
    to_send: bytearray = field(default_factory=bytearray)
    stream: Stream | None = None
    closes: bool = False
    gone: bool = False


@dataclass(slots=True, eq=False)
class Stream:
    """One request in service, or in the queue for it."""

    connection: Connection
    first: int
    tokens: int
    prompt_tokens: int
    fails: str
    start_ns: int = 0
    ttft_ns: int = 0
    tpot_ns: int = 0
    sent: int = 0
    served: bool = False
    first_ns: int = 0


class Server:
    """The loop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.words = Words(options)
        self.random = random.Random(options.seed)  # noqa: S311  # drawn times, no secrets
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.due: list[tuple[int, int, Stream]] = []
        self.order = 0
        self.serving = 0
        self.waiting: collections.deque[Stream] = collections.deque()
        self.arrived = 0
        self.known: dict[bytes, tuple[int, int, int]] = {}
        self.looked_ns = 0
        self.ready_ns = time.monotonic_ns() + int(options.ready_after_s * SECOND)
        self.listens_again_ns = 0
        self.timer = ctypes.CDLL(None).timerfd_create(1, os.O_NONBLOCK | os.O_CLOEXEC)
        self.epoll.register(self.timer, select.EPOLLIN | select.EPOLLET)
        self.listener = self.listen(options.port)
        self.port: int = self.listener.getsockname()[1]

    def listen(self, port: int) -> socket.socket:
        """Begins to take connections."""
        family = socket.AF_INET6 if ":" in self.options.host else socket.AF_INET
        listener = socket.create_server((self.options.host, port), family=family, backlog=4096)
        listener.setblocking(False)
        self.epoll.register(listener.fileno(), select.EPOLLIN)
        return listener

    def run(self) -> None:
        """Serves until the process is ended."""
        wait = ctypes.CDLL(None).timerfd_settime
        times = (ctypes.c_long * 4)(0, 0, 0, 0)
        while True:
            blocks = -1.0
            next_ns = min(self.due[0][0] if self.due else 1 << 62, self.listens_again_ns or 1 << 62)
            if next_ns < 1 << 62:
                if next_ns - time.monotonic_ns() <= SPIN_NS:
                    blocks = 0.0
                else:
                    times[2], times[3] = divmod(next_ns - SPIN_NS, SECOND)
                    wait(self.timer, 1, times, None)
            ready = self.epoll.poll(blocks, 256)
            self.looked_ns = time.monotonic_ns()  # a request that was there by now is served from now on
            for fd, events in ready:
                if fd == self.timer:
                    continue
                if fd == self.listener.fileno():
                    self.accept()
                elif (connection := self.connections.get(fd)) is not None:
                    self.on_socket(connection, events)
            if next_ns <= time.monotonic_ns():
                self.on_time()

    def on_time(self) -> None:
        """Sends what is due."""
        if self.listens_again_ns and self.listens_again_ns <= time.monotonic_ns():
            self.listens_again_ns = 0
            self.listener = self.listen(self.port)
        due = self.due
        for _ in range(8):  # then requests are looked at again: those that have come meanwhile would be served too late
            if not due or due[0][0] > time.monotonic_ns():
                return
            at_ns, _, stream = heapq.heappop(due)
            if stream.connection.stream is stream:
                self.go_on(stream, at_ns)

    def accept(self) -> None:
        """Takes all connections that wait."""
        while True:
            try:
                sock, _ = self.listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[sock.fileno()] = Connection(sock)
            self.epoll.register(sock.fileno(), ALWAYS_IN)

    def on_socket(self, connection: Connection, events: int) -> None:
        """Sends what could not be sent before, and reads requests."""
        if events & select.EPOLLOUT:
            self.send(connection, b"")
        if not events & ~select.EPOLLOUT or connection.gone:
            return
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(connection)
            return
        connection.came += data
        if connection.stream is None:
            self.take_request(connection)

    def take_request(self, connection: Connection) -> None:
        """Begins with a request where a whole one has come."""
        came = connection.came
        head = came.find(b"\r\n\r\n")
        if head < 0:
            return
        length = LENGTH.search(came, 0, head + 2)
        end = head + 4 + (int(length[1]) if length else 0)
        if len(came) < end:
            return
        line, body = bytes(came[: came.find(b"\r\n")]), bytes(came[head + 4 : end])
        del came[:end]
        verb, _, rest = line.partition(b" ")
        path = rest.partition(b" ")[0]
        ready = not self.options.never_ready and time.monotonic_ns() >= self.ready_ns
        if verb == b"GET" and path == b"/health":
            self.answer(connection, "200 OK" if ready else "503 Service Unavailable", {"ready": ready})
        elif (verb, path) != (b"POST", b"/v1/completions"):
            self.answer(connection, "404 Not Found", {"error": {"message": "no such path"}})
        elif not ready:
            self.answer(connection, "503 Service Unavailable", {"error": {"message": "not ready"}})
        else:
            self.complete(connection, body)

    def complete(self, connection: Connection, body: bytes) -> None:
        """Puts a request into service, or into the queue."""
        try:
            first, tokens, prompt_tokens = self.asked(body)
        except (ValueError, KeyError, TypeError) as error:
            self.answer(connection, "400 Bad Request", {"error": {"message": f"no such request: {error}"}})
            return
        options = self.options
        self.arrived += 1
        if options.die_after_requests and self.arrived > options.die_after_requests:
            self.die()
        fails = self.failure()
        if fails == "status500":
            self.answer(connection, "500 Internal Server Error", {"error": {"message": "scripted failure"}})
        elif fails == "refuse":
            self.refuse(connection)
        else:
            connection.stream = stream = Stream(connection, first, tokens, prompt_tokens, fails)
            if options.slots and self.serving >= options.slots:
                self.waiting.append(stream)
            else:
                self.serve(stream, self.looked_ns)

    def asked(self, body: bytes) -> tuple[int, int, int]:
        """The stream's first id, its tokens, and the prompt's; a body that has come before is not read again."""
        if (known := self.known.get(body)) is not None:
            return known
        value = json.loads(body)
        prompt, tokens = value["prompt"], int(value["max_tokens"])
        if tokens < 1 or not prompt:
            raise ValueError("nothing to do")
        found = (int(prompt[-1]) if isinstance(prompt, list) else len(prompt), tokens, len(prompt))
        if len(self.known) < MOST_KNOWN:
            self.known[body] = found
        return found

    def failure(self) -> str:
        """How the request that has just arrived is to fail; empty where it is not."""
        every = self.options.fail_every
        if not every or self.arrived % every:
            return ""
        how = str(self.options.fail_how)
        return FAILURES[self.arrived // every % len(FAILURES)] if how == "each" else how

    def serve(self, stream: Stream, now_ns: int) -> None:
        """Service begins."""
        options = self.options
        self.serving += 1
        stream.served, stream.start_ns = True, now_ns
        share = 1.0
        if options.service == "exponential":
            share = self.random.expovariate(1.0)
        stream.ttft_ns = int(options.ttft_s * SECOND * share)
        stream.tpot_ns = int(options.tpot_s * SECOND * share)
        if options.empty_first_event:
            self.send(stream.connection, STREAM_HEAD + self.words.empty())
        self.plan(stream)

    def plan(self, stream: Stream) -> None:
        """When the stream's next event is due: with the last of its tokens."""
        tokens = min(self.options.tokens_per_event, stream.tokens - stream.sent)
        last = stream.sent + tokens - 1
        self.order += 1
        due_ns = stream.start_ns + stream.ttft_ns + last * stream.tpot_ns
        heapq.heappush(self.due, (due_ns, self.order, stream))

    def go_on(self, stream: Stream, at_ns: int) -> None:
        """The stream's next event."""
        if stream.fails and stream.sent >= stream.tokens // 2 and self.fail(stream, at_ns):
            return
        count = min(self.options.tokens_per_event, stream.tokens - stream.sent)
        data = b"" if stream.sent or self.options.empty_first_event else STREAM_HEAD
        first = stream.first + stream.sent
        stream.first_ns = stream.first_ns or time.monotonic_ns()
        stream.sent += count
        if stream.sent < stream.tokens:
            self.send(stream.connection, data + self.words.tokens(first, count))
            self.plan(stream)
        else:
            self.end(stream, at_ns, data, first, count)

    def end(self, stream: Stream, at_ns: int, data: bytes, first: int, count: int) -> None:
        """The stream's last tokens, and what comes after them."""
        usage = {"prompt_tokens": stream.prompt_tokens, "completion_tokens": stream.sent}
        if self.options.tell_times:
            usage["first_token_us"] = (stream.first_ns or time.monotonic_ns()) // 1000
        how = self.options.usage
        if count:
            data += self.words.tokens(first, count, usage if how == "last" else None)
        stream.connection.stream = None
        self.send(stream.connection, data + self.words.end(usage, how == "own"))
        self.free(stream, at_ns)
        if stream.connection.came and not stream.connection.gone:
            self.take_request(stream.connection)

    def free(self, stream: Stream, at_ns: int) -> None:
        """A slot is free: of the next in the queue."""
        if not stream.served:
            return
        stream.served = False
        self.serving -= 1
        while self.waiting:
            following = self.waiting.popleft()
            if following.connection.stream is following:
                self.serve(following, at_ns)
                return

    def fail(self, stream: Stream, at_ns: int) -> bool:
        """Fails as scripted; whether the stream does not go on."""
        head = b"" if stream.sent or self.options.empty_first_event else STREAM_HEAD
        connection = stream.connection
        if stream.fails == "short":
            self.end(stream, at_ns, head, 0, 0)
        elif stream.fails == "error":
            stream.connection.stream = None
            words = event({"error": {"message": "scripted failure"}})
            self.send(connection, head + words + LAST_CHUNK)
            self.free(stream, at_ns)
        elif stream.fails != "hang":
            connection.closes = True
            self.send(connection, head + (b"no chunk\r\n" if stream.fails == "garbage" else b""))
        return True

    def send(self, connection: Connection, data: bytes) -> None:
        """Sends now what the kernel takes, and the rest later; to nobody where the client has gone."""
        if connection.gone:
            return
        if connection.to_send:
            connection.to_send += data
            data = bytes(connection.to_send)
            connection.to_send.clear()
        try:
            taken = connection.sock.send(data) if data else 0
        except BlockingIOError:
            taken = 0
        except OSError:
            self.drop(connection)
            return
        if taken < len(data):
            connection.to_send += data[taken:]
            self.epoll.modify(connection.sock.fileno(), OUT)
        elif connection.closes:
            self.drop(connection)
        elif not data:
            self.epoll.modify(connection.sock.fileno(), ALWAYS_IN)

    def answer(self, connection: Connection, status: str, value: dict[str, Any]) -> None:
        """A whole response, in JSON."""
        content = json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.send(connection, head.encode() + content)

    def refuse(self, connection: Connection) -> None:
        """Resets this connection, and takes no other for a while."""
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop(connection)
        if not self.listens_again_ns:
            self.epoll.unregister(self.listener.fileno())
            self.listener.close()
            self.listens_again_ns = time.monotonic_ns() + REFUSES_FOR_NS

    def drop(self, connection: Connection) -> None:
        """Ends a connection, and what was answered on it."""
        if connection.gone:
            return
        connection.gone = True
        fd = connection.sock.fileno()
        self.epoll.unregister(fd)
        del self.connections[fd]
        connection.sock.close()
        if connection.stream is None or (self.options.client_goes == "goes_on" and not connection.closes):
            return
        stream, connection.stream = connection.stream, None
        self.free(stream, time.monotonic_ns())

    def die(self) -> None:
        """Ends as scripted."""
        if self.options.die_how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        oom = self.options.die_how == "oom"
        sys.stderr.write("scripted: out of memory\n" if oom else "scripted exit\n")
        sys.stderr.flush()
        os._exit(1 if oom else 3)


def main() -> None:
    """Serves, after the scripted time to load."""
    options = arguments()
    time.sleep(options.load_s)
    server = Server(options)
    sys.stdout.write(f"listening on port {server.port}\n")
    sys.stdout.flush()
    gc.freeze()
    gc.disable()
    server.run()


if __name__ == "__main__":
    main()
