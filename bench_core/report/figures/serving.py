"""The two figures of cells under load: throughput against a user's speed, and time to first token by request rate."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench_core.contract.serving.load import Serve
from bench_core.report.explain.under_load import SATURATED
from bench_core.report.figures import svg
from bench_core.report.figures.colours import Looks, looks
from bench_core.report.figures.draw import Drawing, best, label_number, left_out
from bench_core.report.figures.places import WIDTH_PX, Spot, label_sides
from bench_core.report.figures.scaling import LONGEST_LABEL, subtitle
from bench_core.report.figures.svg import INK, Axis, Plot
from bench_core.report.served import load_points
from bench_core.runs.view import RunView, ServedRow
from bench_core.system.text import foreign

HEIGHT_PX = 340
_LOG_FROM = 4.0  # rates that differ by more stand on a logarithmic scale
_LONGEST_NOTE = 100
BEST_UNDER_LOAD = {"frontier": "those of the highest throughput", "ttft": "those of the shortest time"}
_MOST_NOT_DRAWN = 3  # kinds of them that the words below the title name


@dataclass(frozen=True)
class _Point:
    """A cell of a drawing. ``line``: what it is joined with; ``place``: in the order of its line."""

    method: str
    line: str
    place: int
    load: Serve
    x: float
    y: float
    saturated: bool


def frontier(view: RunView) -> Drawing:
    """Output tokens/s of the device or the host against tokens/s per user, a line for each method and kind of load."""
    points = []
    order = {load.word: place for place, load in enumerate(load_points(view))}
    rows, methods = _drawn(view), _methods(view)
    for row in rows:
        metrics = row.result.metrics if row.result else None
        if metrics is None or metrics.per_user_tok_s is None:
            continue
        name = methods[row.planned.image, row.planned.variant]
        values = (metrics.per_user_tok_s.value, metrics.output_throughput_tok_s.value)
        kind = f"{name} {row.load.load} {row.load.arrivals}"
        points.append(_Point(name, kind, order[row.load.word], row.load, *values, metrics.saturated))
    where = "GPU" if view.on_cuda else "host"
    told = {row.planned.cell for row in rows if row.result and row.result.metrics.per_user_tok_s is not None}
    places = {name: min(-p.y for p in its) for name, its in _by_method(points).items()}
    kept = set(best(places))
    points = [point for point in points if point.method in kept]
    notes = [
        "c: concurrency; r: requests/s; hollow: saturated",
        *left_out(len(places), BEST_UNDER_LOAD["frontier"]),
        *_not_drawn(rows, told),
    ]
    styles = _styles(view, methods)
    return Drawing(
        title=f"Throughput per {where} against speed for each user",
        subtitle=(*subtitle(view), *notes),
        plots=lambda: [_frontier(points, styles, f"Output tokens per second per {where}")],
        marks=tuple(map(_frontier_label, points)),
        lines=tuple(map(_frontier_line_label, _frontier_lines(points))),
        longest=max(map(len, methods.values()), default=0),
    )


def ttft(view: RunView) -> Drawing:
    """Median and 99th percentile of time to first token by request rate; a method's line ends where it is saturated."""
    points = []
    methods = _methods(view)
    rows, beyond = _until_saturated([row for row in _drawn(view) if row.load.request_rate is not None])
    told: set[str] = set()
    few = False
    for row in rows:
        latency = row.result.metrics.ttft_s if row.result else None
        if latency is None or row.result is None:
            continue
        name = _rated(methods[row.planned.image, row.planned.variant], row.load)
        few = few or latency.p99 is None
        for which, found in (("p50", latency.p50), ("p99", latency.p99)):
            if found is not None and found.value > 0:
                told.add(row.planned.cell)
                values = (row.load.request_rate or 0.0, found.value * 1e3)
                points.append(_Point(name, which, 0, row.load, *values, row.result.metrics.saturated))
    ends = [
        (_rated(methods[row.planned.image, row.planned.variant], row.load), row.load.request_rate or 0.0)
        for row in rows
        if row.result and row.result.metrics.saturated and row.planned.cell not in told
    ]
    places = {name: min(p.y for p in its) for name, its in _by_method(points).items()}
    places |= {name: math.inf for name, _ in ends if name not in places}
    kept = set(best(places))
    points, ends = [p for p in points if p.method in kept], [end for end in ends if end[0] in kept]
    names = list(dict.fromkeys([point.method for point in points] + [name for name, _ in ends]))
    engine_of = view.record.engine_of
    engines = {
        _rated(methods[row.planned.image, row.planned.variant], row.load): engine_of(row.planned.image) for row in rows
    }
    every = looks(engines)
    styles = {name: every[name] for name in names}
    crosses = "circles: median; triangles: p99; \N{MULTIPLICATION SIGN}: saturated" + (
        "; at the upper edge: no first token in its window" if ends else ""
    )
    told |= {row.planned.cell for row in rows if row.result and row.result.metrics.saturated}
    notes = [
        crosses,
        *(["rates above a saturated one are not drawn"] if beyond else []),
        *(["p99: only of 500 requests or more"] if few else []),
        *left_out(len(places), BEST_UNDER_LOAD["ttft"]),
        *_not_drawn(rows, told),
    ]
    return Drawing(
        title="Time to first token by request rate",
        subtitle=(*subtitle(view), *notes),
        plots=lambda: [_ttft(points, ends, styles)],
        marks=(*map(_ttft_label, points), *(_end_label(*end) for end in ends)),
        lines=tuple(map(_ttft_line_label, _ttft_lines(points))),
        longest=max(map(len, names), default=0),
    )


def _by_method(points: Sequence[_Point]) -> dict[str, list[_Point]]:
    found: dict[str, list[_Point]] = {}
    for point in points:
        found.setdefault(point.method, []).append(point)
    return found


def _until_saturated(rows: Sequence[ServedRow]) -> tuple[list[ServedRow], int]:
    """The rows of each method up to its lowest saturated rate; and how many lie above."""
    lowest: dict[tuple[str, str, str], float] = {}
    for row in rows:
        if row.result is not None and row.result.metrics.saturated:
            rate, key = row.load.request_rate or 0.0, _line(row)
            lowest[key] = min(rate, lowest.get(key, rate))
    kept = [row for row in rows if (row.load.request_rate or 0.0) <= lowest.get(_line(row), float("inf"))]
    return kept, len(rows) - len(kept)


def _line(row: ServedRow) -> tuple[str, str, str]:
    return row.planned.image, row.planned.variant, row.load.arrivals


# --- what is drawn ----------------------------------------------------------------------------------------------------


def _drawn(view: RunView) -> list[ServedRow]:
    """First repeats of what is compared; of all, where nothing is. Work that was not equal is not drawn."""
    first = [row for row in view.served if row.planned.repeat == 1]
    return [row for row in first if row.planned.ranked] or first


def _methods(view: RunView) -> dict[tuple[str, str], str]:
    """One name for each method; where two have the same, their image and variant stand behind it."""
    wanted = {(row.planned.image, row.planned.variant): foreign(row.label, LONGEST_LABEL) for row in view.served}
    names = Counter(wanted.values())
    return {key: name if names[name] == 1 else f"{name} ({key[0]}.{key[1]})" for key, name in wanted.items()}


def _styles(view: RunView, methods: dict[tuple[str, str], str]) -> Looks:
    engine_of = view.record.engine_of
    drawn = [row.planned for row in _drawn(view)]
    return looks({methods[cell.image, cell.variant]: engine_of(cell.image) for cell in drawn})


def _rated(method: str, load: Serve) -> str:
    return f"{method}, constant arrivals" if load.arrivals == "constant" else method


def _not_drawn(rows: Sequence[ServedRow], told: set[str]) -> Iterator[str]:
    """So that none is silently missing: one line for each method and reason."""
    missing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.planned.cell not in told:
            missing.setdefault((row.label, _why(row)), []).append(row.load.mark)
    lines = [f"not drawn: {label} at {', '.join(words)}: {why}" for (label, why), words in missing.items()]
    for line in lines[:_MOST_NOT_DRAWN]:
        yield foreign(line, _LONGEST_NOTE)
    if len(lines) > _MOST_NOT_DRAWN:
        yield f"not drawn: cells of {len(lines) - _MOST_NOT_DRAWN} more kinds, see the tables"


def _why(row: ServedRow) -> str:
    if row.result is None:
        return row.status
    return f"{SATURATED}, no request answered" if row.result.metrics.saturated else "too few requests answered"


# --- labels -----------------------------------------------------------------------------------------------------------


def _frontier_label(p: _Point) -> str:
    return f"load: {p.load.word}; method: {p.method}; per_user_tok_s: {p.x:.6g}; output_tok_s: {p.y:.6g}"


def _ttft_label(p: _Point) -> str:
    return f"load: {p.load.word}; method: {p.method}; ttft_{p.line}_ms: {p.y:.6g}"


def _end_label(name: str, rate: float) -> str:
    return f"load: {rate:g}; method: {name}; saturated"


def _frontier_line_label(p: _Point) -> str:
    return f"{_place(p)}; method: {p.method}; place: {p.place}; line: {p.line}"


def _ttft_line_label(p: _Point) -> str:
    return f"{_place(p)}; method: {p.method}; which: {p.line}"


def _place(point: _Point) -> str:
    return f"x: {label_number(point.x)}; y: {label_number(point.y)}"


def _frontier_lines(points: Sequence[_Point]) -> list[_Point]:
    """The first point of each line, which the line's label says."""
    first: dict[str, _Point] = {}
    for point in sorted((point for point in points if not point.saturated), key=lambda one: one.place):
        first.setdefault(point.line, point)
    return list(first.values())


def _ttft_lines(points: Sequence[_Point]) -> list[_Point]:
    first: dict[tuple[str, str], _Point] = {}
    for point in sorted(points, key=lambda one: one.x):
        first.setdefault((point.method, point.line), point)
    return list(first.values())


# --- how it is drawn --------------------------------------------------------------------------------------------------


_Look = dict[str, str | float]  # attributes of an element


def _path(points: Sequence[tuple[float, float]]) -> str:
    return f"M{'L'.join(f'{svg.number(x)},{svg.number(y)}' for x, y in points)}"


def _symbol(label: str, shape: str, at: tuple[float, float], size: float, **look: str | float) -> str:
    return svg.mark("path", label, "point", **svg.symbol(shape, *at, size), **look)


def _linear(values: Sequence[float], length: float) -> Axis:
    """An axis from 0, with room for labels at its end."""
    return svg.linear(length, max(values) * 1.12)


def _frontier(points: Sequence[_Point], styles: Looks, y_title: str) -> Plot:
    if not points:
        return svg.empty(WIDTH_PX)
    methods = list(dict.fromkeys(point.method for point in sorted(points, key=lambda p: -p.y)))
    x, y = _linear([p.x for p in points], WIDTH_PX), _linear([p.y for p in points], HEIGHT_PX)
    spots = [Spot(x.at(p.x), HEIGHT_PX - y.at(p.y), p.load.mark) for p in points]
    segments = _segments(points, spots)
    lines = []
    for first in _frontier_lines(points):
        along = [spot[:2] for spot in _along(points, spots, first.line)]
        look: _Look = {"stroke": styles[first.method][0], "stroke_width": 2}
        lines.append(svg.mark("path", _frontier_line_label(first), "line mark", d=_path(along), **look))
    symbols, words = [], []
    for p, spot, side in zip(points, spots, label_sides(spots, segments, WIDTH_PX, HEIGHT_PX), strict=True):
        colour = styles[p.method][0]
        point: _Look = {"stroke": colour, "stroke_width": 2} if p.saturated else {"fill": colour}
        symbols.append(_symbol(_frontier_label(p), "circle", (spot.x, spot.y), 65, **point))
        if side is not None:
            anchor = {"left": "start", "right": "end", "center": "middle"}[side.align]
            words.append(svg.text(spot.x + side.dx, spot.y + side.dy, spot.word, 11, text_anchor=anchor))
    below, room = svg.x_axis(x, HEIGHT_PX, "Output tokens per second per user (1 / median TPOT)", ticks=False)
    beside, left = svg.y_axis(y, y_title)
    names, right, _ = svg.legend([(name, "circle", {"fill": styles[name][0]}) for name in methods], WIDTH_PX)
    parts = (
        *svg.grid(x, y, WIDTH_PX, HEIGHT_PX), *below, *beside, svg.group("line", lines), svg.group("symbol", symbols),
        *words, *names,
    )  # fmt: skip
    return Plot(WIDTH_PX, _high(len(methods)), parts, left=left, right=right, below=room)


def _high(rows: int) -> float:
    """Of a plot, or of its legend where that is longer."""
    return max(HEIGHT_PX, svg.LEGEND_LINE * rows)


def _along(points: Sequence[_Point], spots: Sequence[Spot], line: str) -> list[Spot]:
    """Where a line leads, in its order."""
    its = [(p.place, spot) for p, spot in zip(points, spots, strict=True) if p.line == line and not p.saturated]
    return [spot for _, spot in sorted(its, key=lambda one: one[0])]


def _segments(points: Sequence[_Point], spots: Sequence[Spot]) -> list[tuple[Spot, Spot]]:
    """What the lines are made of."""
    names = sorted({point.line for point in points})
    return [pair for name in names for pair in itertools.pairwise(_along(points, spots, name))]


_WHICH = {"p50": ("circle", (1, 0)), "p99": ("triangle-up", (5, 4))}  # shape and dash


def _ttft(points: Sequence[_Point], ends: Sequence[tuple[str, float]], styles: Looks) -> Plot:
    if not points and not ends:
        return svg.empty(WIDTH_PX)
    values = [p.y for p in points] or [1.0]
    ticks = svg.log_ticks(min(values), max(values) * 1.01)
    low, top = min(ticks[0], *values) / 1.08, max(ticks[-1], *values) * 1.08
    y = Axis(HEIGHT_PX, low, top, tuple(ticks), log=True)
    x = _rates(sorted({p.x for p in points} | {rate for _, rate in ends}))

    def place(p: _Point) -> tuple[float, float]:
        return x.at(p.x), HEIGHT_PX - y.at(p.y)

    lines, symbols, crosses = [], [], []
    for first in _ttft_lines(points):
        its = [p for p in points if (p.method, p.line) == (first.method, first.line)]
        along = _path([place(p) for p in sorted(its, key=lambda one: one.x)])
        look: _Look = {"stroke": styles[first.method][0], "stroke_width": 2, **svg.dashes(_WHICH[first.line][1])}
        lines.append(svg.mark("path", _ttft_line_label(first), "line mark", d=along, **look))
    for p in points:
        if not p.saturated:
            shape, fill = _WHICH[p.line][0], styles[p.method][0]
            symbols.append(_symbol(_ttft_label(p), shape, place(p), 55, fill=fill))
    lost = [(_ttft_label(p), p.method, place(p)) for p in points if p.saturated]
    lost += [(_end_label(name, rate), name, (x.at(rate), HEIGHT_PX - y.at(top / 1.04))) for name, rate in ends]
    for label, method, at in lost:
        crosses.append(_symbol(label, svg.CROSS, at, 60, stroke=styles[method][0], stroke_width=2.2))
    below, room = svg.x_axis(x, HEIGHT_PX, f"Requests per second offered{', log scale' if x.log else ''}")
    beside, left = svg.y_axis(y, "Time to first token (ms), log scale")
    rows: list[tuple[str, str, _Look]] = [(name, "circle", {"fill": style[0]}) for name, style in styles.items()]
    rows += [(name, shape, {"stroke": INK, "stroke_width": 1.5}) for name, (shape, _) in _WHICH.items()]
    names, right, _ = svg.legend(rows, WIDTH_PX)
    parts = (
        *svg.grid(x, y, WIDTH_PX, HEIGHT_PX), *below, *beside, svg.group("line", lines), svg.group("symbol", symbols),
        svg.group("symbol", crosses), *names,
    )  # fmt: skip
    return Plot(WIDTH_PX, _high(len(rows)), parts, left=left, right=right, below=room)


def _rates(rates: Sequence[float]) -> Axis:
    if rates[0] * _LOG_FROM < rates[-1]:
        return Axis(WIDTH_PX, rates[0] / 1.15, rates[-1] * 1.15, tuple(rates), log=True)
    return Axis(WIDTH_PX, 0, rates[-1] * 1.08, tuple(rates))
