"""What a machine is, and which share of it a cell has; of a cell that ran beside others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from bench_core.contract.records.record import Record

_Number = Annotated[int, Field(ge=0)]


class Placement(Record):
    """A worker's share of its host. The same for all cells of a worker.

    Attributes:
        worker: its GPU's UUID, or ``slice <number>`` of the CPUs; on a cluster with the node's name before it.
        workers: that ran cells side by side, this one among them.
        cpus: that it may use and no other worker does; empty: those of the host, shared.
        mems: NUMA nodes of these CPUs.
        memory: ``bound``: no other node's memory is given to it. ``local``: the kernel takes these nodes' memory while
            there is some, as for any process that stays on their CPUs.
        memory_bytes: that it may use; ``None``: no limit of its own.
        host: the node of a cluster; empty, and not in the file, for the one host of a visit.
    """

    worker: str
    workers: int = Field(ge=1)
    cpus: tuple[_Number, ...] = ()
    mems: tuple[_Number, ...] = ()
    memory: Literal["bound", "local"] = "local"
    memory_bytes: int | None = Field(None, ge=1)
    host: str = Field("", max_length=255)

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return content if self.host else {key: value for key, value in content.items() if key != "host"}


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
