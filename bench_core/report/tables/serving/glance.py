"""What a run says at a glance of engines under load: the most that each method did, and who may as well be first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench_core.contract.serving.capacity import DEFAULT_ATTAINMENT
from bench_core.contract.serving.intervals import Estimate
from bench_core.report.column import Column, Entry, Sheet, sheet
from bench_core.report.explain.marks import NOT_RANKED_MARK
from bench_core.report.explain.under_load import (
    First,
    asked_limits,
    compared,
    first_at,
    first_of,
    kept_limits,
    limits_words,
    not_ranked,
)
from bench_core.report.format import ABSENT, milliseconds, within
from bench_core.report.served import load_points, of_load
from bench_core.runs.view import RunView, ServedRow


@dataclass(frozen=True)
class _Best:
    """The load point at which a method did most of something; ``first``: among all methods."""

    row: ServedRow
    value: Estimate
    first: bool = False
    tied: bool = False


@dataclass(frozen=True)
class _Method:
    """A method over its load points. ``mark``: none of them is ranked."""

    label: str
    goodput: _Best | None
    throughput: _Best | None
    mark: str = ""


def _goodput(row: ServedRow) -> Estimate | None:
    """Requests/s within the limits, at a load point that kept them."""
    kept = row.result.metrics.kept if row.result else None
    return kept.goodput if kept is not None and kept_limits(kept) else None


def _throughput(row: ServedRow) -> Estimate | None:
    return row.result.metrics.output_throughput_tok_s if row.result else None


def _methods(view: RunView) -> list[_Method]:
    names = list(dict.fromkeys((row.planned.image, row.planned.variant) for row in view.served))
    rows = {name: [r for r in view.served if (r.planned.image, r.planned.variant) == name] for name in names}
    goodput, throughput = _bests(rows, _goodput), _bests(rows, _throughput)
    return [
        _Method(
            of[0].label,
            goodput.get(name),
            throughput.get(name),
            "" if compared(of) or not any(row.result for row in of) else NOT_RANKED_MARK,
        )
        for name, of in rows.items()
    ]


_Name = tuple[str, str]


def _bests(rows: dict[_Name, list[ServedRow]], value: Callable[[ServedRow], Estimate | None]) -> dict[_Name, _Best]:
    """Each method's highest, of its ranked rows; and who is first among them."""
    best: dict[_Name, tuple[ServedRow, Estimate]] = {}
    for name, of in rows.items():
        found = [(row, told) for row in compared(of) if (told := value(row)) is not None]
        if found:
            best[name] = max(found, key=lambda pair: pair[1].value)
    first = first_of(list(best.values()), highest=True)
    leads = {row.planned.cell for row in first.leads} if first else set()
    tied = {row.planned.cell for row in first.tied} if first else set()
    return {
        name: _Best(row, told, first=row.planned.cell in leads, tied=row.planned.cell in tied)
        for name, (row, told) in best.items()
    }


def _shown(best: _Best | None) -> Entry:
    if best is None:
        return Entry(ABSENT)
    found = best.value
    text = f"{within(found.value, found.low, found.high)} at {best.row.load.words}"
    return Entry(text + (", tied" if best.tied else ""), found.value, strong=best.first)


_METHOD = Column[_Method]("Method", "label", words=True, mark=lambda line: line.mark)
_GOODPUT = Column[_Method](
    "Most requests/s within the limits", "goodput.value.value", shown=lambda line: _shown(line.goodput), words=True
)
_THROUGHPUT = Column[_Method](
    "Most output token/s", "throughput.value.value", shown=lambda line: _shown(line.throughput), words=True
)


def serving_glance_sheet(view: RunView) -> Iterator[Sheet]:
    """One line for each method that was measured under load."""
    if not any(row.result for row in view.served):
        return
    limits = asked_limits(view)
    columns: Sequence[Column[_Method]] = [_METHOD, *([_GOODPUT] if limits else []), _THROUGHPUT]
    yield sheet("At a glance, under load", columns, _methods(view), _notes(view))


def _notes(view: RunView) -> Iterator[str]:
    for limits in asked_limits(view):
        yield (
            f"Within the limits: {limits_words(limits)}; of load points at which {DEFAULT_ATTAINMENT * 100:g} % of the "
            "requests or more kept them."
        )
    yield (
        "Bold: the highest of the methods that are ranked. Tied: the difference to it is no larger than the sides of "
        "the two intervals that face each other allow (root of the sum of their squares). Load points at which a "
        "server did not keep up (saturated) are left out."
    )
    found = not_ranked(view.served)
    if found:
        yield f"{NOT_RANKED_MARK} not ranked: {'; '.join(found)}."


def first_lines(view: RunView) -> list[str]:
    """Who is first at each load point, in a line of its own, and those that are statistically tied with it."""
    lines = []
    for load in load_points(view):
        found = first_at(load, [line.row for line in of_load(view, load)])
        if found is not None:
            what = "Fastest first token" if load.open_loop else "Fastest"
            leads = ", ".join(f"{row.label}: {_value(found, row, in_ms=load.open_loop)}" for row in found.leads)
            lines.append(f"{what} at {load.words}: {leads}; statistically tied with it: {found.tied_words}")
    return lines


def _value(found: First, row: ServedRow, *, in_ms: bool) -> str:
    value = found.values[row.planned.cell]
    if in_ms:
        return f"{milliseconds(value.value)} ms (median)"
    return f"{within(value.value, value.low, value.high)} token/s"
