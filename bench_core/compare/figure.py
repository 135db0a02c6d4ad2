"""The forest plot of a comparison: one line for each change, its interval across it, quantity by quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench_core.compare.comparison import Comparison, Line
from bench_core.compare.quantities import QUANTITIES, Quantity
from bench_core.compare.verdict import Verdict
from bench_core.report.figures.draw import INK, PALE_INK, Figure, empty, field, finished, nominal
from bench_core.report.format import quantity as counted
from bench_core.report.format import significant

# Okabe and Ito's, told apart by all common kinds of colour vision; shapes and words say the same.
_LOOKS = {
    Verdict.FAIL: ("#D55E00", "diamond"),
    Verdict.INCONCLUSIVE: ("#8A8F98", "square"),
    Verdict.PASS: ("#0072B2", "circle"),
}
_MOST = 40  # lines of one quantity: the worst are drawn
_ROW_HEIGHT, _WIDTH = 20, 420
_LONGEST = 60


def draw(comparisons: Sequence[Comparison]) -> Figure:
    """All comparisons with one baseline, one below the other."""
    parts: list[Any] = []
    longest, left = 1, 0
    for comparison in comparisons:
        for quantity in QUANTITIES.values():
            lines = [
                line
                for line in comparison.worst_first
                if line.quantity is quantity and line.change is not None and line.verdict in _LOOKS
            ]
            if lines:
                left += max(len(lines) - _MOST, 0)
                parts.append(_panel(comparison, quantity, lines[:_MOST], first=not parts))
                longest = max(longest, *(len(_name(line)) for line in lines[:_MOST]))
    if not parts:
        parts = [empty(_WIDTH, "No change has a number")]
    subtitle = [
        "Change for the worse, per cent: right of the line is worse",
        "bars: 95 % intervals; dashed: the worsening that is allowed",
    ]
    subtitle += [f"{counted(left, 'further change')} not drawn: the worst of each quantity are"] if left else []
    title = f"Changes against {comparisons[0].old.name}"[:_LONGEST]
    return finished(parts, (), (), title=title, subtitle=subtitle, longest=longest).drawn()


def _name(line: Line) -> str:
    return f"{line.label}, {line.scenario}"[:_LONGEST]


def _worse(line: Line, relative: float) -> float:
    assert line.quantity is not None  # noqa: S101  # lines that are drawn have one
    return (-relative if line.quantity.higher_is_better else relative) * 100


def _panel(comparison: Comparison, quantity: Quantity, lines: Sequence[Line], *, first: bool) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    names: list[str] = []
    for number, line in enumerate(lines):
        assert line.change is not None  # noqa: S101  # lines that are drawn have one
        ends = [_worse(line, end) for end in line.change.ends or ()]
        place = f"{number:03d} {_name(line)}"
        names.append(place)
        data.append({
            "place": place, "worse": _worse(line, line.change.relative), "verdict": line.verdict.value,
            "low": min(ends, default=None), "high": max(ends, default=None),
        })  # fmt: skip
    bound = (comparison.asked.bounds[quantity.name]) * 100
    reach = max([bound * 1.2, *(abs(row[n]) for row in data for n in ("worse", "low", "high") if row[n] is not None)])
    axis = {"labelExpr": "slice(datum.label, 4)", "domain": False, "ticks": False, "grid": True}
    y = nominal("place", sort=names, title=None, scale={"domain": names}, axis=axis)
    scale = {"domain": [-reach * 1.05, reach * 1.05], "nice": False}
    words = [verdict.value for verdict in _LOOKS]
    legend = {"title": None, "orient": "right", "symbolOpacity": 1, "symbolStrokeWidth": 0} if first else None
    colours, shapes = ([look[k] for look in _LOOKS.values()] for k in (0, 1))
    base = {"y": y, "color": nominal("verdict", scale={"domain": words, "range": colours}, legend=legend)}
    bars = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {**base, "x": field("low", scale=scale), "x2": {"field": "high"}},
        "transform": [{"filter": "isValid(datum.low)"}],
    }
    points = {
        "mark": {"type": "point", "size": 70, "filled": True, "opacity": 1, "stroke": "#ffffff", "strokeWidth": 0.7},
        "encoding": {
            **base,
            "x": field("worse", title=None, scale=scale),
            "shape": nominal("verdict", scale={"domain": words, "range": shapes}, legend=legend),
        },
    }
    name = f"{quantity.title}, {comparison.new.name}"[:_LONGEST]
    return {
        "data": {"values": data},
        "layer": [_rule(0.0, INK, [1, 0]), _rule(bound, PALE_INK, [4, 3]), bars, points],
        "width": _WIDTH, "height": _ROW_HEIGHT * len(lines),
        "title": {
            "text": f"{name} (allowed: {significant(bound, 3)} %)", "anchor": "start", "fontSize": 12,
            "color": PALE_INK, "offset": 4,
        },
    }  # fmt: skip


def _rule(at: float, colour: str, dash: list[int]) -> dict[str, Any]:
    return {
        "data": {"values": [{"at": at}]},
        "mark": {"type": "rule", "color": colour, "strokeDash": dash},
        "encoding": {"x": field("at")},
    }
