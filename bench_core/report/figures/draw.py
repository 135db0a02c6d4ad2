"""Draws points: one line for each method, and a strip for the cells without a number.

Importing this module imports altair, which takes a second: import it only to draw.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from bench_core.report.figures.colours import Looks, looks

# Liberation Sans travels with vl-convert and has Arial's measures, so nothing moves where a viewer has only the latter.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, PALE_INK, GRID = "#1f2328", "#59636e", "#e4e7eb"

WIDTH, WIDEST, WIDTH_PER_SIZE = 460, 900, 90
HEIGHT, STRIP_ROW_HEIGHT = 320, 20
HEIGHT_PER_METHOD = 21  # a line of the legend: where that is longer than the plot, the plot may be as long
LOG_ABOVE_SPREAD = 20.0
# Room for a viewer that has none of the fonts and takes a wider one: a sixth of a character for each.
SPARE_PER_CHARACTER = 1.0
PNG_SCALE = 2


@dataclass(frozen=True)
class Figure:
    """A drawing: the text of an SVG and the bytes of a PNG at twice its size."""

    svg: str
    png: bytes


@dataclass(frozen=True)
class Point:
    """A cell: its place, its value or what stands for one."""

    engine: str
    method: str
    batch_size: int
    value: float | None
    status: str
    low: float | None  # ends of its bar
    high: float | None


def draw(points: Sequence[Point], *, title: str, subtitle: list[str], unit: str) -> Figure:
    """The whole drawing."""
    styles = looks({point.method: point.engine for point in points})
    methods = list(styles)
    sizes = sorted({point.batch_size for point in points})
    good = [point for point in points if point.value is not None]
    missing = [point for point in points if point.value is None]
    x_title = "Batch size (prompts in one generate call)"
    parts: list[Any] = [_plot(points, _by_last_value(good), styles, sizes, unit, None if missing else x_title)]
    if missing:
        parts.append(_strip(missing, methods, styles, sizes, x_title))
    return finished(parts, title=title, subtitle=subtitle, longest=max(map(len, methods)))


def finished(parts: Sequence[Any], *, title: str, subtitle: list[str], longest: int) -> Figure:
    """Parts one below the other, dressed and drawn. ``longest``: characters of the longest name beside them."""
    spare = SPARE_PER_CHARACTER * longest
    chart = (
        alt.vconcat(*parts, spacing=38, bounds="flush")
        .resolve_scale(color="independent", shape="independent", strokeDash="independent")
        .properties(
            title=alt.TitleParams(
                text=title,
                subtitle=subtitle,
                anchor="start",
                frame="group",
                fontSize=17,
                fontWeight="bold",
                subtitleFontSize=12,
                subtitleColor=PALE_INK,
                subtitlePadding=5,
                offset=16,
                color=INK,
            ),
            padding={"left": 16, "top": 16, "bottom": 16, "right": 16 + spare},
            background="#ffffff",
        )
        .configure(font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            labelFontSize=12,
            titleFontSize=12.5,
            titleFontWeight="normal",
            gridColor=GRID,
            domainColor=PALE_INK,
            tickColor=PALE_INK,
            labelLimit=0,
            titleLimit=0,
        )
        .configure_legend(labelColor=INK, labelFontSize=12, labelLimit=0, symbolSize=70, rowPadding=4, offset=22)
    )
    svg, png = io.StringIO(), io.BytesIO()
    chart.save(svg, format="svg")
    chart.save(png, format="png", scale_factor=PNG_SCALE)
    return Figure(svg.getvalue(), png.getvalue())


def _by_last_value(points: Sequence[Point]) -> list[str]:
    """Methods with a number, highest first at their largest batch size: the legend reads as the lines end."""
    last: dict[str, tuple[int, float]] = {}
    for point in points:
        if point.value is not None and point.batch_size >= last.get(point.method, (0, 0.0))[0]:
            last[point.method] = (point.batch_size, point.value)
    return sorted(last, key=lambda method: -last[method][1])


def _plot(
    points: Sequence[Point], methods: list[str], styles: Looks, sizes: list[int], unit: str, x_title: str | None
) -> Any:
    values = [number for point in points for number in (point.value, point.low, point.high) if number is not None]
    if not values:
        empty = alt.Chart(alt.InlineData(values=[{"text": "No cell has a number"}]))
        return (
            empty.mark_text(fontSize=14, color=PALE_INK)
            .encode(text="text:N")
            .properties(width=_width(sizes), height=80)
        )
    # A point without a value breaks its line: nothing is drawn where nothing was measured.
    data = alt.InlineData(
        values=[
            {"method": p.method, "batch_size": p.batch_size, "value": p.value, "low": p.low, "high": p.high}
            for p in points
            if p.method in methods
        ]
    )
    # Shapes without a rim: it would take the line's dashes, which fray it.
    legend = alt.Legend(title=None, orient="right", symbolStrokeWidth=0, symbolOpacity=1)
    colour = alt.Color(
        "method:N", sort=None, scale=alt.Scale(domain=methods, range=[styles[m][0] for m in methods]), legend=legend
    )
    shape = alt.Shape("method:N", scale=alt.Scale(domain=methods, range=[styles[m][1] for m in methods]), legend=legend)
    dash = alt.StrokeDash(
        "method:N", scale=alt.Scale(domain=methods, range=[list(styles[m][2]) for m in methods]), legend=legend
    )
    base = alt.Chart(data).encode(x=_x(sizes, x_title), y=_y(values, unit), color=colour)
    lines = base.mark_line(strokeWidth=2, clip=False).encode(strokeDash=dash)
    marks = base.mark_point(size=70, filled=True, opacity=1, stroke="#ffffff", strokeWidth=0.7, clip=False).encode(
        shape=shape
    )
    layers = [lines, marks]
    if any(point.low is not None for point in points):
        told = alt.Chart(data).transform_filter("isValid(datum.low)")
        bars = told.mark_errorbar(ticks={"size": 7}, thickness=1.3)
        layers.insert(0, bars.encode(x=_x(sizes, x_title), y=_y(values, unit, "low"), y2="high:Q", color=colour))
    height = max(HEIGHT, HEIGHT_PER_METHOD * len(methods))
    return alt.layer(*layers).properties(width=_width(sizes), height=height)


def _width(sizes: list[int]) -> int:
    """Room for an outcome's name between two batch sizes."""
    return min(max(WIDTH, WIDTH_PER_SIZE * len(sizes)), WIDEST)


def _x(sizes: list[int], title: str | None) -> alt.X:
    scale = alt.Scale(type="log", base=2, domain=[sizes[0] / 1.3, sizes[-1] * 1.3], nice=False)
    axis = alt.Axis(
        values=sizes,
        format="d",
        title=title,
        titlePadding=8,
        grid=True,
        labels=title is not None,
        ticks=title is not None,
        domain=title is not None,
        labelOverlap="greedy",
    )
    return alt.X("batch_size:Q", scale=scale, axis=axis)


def _y(values: Sequence[float], title: str, field: str = "value") -> alt.Y:
    low, high = min(values), max(values)
    if high / low > LOG_ABOVE_SPREAD:
        ticks = log_ticks(low, high)
        scale = alt.Scale(type="log", domain=[min(ticks[0], low), max(ticks[-1], high)], nice=False)
        axis = alt.Axis(values=ticks, labelExpr=PLAIN_NUMBER, title=f"{title}, log scale", titlePadding=10)
    else:
        scale = alt.Scale(type="linear", domain=[0, high * 1.05], nice=True)
        axis = alt.Axis(
            tickCount=6,
            labelExpr=PLAIN_NUMBER,
            title=title,
            titlePadding=10,
            domain=False,
            ticks=False,
            labelPadding=6,
        )
    return alt.Y(f"{field}:Q", scale=scale, axis=axis)


# Vega's own short form would print 0.05 as 50m.
PLAIN_NUMBER = "datum.value >= 1 || datum.value == 0 ? format(datum.value, ',.6~r') : format(datum.value, '.3~r')"


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around the values; of many powers, only these themselves."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 4 else (1,)
    ticks = [float(f"{step}e{exponent}") for exponent in range(first, last + 1) for step in steps]
    below = max((tick for tick in ticks if tick <= low), default=ticks[0])
    above = min((tick for tick in ticks if tick >= high), default=ticks[-1])
    return [tick for tick in ticks if below <= tick <= above]


def _strip(points: Sequence[Point], order: list[str], styles: Looks, sizes: list[int], x_title: str) -> Any:
    """The cells without a number: a cross at the batch size, the outcome beside it, the method's name at the right."""
    methods = [method for method in order if any(point.method == method for point in points)]
    data = alt.InlineData(values=[{"method": p.method, "batch_size": p.batch_size, "status": p.status} for p in points])
    y = alt.Y(
        "method:N",
        scale=alt.Scale(domain=methods, padding=0.5),
        axis=alt.Axis(orient="right", title=None, domain=False, ticks=False, grid=True, labelPadding=22),
    )
    colour = alt.Color("method:N", scale=alt.Scale(domain=methods, range=[styles[m][0] for m in methods]), legend=None)
    base = alt.Chart(data).encode(x=_x(sizes, x_title), y=y, color=colour)
    crosses = base.mark_point(shape="M-1,-1L1,1M-1,1L1,-1", size=50, strokeWidth=2, filled=False, opacity=1)
    # Beside the cross; to its left at the right edge, where there is no room.
    sides: tuple[tuple[str, Literal["left", "right"], int], ...] = (("<", "left", 9), ("==", "right", -9))
    words = [
        base.transform_filter(f"datum.batch_size {test} {sizes[-1]}")
        .mark_text(align=align, dx=dx, fontSize=11, baseline="middle")
        .encode(text="status:N", color=alt.value(INK))
        for test, align, dx in sides
    ]
    return alt.layer(crosses, *words).properties(
        width=_width(sizes),
        height=STRIP_ROW_HEIGHT * len(methods),
        title=alt.TitleParams(
            text="Cells without a number (\N{MULTIPLICATION SIGN})",
            anchor="start",
            fontSize=12,
            fontWeight="normal",
            color=PALE_INK,
            offset=4,
        ),
    )
