"""Draws points: one line for each method, and a strip for the cells without a number.

A drawing is what it shows and the labels that its marks bear: whoever only wants to know what a drawing says need not
have it drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal

from bench_core.report.figures import svg
from bench_core.report.figures.colours import Looks, looks
from bench_core.report.figures.svg import INK, PALE_INK, Axis, Plot
from bench_core.report.format import quantity

WIDTH, WIDEST, WIDTH_PER_SIZE = 460, 900, 90
HEIGHT, STRIP_ROW_HEIGHT = 320, 20
HEIGHT_PER_METHOD = 21  # a line of the legend: where that is longer than the plot, the plot may be as long
LOG_ABOVE_SPREAD = 20.0
PNG_SCALE = 2
MOST_METHODS = 40  # twice what one engine has looks for
BEST_SOMEWHERE = "the best at some batch size"
MOST_PIXELS = 24e6  # of a PNG: a quarter of a gigabyte while it is drawn
_SIZE = re.compile(r'\b(?:width|height)="([0-9.]+)"')
_BAR_END = 3.5  # half of the line across the end of a bar, pixels


@dataclass(frozen=True)
class Figure:
    """A drawing: the text of an SVG and the bytes of a PNG at twice its size, or less where that would be vast."""

    svg: str
    png: bytes


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn.

    Attributes:
        plots: one below the other; made when they are asked for.
        marks: the label of each of its marks of data but the lines'.
        lines: the label of each of its lines, which says the data that the line begins with.
        longest: characters of the longest name beside the plots.
    """

    title: str
    subtitle: tuple[str, ...]
    plots: Callable[[], Sequence[Plot]]
    marks: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    longest: int = 0

    def drawn(self) -> Figure:
        """Draws it."""
        import vl_convert  # noqa: PLC0415  # heavy, and only for this

        made = svg.svg_of(self.plots(), self.title, self.subtitle, self.longest)
        width, height = (float(found) for found in _SIZE.findall(made[: made.index(">")])[:2])
        scale = min(PNG_SCALE, math.sqrt(MOST_PIXELS / (width * height)))
        return Figure(made, bytes(vl_convert.svg_to_png(made, scale=scale)))


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


def best(places: Mapping[str, float]) -> list[str]:
    """Those of the lowest places, as many as can be told apart in one drawing; of equal ones the first."""
    return sorted(places, key=lambda method: places[method])[:MOST_METHODS]


def left_out(methods: int, which: str) -> list[str]:
    """What is said of a drawing of more methods than it shows; nothing where it shows all."""
    if methods <= MOST_METHODS:
        return []
    return [f"{MOST_METHODS} of {methods:,} methods: {which}; the tables have all"]


def draw(points: Sequence[Point], *, title: str, subtitle: Sequence[str], unit: str, most: bool) -> Drawing:
    """The whole drawing, of the methods that are best at some batch size where there are more than can be told apart.

    Args:
        most: whether the highest value is the best one.
    """
    every, places = len({point.method for point in points}), _places(points, most=most)
    kept = set(best(places))
    lost = sum(point.value is None and point.method not in kept for point in points)
    subtitle = [*subtitle, *left_out(every, BEST_SOMEWHERE)]
    if lost:
        subtitle.append(f"not shown: {quantity(lost, 'cell')} without a number, of other methods")
    points = [point for point in points if point.method in kept]
    good = [point for point in points if point.value is not None]
    missing = [point for point in points if point.value is None]
    drawn = _by_last_value(good)
    return Drawing(
        title=title,
        subtitle=tuple(subtitle),
        plots=lambda: _plots(points, missing, drawn, unit),
        marks=(*_point_labels(good), *_strip_labels(missing)),
        lines=tuple(_line_labels(points, drawn).values()),
        longest=max(len(point.method) for point in points),
    )


def _places(points: Sequence[Point], *, most: bool) -> dict[str, float]:
    """Each method's best place at any batch size; without any number the last."""
    places = dict.fromkeys((point.method for point in points), math.inf)
    sizes = {point.batch_size for point in points}
    for size in sizes:
        its = [(point.value, point.method) for point in points if point.batch_size == size and point.value is not None]
        for place, (_, method) in enumerate(sorted(its, key=lambda one: one[0], reverse=most)):
            places[method] = min(places[method], place)
    return places


_DIGITS = Context(prec=12, rounding=ROUND_HALF_UP)


def label_number(value: float) -> str:
    """A number in a mark's label: twelve significant digits, as JavaScript's ``toPrecision`` shortened by its zeros,
    which is how figures of earlier versions have it."""
    exact = _DIGITS.create_decimal(Decimal(value))
    exponent = exact.adjusted()
    if -7 < exponent < _DIGITS.prec:
        text = f"{exact:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    digits = "".join(map(str, exact.as_tuple().digits)).rstrip("0") or "0"
    return f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{exponent:+d}"


def _point_labels(points: Sequence[Point]) -> list[str]:
    return [label for point in points for label in (_point_label(point), _bar_label(point)) if label]


def _point_label(point: Point) -> str:
    return f"batch_size: {point.batch_size}; value: {_value(point.value)}; method: {point.method}"


def _bar_label(point: Point) -> str:
    """Empty where it has no bar."""
    if point.low is None or point.high is None:
        return ""
    low, high = label_number(point.low), label_number(point.high)
    return f"batch_size: {point.batch_size}; low: {low}; upper_low: {high}; method: {point.method}; high: {high}"


def _line_labels(points: Sequence[Point], methods: Sequence[str]) -> dict[str, str]:
    """Of each method's line, which begins at its smallest batch size, with a number or without."""
    first: dict[str, Point] = {}
    for point in sorted(points, key=lambda one: one.batch_size):
        first.setdefault(point.method, point)
    return {method: _point_label(first[method]) for method in methods}


def _value(value: float | None) -> str:
    return "null" if value is None else label_number(value)


def _cross_label(point: Point) -> str:
    return f"batch_size: {point.batch_size}; method: {point.method}"


def _word_label(point: Point) -> str:
    return f"{_cross_label(point)}; status: {point.status}"


def _strip_labels(points: Sequence[Point]) -> list[str]:
    """Of a cross, and of the word beside it."""
    return [*map(_cross_label, points), *map(_word_label, points)]


def _by_last_value(points: Sequence[Point]) -> list[str]:
    """Methods with a number, highest first at their largest batch size: the legend reads as the lines end."""
    last: dict[str, tuple[int, float]] = {}
    for point in points:
        if point.value is not None and point.batch_size >= last.get(point.method, (0, 0.0))[0]:
            last[point.method] = (point.batch_size, point.value)
    return sorted(last, key=lambda method: -last[method][1])


def _plots(points: Sequence[Point], missing: Sequence[Point], drawn: Sequence[str], unit: str) -> list[Plot]:
    styles = looks({point.method: point.engine for point in points})
    sizes = sorted({point.batch_size for point in points})
    x_title = "Batch size (prompts in one generate call)"
    plots = [_plot(points, drawn, styles, sizes, unit, "" if missing else x_title)]
    if missing:
        plots.append(_strip(missing, styles, sizes, x_title))
    return plots


def _plot(
    points: Sequence[Point], methods: Sequence[str], styles: Looks, sizes: list[int], unit: str, x_title: str
) -> Plot:
    """``x_title``: empty where the batch sizes stand below the strip."""
    values = [number for point in points for number in (point.value, point.low, point.high) if number is not None]
    if not values:
        return svg.empty(_width(sizes))
    height = max(HEIGHT, HEIGHT_PER_METHOD * len(methods))
    x, (y, y_title) = _x(sizes), _y(values, unit, height)
    beside, left = svg.y_axis(y, y_title)
    below, room = svg.x_axis(x, height, x_title, named=str) if x_title else ([], 0)
    # Without a rim: it would take the line's dashes, which fray it.
    rows = [(method, styles[method][1], {"fill": styles[method][0]}) for method in methods]
    names, right, _ = svg.legend(rows, x.length)
    marks = _marks(points, methods, styles, x, y)
    parts = (*svg.grid(x, y, x.length, height), *below, *beside, *marks, *names)
    return Plot(x.length, height, parts, left=left, right=right, below=room)


def _marks(points: Sequence[Point], methods: Sequence[str], styles: Looks, x: Axis, y: Axis) -> list[str]:
    """Bars below lines below points."""
    of_method: dict[str, list[Point]] = {method: [] for method in methods}
    for point in points:
        if point.method in of_method:
            of_method[point.method].append(point)
    begins = _line_labels(points, methods)
    bars, lines, symbols = [], [], []
    for method, its in reversed(of_method.items()):  # what is highest lies on top
        colour, shape, dash = styles[method]
        line, pen = [], "M"
        for point in sorted(its, key=lambda one: one.batch_size):
            if point.value is None:  # nothing is drawn where nothing was measured
                pen = "M"
                continue
            at, height = x.at(point.batch_size), y.length - y.at(point.value)
            line.append(f"{pen}{svg.number(at)},{svg.number(height)}")
            pen = "L"
            bars += _bar(point, at, y, colour)
            symbols.append(
                svg.mark(
                    "path", _point_label(point), "point", **svg.symbol(shape, at, height, 70), fill=colour,
                    stroke="#ffffff", stroke_width=0.7,
                )
            )  # fmt: skip
        lines.append(
            svg.mark(
                "path", begins[method], "line mark", d="".join(line), stroke=colour, stroke_width=2, **svg.dashes(dash)
            )
        )
    return [svg.group("rule", bars), svg.group("line", lines), svg.group("symbol", symbols)]


def _bar(point: Point, at: float, y: Axis, colour: str) -> list[str]:
    if point.low is None or point.high is None:
        return []
    low, high = y.length - y.at(point.low), y.length - y.at(point.high)
    span = svg.mark(
        "line", _bar_label(point), "errorbar", x1=at, y1=low, x2=at, y2=high, stroke=colour, stroke_width=1.3
    )
    ends = " ".join(f"M{svg.number(at - _BAR_END)},{svg.number(end)}h{2 * _BAR_END:g}" for end in (low, high))
    return [span, svg.element("path", d=ends, stroke=colour, stroke_width=1.3)]


def _width(sizes: Sequence[int]) -> int:
    """Room for an outcome's name between two batch sizes."""
    return min(max(WIDTH, WIDTH_PER_SIZE * len(sizes)), WIDEST)


def _x(sizes: Sequence[int]) -> Axis:
    return Axis(_width(sizes), sizes[0] / 1.3, sizes[-1] * 1.3, tuple(sizes), log=True)


def _y(values: Sequence[float], title: str, height: float) -> tuple[Axis, str]:
    """The axis with its title, which says a logarithmic scale."""
    low, high = min(values), max(values)
    if high / low <= LOG_ABOVE_SPREAD:
        return svg.linear(height, high * 1.05, whole=True), title
    ticks = svg.log_ticks(low, high)
    return Axis(height, min(ticks[0], low), max(ticks[-1], high), tuple(ticks), log=True), f"{title}, log scale"


def _strip(points: Sequence[Point], styles: Looks, sizes: list[int], x_title: str) -> Plot:
    """The cells without a number: a cross at the batch size, the outcome beside it, the method's name at the right."""
    without = {point.method for point in points}
    methods = [method for method in styles if method in without]
    x, height = _x(sizes), STRIP_ROW_HEIGHT * len(methods)
    middle = {method: STRIP_ROW_HEIGHT * (place + 0.5) for place, method in enumerate(methods)}
    below, room = svg.x_axis(x, height, x_title, named=str)
    across = [svg.rule(0, y, x.length, y, stroke=svg.GRID) for y in middle.values()]
    names = [svg.text(x.length + 22, y, method) for method, y in middle.items()]
    crosses, words = [], []
    for point in points:
        at, y = x.at(point.batch_size), middle[point.method]
        cross = svg.symbol(svg.CROSS, at, y, 50)
        colour = styles[point.method][0]
        crosses.append(svg.mark("path", _cross_label(point), "point", **cross, stroke=colour, stroke_width=2))
        # Beside the cross; to its left at the right edge, where there is no room.
        away, anchor = (-9, "end") if point.batch_size == sizes[-1] else (9, "start")
        words.append(svg.text(at + away, y, point.status, 11, fill=INK, says=_word_label(point), text_anchor=anchor))
    title = svg.text(0, -12, "Cells without a number (\N{MULTIPLICATION SIGN})", fill=PALE_INK)
    parts = (
        title, *svg.grid(x, None, x.length, height), *across, *below, *names, svg.group("symbol", crosses),
        svg.group("text", words),
    )  # fmt: skip
    right = 22 + max(svg.text_width(method, 12) for method in methods)
    return Plot(x.length, height, parts, right=right, above=0, below=room)
