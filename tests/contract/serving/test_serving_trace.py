"""Traces: what they say is what is read, and whatever is wrong is named with file and line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.errors import BadInput
from bench_core.contract.serving import trace
from bench_core.contract.serving.trace import BLOCK_TOKENS, TraceRequest, parse_trace, read_trace, trace_schedule

POOL = range(100, 1100)


def lines(*given: dict[str, Any]) -> list[bytes]:
    return [json.dumps(one).encode() for one in given]


def encode(text: str) -> list[int]:
    return list(text.encode())


def test_the_own_form() -> None:
    found = parse_trace(
        lines(
            {"arrival_s": 10.0, "prompt_token_ids": [1, 2, 3], "output_tokens": 20},
            {"arrival_s": 10.5, "text": "ab", "output_tokens": 1},
            {"arrival_s": 10.5, "prompt_tokens": 700, "output_tokens": 2},
        ),
        "t", POOL, encode,
    )  # fmt: skip
    assert found[0] == TraceRequest(0, (1, 2, 3), 20)
    assert found[1] == TraceRequest(500_000, (97, 98), 1)
    assert found[2].offset_us == 500_000
    assert len(found[2].prompt) == 700
    assert set(found[2].prompt) <= set(POOL)


def test_mooncake_shares_beginnings() -> None:
    found = parse_trace(
        lines(
            {"timestamp": 27482, "input_length": 1300, "output_length": 52, "hash_ids": [46, 47, 48]},
            {"timestamp": 30535, "input_length": 1100, "output_length": 26, "hash_ids": [46, 47, 5]},
        ),
        "t", POOL,
    )  # fmt: skip
    assert [request.offset_us for request in found] == [0, 3_053_000]
    assert [len(request.prompt) for request in found] == [1300, 1100]
    assert found[0].prompt[: 2 * BLOCK_TOKENS] == found[1].prompt[: 2 * BLOCK_TOKENS]
    assert found[0].prompt[1024:1100] != found[1].prompt[1024:]
    assert found[0].output_tokens == 52


def test_prompts_of_a_count_are_the_same_each_time_and_of_different_lines_differ() -> None:
    one = {"arrival_s": 0, "prompt_tokens": 64, "output_tokens": 2}
    first, second = parse_trace(lines(one, one), "t", POOL)
    assert first.prompt != second.prompt
    assert parse_trace(lines(one, one), "t", POOL) == [first, second]
    drawn = hashlib.shake_128(b"line/1").digest(8)
    assert first.prompt[0] == 100 + int.from_bytes(drawn[:4], "little") % 1000
    assert first.prompt[1] == 100 + int.from_bytes(drawn[4:], "little") % 1000


def test_empty_lines_are_skipped_and_counted() -> None:
    good = {"arrival_s": 0, "prompt_tokens": 4, "output_tokens": 2}
    found = parse_trace([b"\n", *lines(good), b"  \n"], "t", POOL)
    assert len(found) == 1
    with pytest.raises(BadInput, match=r"^t:3: "):
        parse_trace([b"\n", *lines(good), b"{"], "t", POOL)


GOOD = {"arrival_s": 1, "prompt_tokens": 4, "output_tokens": 2}
MOON = {"timestamp": 1, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"[]", "no JSON object"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (json.dumps({**GOOD, "extra": 1}).encode(), "unknown key 'extra'"),
        (json.dumps({**GOOD, "arrival_s": -1}).encode(), "arrival_s is -1"),
        (json.dumps({**GOOD, "arrival_s": 0.5}).encode(), "before the request of the line before"),
        (json.dumps({**GOOD, "arrival_s": "1"}).encode(), "arrival_s is '1'"),
        (json.dumps({**GOOD, "arrival_s": True}).encode(), "arrival_s is True"),
        (json.dumps({**GOOD, "arrival_s": None}).encode(), "arrival_s is None"),
        (b'{"arrival_s": NaN, "prompt_tokens": 4, "output_tokens": 2}', "arrival_s is nan"),
        (b'{"arrival_s": 1e999, "prompt_tokens": 4, "output_tokens": 2}', "arrival_s is inf"),
        (b'{"arrival_s": 1' + b"0" * 4000 + b', "prompt_tokens": 4, "output_tokens": 2}', "is a number of many"),
        (b'{"arrival_s": 1' + b"0" * 9000 + b', "prompt_tokens": 4, "output_tokens": 2}', "arrival_s|no JSON"),
        (json.dumps({**GOOD, "prompt_tokens": 0}).encode(), "prompt_tokens is 0"),
        (json.dumps({**GOOD, "prompt_tokens": 2**40}).encode(), "prompt_tokens is 1099511627776"),
        (json.dumps({**GOOD, "prompt_tokens": 4.0}).encode(), r"prompt_tokens is 4\.0"),
        (json.dumps({**GOOD, "output_tokens": 0}).encode(), "output_tokens is 0"),
        (json.dumps({"arrival_s": 1, "prompt_tokens": 4}).encode(), "output_tokens is missing"),
        (json.dumps({"arrival_s": 1, "output_tokens": 4}).encode(), "0 are given"),
        (json.dumps({**GOOD, "text": "a"}).encode(), "2 are given"),
        (json.dumps({"arrival_s": 1, "text": "a", "output_tokens": 4}).encode(), "no tokenizer"),
        (json.dumps({"arrival_s": 1, "text": 5, "output_tokens": 4}).encode(), "no text"),
        (json.dumps({"arrival_s": 1, "prompt_token_ids": [], "output_tokens": 4}).encode(), "no list"),
        (json.dumps({"arrival_s": 1, "prompt_token_ids": [-1], "output_tokens": 4}).encode(), "is -1"),
        (json.dumps({"arrival_s": 1, "prompt_token_ids": [2**31], "output_tokens": 4}).encode(), "is 2147483648"),
        (json.dumps({**MOON, "timestamp": 2000, "hash_ids": [1]}).encode(), "2 blocks of 512, and hash_ids has 1"),
        (json.dumps({**MOON, "timestamp": 2000, "hash_ids": None}).encode(), "hash_ids is no list"),
        (json.dumps({**MOON, "timestamp": 2000, "input_length": 10**9}).encode(), "input_length is 1000000000"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(line: bytes, cause: str) -> None:
    with pytest.raises(BadInput, match=cause) as caught:
        parse_trace([*lines(GOOD), line], "some.jsonl", POOL)
    assert caught.value.cause.startswith("some.jsonl:2: ")
    assert len(caught.value.cause) < 500


def test_all_prompts_together_and_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_TRACE_TOKENS", 1000)
    monkeypatch.setattr(trace, "MOST_LINES", 3)
    with pytest.raises(BadInput, match=r"t:2: the prompts up to here have more than 1000 tokens"):
        parse_trace(lines({**GOOD, "prompt_tokens": 600}, {**GOOD, "prompt_tokens": 600}), "t", POOL)
    with pytest.raises(BadInput, match=r"t:2: the prompts up to here have more than 1000 tokens"):
        parse_trace(lines({**MOON, "input_length": 600}, {**MOON, "input_length": 600}), "t", POOL)
    with pytest.raises(BadInput, match=r"t:4: more than 3 lines"):
        parse_trace(lines(*[GOOD] * 5), "t", POOL)


def test_a_file_is_read_and_an_empty_or_missing_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with pytest.raises(BadInput, match=r"trace\.jsonl"):
        read_trace(path, POOL)
    path.write_bytes(b"\n")
    with pytest.raises(BadInput, match="no request"):
        read_trace(path, POOL)
    path.write_bytes(b"\n".join(lines(GOOD, GOOD)))
    requests = read_trace(path, POOL)
    schedule = trace_schedule(requests, [4, 7])
    assert schedule.offsets_us == (0, 0)
    assert schedule.output_of(1) == 2
    assert schedule.prompt_of(1) == 7


@pytest.mark.parametrize("pool", [(), (-1,), (2**31,)])
def test_a_pool_of_no_ids_is_refused(pool: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="pool"):
        parse_trace(lines(GOOD), "t", pool)


@given(
    gaps=st.lists(st.floats(0, 1000), min_size=1, max_size=20),
    counts=st.lists(st.integers(1, 600), min_size=20, max_size=20),
)
def test_a_trace_that_was_written_is_read_as_it_was(gaps: list[float], counts: list[int]) -> None:
    at_s, given = 0.0, []
    for gap, count in zip(gaps, counts, strict=False):
        at_s += gap
        given.append({"arrival_s": at_s, "prompt_tokens": count, "output_tokens": count})
    found = parse_trace(lines(*given), "t", POOL)
    first_s = given[0]["arrival_s"]
    assert [one.offset_us for one in found] == [round((one["arrival_s"] - first_s) * 1e6) for one in given]
    assert [len(one.prompt) for one in found] == [one["prompt_tokens"] for one in given]


@given(st.lists(st.binary(max_size=60) | st.from_regex(r'\{"arrival_s": -?[0-9.eE+]{1,9}, "prompt_tokens": [0-9]{1,7}\}').map(str.encode), max_size=4))  # fmt: skip  # noqa: E501
def test_any_other_file_is_refused_in_words(given: list[bytes]) -> None:
    try:
        parse_trace(given, "t", POOL)
    except BadInput as error:
        assert error.cause.startswith("t:")  # noqa: PT017  # it may also be read


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*GOOD, *MOON, "text", "prompt_token_ids"), JSON)))
def test_any_object_is_read_or_refused_in_words(given: dict[str, Any]) -> None:
    try:
        assert len(parse_trace(lines(given), "t", POOL, encode)) == 1
    except BadInput as error:
        assert error.cause.startswith("t:1: ")  # noqa: PT017
