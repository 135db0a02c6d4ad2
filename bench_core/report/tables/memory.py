"""Memory of each cell: stage by stage, and explained from the model's architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench_core.report.cell import KEY, Cell, measured
from bench_core.report.column import Column, Entry, Sheet, raw, sheet
from bench_core.report.format import NOT_READ, gib, signed_gib, signed_percent
from bench_core.report.tables.results import HOST_MEMORY
from bench_core.runs.view import RunView


def stages(memory: str) -> tuple[Column[Cell], ...]:
    """Columns of one memory, ``device_memory`` or ``host_memory``."""
    names = {
        "Baseline": "baseline",
        "After load": "after_load",
        "After prepare": "after_prepare",
        "Peak": "peak",
        "Mean": "mean",
    }
    return tuple(
        Column(title, f"metrics.{memory}.{stage}_bytes", gib, csv=f"{memory}_{stage}_bytes", absent=NOT_READ)
        for title, stage in names.items()
    )


POOL: Sequence[Column[Cell]] = [
    Column("Pool reserved", "metrics.reserved_bytes", gib, csv="reserved_bytes"),
    Column("Pool used", "metrics.used_bytes", gib, csv="used_bytes"),
]
RAW: tuple[Column[Cell], ...] = tuple(
    column
    for memory in ("device_memory", "host_memory")
    for column in raw(f"metrics.{memory}", "load_peak_bytes", csv=f"{memory}_{{}}")
)


def memory_sheet(view: RunView) -> Sheet:
    """Memory of the device, or of the engine's processes where there is none."""
    where = "on the GPU, by all processes" if view.on_cuda else "resident, of the engine's processes"
    host_peak = (replace(HOST_MEMORY, title="Host peak"),) if view.on_cuda else ()
    columns = (*KEY, *stages("device_memory" if view.on_cuda else "host_memory"), *host_peak, *POOL)
    notes = (
        f"Memory {where}: before loading, after it, after caches and graphs were made, highest over warm-up and "
        "measured batches, mean over the measured ones. Pool: where the engine keeps one of its own, what it took and "
        "what it filled.",
    )
    return sheet("Memory", columns, measured(view), notes)


def _measured_bytes(cell: Cell) -> Entry:
    found = cell.explained
    assert found is not None  # noqa: S101  # lines are of cells that have it
    return Entry(gib(found.measured_bytes) + (" (smallest budget)" if found.at_smallest_budget else ""))


_EXPLAINED: Sequence[Column[Cell]] = [
    *KEY,
    Column("Weights", "explained.weights_bytes", signed_gib),
    Column("KV cache", "explained.kv_cache_bytes", signed_gib),
    Column("Activations", "explained.activations_bytes", signed_gib),
    Column("CUDA graphs", "explained.graphs_bytes", signed_gib),
    Column("Context", "explained.context_bytes", signed_gib),
    Column("Predicted", "explained.predicted_bytes", signed_gib),
    Column("Measured", "explained.measured_bytes", shown=_measured_bytes),
    Column("Unexplained", "explained.unexplained_bytes", signed_gib),
    Column("Difference", "explained.difference", signed_percent(1), unit="%"),
]


def explained_sheet(view: RunView) -> Iterator[Sheet]:
    """What memory went into, where an engine tells enough of itself."""
    lines = [cell for cell in measured(view) if cell.explained is not None]
    if lines:
        yield sheet("Memory explained", _EXPLAINED, lines, _EXPLAINED_NOTES)


_EXPLAINED_NOTES = (
    "Weights, key-value cache of the batch that needs most and activations of reading its prompts at once follow "
    "from the architecture. Weights: without a table of embeddings that stays on the host. Cache: as the "
    "engine says that it lays it out, rows that end early included. A cell is left out where one of these is not "
    "told. What recorded CUDA graphs take is the engine's own word; the context of a process was measured on the "
    "same GPU. What is not known of the last two is part of what is unexplained. Measured: peak in use on "
    "the GPU less what was in use before loading. An engine that reserves more than a cell needs is explained at "
    "its smallest budget (--min-memory), by the one batch that was tried there, and not otherwise. "
    "Difference: unexplained / measured.",
)
