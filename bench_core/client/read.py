"""From a raw response to its record: which tokens came, and when.

A token was there when the read returned that completed its event. How many tokens an event brought:

1. Where the server returns ids, as many as it has ids. A server that leaves some out (``ids_left_out``) is counted by
   its usage record where that says more: by how much it grew with each event.
2. Else, where there is a usage record, its number is the sum. The n-th of E events with text ends at token
   ceil(n * sum / E): one token each where the numbers agree, the surplus spread evenly where the server puts several
   into an event, and the first event always has one. If no event has text, the tokens were there with the last event.
3. Else each event with text is one token.

An event without text and without ids, such as the first of a conversation, which names the role, brings none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Literal

from bench_core.client.ask import Ask
from bench_core.client.load.framing import BadFraming, Framing
from bench_core.client.load.stream import DONE, EventStream
from bench_core.client.load.wire import Response
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import shortened
from bench_core.contract.records.digest import ids_digest
from bench_core.contract.serving.requests import RequestEnd, RequestEvent

_LONGEST_WORDS = 200
_OK = 200
_LARGEST_ID = 2**63 - 1
_SECOND = 1e9

CountedBy = Literal["ids", "usage", "events"]
Path = tuple[str | int, ...]


class NoSuchResponse(ValueError):
    """An event that is none, or that tells of a failure; the message says so in one line."""


@dataclass(slots=True)
class Taken:
    """What a response has told."""

    read: list[int] = field(default_factory=list)  # of each event, the number of the read that completed it
    ids: list[int] = field(default_factory=list)
    ids_of: list[int] = field(default_factory=list)  # of each event, how many ids
    text_of: list[bool] = field(default_factory=list)  # of each event, whether it has text
    usage: int | None = None
    usage_of: list[int] = field(default_factory=list)  # of each event, how many tokens the server has told of so far
    usage_prompt: int | None = None
    usage_cached: int | None = None
    ids_left_out: bool = False  # it has fewer ids than tokens, as its usage record tells

    def counts(self) -> tuple[CountedBy | None, list[int]]:
        """By what tokens are counted, and how many each event brought."""
        if self.ids and self.ids_left_out and self.usage is not None:
            return "usage", [now - before for before, now in pairwise([0, *accumulate(self.usage_of, max)])]
        if self.ids:
            return "ids", self.ids_of
        with_text = sum(self.text_of)
        if self.usage is not None and not with_text:
            return "usage", [0] * (len(self.read) - 1) + [self.usage] if self.read else []
        if self.usage is not None:
            return "usage", shared_out(self.usage, self.text_of)
        return ("events" if with_text else None), [int(has) for has in self.text_of]


def shared_out(total: int, takes: Sequence[bool]) -> list[int]:
    """Shares ``total`` tokens among the events that take some: evenly, whole, never later than their share is due."""
    among, counts, given, place = sum(takes), [], 0, 0
    for one in takes:
        place += one
        upto = -(-place * total // among) if among else 0
        counts.append(upto - given)
        given = upto
    return counts


class Reader:
    """Reads the responses of one server.

    Args:
        entry: how the server is read.
    """

    def __init__(self, entry: ServerEntry) -> None:
        self._ids = path_of(entry.token_ids)
        self._ids_left_out = entry.ids_left_out
        self._text = path_of(entry.text)
        self._usage = path_of(entry.usage)
        self._usage_prompt = path_of(entry.usage_prompt)
        self._usage_cached = path_of(entry.usage_cached)
        self._error = path_of(entry.error)

    def read(self, response: Response, ask: Ask, process: int = 0) -> RequestEvent:
        """The record of one request. Never raises: what is no response is one that ended as ``garbage``."""
        taken = Taken()
        framing = Framing(keep_body=True)
        end: RequestEnd = response.end
        cause = response.cause
        try:
            words = self._events(response, framing, taken)
        except (BadFraming, NoSuchResponse) as error:
            end, cause, words = ("garbage", str(error), b"") if end == "ok" else (end, cause, b"")
        if framing.status not in (0, _OK) and end in ("ok", "garbage"):
            end, cause = "status", f"HTTP {framing.status}{_told(words or b''.join(framing.body), self._error)}"
        taken.ids_left_out = self._ids_left_out and len(taken.ids) < (taken.usage or 0)
        counted_by, counts = taken.counts()
        if end == "ok":
            end, cause = _length(ask, counted_by, sum(counts))
        return self._record(response, ask, process, taken, counted_by, counts, end, cause, framing.status or None)

    def _record(
        self, response: Response, ask: Ask, process: int, taken: Taken, counted_by: CountedBy | None,
        counts: list[int], end: RequestEnd, cause: str, status: int | None,
    ) -> RequestEvent:  # fmt: skip
        sent_ns = response.sent_ns
        arrivals: dict[int, int] = {}
        if sent_ns is not None:
            for read, count in zip(taken.read, counts, strict=True):
                if count:
                    arrivals[read] = arrivals.get(read, 0) + count
        times = response.times_ns
        return RequestEvent(
            index=response.index,
            process=process,
            prompt=ask.prompt,
            prompt_digest=ask.prompt_digest,
            prompt_tokens=ask.prompt_tokens,
            scheduled_s=response.scheduled_ns / _SECOND,
            sent_s=None if sent_ns is None else sent_ns / _SECOND,
            headers_s=times[0] / _SECOND if times else None,
            arrivals_us=tuple(max(times[read] - (sent_ns or 0), 0) // 1000 for read in arrivals),
            arrival_tokens=tuple(arrivals.values()),
            ended_s=response.ended_ns / _SECOND,
            output_tokens=sum(counts),
            asked_tokens=ask.asked_tokens,
            counted_by=counted_by,
            output_digest=ids_digest(taken.ids) if taken.ids and not taken.ids_left_out else None,
            end=end,
            status=status,
            cause=shortened(" ".join(cause.split()), _LONGEST_WORDS),
            usage_prompt_tokens=taken.usage_prompt,
            cached_tokens=taken.usage_cached,
            resent=response.resent,
        )

    def _events(self, response: Response, framing: Framing, taken: Taken) -> bytes:
        """Takes in what the response tells; the body, where it is no stream.

        Raises:
            BadFraming, NoSuchResponse: it is none.
        """
        stream = EventStream()
        done = False
        for number, piece in enumerate(response.pieces):
            framing.feed(piece)
            if framing.status != _OK or "json" in framing.headers.get("content-type", ""):
                continue
            body, framing.body = framing.body, []
            for part in body:
                for data in stream.feed(part):
                    done = done or self._event(data, number, taken)
        if framing.status != _OK:
            return b""
        last = len(response.pieces) - 1
        # Of a response that broke off, the last event may be half of one.
        whole = response.end == "ok"
        for data in stream.rest() if whole else []:
            done = done or self._event(data, last, taken)
        content = b"".join(framing.body)
        if content and whole:
            self._event(content, last, taken)
        return content

    def _event(self, data: bytes, read: int, taken: Taken) -> bool:
        """Takes in one event; whether it was the mark of the stream's end."""
        if data.strip() == DONE:
            return True
        if not data.strip():
            return False
        try:
            value = json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise NoSuchResponse(f"an event that is no JSON: {_printable(data)}") from error
        if not isinstance(value, dict):
            raise NoSuchResponse(f"an event that is no object: {_printable(data)}")
        if self._error and (error_words := at(value, self._error)) is not None:
            raise NoSuchResponse(f"the server says: {_one_line(error_words)}")
        ids = _ids(at(value, self._ids))
        text = at(value, self._text)
        taken.read.append(read)
        taken.ids += ids
        taken.ids_of.append(len(ids))
        taken.text_of.append(isinstance(text, str) and text != "")
        taken.usage = _number(at(value, self._usage), taken.usage)
        taken.usage_of.append(taken.usage or 0)
        taken.usage_prompt = _number(at(value, self._usage_prompt), taken.usage_prompt)
        taken.usage_cached = _number(at(value, self._usage_cached), taken.usage_cached)
        return False


def path_of(path: str | None) -> Path:
    """A dotted path as its steps; empty for none."""
    return tuple(int(step) if step.isdigit() else step for step in path.split(".")) if path else ()


def at(value: Any, path: Path) -> Any:
    """What lies at a path; ``None`` where nothing does, or where there is no path."""
    if not path:
        return None
    for step in path:
        if isinstance(value, dict):
            value = value.get(step if isinstance(step, str) else str(step))
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _ids(value: Any) -> list[int]:
    """The ids of an event: a list of them, or one."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(one) is int and abs(one) <= _LARGEST_ID for one in found):
        raise NoSuchResponse(f"token ids that are none: {_one_line(found)}")
    return found


def _number(value: Any, before: int | None) -> int | None:
    """A number of tokens, where this is one; else what was known before."""
    return value if type(value) is int and 0 <= value <= 1 << 40 else before


def _length(ask: Ask, counted_by: CountedBy | None, tokens: int) -> tuple[RequestEnd, str]:
    """Whether as much was written as was asked for. Events alone may hold several tokens each: they tell little."""
    asked = ask.asked_tokens
    exact = counted_by in ("ids", "usage") or not tokens
    wrong = tokens > asked or (ask.forced and exact and tokens != asked)
    return ("wrong_length", f"{tokens} tokens of {asked}") if wrong else ("ok", "")


def _told(body: bytes, error: Path) -> str:
    """What a response with another status says of itself."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    words = at(value, error)
    if words is None and body:
        words = body[: 4 * _LONGEST_WORDS].decode("utf-8", "replace")
    return f": {_one_line(words)}" if words else ""


def _one_line(words: Any) -> str:
    """Foreign words, in one short line."""
    text = words if isinstance(words, str) else json.dumps(words)
    return shortened(re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip(), _LONGEST_WORDS)


def _printable(data: bytes) -> str:
    return repr(data[:60].decode("utf-8", "replace"))
