"""Tables of what held a cell back: roofs of the devices, cells under them, telemetry, memory explained, smallest
budgets. Each is left out where the run has nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bench_core.contract.calibration import Calibration
from bench_core.contract.memory_model import explain_memory
from bench_core.contract.metrics import CellMetrics, CellResult
from bench_core.contract.roofline import BUSY, LAUNCHES_PER_LAYER, LAUNCHING, NEAR, Roofline, roofline
from bench_core.contract.telemetry import MARKED_FROM_SHARE, TelemetrySummary, is_throttling, reason_words
from bench_core.report.cell_key import cell_key
from bench_core.report.format import ABSENT, gib, milliseconds, significant
from bench_core.report.sheet import Entry, Sheet
from bench_core.runs.text import foreign
from bench_core.runs.view import Row, RunView

THROTTLED_MARK = "§"
THROTTLED_NOTE = (
    f"{THROTTLED_MARK} throttled: for {MARKED_FROM_SHARE:.0%} of the measured time or more the GPU's clocks were held "
    "back by heat or the board; see Device."
)
TELLING_GAP_S = 1.0  # a cell that was not sampled for so long is listed even without a device's numbers
_MATRIX_DTYPES = ("float16", "bfloat16", "tf32", "float32")

Measured = Iterable[tuple[Row, CellResult]]


def is_throttled(metrics: CellMetrics) -> bool:
    """Whether a cell is marked."""
    return metrics.telemetry is not None and metrics.telemetry.is_throttled


def roof_sheets(view: RunView, measured: Measured) -> Iterable[Sheet]:
    """All of this module's tables that the run has material for."""
    cells = list(measured)
    yield from _device(cells)
    yield from _roofline(view, cells)
    yield from _roofs(view)
    yield from _memory_explained(view, cells)
    yield from _smallest(view)


def cell_roofline(view: RunView, row: Row) -> Roofline | None:
    """One cell under the roofs of the device and visit that measured it."""
    if row.spec is None or row.result is None:
        return None
    return roofline(row.spec, row.result.engine_facts, row.result.metrics, view.calibration_of(row))


def csv_roofs(view: RunView, row: Row) -> dict[str, str | float | None]:
    """Columns of the CSV: none in a run that has neither roofs nor telemetry of a device."""
    telemetry = [r.result.metrics.telemetry for r in view.rows if r.result]
    columns: dict[str, str | float | None] = {}
    if any(t is not None and _has_device(t) for t in telemetry):
        t = row.result.metrics.telemetry if row.result else None
        columns |= {name: getattr(t, name) if t else None for name in _CSV_TELEMETRY}
        columns["throttling"] = "; ".join(t.throttling) if t else None
    if view.calibrations:
        placed = cell_roofline(view, row)
        columns |= {name: getattr(placed, name) if placed else None for name in _CSV_ROOFLINE}
    return columns


_CSV_TELEMETRY = (
    *("sm_clock_mhz", "memory_clock_mhz", "temperature_max_c", "power_w", "utilisation", "energy_joules"),
    *("integrated_joules", "joules_per_output_token", "package_joules", "throttled", "longest_gap_s", "gaps"),
)
_CSV_ROOFLINE = ("step_s", "context_tokens", "step_bytes", "step_flop", "mbu", "mfu", "prompt_mfu", "bound")


def _number(value: float | None, factor: float = 1.0, digits: int = 3) -> Entry:
    return Entry(ABSENT) if value is None else Entry(significant(value * factor, digits), value)


def _whole(value: float | None) -> Entry:
    return Entry(ABSENT) if value is None else Entry(f"{value:.0f}", value)


def _share(value: float | None) -> Entry:
    return Entry(ABSENT) if value is None else Entry(f"{value:.3f}", value)


def _percent(value: float | None) -> Entry:
    return Entry(ABSENT) if value is None else Entry(f"{value * 100:+.1f}", value)


def _bytes(value: float | None) -> Entry:
    if value is None:
        return Entry(ABSENT)
    return Entry(gib(value) if value >= 0 else f"-{gib(-value)}", value)


# --- telemetry --------------------------------------------------------------------------------------------------------


def _has_device(summary: TelemetrySummary) -> bool:
    told = (summary.sm_clock_mhz, summary.power_w, summary.energy_joules, summary.throttled, summary.package_joules)
    return any(value is not None for value in told)


def _device(cells: list[tuple[Row, CellResult]]) -> Iterable[Sheet]:
    rows = []
    for row, result in cells:
        t = result.metrics.telemetry
        if t is None or not (_has_device(t) or t.longest_gap_s >= TELLING_GAP_S):
            continue
        throttling = ", ".join(f"{word} {_percentage(t.reasons[word])}" for word in t.throttling)
        rows.append(
            (
                *cell_key(row),
                _whole(t.sm_clock_mhz),
                _whole(t.memory_clock_mhz),
                _whole(t.temperature_max_c),
                _number(t.power_w),
                _share(t.utilisation),
                _number(t.energy_joules, digits=4),
                _number(t.integrated_joules, digits=4),
                _percent(t.energy_difference),
                _number(t.joules_per_output_token),
                _number(t.package_joules, digits=4),
                Entry(ABSENT if t.power_limited is None else _percentage(t.power_limited), t.power_limited),
                Entry(throttling or ("none" if t.throttled is not None else ABSENT), failed=t.is_throttled),
                Entry(significant(t.longest_gap_s, 2), t.longest_gap_s),
            )
        )
    if not rows:
        return
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("SM clock (MHz)", True),
        ("Memory clock (MHz)", True),
        ("Highest temperature (°C)", True),
        ("Power (W)", True),
        ("Utilisation", True),
        ("Energy, counter (J)", True),
        ("Energy, integrated (J)", True),
        ("Difference (%)", True),
        ("Energy (J/token)", True),
        ("CPU packages (J)", True),
        ("At the power limit", True),
        ("Throttling", False),
        ("Longest sampling gap (s)", True),
    )
    notes = (
        "Means over the measured time, pauses between batches included. Utilisation: share of the driver's sampling "
        "period in which a kernel ran. Energy: NVML's counter, and its power reading integrated over the same samples; "
        "per output token from the counter. At the power limit: share of the time in which the card lowered its clocks "
        "to stay within its own power limit, as heavy work makes it do. Throttling: other reasons for lower clocks "
        "than those set, with the share of the time; an idle GPU and clocks that somebody has set are no throttling.",
    )
    yield Sheet("Device", columns, tuple(rows), notes)


def _percentage(share: float) -> str:
    if share <= 0:
        return "0 %"
    return "below 1 %" if share < MARKED_FROM_SHARE else f"{share * 100:.0f} %"


# --- roofs ------------------------------------------------------------------------------------------------------------


def _roofline(view: RunView, cells: list[tuple[Row, CellResult]]) -> Iterable[Sheet]:
    if not view.calibrations:
        return
    rows = []
    for row, _ in cells:
        placed = cell_roofline(view, row)
        if placed is None:
            rows.append((*cell_key(row), *(Entry(ABSENT),) * 8, Entry("no stretch is told in which all rows decode")))
            continue
        rows.append(
            (
                *cell_key(row),
                Entry(milliseconds(placed.step_s), placed.step_s),
                _whole(placed.context_tokens),
                _number(placed.step_bytes, 1e-9),
                _number(placed.step_flop, 1e-9),
                _share(placed.mbu),
                _share(placed.mfu),
                _share(placed.prompt_mfu),
                Entry(placed.bound or ABSENT),
                Entry(placed.evidence or _missing(placed)),
            )
        )
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Decode step (ms)", True),
        ("Context (tokens)", True),
        ("Bytes a step (GB)", True),
        ("Work a step (GFLOP)", True),
        ("MBU", True),
        ("MFU", True),
        ("Prompt MFU", True),
        ("Verdict", False),
        ("Because", False),
    )
    notes = (
        "Decode step: between the last prompt's first token and the first prompt's last one. Bytes: the weights that a "
        "step must read (of the input embeddings one row for each prompt, of experts those that a router with equal "
        "chances is expected to choose) and the keys and values that it attends to, in layers with a window those "
        "within it. Of layers whose kind is not known there is no figure. "
        "MBU: bytes / (step x measured bandwidth). MFU: operations / (step x measured matrix rate of the dtype that "
        "the engine computes in, where it says so); prompt MFU the same until the last prompt's first token. "
        f"Verdict: bandwidth-bound or compute-bound from {NEAR} of that roof on, mixed near both; near neither "
        f"host-bound, if a kernel runs in less than {BUSY} of the time or {LAUNCHES_PER_LAYER} launches a layer take "
        f"{LAUNCHING} of a step or more, else mixed. Of an engine that does not say what it computes in, the lowest "
        "matrix rate that was measured decides whether it may be near that roof.",
    )
    yield Sheet("Roofline", columns, tuple(rows), notes)


def _missing(placed: Roofline) -> str:
    if placed.step_bytes is None:
        return f"bytes of a step are not known{f': {placed.problem}' if placed.problem else ''}"
    if placed.mbu is None:
        return "the device was not measured"
    return "what it computes in is not known, and its roof may be near" if placed.mfu is None else ""


def _roofs(view: RunView) -> Iterable[Sheet]:
    if not view.calibrations:
        return
    rows = tuple(
        (
            Entry(found.name),
            Entry(found.gpu_uuid or f"{found.cpu}, {found.threads} threads"),
            _number(found.bandwidth_bytes_s, 1e-9, 4),
            *(_number(found.matrix_flop_s(dtype), 1e-12) for dtype in _MATRIX_DTYPES),
            _number(found.launch_s, 1e6),
            _bytes(found.context_bytes),
            Entry(_throttling(found)),
            Entry(
                ", ".join(f"{name} {foreign(version)}" for name, version in sorted(found.versions.items())) or ABSENT
            ),
        )
        for found in view.calibrations
    )
    columns = (
        ("Measurement", False),
        ("Device", False),
        ("Bandwidth (GB/s)", True),
        *((f"{dtype} (TFLOP/s)", True) for dtype in _MATRIX_DTYPES),
        ("Launch (µs)", True),
        ("Context", True),
        ("Throttling", False),
        ("Versions", False),
    )
    notes = (
        "The best of several samples each, on this device at this visit, by PyTorch: sums, matrix x vector and copies "
        "of buffers far larger than the caches; square matrix products; a chain of tiny kernels launched one by one. "
        "Context: memory that a process holds on the GPU before it has data. All samples are in calibrations/.",
    )
    yield Sheet("Roofs", columns, rows, notes)


def _throttling(found: Calibration) -> str:
    masks = found.telemetry.throttle_reasons if found.telemetry else None
    seen = {mask for mask in masks or () if mask is not None}
    if not seen:
        return ABSENT
    words = {word for mask in seen for word in reason_words(mask) if is_throttling(mask)}
    return ", ".join(sorted(words)) or "none"


# --- memory -----------------------------------------------------------------------------------------------------------


def _memory_explained(view: RunView, cells: list[tuple[Row, CellResult]]) -> Iterable[Sheet]:
    searches = {search.cell: search for search in view.searches}
    rows = []
    for row, result in cells:
        if row.spec is None:
            continue
        found = explain_memory(
            row.spec, result.engine_facts, result.metrics, view.calibration_of(row), searches.get(row.planned.cell)
        )
        if found is None:
            continue
        rows.append(
            (
                *cell_key(row),
                _bytes(found.weights_bytes),
                _bytes(found.kv_cache_bytes),
                _bytes(found.activations_bytes),
                _bytes(found.graphs_bytes),
                _bytes(found.context_bytes),
                _bytes(found.predicted_bytes),
                Entry(gib(found.measured_bytes) + (" (smallest budget)" if found.at_smallest_budget else "")),
                _bytes(found.unexplained_bytes),
                _percent(found.difference),
            )
        )
    if not rows:
        return
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Weights", True),
        ("KV cache", True),
        ("Activations", True),
        ("CUDA graphs", True),
        ("Context", True),
        ("Predicted", True),
        ("Measured", True),
        ("Unexplained", True),
        ("Difference (%)", True),
    )
    notes = (
        "Weights, key-value cache of the batch that needs most and activations of reading its prompts at once follow "
        "from the architecture. Weights: without a table of embeddings that stays on the host. Cache: as the "
        "engine says that it lays it out, rows that end early included. A cell is left out where one of these is not "
        "told. What recorded CUDA graphs take is the engine's own word; the context of a process was measured on the "
        "same GPU. What is not known of the last two is part of what is unexplained. Measured: peak in use on "
        "the GPU less what was in use before loading. An engine that reserves more than a cell needs is explained at "
        "its smallest budget (--min-memory), by the one batch that was tried there, and not otherwise. "
        "Difference: unexplained / measured.",
    )
    yield Sheet("Memory explained", columns, tuple(rows), notes)


def _smallest(view: RunView) -> Iterable[Sheet]:
    if not view.searches:
        return
    labels = {row.planned.cell: row for row in view.rows}
    rows = []
    for search in view.searches:
        trial, row = search.at_smallest, labels.get(search.cell)
        written: Callable[[float | None], Entry] = _bytes if search.unit == "bytes" else _share
        rows.append(
            (
                Entry(row.label if row else search.cell),
                Entry(str(row.planned.batch_size), row.planned.batch_size) if row else Entry(ABSENT),
                Entry(search.option),
                written(search.smallest) if search.smallest is not None else Entry(ABSENT, failed=True),
                _bytes(search.smallest_bytes),
                written(search.largest_failing),
                _bytes(trial.device_peak_bytes if trial else None),
                _number(trial.output_throughput_tok_s if trial else None, digits=4),
                Entry(str(len(search.trials)), len(search.trials)),
                Entry(foreign(search.problem) or ABSENT),
            )
        )
    columns = (
        ("Method", False),
        ("Batch size", True),
        ("Option", False),
        ("Smallest", True),
        ("In bytes", True),
        ("Largest that failed", True),
        ("GPU peak there", True),
        ("Throughput there (token/s)", True),
        ("Trials", True),
        ("Problem", False),
    )
    notes = (
        "The smallest memory budget with which one batch of the full shape still ends well, at nine tenths or more of "
        "the throughput that the largest budget gives, known to 2 %. Batches with more tokens than that one need more.",
    )
    yield Sheet("Smallest memory", columns, tuple(rows), notes)
