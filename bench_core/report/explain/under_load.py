"""Cells under load in words: how requests failed, why a window ended, who is compared with whom, who is first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench_core.contract.serving.capacity import DEFAULT_ATTAINMENT
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.measures import Kept
from bench_core.contract.serving.protocol import Limits
from bench_core.contract.serving.requests import Counts
from bench_core.contract.statistics.correlated import Estimate
from bench_core.report.decide.ties import tied
from bench_core.report.explain.marks import SPECULATIVE
from bench_core.report.format import quantity
from bench_core.runs.view import RunView, ServedRow

SATURATED = "saturated"
SATURATED_NOTE = (
    f"{SATURATED}: more requests were sent than the server took, so that its queue grew, in the window or until the "
    "last request of it had ended. Its latencies belong to no lasting state, and it is not ranked at this load."
)
NONE_FAILED = "none"
SENT_TWICE = "sent twice"
SENT_TWICE_NOTE = (
    f"{SENT_TWICE.capitalize()}: the server ended a kept connection without having read the request, which was sent "
    "again on a new one, once. Its latencies count from the schedule, so what it lost is in them."
)
_FAILED = {
    "refused": "no connection",
    "status": "HTTP error",
    "broken": "connection broken",
    "garbage": "not a valid response",
    "wrong_length": "wrong number of tokens",
    "timeout": "timed out",
}
STOPS = {
    "precise": "precise enough",
    "max_seconds": "time limit",
    "max_requests": "request limit",
    "saturated": SATURATED,
    "schedule_used_up": "end of the schedule",
    "stopped": "stopped",
}
_LIMITS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E"}


def label(row: ServedRow) -> str:
    """The method's name, and which repeat it is from the second on."""
    return row.label if row.planned.repeat == 1 else f"{row.label} (repeat {row.planned.repeat})"


def failed_words(counts: Counts) -> str:
    """``3 of 600: 2 timed out, 1 no connection``; ``none``. Requests that were left unfinished, or sent twice, are told
    behind it."""
    kinds = ", ".join(f"{count} {_FAILED.get(kind, kind)}" for kind, count in counts.failed.items())
    words = f"{sum(counts.failed.values())} of {counts.scheduled}: {kinds}" if kinds else NONE_FAILED
    behind = ((counts.unfinished, "unfinished"), (counts.resent, SENT_TWICE))
    return "; ".join([words, *(f"{count} of {counts.scheduled} {what}" for count, what in behind if count)])


def limits_words(limits: Limits) -> str:
    """``TTFT at most 0.5 s, TPOT at most 0.05 s``."""
    given = ((word, getattr(limits, name)) for name, word in _LIMITS.items())
    return ", ".join(f"{word} at most {value:g} s" for word, value in given if value is not None)


def asked_limits(view: RunView) -> tuple[Limits, ...]:
    """The limits that cells were judged by, each once."""
    found = [row.result.metrics.kept.limits for row in view.served if row.result and row.result.metrics.kept]
    return tuple(dict.fromkeys(found))


def state(row: ServedRow) -> str:
    """The outcome of a cell in words: ``ok``, ``saturated``, the outcome of one that failed."""
    if row.result is None:
        return row.status
    metrics = row.result.metrics
    if metrics.saturated:
        return SATURATED
    words = row.status if metrics.warmup_steady else f"{row.status}, warm-up not steady"
    return f"{words}, {SPECULATIVE}" if row.speculative else words


def not_compared(row: ServedRow) -> str:
    """Why a row with numbers is compared with no other; empty where nothing is so."""
    if row.unranked:
        return row.unranked
    return "" if row.planned.ranked else "a scripted engine"


def not_ranked(rows: Iterable[ServedRow]) -> list[str]:
    """Of each row that is compared with no other why, in words; a scripted engine stands there once."""
    rows = [row for row in rows if row.result is not None]
    scripted = dict.fromkeys(f"{row.label}: a scripted engine" for row in rows if not row.planned.ranked)
    others = (
        f"{label(row)} at {row.load.words}: {row.unranked}" for row in rows if row.planned.ranked and row.unranked
    )
    return [*scripted, *others]


def compared(rows: Iterable[ServedRow]) -> list[ServedRow]:
    """Rows that are ranked: real engines, undisturbed, of the first repeat, at a load that they kept up with."""
    return [
        row
        for row in rows
        if row.result is not None
        and row.planned.ranked
        and not row.unranked
        and row.planned.repeat == 1
        and not row.result.metrics.saturated
    ]


def kept_limits(kept: Kept | None) -> bool:
    """Whether enough of a load point's requests were within the limits."""
    return kept is not None and kept.attainment.value >= DEFAULT_ATTAINMENT


@dataclass(frozen=True)
class First:
    """Who is first in something.

    Attributes:
        leads: rows with the best number; more than one only if they are equal.
        tied: further rows that may as well be first.
        told: whether the first has an interval, so that a tie could be told.
        values: of every row that was compared, by cell.
    """

    leads: tuple[ServedRow, ...]
    tied: tuple[ServedRow, ...]
    told: bool
    values: dict[str, Estimate]

    @property
    def tied_words(self) -> str:
        """The labels of those that are tied; ``none``; or that it is not known."""
        if not self.told:
            return "not known, it has no interval"
        return ", ".join(row.label for row in self.tied) or "none"


def first_of(pairs: Sequence[tuple[ServedRow, Estimate | None]], *, highest: bool) -> First | None:
    """Among these rows; ``None`` where fewer than two have the number."""
    known = [(row, found) for row, found in pairs if found is not None]
    if len(known) < 2:
        return None
    best = (max if highest else min)(found.value for _, found in known)
    leads = [(row, found) for row, found in known if found.value == best]
    lead = leads[0][1]
    return First(
        leads=tuple(row for row, _ in leads),
        tied=tuple(row for row, found in known if found.value != best and tied(lead, found)),
        told=lead.low is not None,
        values={row.planned.cell: found for row, found in known},
    )


def first_at(load: Serve, rows: Sequence[ServedRow]) -> First | None:
    """Who is first at a load point. In a closed loop by output tokens/s. In an open loop, where everybody who keeps up
    writes what is asked for, by the median time to first token."""
    ranked = compared(rows)
    if load.open_loop:
        return first_of([(row, _ttft(row)) for row in ranked], highest=False)
    return first_of([(row, _throughput(row)) for row in ranked], highest=True)


def _ttft(row: ServedRow) -> Estimate | None:
    latency = row.result.metrics.ttft_s if row.result else None
    return latency.p50 if latency else None


def _throughput(row: ServedRow) -> Estimate | None:
    return row.result.metrics.output_throughput_tok_s if row.result else None


def busy_words(view: RunView) -> str:
    """That others used the servers' CPUs, for the head of a report; empty where nobody did."""
    busy = [row for row in view.served if row.result and row.result.cpu and row.result.cpu.busy]
    measured = sum(row.result is not None for row in view.served)
    return (
        f"this host was busy while {len(busy)} of {quantity(measured, 'cell')} under load "
        f"{'were' if measured > 1 else 'was'} measured: {'they are' if len(busy) > 1 else 'it is'} not ranked"
        if busy
        else ""
    )
