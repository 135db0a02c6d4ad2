"""The two scaling figures: throughput and memory by batch size, one line for each method.

Cells without a number stand in a strip of their own below the plot, so that none is silently missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from bench_core.report.explain.marks import told_interval
from bench_core.report.explain.repeats import over_repeats
from bench_core.report.explain.waves import WAVES
from bench_core.report.figures.draw import Drawing, Point, draw
from bench_core.report.format import GIB, NOT_READ
from bench_core.runs.view import Row, RunView
from bench_core.system.text import foreign

# A label is an image's title and a variant's, whole; longer ones are of no image.yaml.
LONGEST_LABEL, LONGEST_SUBTITLE = 160, 70
UNEQUAL = "unequal work"  # stands below the plot like an outcome: its number is not compared


def throughput(view: RunView) -> Drawing:
    """Output throughput by batch size, with its interval as a bar; of repeats the mean, with their range as a bar."""
    summed = over_repeats(view)
    if summed:
        spans = {cell: (found.low_tok_s, found.high_tok_s) for cell, found in summed.items() if found.runs > 1}
        bars = f"mean of {view.record.repeats} repeats; bars: lowest to highest"
    else:
        spans, bars = _intervals(view), "bars: 95 % intervals, where batches suffice"

    def tokens_per_s(row: Row) -> float | None:
        found = summed.get(row.planned.cell)
        return found.mean_tok_s if found else row.rate.throughput_tok_s if row.rate else None

    return draw(
        _points(view, tokens_per_s, spans),
        title="Throughput by batch size",
        subtitle=subtitle(view, bars if spans else ""),
        unit="Output tokens per second",
        most=True,
    )


def memory(view: RunView) -> Drawing:
    """Peak memory by batch size: of the GPU, or of the engine's processes in a run without one."""

    def peak_gib(row: Row) -> float | None:
        peak = view.peak_memory_bytes(row.result.metrics) if row.result else None
        return None if peak is None else peak / GIB

    return draw(
        _points(view, peak_gib, {}),
        title=f"Peak {'GPU' if view.on_cuda else 'host'} memory by batch size",
        subtitle=subtitle(view),
        unit=f"{'GPU memory in use' if view.on_cuda else 'Resident memory of the engine'} (GiB)",
        most=False,
    )


_Spans = dict[str, tuple[float, float]]  # from a cell to the ends of its bar


def _intervals(view: RunView) -> _Spans:
    told = ((row.planned.cell, told_interval(row)) for row in view.grid)
    return {cell: (interval.low_tok_s, interval.high_tok_s) for cell, interval in told if interval}


def subtitle(view: RunView, note: str = "") -> list[str]:
    """Model, new tokens, device; and a note where one is given."""
    record = view.record
    where = (record.gpus[0].name if record.gpus else "GPU") if view.on_cuda else record.host.cpu
    weights = ", random weights" if record.model.synthetic else ""
    new = f"{'exactly' if record.length == 'forced' else 'up to'} {record.max_new_tokens} new tokens"
    longest = LONGEST_SUBTITLE
    lines = [foreign(record.model.name, longest - len(weights)) + weights, foreign(f"{new}, {where}", longest)]
    return [*lines, note] if note else lines


def compared(view: RunView) -> Sequence[Row]:
    """The rows that are drawn: all rows where none is compared."""
    return [row for row in view.grid if row.planned.ranked and not view.shortfall(row)] or view.grid


def _points(view: RunView, value: Callable[[Row], float | None], spans: _Spans) -> list[Point]:
    """One point for each row that is drawn."""
    labels = _labels(view)
    points = []
    for row in compared(view):
        odd = UNEQUAL if row.breaches else WAVES if row.in_waves else ""
        number = value(row) if not odd else None
        # A logarithm or a line through zero would hide that there was nothing to measure.
        number = number if number is not None and number > 0 else None
        status = row.status if row.result is None else odd or NOT_READ
        planned = row.planned
        label = labels[planned.image, planned.variant]
        low, high = spans.get(planned.cell, (None, None)) if number is not None else (None, None)
        points.append(Point(view.record.engine_of(planned.image), label, planned.batch_size, number, status, low, high))
    return points


def _labels(view: RunView) -> dict[tuple[str, str], str]:
    """One name for each method; where two have the same, their image and variant stand behind it."""
    wanted: dict[tuple[str, str], str] = {}
    for row in view.rows:
        wanted.setdefault((row.planned.image, row.planned.variant), foreign(row.label, LONGEST_LABEL))
    names = Counter(wanted.values())
    return {key: name if names[name] == 1 else f"{name} ({key[0]}.{key[1]})" for key, name in wanted.items()}
