"""Reading GPUs through NVML, by UUID, as the driver numbers GPUs otherwise than CUDA does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, reduce
from operator import or_
from typing import Any, Protocol

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.placement import GpuInfo


@cache
def _library() -> Any:
    """Imported where a GPU is asked for: a launch on CPUs needs none."""
    import pynvml  # noqa: PLC0415

    return pynvml


def visible_gpus() -> list[GpuInfo]:
    """The GPUs that NVML shows to this process; none where there is no driver."""
    try:
        _library().nvmlInit()
    except _library().NVMLError:
        return []
    try:
        driver = _text(_library().nvmlSystemGetDriverVersion())
        found = [_info(index, driver) for index in range(_library().nvmlDeviceGetCount())]
    except _library().NVMLError:  # a driver that is being replaced
        return []
    else:
        return [gpu for gpu in found if gpu is not None]
    finally:
        _library().nvmlShutdown()


def _info(index: int, driver: str) -> GpuInfo | None:
    """One GPU; ``None`` for one that has fallen off the bus."""
    try:
        handle = _library().nvmlDeviceGetHandleByIndex(index)
        return GpuInfo(
            uuid=_text(_library().nvmlDeviceGetUUID(handle)),
            name=_text(_library().nvmlDeviceGetName(handle)),
            memory_bytes=int(_library().nvmlDeviceGetMemoryInfo(handle).total),
            driver_version=driver,
        )
    except _library().NVMLError:
        return None


def given_gpus() -> list[GpuInfo]:
    """Those of the visible GPUs that are this process's: all of them, but where ``CUDA_VISIBLE_DEVICES`` names some by
    UUID these, in its order. A container sees no other; NVML shows a plain process all GPUs of its host."""
    present = visible_gpus()
    named = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if not any(word.startswith("GPU-") for word in named):
        return present
    by_uuid = {gpu.uuid: gpu for gpu in present}
    return [by_uuid[word] for word in named if word in by_uuid]


def pci_bus_id(uuid: str) -> str | None:
    """Where a GPU sits, ``00000000:17:00.0``; ``None`` where NVML does not answer."""
    try:
        _library().nvmlInit()
        place = _library().nvmlDeviceGetPciInfo(_library().nvmlDeviceGetHandleByUUID(uuid))
        return _text(place.busId)
    except _library().NVMLError:
        return None


class Readings(Protocol):
    """What is sampled beside a cell, of its GPU or its GPUs together; ``None`` where that is not told."""

    def used_bytes(self) -> int | None: ...
    def power_w(self) -> float | None: ...
    def energy_mj(self) -> int | None: ...
    def sm_clock_mhz(self) -> int | None: ...
    def memory_clock_mhz(self) -> int | None: ...
    def temperature_c(self) -> int | None: ...
    def utilisation_percent(self) -> int | None: ...
    def throttle_reasons(self) -> int | None: ...


def reader_of(uuids: Sequence[str]) -> Readings | None:
    """Opens the GPUs of a cell; ``None`` for a cell without one.

    Raises:
        MachineFailure: NVML does not know one of them here.
    """
    if not uuids:
        return None
    readers = [GpuReader(uuid) for uuid in uuids]
    return readers[0] if len(readers) == 1 else Together(readers)


class GpuReader:
    """Open readings of one GPU. Each method gives ``None`` where this GPU or driver does not answer."""

    def __init__(self, uuid: str) -> None:
        """Opens the GPU.

        Raises:
            MachineFailure: NVML does not know this UUID here.
        """
        try:
            _library().nvmlInit()
            self._handle = _library().nvmlDeviceGetHandleByUUID(uuid)
        except _library().NVMLError as error:
            raise MachineFailure(f"GPU {uuid} does not answer through NVML: {error}") from error

    def used_bytes(self) -> int | None:
        """Memory in use by all processes."""
        info = _ask(_library().nvmlDeviceGetMemoryInfo, self._handle)
        return None if info is None else int(info.used)

    def power_w(self) -> float | None:
        """Board power now, watts."""
        milliwatts = _ask(_library().nvmlDeviceGetPowerUsage, self._handle)
        return None if milliwatts is None else milliwatts / 1000.0

    def energy_mj(self) -> int | None:
        """Energy since the driver was loaded, millijoules."""
        return _ask_number(_library().nvmlDeviceGetTotalEnergyConsumption, self._handle)

    def sm_clock_mhz(self) -> int | None:
        """Clock of the streaming multiprocessors."""
        return _ask_number(_library().nvmlDeviceGetClockInfo, self._handle, _library().NVML_CLOCK_SM)

    def memory_clock_mhz(self) -> int | None:
        """Clock of the memory."""
        return _ask_number(_library().nvmlDeviceGetClockInfo, self._handle, _library().NVML_CLOCK_MEM)

    def temperature_c(self) -> int | None:
        """Temperature of the GPU, degrees Celsius."""
        return _ask_number(_library().nvmlDeviceGetTemperature, self._handle, _library().NVML_TEMPERATURE_GPU)

    def utilisation_percent(self) -> int | None:
        """Share of the last sampling period in which a kernel ran."""
        rates = _ask(_library().nvmlDeviceGetUtilizationRates, self._handle)
        return None if rates is None else int(rates.gpu)

    def throttle_reasons(self) -> int | None:
        """NVML's bit mask of why the clocks are below their maximum."""
        return _ask_number(_library().nvmlDeviceGetCurrentClocksEventReasons, self._handle)


class Together:
    """Several GPUs that one model is split over, read as one device: memory, power and energy are sums, clocks those of
    the slowest, the temperature that of the warmest, utilisation the mean, reasons those of any of them. What one of
    them does not tell is not told of all."""

    def __init__(self, readers: Sequence[Readings]) -> None:
        self._readers = tuple(readers)

    def used_bytes(self) -> int | None:
        """Memory in use by all processes, summed."""
        return self._of(sum, lambda gpu: gpu.used_bytes())

    def power_w(self) -> float | None:
        """Board power now, summed, watts."""
        told = [watts for gpu in self._readers if (watts := gpu.power_w()) is not None]
        return sum(told) if len(told) == len(self._readers) else None

    def energy_mj(self) -> int | None:
        """Energy since the driver was loaded, summed, millijoules."""
        return self._of(sum, lambda gpu: gpu.energy_mj())

    def sm_clock_mhz(self) -> int | None:
        """The lowest clock of the streaming multiprocessors."""
        return self._of(min, lambda gpu: gpu.sm_clock_mhz())

    def memory_clock_mhz(self) -> int | None:
        """The lowest clock of the memory."""
        return self._of(min, lambda gpu: gpu.memory_clock_mhz())

    def temperature_c(self) -> int | None:
        """The highest temperature, degrees Celsius."""
        return self._of(max, lambda gpu: gpu.temperature_c())

    def utilisation_percent(self) -> int | None:
        """The mean share of the last sampling period in which a kernel ran."""
        return self._of(lambda values: round(sum(values) / len(values)), lambda gpu: gpu.utilisation_percent())

    def throttle_reasons(self) -> int | None:
        """NVML's bit mask of why the clocks of any of them are below their maximum."""
        return self._of(lambda masks: reduce(or_, masks), lambda gpu: gpu.throttle_reasons())

    def _of(self, together: Callable[[list[int]], int], ask: Callable[[Readings], int | None]) -> int | None:
        told = [value for gpu in self._readers if (value := ask(gpu)) is not None]
        return together(told) if len(told) == len(self._readers) else None


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return question(*arguments)
    except _library().NVMLError:
        return None


def _ask_number(question: Callable[..., Any], *arguments: Any) -> int | None:
    value = _ask(question, *arguments)
    return None if value is None else int(value)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
