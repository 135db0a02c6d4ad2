"""What a device can do, measured: read bandwidth, matrix rate, cost of a launch. The roofs that cells stand under.

An image whose ``image.yaml`` names a function under ``measures_device`` offers work of known size; the worker, which
owns the clock, times it. The record keeps every sample, so that the roofs can be computed again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from pydantic import Field

from bench_core.contract.adapter import Device
from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.records.record import Record

# read: bytes read, nothing written; copy: bytes read and written; matrix: FLOP of square products; skinny: bytes of the
# matrix in a product with as few rows as a decode step has; launch: kernels (on a CPU: calls) of next to no work.
WorkKind = Literal["read", "copy", "matrix", "skinny", "launch"]


@dataclass(frozen=True)
class WorkPiece:
    """Work of known size, offered by an image.

    Attributes:
        name: unique within the image.
        dtype: of the operands: ``float16``, ``bfloat16``, ``float32``, ``tf32`` (float32 on tensor cores).
        shape: of the operands, for people.
        amount: bytes, FLOP or launches of one iteration; see ``WorkKind``.
        make: allocates the operands and returns ``run(iterations)``, which returns when the device has finished. What
            it holds is freed when ``run`` is let go.
    """

    kind: WorkKind
    name: str
    dtype: str
    shape: tuple[int, ...]
    amount: float
    make: Callable[[], Callable[[int], None]]


class MeasuresDevice(Protocol):
    """A function named in ``image.yaml`` under ``measures_device``. The first piece is the smallest: after it, the
    memory that having a context costs is read. It never times and never prints."""

    def __call__(self, device: Device) -> Sequence[WorkPiece]: ...


class Measurement(Record):
    """One piece of work, timed.

    Attributes:
        amount: of one iteration; bytes, FLOP or launches by ``kind``.
        iterations: in each sample.
        samples_s: seconds of ``iterations`` iterations, device finished, in the order taken.
    """

    kind: WorkKind
    name: str
    dtype: str
    shape: tuple[int, ...]
    amount: float = Field(gt=0)
    iterations: int = Field(ge=1)
    samples_s: tuple[float, ...] = Field(min_length=1)

    @cached_property
    def best_per_s(self) -> float:
        """Rate of the quickest sample: what the device can do when nothing disturbs it."""
        return self.amount * self.iterations / max(min(self.samples_s), 1e-9)

    @property
    def median_per_s(self) -> float:
        """Rate of the median sample."""
        return self.amount * self.iterations / max(statistics.median(self.samples_s), 1e-9)


class DeviceRates(Record):
    """``device-rates/<name>.json`` of a run: one device at one visit.

    Attributes:
        name: ``v<visit>.<beginning of the GPU's UUID in lower case, or cpu>``.
        cpu: the host's processor as the box sees it; ``threads``: that were used.
        seconds: that all of it took.
        context_bytes: device memory that a process holds before it has data: in use after the first, smallest piece
            less what was in use before; ``None`` on a CPU or where NVML does not answer.
        failures: piece of work to why it has no samples, in one line.
        telemetry: clocks, power and clock-event reasons meanwhile.
    """

    schema_version: Literal[1] = 1
    name: str
    wall_time_utc: str
    device: DeviceKind
    gpu_uuid: str | None = None
    cpu: str
    threads: int = Field(ge=1)
    versions: dict[str, str] = {}
    seconds: float = Field(ge=0)
    context_bytes: int | None = None
    measurements: tuple[Measurement, ...] = ()
    failures: dict[str, str] = {}
    telemetry: TelemetryEvent | None = None

    @property
    def bandwidth_bytes_s(self) -> float | None:
        """The highest rate at which memory was read, or read and written, by any work whose operands are far larger
        than the caches, bytes/s: the memory roof."""
        return _best(m for m in self.measurements if m.kind in ("read", "copy"))

    def matrix_flop_s(self, dtype: str) -> float | None:
        """The highest rate of square products in a dtype, FLOP/s (a multiply-add counts two): the compute roof."""
        return _best(m for m in self.measurements if m.kind == "matrix" and m.dtype == dtype)

    @property
    def slowest_matrix_flop_s(self) -> float | None:
        """The lowest of these rates over all dtypes: whatever an engine computes in, the roof is no lower."""
        rates = (self.matrix_flop_s(m.dtype) for m in self.measurements if m.kind == "matrix")
        return min((rate for rate in rates if rate is not None), default=None)

    @property
    def launch_s(self) -> float | None:
        """Seconds between two tiny kernels of a chain that the host launches one by one."""
        rate = _best(m for m in self.measurements if m.kind == "launch")
        return None if rate is None else 1.0 / rate


class Roofs(Protocol):
    """The roofs of a cell: of its device, or of several GPUs that its model is split over."""

    @property
    def bandwidth_bytes_s(self) -> float | None: ...
    def matrix_flop_s(self, dtype: str) -> float | None: ...
    @property
    def slowest_matrix_flop_s(self) -> float | None: ...
    @property
    def launch_s(self) -> float | None: ...
    @property
    def context_bytes(self) -> int | None: ...


@dataclass(frozen=True)
class SummedRates:
    """Several GPUs as one: what each was measured to do alone, summed. ``None`` where one of them was not measured."""

    each: tuple[DeviceRates, ...]

    @property
    def bandwidth_bytes_s(self) -> float | None:
        """Of all memories at the same time, bytes/s."""
        return _sum(one.bandwidth_bytes_s for one in self.each)

    def matrix_flop_s(self, dtype: str) -> float | None:
        """Of all GPUs at the same time, FLOP/s."""
        return _sum(one.matrix_flop_s(dtype) for one in self.each)

    @property
    def slowest_matrix_flop_s(self) -> float | None:
        """Of all GPUs at the same time, FLOP/s."""
        return _sum(one.slowest_matrix_flop_s for one in self.each)

    @property
    def launch_s(self) -> float | None:
        """Of the slowest: each GPU of a split model is given its own kernels, at the same time."""
        known = [one.launch_s for one in self.each if one.launch_s is not None]
        return max(known) if len(known) == len(self.each) else None

    @property
    def context_bytes(self) -> int | None:
        """A context on each."""
        found = _sum(one.context_bytes for one in self.each)
        return None if found is None else int(found)


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None


def _best(measurements: Iterable[Measurement]) -> float | None:
    return max((m.best_per_s for m in measurements), default=None)
