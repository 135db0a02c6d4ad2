"""The first sentences of a report: which method is the fastest, how sure that is, and what it costs in quality."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench_core.report.decide.choose import LIMITS, Choice, Wanted, choose
from bench_core.report.decide.option import Option, Quantity, options_of, points_of
from bench_core.report.decide.quality import NEAR, NEAR_WORDS, is_near, quality_loss, reference_perplexity
from bench_core.report.decide.under_limits import limit_sentences
from bench_core.report.decide.words import wanted_words
from bench_core.report.explain.marks import FEW_BATCHES, MISFIT, NO_OUTPUT, UNEVEN
from bench_core.report.format import milliseconds, significant, within
from bench_core.runs.view import RunView

_KINDS = ("batch_size", "concurrency", "request_rate", "trace")
PLUS_MINUS = "The ± is half of a 95 % interval."
_NO_INTERVAL = (FEW_BATCHES, UNEVEN, MISFIT, NO_OUTPUT)


@dataclass(frozen=True)
class Verdict:
    """What a run says first.

    Attributes:
        sentences: plain text, each whole in itself.
        choices: what they are of: the smallest and the largest batch size, concurrency and request rate at which a
            method is ranked, without limits.
        at: what the run says first of one batch size or load point, by its word; of each that was planned.
    """

    sentences: tuple[str, ...]
    choices: tuple[Choice, ...] = ()
    at: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def verdict(view: RunView) -> Verdict:
    """Of a run; where nothing is ranked, that and why."""
    return verdict_of(options_of(view), tuple(limit_sentences(view)))


def verdict_of(options: tuple[Option, ...], limits: tuple[str, ...] = ()) -> Verdict:
    """Of cells that may be compared. ``limits``: what else there is to say of latency limits."""
    reference = reference_perplexity(options)
    told = {choice.point: choice for choice in (choose(options, Wanted(point)) for point in points_of(options))}
    of_point = {point: tuple(_of_one(options, choice, reference)) for point, choice in told.items()}
    kinds = [_ends(options, kind, told) for kind in _KINDS]
    choices = tuple(choice for ends in kinds for choice in ends)
    if not choices:
        sentences = [_nothing(options)]
    elif len({line.option.method for choice in told.values() for line in choice.ranked}) == 1:
        sentences = list(_alone(choices, reference))
    else:
        sentences = [sentence for choice in choices for sentence in of_point[choice.point]]
    at = {point: _explained((*said, *limits)) for point, said in of_point.items()}
    return Verdict(_explained((*sentences, *limits)), choices, at)


def choice_sentences(options: Sequence[Option], choice: Choice, wanted: Wanted) -> tuple[str, ...]:
    """The first sentences of one answer: without limits those of :attr:`Verdict.at`, but for latency limits that a run
    was measured with."""
    reference = reference_perplexity(options)
    if any(getattr(wanted, limit) is not None for limit in LIMITS):
        return _explained(tuple(_within_limits(choice, wanted, reference)))
    return _explained(tuple(_of_one(options, choice, reference)))


def _explained(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """The same, with what ± is where one stands in them."""
    return (*sentences, PLUS_MINUS) if any("±" in sentence for sentence in sentences) else sentences


def _ends(options: Sequence[Option], kind: str, told: Mapping[str, Choice]) -> list[Choice]:
    """The smallest and the largest point of a kind at which a method is ranked."""
    sizes: dict[str, float] = {}
    for option in options:
        numbers = [getattr(option, name) for name in _KINDS[:-1]]
        named = next((name for name, number in zip(_KINDS, numbers, strict=False) if number is not None), _KINDS[-1])
        if named == kind:
            sizes[option.point] = max(number or 0.0 for number in numbers)
    ranked = [told[point] for point in sorted(sizes, key=lambda point: sizes[point]) if told[point].ranked]
    return ranked if len(ranked) < 2 else [ranked[0], ranked[-1]]


def _alone(choices: Sequence[Choice], reference: float | None) -> Iterator[str]:
    """Of a run in which one method is ranked."""
    lead = choices[0].ranked[0].option
    numbers = ", ".join(f"{_number(choice)} at {choice.point_words}" for choice in choices)
    yield f"{lead.method} is the only method that is ranked: {numbers}."
    if reference is not None:
        yield from _quality_of(lead, reference)


def _of_one(options: Sequence[Option], choice: Choice, reference: float | None) -> Iterator[str]:
    """Of one point: who is first, what that costs in quality, and who is first without that cost."""
    if not choice.ranked:
        yield f"At {choice.point_words}, {_lowered(_nothing([o for o in options if o.point == choice.point]))}"
        return
    lead = choice.ranked[0].option
    yield f"At {choice.point_words}, {_first(choice)}."
    if reference is None:
        return
    yield from _quality_of(lead, reference)
    if not is_near(lead):
        yield _near(choose(options, Wanted(choice.point, quality=NEAR)))


def _within_limits(choice: Choice, wanted: Wanted, reference: float | None) -> Iterator[str]:
    """The same of those that are within limits."""
    limits = wanted_words(wanted)
    if not choice.ranked:
        yield f"No method is within the limits at {choice.point_words} ({limits})."
        return
    where = f"At {choice.point_words}, within {limits}"
    if len(choice.ranked) == 1:
        yield f"{where}, {choice.ranked[0].option.method} is the only method, with {_number(choice)}."
    else:
        yield f"{where}, {_first(choice)}."
    if reference is not None:
        yield from _quality_of(choice.ranked[0].option, reference)


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _first(choice: Choice) -> str:
    """Who is first, by how much, and how sure that is."""
    lead = choice.ranked[0].option
    if len(choice.ranked) == 1:
        return f"{lead.method} is the only method that is ranked, with {_number(choice)}"
    what = "is the fastest" if choice.by == "throughput_tok_s" else "is the soonest"
    return f"{lead.method} {what} with {_number(choice)}, {_margin(choice)}"


def _near(choice: Choice) -> str:
    if not choice.ranked:
        return f"No method is known to be within {NEAR_WORDS}."
    lead = choice.ranked[0].option.method
    if len(choice.ranked) == 1:
        return f"Within {NEAR_WORDS}, {lead} is the only one, with {_number(choice)}."
    return f"Within {NEAR_WORDS}, {lead} is the fastest with {_number(choice)}, {_margin(choice)}."


def _quality_of(option: Option, reference: float) -> Iterator[str]:
    loss = quality_loss(option)
    if loss is None or option.perplexity is None:
        yield "Its quality was not measured."
    elif loss == 0:
        yield f"Its perplexity is the reference's, {significant(reference)}."
    elif abs(loss) <= NEAR:
        own, its = significant(option.perplexity), significant(reference)
        yield f"Its perplexity is {own}, within {NEAR * 100:g} % of the reference's {its}."
    else:
        yield f"Its perplexity is {significant(option.perplexity)}, the reference has {significant(reference)}."


def _number(choice: Choice) -> str:
    """What the first was ranked by, as tables write it."""
    option = choice.ranked[0].option
    if choice.by == "throughput_tok_s":
        found = option.throughput_tok_s
        return f"{within(found.value, found.low, found.high)} token/s" if found else ""
    return f"{milliseconds(option.ttft_s.value if option.ttft_s else None)} ms to the first token (median)"


def _margin(choice: Choice) -> str:
    """Who is tied with the first, or by how much it leads the next."""
    lead = choice.ranked[0].option
    if not choice.told:
        why = next((remark for remark in lead.remarks if remark in _NO_INTERVAL), "it has no interval")
        return f"and whether others are tied with it is not known ({why})"
    if choice.tied:
        return f"statistically tied with {', '.join(option.method for option in choice.tied)}"
    following = choice.ranked[1].option
    first, second = (getattr(option, choice.by) for option in (lead, following))
    if second is None:
        return f"and {following.method}, the next, has no such number"
    what = "faster" if choice.by == "throughput_tok_s" else "less"
    if choice.by == "throughput_tok_s" and second.low is None:
        # It is ranked by what it did on the batches that others measured too.
        first, second = (Quantity(option.compared_tok_s or 0.0) for option in (lead, following))
    return f"{_difference(first, second)} {what} than the next, {following.method}{_unsure(second)}"


def _unsure(second: Quantity) -> str:
    return ", whose number has no interval" if second.low is None or second.high is None else ""


def _difference(first: Quantity, second: Quantity) -> str:
    """As a share of the second number, in per cent, with its interval: the root of the sum of squares of the sides that
    face each other, as in :func:`bench_core.report.decide.ties.tied`."""
    if not second.value:
        return "infinitely"
    share = abs(first.value - second.value) / second.value * 100
    lower, higher = (first, second) if first.value <= second.value else (second, first)
    if lower.high is None or higher.low is None:
        return f"about {significant(share, 2)} %"
    half = math.hypot(lower.high - lower.value, higher.value - higher.low) / second.value * 100
    decimals = 0 if half >= 1 else 1 if half >= 0.1 else 2
    return f"{share:.{decimals}f} ± {half:.{decimals}f} %"


def _nothing(options: Sequence[Option]) -> str:
    """Why no method is ranked."""
    told = [option for option in options if option.throughput_tok_s is not None]
    if not told:
        return "No method is ranked: no cell has numbers."
    if all(option.scripted for option in told):
        return "No method is ranked: only a scripted engine has numbers."
    return "No method is ranked: no cell with numbers may be compared with others."
