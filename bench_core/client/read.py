"""From a raw response to its record; what it tells is read by ``client.load.answer``."""

from __future__ import annotations

import json

from bench_core.client.ask import Ask
from bench_core.client.load.answer import (
    LONGEST_WORDS,
    OK,
    Answers,
    CountedBy,
    Fields,
    NoSuchResponse,
    Path,
    Taken,
    as_many,
    at,
    one_line,
)
from bench_core.client.load.framing import BadFraming, Framing
from bench_core.client.load.wire import Response
from bench_core.contract.asked.server import ServerEntry
from bench_core.contract.errors import shortened
from bench_core.contract.records.digest import ids_digest
from bench_core.contract.serving.requests import NONE_LEFT, RequestEnd, RequestEvent

_SECOND = 1e9
_NO_CONNECTION = {"refused": "no connection: ", "exhausted": f"{NONE_LEFT}: "}


def fields_of(entry: ServerEntry) -> Fields:
    """What is read of a server's responses."""
    return Fields(
        entry.token_ids, entry.ids_left_out, entry.text, entry.usage, entry.usage_prompt, entry.usage_cached,
        entry.error,
    )  # fmt: skip


class Reader:
    """Reads the responses of one server.

    Args:
        entry: how the server is read.
    """

    def __init__(self, entry: ServerEntry) -> None:
        self._answers = Answers(fields_of(entry))

    def read(self, response: Response, ask: Ask, process: int = 0) -> RequestEvent:
        """The record of one request. Never raises: what is no response is one that ended as ``garbage``."""
        taken = Taken()
        framing = Framing(keep_body=True)
        end: RequestEnd = "refused" if response.end == "exhausted" else response.end
        cause = _NO_CONNECTION.get(response.end, "") + response.cause
        try:
            words = self._answers.read(response.pieces, response.end == "ok", framing, taken)
        except (BadFraming, NoSuchResponse) as error:
            end, cause, words = ("garbage", str(error), b"") if end == "ok" else (end, cause, b"")
        if framing.status not in (0, OK) and end in ("ok", "garbage"):
            end, cause = "status", f"HTTP {framing.status}{_told(words or b''.join(framing.body), self._answers.error)}"
        counted_by, counts = self._answers.counts(taken)
        if end == "ok":
            tokens = sum(counts)
            if not as_many(counted_by, tokens, ask.fewest_tokens, ask.asked_tokens):
                end, cause = "wrong_length", f"{tokens} tokens of {ask.asked_tokens}"
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
            cause=shortened(" ".join(cause.split()), LONGEST_WORDS),
            usage_prompt_tokens=taken.usage_prompt,
            cached_tokens=taken.usage_cached,
            resent=response.resent,
        )


def _told(body: bytes, error: Path) -> str:
    """What a response with another status says of itself."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    words = at(value, error)
    if words is None and body:
        words = body[: 4 * LONGEST_WORDS].decode("utf-8", "replace")
    return f": {one_line(words)}" if words else ""
