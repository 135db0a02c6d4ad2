"""The forest plot of a comparison: one line for each change, its interval across it, quantity by quantity."""

from __future__ import annotations

from collections.abc import Sequence

from bench_core.compare.comparison import Comparison, Line
from bench_core.compare.quantities import QUANTITIES, Quantity
from bench_core.compare.verdict import Verdict
from bench_core.report.figures import svg
from bench_core.report.figures.draw import Drawing, Figure
from bench_core.report.figures.svg import INK, PALE_INK, Plot
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
    plots: list[Plot] = []
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
                plots.append(_panel(comparison, quantity, lines[:_MOST], first=not plots))
                longest = max(longest, *(len(_name(line)) for line in lines[:_MOST]))
    if not plots:
        plots = [svg.empty(_WIDTH, "No change has a number")]
    subtitle = [
        "Change for the worse, per cent: right of the line is worse",
        "bars: 95 % intervals; dashed: the worsening that is allowed",
    ]
    subtitle += [f"{counted(left, 'further change')} not drawn: the worst of each quantity are"] if left else []
    return Drawing(
        title=f"Changes against {comparisons[0].old.name}"[:_LONGEST],
        subtitle=tuple(subtitle),
        plots=lambda: plots,
        longest=longest,
    ).drawn()


def _name(line: Line) -> str:
    return f"{line.label}, {line.scenario}"[:_LONGEST]


def _worse(line: Line, relative: float) -> float:
    assert line.quantity is not None  # noqa: S101  # lines that are drawn have one
    return (-relative if line.quantity.higher_is_better else relative) * 100


def _panel(comparison: Comparison, quantity: Quantity, lines: Sequence[Line], *, first: bool) -> Plot:
    """``first``: the one that has the legend."""
    changes: list[tuple[Line, float, list[float]]] = []
    for line in lines:
        assert line.change is not None  # noqa: S101  # lines that are drawn have one
        ends = [_worse(line, end) for end in line.change.ends or ()]
        changes.append((line, _worse(line, line.change.relative), ends))
    bound = (comparison.asked.bounds[quantity.name]) * 100
    reach = max([bound * 1.2, *(abs(value) for _, worse, ends in changes for value in (worse, *ends))]) * 1.05
    x, height = svg.linear(_WIDTH, reach, low=-reach), _ROW_HEIGHT * len(lines)
    down: tuple[tuple[float, str, tuple[int, ...]], ...] = ((0.0, INK, ()), (bound, PALE_INK, (4, 3)))
    parts = [
        svg.text(0, -12, f"{_title(comparison, quantity)} (allowed: {significant(bound, 3)} %)", fill=PALE_INK),
        *svg.grid(x, None, _WIDTH, height),
    ]
    rows = []
    for place, (line, worse, ends) in enumerate(changes):
        y = _ROW_HEIGHT * (place + 0.5)
        colour, shape = _LOOKS[line.verdict]
        parts.append(svg.rule(0, y, _WIDTH, y, stroke=svg.GRID))
        parts.append(svg.text(-8, y, _name(line), text_anchor="end"))
        if ends:
            rows.append(svg.rule(x.at(min(ends)), y, x.at(max(ends)), y, stroke=colour, stroke_width=2))
        point = svg.symbol(shape, x.at(worse), y, 70)
        rows.append(svg.element("path", **point, fill=colour, stroke="#ffffff", stroke_width=0.7))
    parts += [svg.rule(x.at(at), 0, x.at(at), height, stroke=ink, dash=dash) for at, ink, dash in down]
    below, room = svg.x_axis(x, height, "")
    kinds = [(verdict.value, shape, {"fill": colour}) for verdict, (colour, shape) in _LOOKS.items()] if first else []
    names, right, high = svg.legend(kinds, _WIDTH)
    left = 8 + max(svg.text_width(_name(line), 12) for line in lines)
    parts += [*rows, *below, *names]
    return Plot(_WIDTH, max(height, high), tuple(parts), left=left, right=right, below=room)


def _title(comparison: Comparison, quantity: Quantity) -> str:
    return f"{quantity.title}, {comparison.new.name}"[:_LONGEST]
