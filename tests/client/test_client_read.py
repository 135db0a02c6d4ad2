"""From raw responses to records: how tokens are counted, and what a failure is called."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from null_server import ENTRY

from bench_core.client.ask import Ask
from bench_core.client.load.answer import at, path_of, shared_out
from bench_core.client.load.stream import EventStream
from bench_core.client.load.wire import End, Response, read_response, response_frame
from bench_core.client.read import Reader
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.records.digest import ids_digest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SENT = 5_000_000_000
MS = 1_000_000
DONE = b"data: [DONE]\n\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def event(text: str = "", ids: list[int] | None = None, **more: Any) -> bytes:
    choice = {"text": text} | ({} if ids is None else {"token_ids": ids})
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def usage(tokens: int) -> bytes:
    value = {"choices": [], "usage": {"completion_tokens": tokens, "prompt_tokens": 7}}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def ask(tokens: int, forced: bool = True) -> Ask:
    return Ask(3, "0123456789abcdef", 7, tokens, forced, b"")


def response(*pieces: bytes, end: End = "ok", cause: str = "") -> Response:
    """The pieces came 1 ms, 2 ms, ... after the request was sent."""
    times = [SENT + (number + 1) * MS for number in range(len(pieces))]
    return Response(4, SENT - MS, SENT, (times or [SENT])[-1], end, cause, times, list(pieces))


def streamed(*contents: bytes) -> Response:
    """Each content in a chunk and a read of its own, and the end in the last of them."""
    pieces = [chunk(content) for content in contents]
    pieces[0] = HEAD + pieces[0]
    pieces[-1] += b"0\r\n\r\n"
    return response(*pieces)


def read(raw: Response, tokens: int, entry: ServerEntry = ENTRY, forced: bool = True) -> Any:
    return Reader(entry).read(raw, ask(tokens, forced), 2)


def without(*fields: str) -> ServerEntry:
    return ENTRY.model_copy(update=dict.fromkeys(fields))


def test_tokens_by_their_ids() -> None:
    found = read(streamed(event(), event("a", [5]), event("bc", [6, 7]), event("", [8]) + usage(4) + DONE), 4)
    assert (found.end, found.counted_by, found.output_tokens) == ("ok", "ids", 4)
    assert found.arrivals_us == (2000, 3000, 4000)
    assert found.arrival_tokens == (1, 2, 1)
    assert found.output_digest == ids_digest([5, 6, 7, 8])
    assert (found.index, found.process, found.prompt, found.usage_prompt_tokens) == (4, 2, 3, 7)
    assert found.scheduled_s == pytest.approx(4.999)
    assert (found.sent_s, found.headers_s, found.ended_s) == (5.0, 5.001, 5.004)
    assert found.first_token_s == pytest.approx(5.002)


def test_tokens_by_the_usage_record() -> None:
    found = read(streamed(event(), event("a"), event("b"), event(""), event("c"), usage(3) + DONE), 3)
    assert (found.end, found.counted_by, found.arrival_tokens) == ("ok", "usage", (1, 1, 1))
    assert found.arrivals_us == (2000, 3000, 5000)


def test_a_surplus_of_the_usage_record_is_spread() -> None:
    found = read(streamed(event("a"), event("b"), event("c"), usage(8) + DONE), 8)
    assert (found.end, found.counted_by, found.arrival_tokens) == ("ok", "usage", (3, 3, 2))


def test_fewer_tokens_than_events_with_text() -> None:
    found = read(streamed(event("a"), event("b"), event("c"), usage(2) + DONE), 2)
    assert (found.end, found.output_tokens, found.arrivals_us) == ("ok", 2, (1000, 2000))


def test_tokens_without_any_text_came_with_the_last_event() -> None:
    found = read(streamed(event(""), event(""), usage(2) + DONE), 2)
    assert (found.end, found.arrivals_us, found.arrival_tokens) == ("ok", (3000,), (2,))


def test_tokens_by_events() -> None:
    found = read(streamed(event(), event("a"), event("b"), DONE), 2)
    assert (found.end, found.counted_by, found.output_tokens) == ("ok", "events", 2)


def test_a_conversation_begins_with_a_role() -> None:
    entry = ENTRY.model_copy(update={"token_ids": None, "text": "choices.0.delta.content"})
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    word = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    found = read(streamed(role, word, usage(1) + DONE), 1, entry)
    assert (found.end, found.arrivals_us) == ("ok", (2000,))


@given(total=st.integers(0, 500), takes=st.lists(st.booleans(), max_size=100))
def test_shares_sum_up_and_none_is_negative(total: int, takes: list[bool]) -> None:
    shares = shared_out(total, takes)
    assert len(shares) == len(takes)
    assert sum(shares) == (total if any(takes) else 0)
    assert all(share >= 0 and (takes_some or not share) for share, takes_some in zip(shares, takes, strict=True))
    taking = [share for share, takes_some in zip(shares, takes, strict=True) if takes_some]
    assert not taking or max(taking) - min(taking) <= 1
    assert not taking or not total or taking[0] >= 1


@pytest.mark.parametrize(
    ("raw", "end", "cause"),
    [
        (streamed(event("a", [5]), b'data: {"error":{"message":"no\\nroom"}}\n\n'), "garbage", "the server says: no r"),
        (streamed(event("a", [5]), b"data: {nonsense\n\n"), "garbage", "an event that is no JSON"),
        (streamed(event("a", [5]), b"data: [1]\n\n"), "garbage", "an event that is no object"),
        (streamed(b'data: {"choices":[{"token_ids":["5"]}]}\n\n'), "garbage", "token ids that are none"),
        (streamed(b"data: " + b"[" * 100000 + b"\n\n"), "garbage", "an event that is no JSON"),
        (streamed(event("a", [5]), DONE), "wrong_length", "1 tokens of 2"),
        (streamed(event("a", [5, 6, 7]), DONE), "wrong_length", "3 tokens of 2"),
        (streamed(DONE), "wrong_length", "0 tokens of 2"),
        (response(HEAD + chunk(event("a", [5])), end="broken", cause="closed"), "broken", "closed"),
        (response(end="refused", cause="no connection"), "refused", "no connection"),
        (response(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ndata: hi"), "garbage", "an event that is no JSON"),
        (
            response(b'HTTP/1.1 503 Busy\r\nContent-Length: 28\r\n\r\n{"error":{"message":"full"}}'),
            "status", "HTTP 503: full",
        ),
        (response(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno\r\nway"), "status", "HTTP 404: no way"),
        (response(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), "status", "HTTP 500"),
    ],
)  # fmt: skip
def test_failures_have_their_names_and_causes(raw: Response, end: str, cause: str) -> None:
    found = read(raw, 2)
    assert (found.end, found.cause[: len(cause)]) == (end, cause)
    assert "\n" not in found.cause


def test_a_failed_request_keeps_the_tokens_that_came() -> None:
    found = read(response(HEAD + chunk(event("a", [5])), chunk(event("b", [6])), end="timeout", cause="too long"), 9)
    assert (found.end, found.output_tokens, found.arrivals_us) == ("timeout", 2, (1000, 2000))


def test_an_unforced_answer_may_be_short_and_not_long() -> None:
    assert read(streamed(event("a", [5]), DONE), 2, forced=False).end == "ok"
    assert read(streamed(event("a", [5, 6, 7]), DONE), 2, forced=False).end == "wrong_length"


def test_events_alone_do_not_tell_that_an_answer_is_short() -> None:
    """An event may hold several tokens."""
    assert read(streamed(event("a b c"), DONE), 3).end == "ok"


def test_an_answer_that_is_no_stream() -> None:
    body = json.dumps({"choices": [{"text": "ab", "token_ids": [5, 6]}], "usage": {"completion_tokens": 2}}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    found = read(response(head + body[:9], body[9:]), 2)
    assert (found.end, found.arrivals_us, found.arrival_tokens) == ("ok", (2000,), (2,))


def test_a_last_event_without_its_empty_line_counts() -> None:
    found = read(streamed(event("a", [5]), event("b", [6]).rstrip(b"\n")), 2)
    assert (found.end, found.output_tokens) == ("ok", 2)


def test_lines_of_events() -> None:
    stream = EventStream()
    assert stream.feed(b": comment\nid: 1\nevent: x\ndata: a\ndata:b\ndata\n\n\n\n") == [b"a\nb\n"]
    assert stream.feed(b"data: a\r\ndata:  b\r\n\r") == []
    assert stream.feed(b"\nda") == [b"a\n b"]
    assert stream.feed(b"ta: c\n") == []
    assert stream.rest() == [b"c"]
    assert stream.rest() == []


events = st.lists(
    st.one_of(
        st.lists(st.integers(0, 300), max_size=3).map(lambda ids: event("x" * len(ids), ids)),
        st.just(b": comment\n\n"),
        st.just(event("\N{GREEK SMALL LETTER ALPHA}\r\n", [9]).replace(b"\n", b"\r\n")),
    ),
    max_size=12,
)


@pytest.mark.parametrize("entry", [ENTRY, without("token_ids"), without("token_ids", "usage")])
@given(contents=events, places=st.lists(st.integers(0, 5000), max_size=40), together=st.integers(1, 4))
def test_any_splitting_gives_the_same_tokens(
    entry: ServerEntry, contents: list[bytes], places: list[int], together: int
) -> None:
    """Chunks need not be events, nor reads chunks."""
    body = b"".join(contents) + usage(7) + DONE
    step = max(len(body) // together, 1)
    data = HEAD + b"".join(chunk(body[at : at + step]) for at in range(0, len(body), step)) + b"0\r\n\r\n"
    cuts = sorted({place % len(data) for place in places} | {0, len(data)})
    pieces = [data[begin:end] for begin, end in itertools.pairwise(cuts)]
    whole, found = read(response(data), 7, entry), read(response(*pieces), 7, entry)
    assert (found.end, found.cause, found.output_tokens) == (whole.end, whole.cause, whole.output_tokens)
    assert (found.counted_by, found.output_digest) == (whole.counted_by, whole.output_digest)
    assert sum(found.arrival_tokens) == found.output_tokens


@given(data=st.binary(max_size=300), chunked=st.booleans(), end=st.sampled_from(["ok", "broken", "unfinished"]))
def test_no_bytes_bring_the_reader_down(data: bytes, chunked: bool, end: End) -> None:
    pieces = [HEAD + chunk(data) + b"0\r\n\r\n"] if chunked else [data] * bool(data)
    assert read(response(*pieces, end=end), 2).end in {"garbage", "status", "wrong_length", "ok", end}


def test_paths_into_events() -> None:
    value = {"a": [{"b": 1}, {"2": {"c": 3}}]}
    assert at(value, path_of("a.0.b")) == 1
    assert at(value, path_of("a.1.2.c")) == 3
    for path in ("a.9.b", "a.b", "x", "a.0.b.c", None):
        assert at(value, path_of(path)) is None


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=50), max_size=8), cause=st.text(max_size=50),
    sent=st.one_of(st.none(), st.integers(0, 2**62)),
)  # fmt: skip
def test_responses_go_through_a_pipe_unchanged(pieces: list[bytes], cause: str, sent: int | None) -> None:
    raw = Response(7, 1, sent, 2**62, "timeout", cause, list(range(len(pieces))), pieces)
    found = read_response(response_frame(raw)[5:])
    assert (found.index, found.scheduled_ns, found.sent_ns, found.ended_ns) == (7, 1, sent, 2**62)
    assert (found.end, list(found.times_ns), found.pieces) == ("timeout", list(range(len(pieces))), pieces)
    assert found.cause == cause.encode("utf-8", "replace").decode()
