"""What held cells back: the peaks of the devices, and each cell under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench_core.contract.measures.roofline import BUSY, LAUNCHES_PER_LAYER, LAUNCHING, NEAR, Roofline
from bench_core.contract.measures.telemetry import is_throttling, reason_words
from bench_core.contract.records.device_rates import DeviceRates
from bench_core.report.cell import KEY, Cell, measured
from bench_core.report.column import Column, Sheet, sheet
from bench_core.report.format import ABSENT, digits, milliseconds, share3, signed_gib, whole
from bench_core.runs.view import RunView
from bench_core.system.text import foreign

_MATRIX_DTYPES = ("float16", "bfloat16", "tf32", "float32")


def _because(cell: Cell) -> str:
    placed = cell.roofline
    if placed is None:
        return "no stretch is told in which all rows decode"
    return placed.evidence or _missing(placed)


def _missing(placed: Roofline) -> str:
    if placed.step_bytes is None:
        return f"bytes of a step are not known{f': {placed.problem}' if placed.problem else ''}"
    if placed.mbu is None:
        return "the device was not measured"
    return "what it computes in is not known, and its peak may be near" if placed.mfu is None else ""


ROOFLINE: Sequence[Column[Cell]] = [
    *KEY,
    Column("Decode step", "roofline.step_s", milliseconds, unit="ms", csv="step_s"),
    Column("Context", "roofline.context_tokens", whole, unit="tokens", csv="context_tokens"),
    Column("Bytes a step", "roofline.step_bytes", digits(3, 1e-9), unit="GB", csv="step_bytes"),
    Column("Work a step", "roofline.step_flop", digits(3, 1e-9), unit="GFLOP", csv="step_flop"),
    Column("MBU", "roofline.mbu", share3, csv="mbu"),
    Column("MFU", "roofline.mfu", share3, csv="mfu"),
    Column("Prompt MFU", "roofline.prompt_mfu", share3, csv="prompt_mfu"),
    Column("Verdict", "roofline.bound", lambda bound: bound or ABSENT, csv="bound", words=True),
    Column("Because", _because, words=True),
]


def roofline_sheet(view: RunView) -> Iterator[Sheet]:
    """Each cell under the peaks of its device, where those were measured."""
    if view.device_rates:
        yield sheet("Roofline", ROOFLINE, measured(view), _ROOFLINE_NOTES)


_ROOFLINE_NOTES = (
    "Decode step: between the last prompt's first token and the first prompt's last one. Bytes: the weights that a "
    "step must read (of the input embeddings one row for each prompt, of experts those that a router with equal "
    "chances is expected to choose) and the keys and values that it attends to, in layers with a window those "
    "within it. Of layers whose kind is not known there is no figure. "
    "MBU: bytes / (step x measured bandwidth). MFU: operations / (step x measured matrix rate of the dtype that "
    "the engine computes in, where it says so); prompt MFU the same until the last prompt's first token. "
    f"Verdict: bandwidth-bound or compute-bound from {NEAR} of that peak on, mixed near both; near neither "
    f"host-bound, if a kernel runs in less than {BUSY} of the time or {LAUNCHES_PER_LAYER} launches a layer take "
    f"{LAUNCHING} of a step or more, else mixed. Of an engine that does not say what it computes in, the lowest "
    "matrix rate that was measured decides whether it may be near that peak.",
)


def _throttling(found: DeviceRates) -> str:
    masks = found.telemetry.throttle_reasons if found.telemetry else None
    seen = {mask for mask in masks or () if mask is not None}
    if not seen:
        return ABSENT
    words = {word for mask in seen for word in reason_words(mask) if is_throttling(mask)}
    return ", ".join(sorted(words)) or "none"


def _matrix(dtype: str) -> Column[DeviceRates]:
    return Column(dtype, lambda found: found.matrix_flop_s(dtype), digits(3, 1e-12), unit="TFLOP/s")


def _versions(found: DeviceRates) -> str:
    return ", ".join(f"{name} {foreign(version)}" for name, version in sorted(found.versions.items())) or ABSENT


_PEAKS: Sequence[Column[DeviceRates]] = [
    Column("Measurement", "name", words=True),
    Column("Device", lambda found: found.gpu_uuid or f"{found.cpu}, {found.threads} threads", words=True),
    Column("Bandwidth", "bandwidth_bytes_s", digits(4, 1e-9), unit="GB/s"),
    *map(_matrix, _MATRIX_DTYPES),
    Column("Launch", "launch_s", digits(3, 1e6), unit="µs"),
    Column("Context", "context_bytes", signed_gib),
    Column("Throttling", _throttling, words=True),
    Column("Versions", _versions, words=True),
]


def peaks_sheet(view: RunView) -> Iterator[Sheet]:
    """What was measured of the devices."""
    if view.device_rates:
        yield sheet("Peak rates", _PEAKS, view.device_rates, _PEAKS_NOTES)


_PEAKS_NOTES = (
    "The best of several samples each, on this device at this visit, by PyTorch: sums, matrix x vector and copies "
    "of buffers far larger than the caches; square matrix products; a chain of tiny kernels launched one by one. "
    "Context: memory that a process holds on the GPU before it has data. All samples are kept with the run.",
)
