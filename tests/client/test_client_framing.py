"""Where a response ends: any split of the same bytes is framed alike, and no bytes bring the framing down."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_core.client.load.framing import BadFraming, Framing

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts)


def split(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in itertools.pairwise(cuts) if end > begin]


@pytest.mark.parametrize(
    ("data", "body", "keeps"),
    [
        (CHUNKED + chunks(b"ab", b"\r\n0\r\n\r\n") + b"0\r\n\r\n", b"ab\r\n0\r\n\r\n", True),
        (CHUNKED + b"2;name=value\r\nab\r\n0;x\r\nTrailer: one\r\nOther: two\r\n\r\n", b"ab", True),
        (CHUNKED + b"0\r\n\r\n", b"", True),
        (SIZED + b"hello", b"hello", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED + b"hello", b"hello", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n", b"", True),
    ],
)  # fmt: skip
@settings(max_examples=40)
@given(places=st.lists(st.integers(0, 300), max_size=20))
def test_a_response_ends_where_it_ends_however_it_is_split(
    data: bytes, body: bytes, keeps: bool, places: list[int]
) -> None:
    for keep_body in (True, False):
        framing = Framing(keep_body=keep_body)
        pieces = split(data, places)
        assert [framing.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert framing.complete
        assert framing.keeps_alive == keeps
        assert b"".join(framing.body) == (body if keep_body else b"")


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=8), places=st.lists(st.integers(0, 600), max_size=30)
)
def test_chunked_bodies_come_out_whole(parts: list[bytes], places: list[int]) -> None:
    data = CHUNKED + chunks(*parts) + b"0\r\n\r\n"
    pieces = split(data, places)
    reading, counting = Framing(keep_body=True), Framing()
    for piece in pieces[:-1]:
        assert not reading.feed(piece)
        assert not counting.feed(piece)
    assert reading.feed(pieces[-1])
    assert counting.feed(pieces[-1])
    assert b"".join(reading.body) == b"".join(parts)


@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda rest: CHUNKED + rest),
        st.text("0123456789abcdef\r\n; HTP/:", max_size=80).map(lambda text: CHUNKED + text.encode()),
        st.text("HTP/1. 20\r\n:aContent-Lgth", max_size=80).map(str.encode),
    ),
    places=st.lists(st.integers(0, 300), max_size=10),
)
def test_no_bytes_bring_it_down_and_all_splits_agree(data: bytes, places: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> tuple[bool, bool, bytes]:
        framing = Framing(keep_body=True)
        try:
            for piece in pieces:
                if framing.feed(piece):
                    break
        except BadFraming:
            return False, True, b"".join(framing.body)
        return framing.complete, False, b"".join(framing.body)

    assert outcome(split(data, places)) == outcome([data] if data else [])


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        CHUNKED + b"0x5\r\n",
        CHUNKED + b"-5\r\n",
        CHUNKED + b"1_0\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"2\r\nabc\r\n",
        CHUNKED + b"f" * 20 + b"\r\n",
        CHUNKED + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000,
    ],
)
def test_what_is_no_response_is_told(data: bytes) -> None:
    with pytest.raises(BadFraming) as caught:
        Framing().feed(data)
    assert "\n" not in str(caught.value)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    framing = Framing(keep_body=True)
    assert not framing.feed(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert not framing.feed(b"def")
    assert framing.closed()
    assert b"".join(framing.body) == b"abcdef"


def test_a_connection_that_ends_in_a_body_leaves_it_incomplete() -> None:
    for data in (b"", b"HTTP/1.1 200 OK\r\n", SIZED + b"hell", CHUNKED + b"5\r\nhello\r\n0\r\n"):
        framing = Framing()
        framing.feed(data)
        assert not framing.closed()


def test_bytes_after_a_response_end_the_connection() -> None:
    framing = Framing(keep_body=True)
    assert framing.feed(SIZED + b"hello, and more")
    assert b"".join(framing.body) == b"hello"
    assert not framing.keeps_alive


def test_the_next_response_of_a_connection() -> None:
    framing = Framing(keep_body=True)
    assert framing.feed(CHUNKED + chunks(b"one") + b"0\r\n\r\n")
    framing.reset()
    assert framing.status == 0
    assert framing.feed(SIZED + b"hello")
    assert framing.body == [b"hello"]
