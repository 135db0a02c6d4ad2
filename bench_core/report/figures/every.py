"""All figures of a run, by name."""

from __future__ import annotations

from collections.abc import Callable

from bench_core.report.document import SCALING, serving_figures
from bench_core.report.figures import scaling, serving
from bench_core.report.figures.draw import Drawing, Figure
from bench_core.runs.view import RunView

_DRAW: dict[str, Callable[[RunView], Drawing]] = {
    "throughput": scaling.throughput,
    "memory": scaling.memory,
    "frontier": serving.frontier,
    "ttft": serving.ttft,
}


def drawings(view: RunView) -> dict[str, Drawing]:
    """The figures that the run's report shows, not drawn yet."""
    names = [name for name, _ in SCALING.figures] if view.rows else []
    return {name: _DRAW[name](view) for name in (*names, *(name for name, _ in serving_figures(view)))}


def draw_all(view: RunView) -> dict[str, Figure]:
    """The figures that the run's report shows."""
    return {name: drawing.drawn() for name, drawing in drawings(view).items()}
