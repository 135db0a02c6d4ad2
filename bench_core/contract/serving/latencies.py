"""Latencies of single requests, and whether they are within limits. Everything about one request is divided here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from bench_core.contract.serving.protocol import Limits
from bench_core.contract.serving.requests import RequestEvent


class Gap(NamedTuple):
    """Between two arrivals of tokens of one request.

    Attributes:
        at_s: when the later one was there.
        each_s: the gap / tokens that the later one brought.
        tokens: that it brought.
    """

    at_s: float
    each_s: float
    tokens: int


def ttft_s(request: RequestEvent, *, from_sent: bool = False) -> float | None:
    """Time to first token, from when the request was to be sent; ``None`` where there was none."""
    since_s = request.sent_s if from_sent else request.scheduled_s
    first_s = request.first_token_s
    return None if first_s is None or since_s is None else first_s - since_s


def e2e_s(request: RequestEvent, *, from_sent: bool = False) -> float | None:
    """Until the response was complete, from when the request was to be sent; ``None`` for one that was not answered."""
    since_s = request.sent_s if from_sent else request.scheduled_s
    return request.ended_s - since_s if request.ok and since_s is not None else None


def tpot_s(request: RequestEvent) -> float | None:
    """(last token - first token) / (output tokens - 1); ``None`` for fewer than two tokens."""
    first_s, last_s = request.first_token_s, request.last_token_s
    if first_s is None or last_s is None or request.output_tokens < 2:
        return None
    return (last_s - first_s) / (request.output_tokens - 1)


def gaps(request: RequestEvent) -> list[Gap]:
    """All gaps between arrivals.

    A read that brings k tokens after a gap g says that k tokens took g together: k inter-token latencies of g / k. Its
    other reading, one of g and k - 1 of 0, has the same mean and percentiles that no user meets: a server that sends
    tokens in twos would have a median of 0. The tokens of the first arrival belong to the time to first token.
    """
    sent_s = request.sent_s
    if sent_s is None:
        return []
    moments = zip(itertools.pairwise(request.arrivals_us), request.arrival_tokens[1:], strict=True)
    return [Gap(sent_s + later / 1e6, (later - earlier) / 1e6 / n, n) for (earlier, later), n in moments]


def within(request: RequestEvent, limits: Limits) -> bool:
    """Whether a request was answered and kept every limit. One that failed or was left unfinished did not.

    ``itl_s`` limits the longest gap of the request, as told by ``gaps``; ``tpot_s`` and ``itl_s`` are kept by a request
    that has none.
    """
    if not request.ok:
        return False
    longest = max((gap.each_s for gap in gaps(request)), default=None) if limits.itl_s is not None else None
    found = (
        (ttft_s(request), limits.ttft_s, False),
        (tpot_s(request), limits.tpot_s, True),
        (longest, limits.itl_s, True),
        (e2e_s(request), limits.e2e_s, False),
    )
    return all(limit is None or (absent if value is None else value <= limit) for value, limit, absent in found)


def scheduled_in(requests: Sequence[RequestEvent], begin_s: float, end_s: float) -> list[RequestEvent]:
    """Those that were to be sent from one moment to before another, in that order."""
    found = [request for request in requests if begin_s <= request.scheduled_s < end_s]
    return sorted(found, key=lambda request: (request.scheduled_s, request.index))
