"""Ready requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from null_server import ENTRY

from bench_core.client.ask import Address, Asker, put_at
from bench_core.contract.errors import BadInput
from bench_core.contract.records.digest import ids_digest, prompts_sha256


def made(data: bytes) -> tuple[list[str], Any]:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert f"Content-Length: {len(body)}" in lines
    return lines, json.loads(body)


def test_a_request_with_ids() -> None:
    entry = ENTRY.model_copy(update={"forced": {"ignore_eos": True}, "length_fields": ("max_tokens", "min_tokens")})
    ask = Asker(entry, Address("127.0.0.1", 8000), forced=True, extra={"cache": False}).ask(4, [7, 8, 9], 20)
    lines, body = made(ask.data)
    assert lines[0] == "POST /v1/completions HTTP/1.1"
    assert "Host: 127.0.0.1:8000" in lines
    assert "Content-Type: application/json" in lines
    assert "Connection: keep-alive" in lines
    assert body == {
        "stream": True, "ignore_eos": True, "cache": False, "prompt": [7, 8, 9], "max_tokens": 20, "min_tokens": 20,
    }  # fmt: skip
    assert (ask.prompt, ask.prompt_tokens, ask.asked_tokens, ask.forced) == (4, 3, 20, True)
    assert ask.prompt_digest == ids_digest([7, 8, 9]) == prompts_sha256([[7, 8, 9]])[:16]


def test_what_forces_a_length_is_left_out_where_none_is_forced() -> None:
    entry = ENTRY.model_copy(update={"forced": {"ignore_eos": True}})
    _, body = made(Asker(entry, Address("::1", 1), forced=False).ask(0, [7], 2).data)
    assert "ignore_eos" not in body


def test_requests_with_text_and_messages() -> None:
    text = 'a "word"\n\N{SNOWMAN}\ud800'
    asker = Asker(ENTRY.model_copy(update={"prompt": "text"}), Address("::1", 80), forced=True)
    lines, body = made(asker.ask(0, [1, 2], 3, text).data)
    assert "Host: [::1]:80" in lines
    assert body["prompt"] == text
    entry = ENTRY.model_copy(update={"prompt": "messages", "prompt_field": "messages"})
    _, body = made(Asker(entry, Address("h", 80), forced=True).ask(0, [1, 2], 3, text).data)
    assert body["messages"] == [{"role": "user", "content": text}]
    with pytest.raises(BadInput):
        asker.ask(0, [1, 2], 3)


def test_nested_fields_do_not_leak_into_the_entry() -> None:
    entry = ENTRY.model_copy(
        update={
            "body": {"sampling": {"temperature": 0}, "list": [{}]},
            "length_fields": ("sampling.max", "a.b", "list.0.n"),
        }
    )
    asker = Asker(entry, Address("h", 80), forced=True)
    bodies = [made(asker.ask(0, [1], tokens).data)[1] for tokens in (3, 4)]
    assert [body["sampling"] for body in bodies] == [{"temperature": 0, "max": 3}, {"temperature": 0, "max": 4}]
    assert [body["a"]["b"] for body in bodies] == [3, 4]
    assert [body["list"] for body in bodies] == [[{"n": 3}], [{"n": 4}]]
    assert entry.body == {"sampling": {"temperature": 0}, "list": [{}]}


@pytest.mark.parametrize("path", ["list.3.x", "number.x", "list.name"])
def test_a_field_that_cannot_be_set(path: str) -> None:
    with pytest.raises(BadInput):
        put_at({"list": [{}], "number": 1}, path, 5)
