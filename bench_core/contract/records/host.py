"""What a machine is: records that a launch needs without those of a whole run."""

from __future__ import annotations

from bench_core.contract.records.record import Record


class HostInfo(Record):
    """The machine that a run was made on."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str


class GpuInfo(Record):
    """One GPU, as NVML names it."""

    uuid: str
    name: str
    memory_bytes: int
    driver_version: str
