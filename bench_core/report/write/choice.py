"""The answer to limits, for a terminal: who is within them, the best first, and what ruled out the rest."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bench_core.report.decide.choose import Choice, Ranked, Wanted
from bench_core.report.decide.cost import Prices, cost_per_million, energy_cost_per_million
from bench_core.report.decide.option import Option, Quantity
from bench_core.report.decide.quality import quality_loss
from bench_core.report.decide.words import limit_name, reason_words, wanted_words
from bench_core.report.format import ABSENT, gib, milliseconds, seconds, significant, within
from bench_core.system.text import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_Column = tuple[str, Callable[[Option], str]]


def console_choice(choice: Choice, sentences: Sequence[str], wanted: Wanted, prices: Prices) -> Iterator[Table | Text]:
    """The answer's first sentences, the ranked methods, then those that are ruled out, each where there is any; names
    are plain text in it."""
    from rich.text import Text  # noqa: PLC0415

    for sentence in sentences:
        yield Text(one_line(sentence))
    if choice.ranked:
        yield _ranked(choice, wanted_words(wanted), prices)
    if choice.ruled_out:
        yield _ruled_out(choice)
    for note in _notes(choice, wanted):
        yield Text(note)


def _ranked(choice: Choice, limits: str, prices: Prices) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    title = f"At {choice.point_words}" + (f": {limits}" if limits else "")
    table = Table(title=Text(title), title_justify="left")
    table.add_column("Rank", justify="right")
    table.add_column("Method", overflow="fold")
    columns = _columns([line.option for line in choice.ranked], prices)
    for name, _ in columns:
        table.add_column(name, justify="right", overflow="fold")
    remarks = [_remarks(line) for line in choice.ranked]
    if any(remarks):
        table.add_column("Remarks", overflow="fold")
    for place, (line, remark) in enumerate(zip(choice.ranked, remarks, strict=True), start=1):
        rank = f"{place}, tied" if line.tied else str(place)
        fields = [rank, one_line(line.option.method), *(write(line.option) for _, write in columns)]
        fields += [one_line(remark)] if any(remarks) else []
        table.add_row(*map(Text, fields), style="bold" if place == 1 else "")
    return table


def _remarks(line: Ranked) -> str:
    close = [f"{limit_name(key)} is close to its limit" for key in line.close]
    return ", ".join([*line.option.remarks, *close])


def _columns(options: Sequence[Option], prices: Prices) -> list[_Column]:
    """Those of which a method has a number."""
    currency = f" ({prices.currency})" if prices.currency else ""
    known: list[tuple[str, Callable[[Option], object], Callable[[Option], str]]] = [
        ("Throughput (token/s)", lambda o: o.throughput_tok_s, lambda o: _interval(o.throughput_tok_s)),
        ("TTFT (s)", lambda o: o.ttft_s, lambda o: seconds(_value(o.ttft_s))),
        ("TTFT p99 (s)", lambda o: o.ttft_p99_s, lambda o: seconds(_value(o.ttft_p99_s))),
        ("TPOT (ms)", lambda o: o.tpot_s, lambda o: milliseconds(_value(o.tpot_s))),
        ("TPOT p99 (ms)", lambda o: o.tpot_p99_s, lambda o: milliseconds(_value(o.tpot_p99_s))),
        ("Memory", lambda o: o.memory_bytes, lambda o: gib(o.memory_bytes)),
        ("Perplexity", lambda o: o.perplexity, _quality),
        (
            f"Cost of a million tokens{currency}",
            lambda o: cost_per_million(prices, o.throughput_tok_s),
            lambda o: _interval(cost_per_million(prices, o.throughput_tok_s)),
        ),
        (
            f"Energy cost of a million tokens{currency}",
            lambda o: energy_cost_per_million(prices, o.joules_per_token),
            lambda o: _plain(energy_cost_per_million(prices, o.joules_per_token)),
        ),
    ]
    return [(name, write) for name, value, write in known if any(value(option) is not None for option in options)]


def _in_order(choice: Choice) -> bool:
    """Whether the ranked methods stand in the order of the throughputs that are printed."""
    if choice.by != "throughput_tok_s":
        return True
    shown = [line.option.throughput_tok_s.value for line in choice.ranked if line.option.throughput_tok_s]
    return all(map(operator.ge, shown, shown[1:]))


def _value(found: Quantity | None) -> float | None:
    return found.value if found else None


def _interval(found: Quantity | None) -> str:
    return within(found.value, found.low, found.high) if found else ABSENT


def _plain(value: float | None) -> str:
    return ABSENT if value is None else significant(value)


def _quality(option: Option) -> str:
    """``11.4 (+35 %)``: the perplexity, and how much above the reference's it is."""
    loss = quality_loss(option)
    if option.perplexity is None:
        return ABSENT
    return significant(option.perplexity) + ("" if loss is None else f" ({round(loss * 100, 1) + 0.0:+.1f} %)")


def _ruled_out(choice: Choice) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=Text("Ruled out"), title_justify="left")
    table.add_column("Method", overflow="fold")
    table.add_column("By", overflow="fold")
    for line in choice.ruled_out:
        words = "; ".join(reason_words(line.option, reason) for reason in line.reasons)
        table.add_row(Text(one_line(line.option.method)), Text(one_line(words)))
    return table


def _notes(choice: Choice, wanted: Wanted) -> Iterator[str]:
    if choice.ranked and not wanted.point:
        what = choice.point_words.capitalize()
        within_words = " within the limits" if wanted_words(wanted) else ""
        yield f"{what} gives most{within_words}. Ask for another with batch=, concurrency=, rate= or trace."
    if choice.tied:
        yield "Tied: statistically, with the first. Measuring longer would tell them apart."
    if not _in_order(choice):
        yield "Without an interval, methods are ranked by the batches that others measured too, not by these numbers."
    if any(reason.key == "memory" and reason.value is not None for line in choice.ruled_out for reason in line.reasons):
        yield "Memory is the peak in use, and of an engine that reserves memory all that it reserved: it may need less."
