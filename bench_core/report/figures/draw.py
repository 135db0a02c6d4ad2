"""Draws points: one line for each method, and a strip for the cells without a number.

A drawing is a Vega-Lite specification, which is plain JSON, and the labels that its marks will bear: whoever only wants
to know what a drawing says need not have it drawn.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

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
# Of a run of a thousand methods the legend alone is 26,000 lines high: at twice its size a gigabyte while it is drawn.
MOST_PIXELS = 24e6
_SIZE = re.compile(r'\b(?:width|height)="([0-9.]+)"')
CROSS = "M-1,-1L1,1M-1,1L1,-1"


@dataclass(frozen=True)
class Figure:
    """A drawing: the text of an SVG and the bytes of a PNG at twice its size, or less where that would be vast."""

    svg: str
    png: bytes


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn.

    Attributes:
        spec: Vega-Lite's.
        marks: the label of each of its marks of data but the lines'.
        lines: the label of each of its lines, which says the data that the line begins with.
    """

    spec: dict[str, Any]
    marks: tuple[str, ...]
    lines: tuple[str, ...] = ()

    def drawn(self) -> Figure:
        """Starts the drawing program, which takes half a second the first time."""
        import vl_convert  # noqa: PLC0415  # heavy, and only for this

        svg = str(vl_convert.vegalite_to_svg(json.dumps(self.spec)))
        width, height = (float(found) for found in _SIZE.findall(svg[: svg.index(">")])[:2])
        scale = min(PNG_SCALE, math.sqrt(MOST_PIXELS / (width * height)))
        return Figure(svg, bytes(vl_convert.svg_to_png(svg, scale=scale)))


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


def draw(points: Sequence[Point], *, title: str, subtitle: list[str], unit: str) -> Drawing:
    """The whole drawing."""
    styles = looks({point.method: point.engine for point in points})
    methods = list(styles)
    sizes = sorted({point.batch_size for point in points})
    good = [point for point in points if point.value is not None]
    missing = [point for point in points if point.value is None]
    x_title = "Batch size (prompts in one generate call)"
    drawn = _by_last_value(good)
    parts: list[Any] = [_plot(points, drawn, styles, sizes, unit, None if missing else x_title)]
    if missing:
        parts.append(_strip(missing, methods, styles, sizes, x_title))
    marks = (*_point_labels(good), *_strip_labels(missing))
    lines = _line_labels(points, drawn)
    return finished(parts, marks, lines, title=title, subtitle=subtitle, longest=max(map(len, methods)))


def finished(
    parts: Sequence[Any], marks: Sequence[str], lines: Sequence[str], *, title: str, subtitle: list[str], longest: int
) -> Drawing:
    """Parts one below the other, dressed. ``longest``: characters of the longest name beside them."""
    spare = SPARE_PER_CHARACTER * longest
    return Drawing(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "background": "#ffffff",
            "padding": {"left": 16, "top": 16, "bottom": 16, "right": 16 + spare},
            "title": {
                "text": title, "anchor": "start", "color": INK, "fontSize": 17, "fontWeight": "bold", "frame": "group",
                "offset": 16, "subtitle": subtitle, "subtitleColor": PALE_INK, "subtitleFontSize": 12,
                "subtitlePadding": 5,
            },
            "vconcat": [*parts],
            "spacing": 38,
            "bounds": "flush",
            "resolve": {"scale": dict.fromkeys(("color", "shape", "strokeDash"), "independent")},
            "config": {
                "font": FONT,
                "view": {"continuousWidth": 300, "continuousHeight": 300, "stroke": None},
                "axis": {
                    "domainColor": PALE_INK, "gridColor": GRID, "labelColor": INK, "labelFontSize": 12, "labelLimit": 0,
                    "tickColor": PALE_INK, "titleColor": INK, "titleFontSize": 12.5, "titleFontWeight": "normal",
                    "titleLimit": 0,
                },
                "legend": {
                    "labelColor": INK, "labelFontSize": 12, "labelLimit": 0, "offset": 22, "rowPadding": 4,
                    "symbolSize": 70,
                },
            },
        },
        tuple(marks),
        tuple(lines),
    )  # fmt: skip


def field(name: str, kind: str = "quantitative", **more: Any) -> dict[str, Any]:
    """A channel that shows a field of the data."""
    return {"field": name, "type": kind, **more}


def nominal(name: str, **more: Any) -> dict[str, Any]:
    """A channel that shows a field of words."""
    return field(name, "nominal", **more)


_DIGITS = Context(prec=12, rounding=ROUND_HALF_UP)


def label_number(value: float) -> str:
    """A number as Vega writes it into a mark's label: twelve significant digits, as JavaScript's ``toPrecision``
    shortened by its zeros."""
    exact = _DIGITS.create_decimal(Decimal(value))
    exponent = exact.adjusted()
    if -7 < exponent < _DIGITS.prec:
        text = f"{exact:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    digits = "".join(map(str, exact.as_tuple().digits)).rstrip("0") or "0"
    return f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{exponent:+d}"


def _point_labels(points: Sequence[Point]) -> list[str]:
    labels = []
    for point in points:
        assert point.value is not None  # noqa: S101  # the caller has looked
        at = f"batch_size: {point.batch_size}"
        labels.append(f"{at}; value: {label_number(point.value)}; method: {point.method}")
        if point.low is not None and point.high is not None:
            low, high = label_number(point.low), label_number(point.high)
            labels.append(f"{at}; low: {low}; upper_low: {high}; method: {point.method}; high: {high}")
    return labels


def _line_labels(points: Sequence[Point], methods: Sequence[str]) -> list[str]:
    """Of each method's line, which begins at its smallest batch size, with a number or without."""
    first: dict[str, Point] = {}
    for point in sorted(points, key=lambda one: one.batch_size):
        first.setdefault(point.method, point)
    return [
        f"batch_size: {first[method].batch_size}; value: {_value(first[method].value)}; method: {method}"
        for method in methods
    ]


def _value(value: float | None) -> str:
    return "null" if value is None else label_number(value)


def _strip_labels(points: Sequence[Point]) -> list[str]:
    """Of a cross, and of the word beside it."""
    crosses = [f"batch_size: {point.batch_size}; method: {point.method}" for point in points]
    return [*crosses, *(f"{cross}; status: {point.status}" for cross, point in zip(crosses, points, strict=True))]


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
        return empty(_width(sizes))
    # A point without a value breaks its line: nothing is drawn where nothing was measured.
    known = set(methods)
    data = [
        {"method": p.method, "batch_size": p.batch_size, "value": p.value, "low": p.low, "high": p.high}
        for p in points
        if p.method in known
    ]
    # Shapes without a rim: it would take the line's dashes, which fray it.
    legend = {"orient": "right", "symbolOpacity": 1, "symbolStrokeWidth": 0, "title": None}

    def styled(place: int) -> dict[str, Any]:
        return {"legend": legend, "scale": {"domain": methods, "range": [styles[method][place] for method in methods]}}

    colour = nominal("method", sort=None, **styled(0))
    base = {"color": colour, "x": _x(sizes, x_title), "y": _y(values, unit)}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "line", "clip": False, "strokeWidth": 2},
            "encoding": {**base, "strokeDash": nominal("method", **styled(2))},
        },
        {
            "mark": {
                "type": "point", "clip": False, "filled": True, "opacity": 1, "size": 70, "stroke": "#ffffff",
                "strokeWidth": 0.7,
            },
            "encoding": {**base, "shape": nominal("method", **styled(1))},
        },
    ]  # fmt: skip
    if any(point.low is not None for point in points):
        layers.insert(
            0,
            {
                "mark": {"type": "errorbar", "thickness": 1.3, "ticks": {"size": 7}},
                "encoding": {**base, "y": _y(values, unit, "low"), "y2": {"field": "high"}},
                "transform": [{"filter": "isValid(datum.low)"}],
            },
        )
    height = max(HEIGHT, HEIGHT_PER_METHOD * len(methods))
    return {"data": {"values": data}, "layer": layers, "width": _width(sizes), "height": height}


def empty(width: int, words: str = "No cell has a number") -> dict[str, Any]:
    """In place of a plot without points."""
    return {
        "data": {"values": [{"text": words}]},
        "mark": {"type": "text", "color": PALE_INK, "fontSize": 14},
        "encoding": {"text": nominal("text")},
        "width": width,
        "height": 80,
    }


def _width(sizes: list[int]) -> int:
    """Room for an outcome's name between two batch sizes."""
    return min(max(WIDTH, WIDTH_PER_SIZE * len(sizes)), WIDEST)


def _x(sizes: list[int], title: str | None) -> dict[str, Any]:
    shown = title is not None
    axis = {
        "values": sizes, "format": "d", "title": title, "titlePadding": 8, "grid": True, "labels": shown,
        "ticks": shown, "domain": shown, "labelOverlap": "greedy",
    }  # fmt: skip
    scale = {"type": "log", "base": 2, "domain": [sizes[0] / 1.3, sizes[-1] * 1.3], "nice": False}
    return field("batch_size", axis=axis, scale=scale)


def _y(values: Sequence[float], title: str, name: str = "value") -> dict[str, Any]:
    low, high = min(values), max(values)
    axis: dict[str, Any] = {"labelExpr": PLAIN_NUMBER, "title": title, "titlePadding": 10}
    if high / low > LOG_ABOVE_SPREAD:
        ticks = log_ticks(low, high)
        axis |= {"values": ticks, "title": f"{title}, log scale"}
        scale = {"type": "log", "domain": [min(ticks[0], low), max(ticks[-1], high)], "nice": False}
    else:
        axis |= {"tickCount": 6, "domain": False, "ticks": False, "labelPadding": 6}
        scale = {"type": "linear", "domain": [0, high * 1.05], "nice": True}
    return field(name, axis=axis, scale=scale)


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
    without = {point.method for point in points}
    methods = [method for method in order if method in without]
    axis = {"orient": "right", "title": None, "domain": False, "ticks": False, "grid": True, "labelPadding": 22}
    base = {
        "x": _x(sizes, x_title),
        "y": nominal("method", axis=axis, scale={"domain": methods, "padding": 0.5}),
    }
    scale = {"domain": methods, "range": [styles[method][0] for method in methods]}
    crosses = {
        "mark": {"type": "point", "filled": False, "opacity": 1, "shape": CROSS, "size": 50, "strokeWidth": 2},
        "encoding": {**base, "color": nominal("method", legend=None, scale=scale)},
    }
    # Beside the cross; to its left at the right edge, where there is no room.
    words = [
        {
            "mark": {"type": "text", "align": align, "baseline": "middle", "dx": dx, "fontSize": 11},
            "encoding": {**base, "color": {"value": INK}, "text": nominal("status")},
            "transform": [{"filter": f"datum.batch_size {test} {sizes[-1]}"}],
        }
        for test, align, dx in (("<", "left", 9), ("==", "right", -9))
    ]
    return {
        "data": {
            "values": [{"method": p.method, "batch_size": p.batch_size, "status": p.status} for p in points]
        },
        "layer": [crosses, *words],
        "width": _width(sizes),
        "height": STRIP_ROW_HEIGHT * len(methods),
        "title": {
            "text": "Cells without a number (\N{MULTIPLICATION SIGN})", "anchor": "start", "color": PALE_INK,
            "fontSize": 12, "fontWeight": "normal", "offset": 4,
        },
    }  # fmt: skip
