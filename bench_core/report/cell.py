"""A cell as the tables' lines have it, and the columns that most of them begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bench_core.contract.measures.cell import CellMetrics
from bench_core.contract.measures.cpu_use import CpuUse
from bench_core.contract.measures.memory_model import MemoryExplained, explain_memory
from bench_core.contract.measures.parity import Parity
from bench_core.contract.measures.roofline import Roofline, roofline
from bench_core.contract.measures.telemetry import TelemetrySummary
from bench_core.contract.statistics.workload_rate import WorkloadRate
from bench_core.report.column import Column, raw
from bench_core.runs.quality import CellQuality
from bench_core.runs.view import Row, RunView


@dataclass(frozen=True)
class Cell:
    """One row of a run, with what columns read of it; ``None`` for each part that the cell does not have."""

    view: RunView
    row: Row

    @property
    def metrics(self) -> CellMetrics | None:
        """What was measured."""
        return self.row.result.metrics if self.row.result else None

    @property
    def rate(self) -> WorkloadRate | None:
        """Throughput and latency of the whole workload."""
        return self.row.rate

    @property
    def cpu(self) -> CpuUse | None:
        """Who used the CPUs."""
        return self.metrics.cpu if self.metrics else None

    @property
    def telemetry(self) -> TelemetrySummary | None:
        """What the device's counters told."""
        return self.metrics.telemetry if self.metrics else None

    @property
    def parity(self) -> Parity | None:
        """The suite beside the engine called directly."""
        return self.metrics.parity if self.metrics else None

    @property
    def quality(self) -> CellQuality | None:
        """What can be said of its quality."""
        return self.view.quality.cells.get(self.row.planned.cell) if self.view.quality else None

    @cached_property
    def roofline(self) -> Roofline | None:
        """The cell under the peaks of the device and visit that measured it."""
        row = self.row
        if row.spec is None or row.result is None:
            return None
        return roofline(row.spec, row.result.engine_facts, row.result.metrics, self.view.device_rates_of(row))

    @cached_property
    def explained(self) -> MemoryExplained | None:
        """What its memory went into; of a method whose smallest budget was searched for, there."""
        row = self.row
        if row.spec is None or row.result is None:
            return None
        search = next((found for found in self.view.searches if found.cell == row.planned.cell), None)
        facts, metrics = row.result.engine_facts, row.result.metrics
        return explain_memory(row.spec, facts, metrics, self.view.device_rates_of(row), search)


def by_method(view: RunView) -> Iterator[Cell]:
    """The cells that tables show, method by method in the order of the plan, batch sizes ascending."""
    methods = dict.fromkeys((row.planned.image, row.planned.variant) for row in view.rows)
    places = {method: place for place, method in enumerate(methods)}
    rows = sorted(view.grid, key=lambda r: (places[r.planned.image, r.planned.variant], r.planned.batch_size))
    return (Cell(view, row) for row in rows)


def measured(view: RunView) -> list[Cell]:
    """Those of them that have numbers."""
    return [cell for cell in by_method(view) if cell.row.result is not None]


METHOD = Column[Cell]("Method", "row.label", csv="method", words=True)
BATCH_SIZE = Column[Cell]("Batch size", "row.planned.batch_size", csv="batch_size")
KEY = (METHOD, BATCH_SIZE)
BITS = Column[Cell](
    "Bits per weight",
    "row.bits.per_weight",
    "{:.2f}".format,
    csv="bits_per_weight",
    meaning=(
        "bits of all weights, with the scales, zero points and orders of groups that belong to them / number of "
        "the model's weights: by the headers of the file that the engine reads, or of the tensors that it holds, "
        "where it quantises or converts while loading; a title says so where they exceed the bits that it names by "
        "a quarter"
    ),
)
BATCHES = Column[Cell]("Batches", "metrics.batches", csv="batches", meaning="measured batches, warm-up excluded")


def _cause(cell: Cell) -> str:
    row = cell.row
    why = (*row.breaches, *filter(None, [row.in_waves]))
    return row.problem or "; ".join(f"not ranked: {what}" for what in why)


def _visit(cell: Cell) -> int | None:
    return cell.view.visit_of(cell.row)


# In the CSV alone.
RAW: tuple[Column[Cell], ...] = (
    *raw("row.planned", "cell", "image", "variant", "repeat"),
    Column("", _visit, csv="visit"),
    *raw("row.spec", "gpu_uuid", "batching"),
    Column("", "row.status", csv="outcome"),
    Column("", _cause, csv="cause"),
    *raw("row.bits", "source", csv="bits_{}"),
)
