"""Reading one GPU through NVML, by UUID, as the driver numbers GPUs otherwise than CUDA does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.run import GpuInfo


def visible_gpus() -> list[GpuInfo]:
    """The GPUs that NVML shows to this process; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found = [_info(index, driver) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # a driver that is being replaced
        return []
    else:
        return [gpu for gpu in found if gpu is not None]
    finally:
        pynvml.nvmlShutdown()


def _info(index: int, driver: str) -> GpuInfo | None:
    """One GPU; ``None`` for one that has fallen off the bus."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return GpuInfo(
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            driver_version=driver,
        )
    except pynvml.NVMLError:
        return None


def pci_bus_id(uuid: str) -> str | None:
    """Where a GPU sits, ``00000000:17:00.0``; ``None`` where NVML does not answer."""
    try:
        pynvml.nvmlInit()
        place = pynvml.nvmlDeviceGetPciInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        return _text(place.busId)
    except pynvml.NVMLError:
        return None


class GpuReader:
    """Open readings of one GPU. Each method gives ``None`` where this GPU or driver does not answer."""

    def __init__(self, uuid: str) -> None:
        """Opens the GPU.

        Raises:
            MachineFailure: NVML does not know this UUID here.
        """
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            raise MachineFailure(f"GPU {uuid} does not answer through NVML: {error}") from error

    def used_bytes(self) -> int | None:
        """Memory in use by all processes."""
        info = _ask(pynvml.nvmlDeviceGetMemoryInfo, self._handle)
        return None if info is None else int(info.used)

    def power_w(self) -> float | None:
        """Board power now, watts."""
        milliwatts = _ask(pynvml.nvmlDeviceGetPowerUsage, self._handle)
        return None if milliwatts is None else milliwatts / 1000.0

    def energy_mj(self) -> int | None:
        """Energy since the driver was loaded, millijoules."""
        return _ask_number(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)

    def sm_clock_mhz(self) -> int | None:
        """Clock of the streaming multiprocessors."""
        return _ask_number(pynvml.nvmlDeviceGetClockInfo, self._handle, pynvml.NVML_CLOCK_SM)

    def memory_clock_mhz(self) -> int | None:
        """Clock of the memory."""
        return _ask_number(pynvml.nvmlDeviceGetClockInfo, self._handle, pynvml.NVML_CLOCK_MEM)

    def temperature_c(self) -> int | None:
        """Temperature of the GPU, degrees Celsius."""
        return _ask_number(pynvml.nvmlDeviceGetTemperature, self._handle, pynvml.NVML_TEMPERATURE_GPU)

    def utilisation_percent(self) -> int | None:
        """Share of the last sampling period in which a kernel ran."""
        rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, self._handle)
        return None if rates is None else int(rates.gpu)

    def throttle_reasons(self) -> int | None:
        """NVML's bit mask of why the clocks are below their maximum."""
        return _ask_number(pynvml.nvmlDeviceGetCurrentClocksEventReasons, self._handle)


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _ask_number(question: Callable[..., Any], *arguments: Any) -> int | None:
    value = _ask(question, *arguments)
    return None if value is None else int(value)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
