"""What a response tells: which tokens came with which read, and whether they are as many as were asked for.

A token was there when the read returned that completed its event. How many tokens an event brought:

1. Where the server returns ids, as many as it has ids. A server that leaves some out (``ids_left_out``) is counted by
   its usage record where that says more: by how much it grew with each event.
2. Else, where there is a usage record, its number is the sum. The n-th of E events with text ends at token
   ceil(n * sum / E): one token each where the numbers agree, the surplus spread evenly where the server puts several
   into an event, and the first event always has one. If no event has text, the tokens were there with the last event.
3. Else each event with text is one token.

An event without text and without ids, such as the first of a conversation, which names the role, brings none.

Load generators need it for one thing alone, how a stream of a closed loop goes on, and look no further than they must.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Literal

from bench_core.client.load.framing import BadFraming, Framing
from bench_core.client.load.stream import DONE, EventStream
from bench_core.contract.errors import shortened

LONGEST_WORDS = 200
OK = 200
_LARGEST_ID = 2**63 - 1
_GOOD = (b"HTTP/1.1 200", b"HTTP/1.0 200")
_NUMBER = re.compile(rb"\s*:\s*(\d{1,13})\D")

CountedBy = Literal["ids", "usage", "events"]
Path = tuple[str | int, ...]


class NoSuchResponse(ValueError):
    """An event that is none, or that tells of a failure; the message says so in one line."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Where a response tells what: dotted paths, as ``contract.asked.server.ServerEntry`` has them."""

    token_ids: str | None = None
    ids_left_out: bool = False
    text: str | None = None
    usage: str | None = None
    usage_prompt: str | None = None
    usage_cached: str | None = None
    error: str | None = None


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


class Answers:
    """Reads the responses of one server."""

    def __init__(self, fields: Fields) -> None:
        self._ids = path_of(fields.token_ids)
        self._ids_left_out = fields.ids_left_out
        self._text = path_of(fields.text)
        self._usage = path_of(fields.usage)
        self._usage_prompt = path_of(fields.usage_prompt)
        self._usage_cached = path_of(fields.usage_cached)
        self.error = path_of(fields.error)
        self._usage_name = _quoted(self._usage[-1:])
        self._error_name = _quoted(self.error[:1])
        # Text that is not empty, or a list with an id, or an id alone.
        names = b"|".join(name for name in (_quoted(self._text[-1:]), _quoted(self._ids[-1:])) if name)
        self._some = re.compile(rb"(?:%b)\s*:\s*(?:\"[^\"]|\[\s*\d|\d)" % names) if names else None

    def good(self, pieces: Sequence[bytes], fewest: int, most: int) -> bool:
        """Whether a response that came whole says 200, and so many tokens.

        Where the usage record says as many, or where none is seen and some event has text or ids, nothing else is
        looked at: this is asked of every answer while the clock runs. What seems to have failed is read in full.
        """
        if pieces and pieces[0].startswith(_GOOD):
            told, content = self._told_last(pieces[-1]), b""
            if told is None:
                content = b"".join(pieces)
                told = self._told_last(content)
            if self._seems_some(content) if told is None else fewest <= told <= most:
                return True
        framing, taken = Framing(keep_body=True), Taken()
        try:
            self.read(pieces, True, framing, taken)
        except (BadFraming, NoSuchResponse):
            return False
        counted_by, counts = self.counts(taken)
        return framing.status == OK and as_many(counted_by, sum(counts), fewest, most)

    def _told_last(self, content: bytes) -> int | None:
        """Tokens by the last usage record, where it is seen at once."""
        place = content.rfind(self._usage_name) if self._usage_name else -1
        number = _NUMBER.match(content, place + len(self._usage_name)) if place >= 0 else None
        return None if number is None else int(number[1])

    def _seems_some(self, content: bytes) -> bool:
        """Whether some event seems to have text or ids, and none to tell of a failure."""
        if self._some is None or (self._error_name and self._error_name in content):
            return False
        return self._some.search(content) is not None

    def read(self, pieces: Sequence[bytes], whole: bool, framing: Framing, taken: Taken) -> bytes:
        """Takes in what the response tells; the body, where it is no stream. ``whole``: it has not broken off.

        Raises:
            BadFraming, NoSuchResponse: it is none.
        """
        stream = EventStream()
        done = False
        for number, piece in enumerate(pieces):
            framing.feed(piece)
            if framing.status != OK or "json" in framing.headers.get("content-type", ""):
                continue
            body, framing.body = framing.body, []
            for part in body:
                for data in stream.feed(part):
                    done = done or self._event(data, number, taken)
        if framing.status != OK:
            return b""
        last = len(pieces) - 1
        # Of a response that broke off, the last event may be half of one.
        for data in stream.rest() if whole else []:
            done = done or self._event(data, last, taken)
        content = b"".join(framing.body)
        if content and whole:
            self._event(content, last, taken)
        return content

    def counts(self, taken: Taken) -> tuple[CountedBy | None, list[int]]:
        """``Taken.counts`` of all that was taken in."""
        taken.ids_left_out = self._ids_left_out and len(taken.ids) < (taken.usage or 0)
        return taken.counts()

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
        if self.error and (error_words := at(value, self.error)) is not None:
            raise NoSuchResponse(f"the server says: {one_line(error_words)}")
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


def as_many(counted_by: CountedBy | None, tokens: int, fewest: int, most: int) -> bool:
    """Whether as much was written as was asked for: something, and by ids or a usage record exactly so much. Events
    alone may hold several tokens each: they tell little."""
    return (fewest if counted_by in ("ids", "usage") else 1) <= tokens <= most


def shared_out(total: int, takes: Sequence[bool]) -> list[int]:
    """Shares ``total`` tokens among the events that take some: evenly, whole, never later than their share is due."""
    among, counts, given, place = sum(takes), [], 0, 0
    for one in takes:
        place += one
        upto = -(-place * total // among) if among else 0
        counts.append(upto - given)
        given = upto
    return counts


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
        raise NoSuchResponse(f"token ids that are none: {one_line(found)}")
    return found


def _number(value: Any, before: int | None) -> int | None:
    """A number of tokens, where this is one; else what was known before."""
    return value if type(value) is int and 0 <= value <= 1 << 40 else before


def one_line(words: Any) -> str:
    """Foreign words, in one short line."""
    text = words if isinstance(words, str) else json.dumps(words)
    return shortened(re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip(), LONGEST_WORDS)


def _printable(data: bytes) -> str:
    return repr(data[:60].decode("utf-8", "replace"))


def _quoted(step: Path) -> bytes:
    """A step's name as JSON has it; empty for none, or a place in a list."""
    return json.dumps(step[0]).encode() if step and isinstance(step[0], str) else b""
