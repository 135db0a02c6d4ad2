"""The two figures of cells under load: throughput against a user's speed, and time to first token by request rate."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench_core.contract.serving.load import Serve
from bench_core.report.explain.under_load import SATURATED
from bench_core.report.figures.colours import Looks, looks
from bench_core.report.figures.draw import (
    CROSS,
    INK,
    PLAIN_NUMBER,
    Drawing,
    empty,
    field,
    finished,
    label_number,
    log_ticks,
    nominal,
)
from bench_core.report.figures.places import WIDTH_PX, Spot, label_sides
from bench_core.report.figures.scaling import LONGEST_LABEL, subtitle
from bench_core.report.served import load_points
from bench_core.runs.view import RunView, ServedRow
from bench_core.system.text import foreign

HEIGHT_PX = 340
_LOG_FROM = 4.0  # rates that differ by more stand on a logarithmic scale
_LONGEST_NOTE = 100
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
    return _draw(
        _frontier(points, _styles(view, methods), f"Output tokens per second per {where}"),
        _frontier_lines(points),
        view,
        f"Throughput per {where} against speed for each user",
        ["c: concurrency; r: requests/s; hollow: saturated", *_not_drawn(rows, told)],
        methods.values(),
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
    names = list(dict.fromkeys([point.method for point in points] + [name for name, _ in ends]))
    engine_of = view.record.engine_of
    engines = {
        _rated(methods[row.planned.image, row.planned.variant], row.load): engine_of(row.planned.image) for row in rows
    }
    crosses = "circles: median; triangles: p99; \N{MULTIPLICATION SIGN}: saturated" + (
        "; at the upper edge: no first token in its window" if ends else ""
    )
    told |= {row.planned.cell for row in rows if row.result and row.result.metrics.saturated}
    return _draw(
        _ttft(points, ends, {name: looks(engines)[name] for name in names}),
        _ttft_lines(points),
        view,
        "Time to first token by request rate",
        [
            crosses,
            *(["rates above a saturated one are not drawn"] if beyond else []),
            *(["p99: only of 500 requests or more"] if few else []),
            *_not_drawn(rows, told),
        ],
        names,
    )


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
            missing.setdefault((row.label, _why(row)), []).append(row.load.word)
    lines = [f"not drawn: {label} at {', '.join(words)}: {why}" for (label, why), words in missing.items()]
    for line in lines[:_MOST_NOT_DRAWN]:
        yield foreign(line, _LONGEST_NOTE)
    if len(lines) > _MOST_NOT_DRAWN:
        yield f"not drawn: cells of {len(lines) - _MOST_NOT_DRAWN} more kinds, see the tables"


def _why(row: ServedRow) -> str:
    if row.result is None:
        return row.status
    return f"{SATURATED}, no request answered" if row.result.metrics.saturated else "too few requests answered"


def _draw(
    plot: dict[str, Any], begins: Sequence[str], view: RunView, title: str, notes: Sequence[str], names: Any
) -> Drawing:
    """``begins``: the labels of its lines."""
    lines = [*subtitle(view), *notes]
    says = [datum["says"] for datum in plot["data"]["values"] if "says" in datum]
    return finished([plot], says, begins, title=title, subtitle=lines, longest=max(map(len, names), default=0))


# --- how it is drawn --------------------------------------------------------------------------------------------------


def _colour(styles: Looks, methods: Sequence[str]) -> dict[str, Any]:
    legend = {
        "title": None, "orient": "right", "symbolStrokeWidth": 0, "symbolOpacity": 1, "symbolType": "circle",
    }  # fmt: skip
    scale = {"domain": list(methods), "range": [styles[method][0] for method in methods]}
    return nominal("method", sort=None, scale=scale, legend=legend)


def _linear(values: Sequence[float], name: str, title: str) -> dict[str, Any]:
    """An axis from 0, with room for labels at its end."""
    axis = {
        "tickCount": 6, "labelExpr": PLAIN_NUMBER, "title": title, "titlePadding": 10, "domain": name == "x",
        "ticks": False,
    }  # fmt: skip
    return field(name, axis=axis, scale={"domain": [0, max(values) * 1.12], "nice": False})


def _where(test: str) -> list[dict[str, str]]:
    return [{"filter": test}]


def _frontier(points: Sequence[_Point], styles: Looks, y_title: str) -> dict[str, Any]:
    if not points:
        return empty(WIDTH_PX)
    methods = list(dict.fromkeys(point.method for point in sorted(points, key=lambda p: -p.y)))
    base = {
        "color": _colour(styles, methods),
        "x": _linear([p.x for p in points], "x", "Output tokens per second per user (1 / median TPOT)"),
        "y": _linear([p.y for p in points], "y", y_title),
    }
    width, height = max(p.x for p in points) * 1.12, max(p.y for p in points) * 1.12
    spots = [Spot(p.x / width * WIDTH_PX, (1 - p.y / height) * HEIGHT_PX, p.load.word) for p in points]
    sides = label_sides(spots, _segments(points, spots), WIDTH_PX, HEIGHT_PX)
    data = [
        {
            "method": p.method,
            "line": p.line,
            "place": p.place,
            "x": p.x,
            "y": p.y,
            "saturated": p.saturated,
            "word": p.load.word,
            "side": side.name if side else "",
            "says": f"load: {p.load.word}; method: {p.method}; per_user_tok_s: {p.x:.6g}; output_tok_s: {p.y:.6g}",
        }
        for p, side in zip(points, sides, strict=True)
    ]
    lines = {
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {**base, "detail": nominal("line"), "order": field("place")},
        "transform": _where("!datum.saturated"),
    }
    said = {**base, "description": nominal("says")}
    kept = {
        "mark": {"type": "point", "filled": True, "opacity": 1, "size": 65},
        "encoding": said,
        "transform": _where("!datum.saturated"),
    }
    lost = {
        "mark": {"type": "point", "filled": False, "opacity": 1, "size": 65, "strokeWidth": 2},
        "encoding": said,
        "transform": _where("datum.saturated"),
    }
    words = [
        {
            "mark": {
                "type": "text", "align": side.align, "baseline": "middle", "dx": side.dx, "dy": side.dy, "fontSize": 11,
            },
            "encoding": {**base, "color": {"value": INK}, "text": nominal("word")},
            "transform": _where(f"datum.side == '{side.name}'"),
        }
        for side in dict.fromkeys(side for side in sides if side is not None)
    ]  # fmt: skip
    return {
        "data": {"values": data}, "layer": [lines, kept, lost, *words], "width": WIDTH_PX, "height": HEIGHT_PX,
    }  # fmt: skip


def _frontier_lines(points: Sequence[_Point]) -> list[str]:
    """The label of each line, which is that of its first point."""
    first: dict[str, _Point] = {}
    for point in sorted((point for point in points if not point.saturated), key=lambda one: one.place):
        first.setdefault(point.line, point)
    return [f"{_place(p)}; method: {p.method}; place: {p.place}; line: {p.line}" for p in first.values()]


def _ttft_lines(points: Sequence[_Point]) -> list[str]:
    first: dict[tuple[str, str], _Point] = {}
    for point in sorted(points, key=lambda one: one.x):
        first.setdefault((point.method, point.line), point)
    return [f"{_place(p)}; method: {p.method}; which: {p.line}" for p in first.values()]


def _place(point: _Point) -> str:
    return f"x: {label_number(point.x)}; y: {label_number(point.y)}"


def _segments(points: Sequence[_Point], spots: Sequence[Spot]) -> list[tuple[Spot, Spot]]:
    """What the lines are made of."""
    kept = [(p.line, p.place, spot) for p, spot in zip(points, spots, strict=True) if not p.saturated]
    lines: dict[str, list[Spot]] = {}
    for line, _, spot in sorted(kept, key=lambda one: one[:2]):
        lines.setdefault(line, []).append(spot)
    return [pair for spots_of in lines.values() for pair in itertools.pairwise(spots_of)]


def _ttft(points: Sequence[_Point], ends: Sequence[tuple[str, float]], styles: Looks) -> dict[str, Any]:
    if not points and not ends:
        return empty(WIDTH_PX)
    values = [p.y for p in points] or [1.0]
    ticks = log_ticks(min(values), max(values) * 1.01)
    low, top = min(ticks[0], *values) / 1.08, max(ticks[-1], *values) * 1.08
    axis = {
        "values": ticks, "labelExpr": PLAIN_NUMBER, "title": "Time to first token (ms), log scale", "titlePadding": 10,
    }  # fmt: skip
    y = field("y", scale={"type": "log", "domain": [low, top], "nice": False}, axis=axis)
    x = _rates(sorted({p.x for p in points} | {rate for _, rate in ends}))
    data: list[dict[str, Any]] = [
        {
            "method": p.method,
            "which": p.line,
            "x": p.x,
            "y": p.y,
            "saturated": p.saturated,
            "says": f"load: {p.load.word}; method: {p.method}; ttft_{p.line}_ms: {p.y:.6g}",
        }
        for p in points
    ]
    data += [
        {
            "method": name,
            "which": "p50",
            "x": rate,
            "y": top / 1.04,
            "saturated": True,
            "cut": True,
            "says": f"load: {rate:g}; method: {name}; saturated",
        }
        for name, rate in ends
    ]
    legend = {
        "title": None, "orient": "right", "symbolStrokeColor": INK, "symbolType": "stroke", "symbolSize": 300,
    }  # fmt: skip
    which = ["p50", "p99"]
    dash = nominal("which", scale={"domain": which, "range": [[1, 0], [5, 4]]}, legend=legend)
    shape = nominal("which", scale={"domain": which, "range": ["circle", "triangle-up"]}, legend=None)
    base = {"x": x, "y": y, "color": _colour(styles, list(styles))}
    said = {**base, "description": nominal("says")}
    lines = {
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {**base, "strokeDash": dash, "detail": nominal("which")},
        "transform": _where("!datum.cut"),
    }
    marks = {
        "mark": {"type": "point", "filled": True, "opacity": 1, "size": 55},
        "encoding": {**said, "shape": shape},
        "transform": _where("!datum.saturated"),
    }
    crosses = {
        "mark": {"type": "point", "shape": CROSS, "filled": False, "opacity": 1, "size": 60, "strokeWidth": 2.2},
        "encoding": said,
        "transform": _where("datum.saturated"),
    }
    return {
        "data": {"values": data}, "layer": [lines, marks, crosses], "width": WIDTH_PX, "height": HEIGHT_PX,
    }  # fmt: skip


def _rates(rates: Sequence[float]) -> dict[str, Any]:
    log = rates[0] * _LOG_FROM < rates[-1]
    scale = (
        {"type": "log", "base": 2, "domain": [rates[0] / 1.15, rates[-1] * 1.15], "nice": False}
        if log
        else {"domain": [0, rates[-1] * 1.08], "nice": False}
    )
    axis = {
        "values": list(rates), "labelExpr": PLAIN_NUMBER, "titlePadding": 8, "labelOverlap": "greedy",
        "title": f"Requests per second offered{', log scale' if log else ''}",
    }  # fmt: skip
    return field("x", scale=scale, axis=axis)
