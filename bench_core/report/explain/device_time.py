"""What a run cost in time on its device, beside what the study's own protocol would have cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bench_core.contract.measures.cell import CellMetrics
from bench_core.report.format import quantity, significant
from bench_core.runs.view import RunView

# docs/architecture.md, "The study": it gives every row the first 6000 stories, and discards its first batch.
STUDY_PROMPTS = 6000
STUDY_WARMUP_BATCHES = 1
_MINUTE_S, _HOUR_S = 60.0, 3600.0


@dataclass
class Spent:
    """Of one method: seconds, over all its measured cells."""

    cells: int = 0
    loads_s: float = 0.0
    cells_s: float = 0.0
    study_s: float = 0.0

    @property
    def all_s(self) -> float:
        """Loads and cells."""
        return self.loads_s + self.cells_s


def study_protocol_s(metrics: CellMetrics, batch_latency_s: float, batch_size: int) -> float:
    """What the study's protocol would take for this cell on this device, at a mean batch's latency: a load of its
    own, a discarded batch, and 6000 prompts. Seconds."""
    batches = STUDY_WARMUP_BATCHES + math.ceil(STUDY_PROMPTS / batch_size)
    own = (metrics.start_s or 0.0) + (metrics.load_s or 0.0) + (metrics.prepare_s or 0.0)
    return own + batches * batch_latency_s


def by_method(view: RunView) -> dict[str, Spent]:
    """What each method took, by its label."""
    found: dict[str, Spent] = {}
    loads: set[tuple[str, float, float]] = set()
    for row in view.rows:
        if row.result is None or row.rate is None:
            continue
        metrics = row.result.metrics
        spent = found.setdefault(row.label, Spent())
        load = (row.label, metrics.start_s or 0.0, metrics.load_s or 0.0)
        if load not in loads:  # cells of one engine process carry the same reading of its one load
            loads.add(load)
            spent.loads_s += load[1] + load[2]
        spent.cells += 1
        spent.cells_s += (metrics.prepare_s or 0.0) + metrics.batches_s
        spent.study_s += study_protocol_s(metrics, row.rate.batch_latency_s, row.planned.batch_size)
    return found


def device_time(view: RunView) -> str | None:
    """One line for the head of a report; ``None`` where nothing was measured."""
    whole = total(by_method(view).values())
    if not whole.all_s:
        return None
    return (
        f"{_duration(whole.all_s)} for {quantity(whole.cells, 'cell')}; "
        f"the study's protocol ({STUDY_PROMPTS} prompts a cell) would have taken {_duration(whole.study_s)} "
        f"at the latencies measured here: {_ratio(whole.study_s / whole.all_s)}"
    )


def total(methods: Iterable[Spent]) -> Spent:
    """Their sum."""
    found = Spent()
    for spent in methods:
        found.cells += spent.cells
        found.loads_s += spent.loads_s
        found.cells_s += spent.cells_s
        found.study_s += spent.study_s
    return found


def _duration(value_s: float) -> str:
    if value_s < _MINUTE_S:
        return f"{significant(value_s, 2)} s"
    if value_s < _HOUR_S:
        return f"{significant(value_s / _MINUTE_S, 2)} min"
    return f"{significant(value_s / _HOUR_S, 3)} h"


def _ratio(times: float) -> str:
    return f"1/{times:.0f} of that" if times >= 2.0 else f"{1.0 / times:.0%} of that"
