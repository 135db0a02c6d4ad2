"""Which method to take within limits: who is ranked, who is tied with the first, and what ruled the others out.

The rule, which the page repeats in the reader's browser (``tests/report/data/choices.json`` holds both to it):

1. Cells of one point are compared with each other and with no others. Without a wanted point it is the one that gives
   most. Kinds of points are batch sizes, concurrencies, request rates and the rest, in this order. Of the first kind of
   which steps 2 to 4 leave a method it is the point whose best by step 5 has the highest ``compared_tok_s``; of equal
   ones the larger, then the earlier in the run. If no method is left anywhere, it is the largest point of the first
   kind that the run has.
2. A scripted engine is left out and named nowhere.
3. A cell is ruled out for one of these, the first that holds: it has no throughput (``outcome``), ``unranked`` is not
   empty (``unranked``), ``saturated`` is among its remarks (``saturated``).
4. Any other cell is ruled out for each limit that it breaks, in the order of ``LIMITS``. Its number is above a limit,
   or below that of ``throughput_tok_s``; one at the limit keeps it. It has no such number: the reason's value is
   ``None``.
   The number of ``quality`` is exp(nll_increase) - 1, the relative increase of perplexity. A reason or a kept limit is
   close if the number's interval holds the limit, ends included: measured again, it may come out otherwise.
5. The others are ranked. Closed batches and concurrencies go by ``compared_tok_s``, highest first. At a request rate or
   in a trace everybody who keeps up writes what is asked for, so these go by ``ttft_s``, lowest first, and a cell
   without one comes last. Equal ones keep the order of the run.
6. Tied with the first is who may as well be first by what was ranked (``throughput_tok_s``, ``ttft_s``): with a, b the
   lower and the higher of two numbers, b - a <= sqrt((high of a - a)^2 + (b - low of b)^2). Without an interval nobody
   is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from bench_core.contract.errors import BadInput
from bench_core.report.decide.option import SATURATED, Option, Quantity, points_of
from bench_core.report.decide.quality import quality_loss
from bench_core.report.decide.ties import tied

By = Literal["throughput_tok_s", "ttft_s"]


@dataclass(frozen=True)
class Wanted:
    """Limits of a choice; ``None`` for no such limit.

    Attributes:
        point: word of a batch size or load point, as ``b16``, ``c16``, ``r8``; empty: see step 1 of the rule.
        memory: bytes, at most; ``throughput_tok_s``: tokens/s, at least.
        ttft_s, tpot_s, ttft_p99_s, tpot_p99_s: seconds, at most.
        quality: relative increase of perplexity above the reference's, at most: 0.02 for 2 %.
    """

    point: str = ""
    memory: float | None = None
    throughput_tok_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_p99_s: float | None = None
    quality: float | None = None


LIMITS = tuple(field.name for field in fields(Wanted) if field.name != "point")


@dataclass(frozen=True)
class Reason:
    """Why a cell is ruled out.

    Attributes:
        key: ``outcome``, ``unranked``, ``saturated``, or the limit that is broken.
        value: the cell's number; ``None`` where it has none, and for the first three keys.
        limit: that was asked for; ``None`` for the first three keys.
        close: the number's interval holds the limit.
    """

    key: str
    value: float | None = None
    limit: float | None = None
    close: bool = False


@dataclass(frozen=True)
class Ranked:
    """A cell within the limits. ``tied``: statistically, with the first. ``close``: kept limits that are close."""

    option: Option
    tied: bool
    close: tuple[str, ...]


@dataclass(frozen=True)
class RuledOut:
    """A cell that is not ranked, and each reason."""

    option: Option
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Choice:
    """The answer at one batch size or load point.

    Attributes:
        point, point_words: where cells were compared.
        by: what they are ranked by.
        told: whether the first has an interval, so that a tie could be told.
        ranked: the best first.
        ruled_out: in the order of the run.
    """

    point: str
    point_words: str
    by: By
    told: bool
    ranked: tuple[Ranked, ...]
    ruled_out: tuple[RuledOut, ...]

    @property
    def tied(self) -> tuple[Option, ...]:
        """Those that are statistically tied with the first."""
        return tuple(line.option for line in self.ranked if line.tied)


def choose(options: Sequence[Option], wanted: Wanted) -> Choice:
    """Applies the rule of this module to the cells of a run.

    Raises:
        BadInput: no cell was planned at the point, or none at all.
    """
    points = _ordered(options)
    if not points:
        raise BadInput("the run has no cells to choose from")
    if wanted.point:
        if wanted.point not in points:
            raise BadInput(f"the run has no cell at {wanted.point}", f"it has: {', '.join(_asked(options))}")
        return _at(options, wanted, wanted.point)
    answers = [_at(options, wanted, point) for point in points]
    found = [answer for answer in answers if answer.ranked]
    if not found:
        return answers[0]
    kind = _place(found[0].ranked[0].option)[0]
    of_kind = [answer for answer in found if _place(answer.ranked[0].option)[0] == kind]
    return max(of_kind, key=lambda answer: answer.ranked[0].option.compared_tok_s or 0.0)


def _ordered(options: Iterable[Option]) -> list[str]:
    """Words of all points: kind by kind, each from large to small."""
    places: dict[str, tuple[int, float]] = {}
    for option in options:
        places.setdefault(option.point, _place(option))
    return sorted(places, key=lambda point: places[point])


def _place(option: Option) -> tuple[int, float]:
    for kind, size in enumerate((option.batch_size, option.concurrency, option.request_rate)):
        if size is not None:
            return kind, -size
    return 3, 0.0


def _is_open_loop(option: Option) -> bool:
    """Whether requests are sent at times that do not depend on the server: at a rate, or by a trace."""
    return option.batch_size is None and option.concurrency is None


def _asked(options: Sequence[Option]) -> list[str]:
    """Every point as one asks for it, in the order of the run."""
    keys = {"b": "batch=", "c": "concurrency=", "r": "rate="}
    return [f"{keys.get(p[0], '')}{p[1:].replace('_', '.')}" if p != "trace" else p for p in points_of(tuple(options))]


def _at(options: Iterable[Option], wanted: Wanted, point: str) -> Choice:
    """Steps 2 to 6."""
    here = [option for option in options if option.point == point]
    judged = [(option, *_judged(option, wanted)) for option in here if not option.scripted]
    by: By = "ttft_s" if _is_open_loop(here[0]) else "throughput_tok_s"
    kept = sorted(
        ((option, close) for option, reasons, close in judged if not reasons), key=lambda pair: _order(pair[0], by)
    )
    first = _number(kept[0][0], by) if kept else None
    return Choice(
        point=point,
        point_words=here[0].point_words,
        by=by,
        told=first is not None and first.low is not None and first.high is not None,
        ranked=tuple(
            Ranked(option, place > 0 and _may_be_first(first, _number(option, by)), close)
            for place, (option, close) in enumerate(kept)
        ),
        ruled_out=tuple(RuledOut(option, reasons) for option, reasons, _ in judged if reasons),
    )


def _judged(option: Option, wanted: Wanted) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
    """Why a cell is ruled out, and the kept limits that are close."""
    if option.throughput_tok_s is None:
        return (Reason("outcome"),), ()
    if option.unranked:
        return (Reason("unranked"),), ()
    if SATURATED in option.remarks:
        return (Reason(SATURATED),), ()
    reasons: list[Reason] = []
    close: list[str] = []
    for key in LIMITS:
        limit = getattr(wanted, key)
        if limit is None:
            continue
        number = _NUMBERS[key](option)
        if number is None:
            reasons.append(Reason(key, None, limit))
            continue
        holds = number.low is not None and number.high is not None and number.low <= limit <= number.high
        if number.value < limit if key == "throughput_tok_s" else number.value > limit:
            reasons.append(Reason(key, number.value, limit, close=holds))
        elif holds:
            close.append(key)
    return tuple(reasons), tuple(close)


def _exact(value: float | None) -> Quantity | None:
    return None if value is None else Quantity(value)


_NUMBERS: dict[str, Callable[[Option], Quantity | None]] = {
    "memory": lambda option: _exact(option.memory_bytes),
    "throughput_tok_s": lambda option: option.throughput_tok_s,
    "ttft_s": lambda option: option.ttft_s,
    "tpot_s": lambda option: option.tpot_s,
    "ttft_p99_s": lambda option: option.ttft_p99_s,
    "tpot_p99_s": lambda option: option.tpot_p99_s,
    "quality": lambda option: _exact(quality_loss(option)),
}


def _number(option: Option, by: By) -> Quantity | None:
    return option.throughput_tok_s if by == "throughput_tok_s" else option.ttft_s


def _order(option: Option, by: By) -> float:
    if by == "throughput_tok_s":
        return -(option.compared_tok_s or 0.0)
    return math.inf if option.ttft_s is None else option.ttft_s.value


def _may_be_first(first: Quantity | None, other: Quantity | None) -> bool:
    return first is not None and other is not None and tied(first, other)
