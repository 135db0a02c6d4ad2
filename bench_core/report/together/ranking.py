"""The rankings of several runs: one for each set of runs that may share one, at each batch size and load point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.decide.choose import Choice, Wanted, choose
from bench_core.report.decide.option import Option, Quantity, points_of
from bench_core.report.decide.words import reason_words
from bench_core.report.format import ABSENT, GIB, digits, milliseconds, significant, within
from bench_core.report.together.group import Group


@dataclass(frozen=True)
class Ranked:
    """A cell of a ranking. ``place``: from 1; ``None`` for a cell that is not ranked, and ``remark`` says why."""

    option: Option
    place: int | None
    first: bool
    remark: str


def _interval(name: str, title: str, unit: str, factor: float, meaning: str) -> Column[Ranked]:
    def shown(line: Ranked) -> Entry:
        found: Quantity | None = getattr(line.option, name)
        if found is None:
            return Entry(ABSENT)
        text = within(found.value, found.low, found.high, factor)
        return Entry(text, found.value * factor, strong=line.first and name == "throughput_tok_s")

    return Column(title, f"option.{name}.value", shown=shown, unit=unit, meaning=meaning)


_COLUMNS = (
    Column[Ranked](
        "Place",
        "place",
        meaning="by throughput, the highest first; at a request rate or in a trace by TTFT, the lowest first",
    ),
    Column[Ranked]("Method", "option.method", words=True),
    _interval("throughput_tok_s", "Throughput", "token/s", 1.0, "output tokens a second, ± half of the 95 % interval"),
    _interval(
        "ttft_s", "TTFT", "ms", 1e3, "time to first token: mean over prompts of closed batches, median under load"
    ),
    Column[Ranked](
        "TTFT p99", "option.ttft_p99_s.value", milliseconds, unit="ms", meaning="99 of 100 requests were faster"
    ),
    _interval("tpot_s", "TPOT", "ms", 1e3, "time per output token after the first: mean or median as of TTFT"),
    Column[Ranked](
        "Memory",
        "option.memory_bytes",
        digits(3, 1 / GIB),
        unit="GiB",
        meaning="peak: on the GPU where there is one, else of the engine's processes",
    ),
    Column[Ranked](
        "Energy",
        "option.joules_per_token",
        digits(3),
        unit="J/token",
        meaning="of the device for each output token",
    ),
    Column[Ranked]("Perplexity", "option.perplexity", significant, meaning="of the fixed text"),
    Column[Ranked]("Remarks", "remark", words=True),
)


def ranking_sheets(group: Group, *, several: bool) -> Iterator[Sheet]:
    """One table for each batch size and load point of a group. ``several``: there are other groups, so that each
    heading names the runs."""
    for point, words in points_of(group.options).items():
        choice = choose(group.options, Wanted(point))
        lines = list(_lines(choice))
        if not lines:
            continue
        columns = [column for column in _COLUMNS if _told(column, lines)]
        heading = f"{words[:1].upper()}{words[1:]}" + (f": {group.words}" if several else "")
        yield sheet(heading, columns, lines, _notes(choice))


def _told(column: Column[Ranked], lines: list[Ranked]) -> bool:
    return column in _COLUMNS[:3] or any(column.of(line) not in (None, "") for line in lines)


def _lines(choice: Choice) -> Iterator[Ranked]:
    for place, line in enumerate(choice.ranked):
        said = [*(["tied with the first"] if line.tied else []), *line.option.remarks]
        yield Ranked(line.option, place + 1, place == 0, ", ".join(said))
    for out in choice.ruled_out:
        yield Ranked(out.option, None, first=False, remark=reason_words(out.option, out.reasons[0]))


def _notes(choice: Choice) -> Iterator[str]:
    if choice.ranked and choice.by == "ttft_s":
        yield "Ranked by TTFT: everybody who keeps up writes what is asked for."
    if any(line.tied for line in choice.ranked):
        yield "Tied with the first: the difference is no larger than the two intervals allow."
    untold = [line.option.method for line in choice.ranked if line.option.compared_tok_s != _value(line.option)]
    if choice.by == "throughput_tok_s" and untold:
        yield f"Without an interval, ranked by the batches that others measured too: {', '.join(untold)}."


def _value(option: Option) -> float | None:
    return option.throughput_tok_s.value if option.throughput_tok_s else None


def meanings() -> Iterator[tuple[str, str]]:
    """Each column that says what it means."""
    return ((column.heading, column.meaning) for column in _COLUMNS if column.meaning)
